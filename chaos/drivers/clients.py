"""Workers outside the server, for any server of PostgreSQL's protocol: orders to the process `chaos.client`.

Owns that process: it is started once, ended with the driver, and dies with the harness. What needs no load (making the
tables, the probe, the observation) is done from here, over the same kind of session.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg

from chaos.client import Answer, Done, Draw, Ended, Job, Opened, Order
from chaos.descriptors import readable
from chaos.driver import CallError, ConnectError, sqlstate_in
from chaos.errors import CampaignError
from chaos.load import POLL_S, Acknowledgements, outside_draws, probe_request
from chaos.people import setup_arguments
from chaos.plan import CyclePlan
from chaos.sql_session import SqlSession, open_session
from chaos.targets.builtin import environment_of
from workloads.history import HistoryWriter
from workloads.session import Row, sqlstate_of
from workloads.worker import run_requests
from workloads.workload import Workload, operation_id

NOT_YET = "57P03"
QUERY_CANCELED = "57014"
END_DEADLINE_S = 1.0
"""For workers that have nothing to do to notice that nobody orders anything any more; others are ended."""


class Clients:
    """The driver of any server that speaks SQL. Only from the main thread, whose death its process notices."""

    def __init__(self, conninfo: str, history_directory: Path, history: HistoryWriter, code: Path) -> None:
        self._conninfo = conninfo
        self._directory = history_directory
        self._history = history
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the driver
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.client", "--die-with", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**environment_of(code), "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def set_up(self, workloads: Iterable[Workload], seed: int) -> None:
        """See `Driver.set_up`."""
        with self._session() as session:
            for workload in workloads:
                # What comes from outside has names of the workload's own.
                set_up: Callable[..., None] = workload.setup
                set_up(session, **setup_arguments(workload.name, seed))
            session.checkpoint()

    def load(self, workload: Workload, plan: CyclePlan) -> ClientLoad:
        """See `Driver.load`."""
        jobs = [
            Job(worker, (Draw(operation_id(plan.cycle, worker, 0), plan.transactions, seed),))
            for worker, seed in enumerate(plan.worker_seeds)
        ]
        outside = len(plan.worker_seeds)
        jobs.append(Job(outside, tuple(Draw(first, 1, seed) for first, seed in outside_draws(plan))))
        order = Order(self._conninfo, workload.name, str(self._directory.absolute()), self._process.pid, tuple(jobs))
        return ClientLoad(self, order, self._directory)

    def commit_one(self, workload: Workload, plan: CyclePlan, *, deadline_s: float) -> bool | None:
        """See `Driver.commit_one`."""
        deadline = time.monotonic() + deadline_s
        request, _ = probe_request(workload, plan)
        while True:
            try:
                with self._session(deadline_s) as session:
                    tally = run_requests(workload.perform, session, [request], self._history, _uninterrupted)
                return tally.committed > 0
            except CallError as error:
                # The history has what was told.
                return None if error.sqlstate == QUERY_CANCELED else False
            except ConnectError as error:
                # Ready was the server's word; a connection refused now is part of the time to recover.
                if error.sqlstate != NOT_YET or time.monotonic() >= deadline:
                    raise

    def observe(self, workload: Workload, after: int) -> list[Row]:
        """See `Driver.observe`."""
        with self._session() as session:
            return list(workload.observe(session, after))

    def close(self) -> None:
        """End the process of the workers."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._errors.close()

    @property
    def pid(self) -> int:
        """The process of the workers."""
        return self._process.pid

    @property
    def answers(self) -> int:
        """The descriptor that its answers come on."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def order(self, order: Order) -> None:
        """Send one order."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self.died() from None

    def died(self) -> CampaignError:
        """The error to raise when the process has ended."""
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        return CampaignError(f"the process of the workers ended with status {status}: {said}".rstrip())

    @contextmanager
    def _session(self, statement_timeout_s: float = 0) -> Iterator[SqlSession]:
        """A session for a moment, whose statements the server gives up after so long; 0 is never."""
        options = f"{self._conninfo} options='-c statement_timeout={round(statement_timeout_s * 1000)}'"
        try:
            session = open_session(options)
        except psycopg.OperationalError as error:
            raise ConnectError(str(error).strip(), sqlstate_in(str(error))) from error
        try:
            yield session
        except psycopg.Error as error:
            raise CallError(str(error).strip(), sqlstate_of(error)) from error
        finally:
            session.close()


class ClientLoad:
    """The load of one cycle, run by the process of the workers."""

    def __init__(self, clients: Clients, order: Order, history_directory: Path) -> None:
        self._clients = clients
        self._rest = b""
        self._decoder = msgspec.json.Decoder(Answer)
        self._opened: list[Opened] = []
        self._ended: list[Ended] = []
        self._done = False
        self._acknowledgements = Acknowledgements(history_directory, [clients.pid], time.monotonic_ns())
        clients.order(order)
        # As with workers inside the server, the load begins when all are connected.
        while len(self._opened) < len(order.jobs) and not self.refusal and not self._done:
            self.wait(1.0)

    @property
    def refusal(self) -> str:
        """Why a connection could not be opened; empty when all could."""
        return next((answer.refusal for answer in self._opened if answer.refusal), "")

    def acknowledged(self) -> int:
        """Acknowledgements so far."""
        return self._acknowledgements.read()

    def wait(self, timeout_s: float = POLL_S) -> None:
        """Wait for an answer, for a moment, and take it in."""
        if self._done:
            return
        if readable(self._clients.answers, timeout_s):
            data = os.read(self._clients.answers, 1 << 16)
            if not data:
                raise self._clients.died()
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._take(self._decoder.decode(line))

    def over(self) -> bool:
        """Whether every connection has come to its end, one way or another."""
        self.wait(0)
        if self._done:
            self._acknowledgements.find_all()
        return self._done

    def backends(self) -> Sequence[tuple[int, int]]:
        """(worker, pid of its backend), as the server told them."""
        return [(answer.worker, answer.backend) for answer in self._opened if answer.backend]

    def refusals(self) -> Sequence[tuple[int, str, str]]:
        """(worker, SQLSTATE, message) of statements that were refused."""
        return [(answer.worker, answer.sqlstate, answer.message) for answer in self._ended if answer.sqlstate]

    def complaints(self) -> list[str]:
        """What statements were refused with, for people."""
        return [message for _, _, message in self.refusals()]

    def close(self) -> None:
        """Stop counting. The workers end with their server or their requests, which the campaign waits for."""
        self._acknowledgements.close()

    def _take(self, answer: Answer) -> None:
        match answer:
            case Opened():
                self._opened.append(answer)
            case Ended():
                self._ended.append(answer)
            case Done():
                self._done = True


def _uninterrupted() -> None:
    """Nobody cancels what the harness does itself."""
