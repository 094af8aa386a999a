"""Server processes as the harness sees them: through /proc and pidfds, never through the server's word.

Owns identification before signalling: a process is opened as a pidfd first and looked at afterwards, so
a pid that was used again in between cannot be hit. The harness signals nothing that it did not start:
only descendants of the postmaster that it launched pass `children_of`.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROLE_PREFIX = "cb:"


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """One process of the server, held by a pidfd: `role` is the name that it gave itself."""

    pid: int
    pidfd: int
    role: str
    started_ticks: int

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False if the process was gone already."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Let go of the pidfd."""
        os.close(self.pidfd)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_process(pid: int, parent: int) -> ServerProcess | None:
    """A living child of `parent` by pid, or None when it is gone or is not that child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        name, state, actual_parent, started = process_status(pid)
    except (FileNotFoundError, ProcessLookupError):
        os.close(pidfd)
        return None
    if actual_parent != parent or state == "Z":
        os.close(pidfd)
        return None
    return ServerProcess(pid, pidfd, name.removeprefix(ROLE_PREFIX), started)


def child_pids(parent: int) -> list[int]:
    """The pids of a process's children, in fork order; empty when it is gone."""
    try:
        text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(pid) for pid in text.split()]


def children_of(parent: int) -> list[ServerProcess]:
    """The living children of a process, in fork order, each held by a pidfd that the caller closes."""
    found = (open_process(pid, parent) for pid in child_pids(parent))
    return sorted((process for process in found if process), key=lambda process: (process.started_ticks, process.pid))


def wait_ended(processes: Sequence[ServerProcess], *, deadline_s: float) -> bool:
    """Wait until all have ended, reaped or not; False when time is up first."""
    deadline = time.monotonic() + deadline_s
    poll = select.poll()
    for process in processes:
        poll.register(process.pidfd, select.POLLIN)
    left = len(processes)
    while left:
        ended = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ended:
            return False
        for descriptor, _ in ended:
            poll.unregister(descriptor)
        left -= len(ended)
    return True


def process_status(pid: int) -> tuple[str, str, int, int]:
    """Name, state, parent and start time in ticks (proc(5)). Raises FileNotFoundError, ProcessLookupError."""
    text = Path(f"/proc/{pid}/stat").read_text()
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    return name, fields[0], int(fields[1]), int(fields[19])
