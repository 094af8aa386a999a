"""The one seam to time, order and waiting.

Owns everything that a process asks of the world besides files: the clock, waking another
process, and the only call that blocks, `Host.wait`. Nothing else in the server blocks without bound.

Why one place: a Python signal handler runs only between bytecodes, and a signal that lands just
before a blocking call is lost to that call. `ProcessHost.wait` is a poll over the descriptor that
the C-level handler writes to, so a signal that came a moment too early still ends the wait.

`SoloHost` is one process alone on a virtual clock: what runs an engine in a test without any other
process, where a wait that nothing could end is an error and not a hang.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from enum import IntFlag
from typing import NoReturn, Protocol

from supervisor.points import Point


class Wake(IntFlag):
    """Why a wait ended; several reasons may hold at once."""

    LATCH = 1
    TIMEOUT = 2
    POSTMASTER_DEATH = 4
    READABLE = 8
    WRITABLE = 16
    SIGNAL = 32


class Waitable(Protocol):
    """What `Host.wait` needs of a latch."""

    def is_set(self) -> bool:
        """Whether somebody has set it since it was last cleared."""
        ...


class Host(Protocol):
    """What a process may ask of the world."""

    def point(self, point: Point) -> None:
        """Pass a named point."""
        ...

    def wait(
        self,
        latch: Waitable | None,
        timeout_ms: int | None,
        readable: Sequence[int] = (),
        writable: int | None = None,
        *,
        report_death: bool = False,
    ) -> Wake:
        """Block until the latch is set, a signal arrives, a descriptor is ready or time is up.

        A wait may end early with `Wake.SIGNAL`: callers recheck their condition in a loop. When the
        postmaster dies the process exits with status 1 at once, as PostgreSQL's WL_EXIT_ON_PM_DEATH
        does, unless `report_death` asks to be told.
        """
        ...

    def wake(self, process: int) -> None:
        """Make another process's wait look at its latch again."""
        ...

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC in nanoseconds: one clock for all processes and the kernel's trace."""
        ...

    def wall_time(self) -> float:
        """Seconds since the epoch, for people and the control file; never for intervals."""
        ...

    def check_interrupts(self) -> None:
        """Raise what a pending signal asks for, if anything does."""
        ...


def _nothing_pending() -> None:
    return None


def pass_point(point: Point) -> None:
    """A point in a process that has no map of armed points."""


class ProcessHost:
    """A real process: polls, signals, and the clocks of the machine.

    Construction takes the process's wakeup descriptor (`signal.set_wakeup_fd`) for itself, so a
    child builds its own after the fork; `close` in the child gives the parent's back first.
    """

    def __init__(
        self,
        *,
        death_pipe: int | None = None,
        point: Callable[[Point], None] = pass_point,
    ) -> None:
        self.point: Callable[[Point], None] = point
        self.interrupts: Callable[[], None] = _nothing_pending
        self._death_pipe = death_pipe
        self._wakeup_read, self._wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.resume()
        self._poll_key: tuple[tuple[int, ...], int | None] = ((), None)
        self._poll = self._make_poll((), None)

    def close(self) -> None:
        """Give the wakeup descriptor back: a child's first act with its parent's host."""
        signal.set_wakeup_fd(-1)
        os.close(self._wakeup_read)
        os.close(self._wakeup_write)

    def resume(self) -> None:
        """Take the wakeup descriptor back, after another host of this process was closed."""
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)

    def check_interrupts(self) -> None:
        """Raise what a pending signal asks for; `interrupts` is set by the process's main function."""
        self.interrupts()

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC in nanoseconds."""
        return time.monotonic_ns()

    def wall_time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def wake(self, process: int) -> None:
        """SIGURG, which is ignored by default: a stale pid does no harm."""
        try:
            os.kill(process, signal.SIGURG)
        except ProcessLookupError:
            pass  # It died between its wait and our wake; the postmaster will know.

    def wait(
        self,
        latch: Waitable | None,
        timeout_ms: int | None,
        readable: Sequence[int] = (),
        writable: int | None = None,
        *,
        report_death: bool = False,
    ) -> Wake:
        """See `Host.wait`."""
        if latch is not None and latch.is_set():
            return Wake.LATCH
        key = (tuple(readable), writable)
        if key != self._poll_key:
            self._poll = self._make_poll(*key)
            self._poll_key = key
        wake = Wake(0)
        for descriptor, events in self._poll.poll(timeout_ms):
            if descriptor == self._wakeup_read:
                self._drain()
                wake |= Wake.SIGNAL
            elif descriptor == self._death_pipe:
                if not report_death:
                    self.postmaster_died()
                wake |= Wake.POSTMASTER_DEATH
            else:
                if descriptor == writable and events & ~select.POLLIN:
                    wake |= Wake.WRITABLE
                if descriptor in key[0] and events & ~select.POLLOUT:
                    wake |= Wake.READABLE
        if latch is not None and latch.is_set():
            wake |= Wake.LATCH
        return wake or Wake.TIMEOUT

    def postmaster_died(self) -> NoReturn:
        """End without clean-up: a page under change stays locked, so nobody can write it out."""
        os._exit(1)

    def _drain(self) -> None:
        try:
            while len(os.read(self._wakeup_read, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def _make_poll(self, readable: tuple[int, ...], writable: int | None) -> select.poll:
        poll = select.poll()
        poll.register(self._wakeup_read, select.POLLIN)
        if self._death_pipe is not None:
            poll.register(self._death_pipe, select.POLLIN)
        for descriptor in readable:
            poll.register(descriptor, select.POLLIN)
        if writable is not None:
            poll.register(writable, select.POLLOUT | (select.POLLIN if writable in readable else 0))
        return poll


class SoloHost:
    """One process alone: time passes only when it waits, and nobody else can set its latch."""

    def __init__(self, *, point: Callable[[Point], None] = pass_point) -> None:
        self.point: Callable[[Point], None] = point
        self.interrupts: Callable[[], None] = _nothing_pending
        self._now_ns = 1_000_000_000

    def check_interrupts(self) -> None:
        """Raise what `interrupts` asks for."""
        self.interrupts()

    def now_ns(self) -> int:
        """The virtual clock; each look takes a microsecond, so that loops over time end."""
        self._now_ns += 1_000
        return self._now_ns

    def wall_time(self) -> float:
        """The virtual clock as seconds since the epoch."""
        return 1_700_000_000.0 + self._now_ns / 1e9

    def wake(self, process: int) -> None:
        """Nobody sleeps: there is nothing to do."""

    def wait(
        self,
        latch: Waitable | None,
        timeout_ms: int | None,
        readable: Sequence[int] = (),
        writable: int | None = None,
        *,
        report_death: bool = False,
    ) -> Wake:
        """Return at once if the latch is set, else let the timeout pass; a hang is an error."""
        if latch is not None and latch.is_set():
            return Wake.LATCH
        if timeout_ms is None:
            raise RuntimeError("nothing can wake a process that is alone: this wait would never end")
        self._now_ns += timeout_ms * 1_000_000
        return Wake.TIMEOUT
