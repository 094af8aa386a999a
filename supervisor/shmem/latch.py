"""Latches: how one process tells another to look again (PostgreSQL's `storage/ipc/latch.c`).

A latch is a flag word per PGPROC plus SIGURG to its owner. The order that makes it safe: the setter
changes the condition, then sets the flag, then signals; the waiter clears the flag, then reads the
condition, then waits. No descriptor per process is inherited, so a thousand backends cost nothing.
"""

from __future__ import annotations

from supervisor.host import Host
from supervisor.shmem.procarray import ProcArray
from supervisor.shmem.region import Region


class Latch:
    """One process's own latch; only its owner clears it and waits for it."""

    __slots__ = ("_q", "_word")

    def __init__(self, region: Region, word: int) -> None:
        self._q = region.q
        self._word = word

    def is_set(self) -> bool:
        """Whether it was set since it was last cleared."""
        return self._q[self._word] != 0

    def clear(self) -> None:
        """Forget that it was set: before the condition is read, never after."""
        self._q[self._word] = 0

    def set_own(self) -> None:
        """Set one's own latch: the next wait returns at once. Safe in a signal handler."""
        self._q[self._word] = 1


class Latches:
    """Sets the latches of other processes."""

    def __init__(self, region: Region, host: Host, procs: ProcArray) -> None:
        self._q = region.q
        self._host = host
        self._procs = procs

    def of(self, region: Region, procno: int) -> Latch:
        """The latch of a PGPROC, for its owner."""
        return Latch(region, self._procs.latch + procno)

    def set(self, procno: int) -> None:
        """Set a process's latch and wake it; a PGPROC that nobody holds is left alone."""
        q = self._q
        q[self._procs.latch + procno] = 1
        pid = q[self._procs.pid + procno]
        if pid:
            self._host.wake(pid)
