"""The process of the workers outside a server: one thread and one connection each, one history file a cycle.

    python -m chaos.client --die-with PID

It reads orders from its standard input, one JSON object a line (`Order`), and answers each on its standard output:
`Opened` for every worker, then `Ended` for every worker, then `Done`. It performs the same workload definitions with
the same requests as a backend of the built-in server does, through `chaos.sql_session`, and writes the same history
(`workloads.worker`). A process of its own, because threads that wait for a server would disturb the harness's timing.

It judges nothing and repeats nothing: a connection that is lost ends its worker, and the operation under way stays
without an answer, which is what was told.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

import msgspec
import psycopg

from chaos.orphans import die_with
from chaos.sql_session import SqlSession, TableStatements, open_session
from workloads.history import HistoryWriter
from workloads.registry import WORKLOADS
from workloads.session import sqlstate_of
from workloads.worker import run_requests
from workloads.workload import Request, Workload


class Draw(msgspec.Struct, frozen=True):
    """Requests of ids from `first`, `count` of them, drawn from one seed."""

    first: int
    count: int
    seed: int


class Job(msgspec.Struct, frozen=True):
    """What one worker does."""

    worker: int
    draws: tuple[Draw, ...]


class Order(msgspec.Struct, frozen=True):
    """One cycle's load. `history` is the directory for its history file."""

    conninfo: str
    workload: str
    history: str
    pid: int
    """As the kernel's account has this process."""
    jobs: tuple[Job, ...]


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """A worker has its connection, to a backend with this pid; or none, and the server's words why."""

    worker: int
    backend: int = 0
    refusal: str = ""


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """A worker has come to its end. With a SQLSTATE a statement was refused; without, all is done or the connection lost."""

    worker: int
    sqlstate: str = ""
    message: str = ""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """All workers have ended, and the history file is closed."""


Answer = Opened | Ended | Done


class _Out:
    """Answers, written whole by whichever thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, answer: Answer) -> None:
        data = msgspec.json.encode(answer) + b"\n"
        with self._lock:
            self._stream.write(data)
            self._stream.flush()


def requests_of(workload: Workload, job: Job) -> Iterator[Request]:
    """The requests of a job, in order."""
    for draw in job.draws:
        yield from workload.requests(job.worker, draw.first, draw.count, draw.seed)


def obey(order: Order, out: _Out) -> None:
    """Run one cycle's load to its end."""
    workload = WORKLOADS[order.workload]
    tables: dict[str, TableStatements] = {}
    sessions: list[tuple[Job, SqlSession]] = []
    refused = False
    for job in order.jobs:
        try:
            session = open_session(order.conninfo, tables)
        except psycopg.OperationalError as error:
            out.write(Opened(job.worker, refusal=str(error).strip()))
            refused = True
            break
        sessions.append((job, session))
        out.write(Opened(job.worker, session.backend_pid))
    history = HistoryWriter(order.history, order.pid, time.monotonic_ns)
    try:
        if not refused:
            threads = [
                threading.Thread(target=_work, args=(workload, job, session, history, out)) for job, session in sessions
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        history.close()
        for _, session in sessions:
            session.close()
    out.write(Done())


def _work(workload: Workload, job: Job, session: SqlSession, history: HistoryWriter, out: _Out) -> None:
    try:
        run_requests(workload.perform, session, requests_of(workload, job), history, _no_interrupts)
        out.write(Ended(job.worker))
    except psycopg.Error as error:
        out.write(_ended(job, error))


def _ended(job: Job, error: psycopg.Error) -> Ended:
    """A lost connection is no refusal."""
    sqlstate = sqlstate_of(error)
    if sqlstate is None or sqlstate.startswith(("57P", "08")):
        return Ended(job.worker)
    return Ended(job.worker, sqlstate, str(error).strip())


def _no_interrupts() -> None:
    """Nobody cancels these workers: they end with their server or their requests."""


def main(arguments: list[str] | None = None) -> int:
    """Obey order after order until the input ends."""
    parser = argparse.ArgumentParser(prog="python -m chaos.client", description=__doc__)
    parser.add_argument("--die-with", type=int, required=True, metavar="PID")
    die_with(parser.parse_args(arguments).die_with)
    out = _Out(sys.stdout.buffer)
    decoder = msgspec.json.Decoder(Order)
    for line in sys.stdin.buffer:
        obey(decoder.decode(line), out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
