"""The load of one cycle: workers inside the server, the outside client, and how far they have come.

Owns the connections of a cycle and the count of acknowledgements, which it reads off the history files as
the backends write them: what a SIGKILLed backend was told is there, whatever became of its connection.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from chaos.driver import ConnectError, OutsideClient, Worker, call_text, connect_all, wait_any
from chaos.plan import CyclePlan, derive
from workloads.history import HistoryWriter
from workloads.workload import READ_KIND, ROLLBACK_KIND, Request, Workload, operation_id

_OK = b'"ev":"ok"'
POLL_S = 0.001
_LOOKED_AT_ONCE = 8
"""Processes whose descriptors one reading looks at, of those whose file is not found yet: 0.7 ms at most."""
_LONGEST_LOAD_NS = 60_000_000_000


class Acknowledgements:
    """Counts the acknowledgements in the history files of some living processes, as they grow.

    A process's file is found among its own open descriptors: to look through the directory would cost
    milliseconds a time once a long run has left thousands of files there (measured: 1.9 ms for 5,000).
    """

    def __init__(self, directory: Path, pids: Sequence[int], since_ns: int | None = None) -> None:
        """`since_ns` (CLOCK_MONOTONIC) is the oldest that a file may be, of a process that writes one after another."""
        self._since_ns = since_ns
        self._prefix = f"{os.path.realpath(directory)}/"
        self._waiting = deque(pids)
        self._open: list[int] = []
        self.count = 0

    def read(self) -> int:
        """How many there are by now."""
        if self._waiting:
            self._find()
        for descriptor in self._open:
            # A record's newline comes first, so one read may end inside a record; the marker is counted whole
            # only when it came whole, and a miscount of one delays a kill by a poll at most.
            while data := os.read(descriptor, 1 << 16):
                self.count += data.count(_OK)
        return self.count

    def find_all(self) -> None:
        """Look through the directory for the files that were opened and closed between two readings, or whose
        process died first: once, when the load is over."""
        if self._waiting:
            since_ns = time.monotonic_ns() - _LONGEST_LOAD_NS if self._since_ns is None else self._since_ns
            waiting = {str(pid) for pid in self._waiting}
            for name in os.listdir(self._prefix):
                pid, _, began = name.removesuffix(".jsonl").partition("-")
                # A pid is used again sooner or later, but hardly within one load.
                if pid in waiting and began.isdigit() and int(began) >= since_ns:
                    self._open.append(os.open(self._prefix + name, os.O_RDONLY | os.O_CLOEXEC))
            self._waiting.clear()

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()

    def _find(self) -> None:
        for _ in range(min(len(self._waiting), _LOOKED_AT_ONCE)):
            pid = self._waiting.popleft()
            path = _open_below(pid, self._prefix)
            if path is None:
                self._waiting.append(pid)
            else:
                self._open.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _open_below(pid: int, prefix: str) -> str | None:
    """A file below a directory that a process has open; None while it has none, or is gone."""
    directory = f"/proc/{pid}/fd"
    try:
        for descriptor in os.listdir(directory):
            path = os.readlink(f"{directory}/{descriptor}")  # noqa: PTH115  a third of pathlib's time
            if path.startswith(prefix):
                return path
    except (FileNotFoundError, ProcessLookupError):
        # It has ended, or closed a descriptor meanwhile: it is looked at again.
        return None
    return None


def outside_draws(plan: CyclePlan) -> Iterator[tuple[int, int]]:
    """(operation, seed) of each request of the outside client's: every one is drawn by itself."""
    worker = len(plan.worker_seeds)
    for number in range(plan.outside_operations):
        yield operation_id(plan.cycle, worker, number), derive(plan.outside_seed, number)


def outside_requests(workload: Workload, plan: CyclePlan) -> Iterator[tuple[Request, int]]:
    """The outside client's requests of a cycle, each with the seed that makes the server draw the same."""
    for first, seed in outside_draws(plan):
        yield next(workload.requests(len(plan.worker_seeds), first, 1, seed)), seed


def probe_request(workload: Workload, plan: CyclePlan) -> tuple[Request, int]:
    """The first request after a recovery: one that commits a change, of a worker number of its own."""
    worker = len(plan.worker_seeds) + 1
    for number in range(1000):
        seed = derive(plan.outside_seed, "probe", number)
        request = next(workload.requests(worker, operation_id(plan.cycle, worker, 0), 1, seed))
        if request.kind not in (ROLLBACK_KIND, READ_KIND):
            return request, seed
    raise AssertionError("a thousand draws, and none commits a change")


class Load:
    """The running load of one cycle.

    `refusal` is why a connection could not be opened, and empty when all could: a point that is reached while the
    workers connect leaves the rest of them outside.
    """

    def __init__(
        self,
        conninfo: str,
        workload: Workload,
        plan: CyclePlan,
        history_directory: Path,
        outside_history: HistoryWriter,
    ) -> None:
        self.outside: OutsideClient | None = None
        self.refusal = ""
        self._acknowledgements: Acknowledgements | None = None
        # All at once, the outside client last: alone, its backend would be forked beside eight busy ones.
        attempts = connect_all(conninfo, len(plan.worker_seeds) + 1)
        refused = [attempt for attempt in attempts if isinstance(attempt, ConnectError)]
        opened = [attempt for attempt in attempts if not isinstance(attempt, ConnectError)]
        self.workers = [Worker(connection) for connection in opened[: len(plan.worker_seeds)]]
        if refused:
            self.refusal = str(refused[0])
            return
        try:
            self._acknowledgements = Acknowledgements(
                history_directory, [worker.backend_pid for worker in self.workers]
            )
            for number, (worker, seed) in enumerate(zip(self.workers, plan.worker_seeds, strict=True)):
                worker.send(
                    call_text(
                        workload.name,
                        {
                            "worker": number,
                            "first": operation_id(plan.cycle, number, 0),
                            "transactions": plan.transactions,
                            "seed": seed,
                            "history": True,
                        },
                    )
                )
            self.outside = OutsideClient(opened[-1], workload.name, outside_requests(workload, plan), outside_history)
        except BaseException:
            self.close()
            raise

    def acknowledged(self) -> int:
        """Acknowledgements so far, inside and outside; also moves the outside client on."""
        outside = 0
        if self.outside is not None:
            self.outside.read()
            outside = self.outside.acknowledged
        return outside + (self._acknowledgements.read() if self._acknowledgements else 0)

    def wait(self, timeout_s: float = POLL_S) -> None:
        """Wait for news from any connection, for a moment."""
        wait_any(self._sockets(), timeout_s)

    def over(self) -> bool:
        """Whether every connection has come to its end, one way or another."""
        for worker in self.workers:
            worker.read()
        if self.outside is not None:
            self.outside.read()
        if not all(worker.ended for worker in self.workers) or not (self.outside is None or self.outside.done):
            return False
        if self._acknowledgements is not None:
            self._acknowledgements.find_all()
        return True

    def backends(self) -> tuple[tuple[int, int], ...]:
        """None to tell: the workers are backends, and their history files are named by their pids."""
        return ()

    def refusals(self) -> list[tuple[int, str, str]]:
        """(worker, SQLSTATE, message) of statements that were refused; a lost connection is no refusal."""
        return [
            (number, worker.sqlstate, worker.message)
            for number, worker in enumerate(self.workers)
            if worker.sqlstate is not None and worker.message
        ]

    def complaints(self) -> list[str]:
        """What running statements were refused with, for people."""
        return [message for _, _, message in self.refusals()]

    def close(self) -> None:
        """Close every connection."""
        for worker in self.workers:
            worker.close()
        if self.outside is not None:
            self.outside.close()
        if self._acknowledgements is not None:
            self._acknowledgements.close()

    def _sockets(self) -> Iterator[int]:
        for worker in self.workers:
            if worker.ended is None:
                yield worker.socket
        if self.outside is not None and not self.outside.done:
            yield self.outside.worker.socket
