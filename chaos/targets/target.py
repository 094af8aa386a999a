"""The contract of a target: a server that a campaign can start, watch, reach with SQL, and stop.

Owns the protocol and its error. A target starts its server by exec, knows which processes are the server's, and says
which generation of it serves; it never breaks it (that is a fault) and never judges it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from chaos.targets.process import ServerProcess

START_DEADLINE_S: Final = 30.0
STOP_DEADLINE_S: Final = 30.0
CHECK_DEADLINE_S: Final = 60.0


class TargetError(Exception):
    """The target cannot be started, watched or stopped: the message says what and where to look."""


@dataclass(frozen=True, slots=True)
class RoleSeen:
    """Which role a child was seen to have, by its command line or by a line of the server's log."""

    t: int
    pid: int
    role: str
    source: str


class Target(Protocol):
    """One server over one data directory."""

    @property
    def name(self) -> str:
        """As `--target` names its kind."""
        ...

    @property
    def data_directory(self) -> Path:
        """Where the cluster lies while its server runs."""
        ...

    @property
    def conninfo(self) -> str:
        """How libpq reaches the server."""
        ...

    @property
    def log_path(self) -> Path:
        """The server's log."""
        ...

    @property
    def pid(self) -> int:
        """The postmaster's pid. Raises TargetError when none was started."""
        ...

    @property
    def ready_generation(self) -> int:
        """The last generation of this postmaster that was seen to serve; 0 is none."""
        ...

    @property
    def ready_ns(self) -> int:
        """When it began to (CLOCK_MONOTONIC ns)."""
        ...

    def versions(self) -> dict[str, str]:
        """What is tested."""
        ...

    def make_data_directory(self, directory: Path) -> None:
        """A new, empty cluster, as every epoch begins with a copy of."""
        ...

    def start(self) -> int:
        """Exec a postmaster and return its pid; `wait_ready` waits for it. Only from the main thread."""
        ...

    def exited(self) -> int | None:
        """The postmaster's exit status (negative for a signal), or None while it runs."""
        ...

    def wait_ready(self, after_generation: int = 0, *, deadline_s: float = START_DEADLINE_S) -> int:
        """Wait until a generation later than `after_generation` serves; returns it. Raises TargetError."""
        ...

    def wait_until(self, condition: Callable[[], bool], what: str, *, deadline_s: float) -> None:
        """Watch the server until a condition holds. Raises TargetError when it exits or time is up."""
        ...

    def processes(self) -> list[ServerProcess]:
        """The postmaster's children in fork order; the caller closes them."""
        ...

    def memories(self, pid: int) -> frozenset[int] | None:
        """The server's shared memories that a process maps, by their inodes; None when it has ended."""
        ...

    def roles(self) -> Sequence[RoleSeen]:
        """What was learned of children's roles since the last call; of a server whose processes tell the kernel their
        names (`cb:<role>`) nothing."""
        ...

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the server's log."""
        ...

    def stop(self, number: signal.Signals = signal.SIGINT) -> int | None:
        """Shut down and wait; returns the exit status. Raises TargetError when it had to be killed."""
        ...

    def check_files(self) -> dict[str, Any] | None:
        """What a check of the stopped server's files finds, as the storage oracle reads it; None of files that nobody
        here can read. Raises TargetError."""
        ...

    def kill(self) -> None:
        """SIGKILL the postmaster and everything that it forked; returns when they have ended."""
        ...

    def close(self) -> None:
        """Kill what still runs and remove what was made beside the data directory."""
        ...
