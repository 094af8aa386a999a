"""Waiting for another transaction, and the marks that keep two processes from cleaning one page up at a time.

A row's lock is the number of the transaction that changed or locked it, written in the row, so waiting for a row is
waiting for that transaction's end (PostgreSQL's `XactLockTableWait`). The wait sleeps in `Host.wait` and so must
never begin with a lightweight lock held.

Nothing is queued: a woken process tries again beside others. A wait that has lasted `deadlock_timeout` looks once
whether it is part of a deadlock, for looking costs a lock that everybody needs and most waits are short; `deadlock`
says why once is enough.
"""

from __future__ import annotations

from collections.abc import Callable

from supervisor import errors
from supervisor.config import Settings
from supervisor.engine.transam.deadlock import deadlock_error
from supervisor.engine.transam.snapshot import RunningTransactions
from supervisor.errors import ServerError
from supervisor.points import Point
from supervisor.shmem.attachment import Attachment
from supervisor.shmem.lwlock import LWLock
from supervisor.shmem.region import Area, Region

_MARKS = 256
_NS_PER_MS = 1_000_000


def shmem_areas(settings: Settings) -> list[Area]:
    """The owner words of the clean-up marks."""
    return [Area("cleanup_marks", 8 * _MARKS)]


def shmem_init(region: Region, settings: Settings) -> None:
    """All free: zeroed memory is right."""


class RowLocks:
    """One process's way to wait for rows, and to claim a page for clean-up."""

    def __init__(
        self, attachment: Attachment, running: RunningTransactions, statement_of: Callable[[int], str]
    ) -> None:
        self._q = attachment.region.q
        self._locks = attachment.locks
        self._latch = attachment.latch
        self._host = attachment.host
        self._owner = attachment.procno + 1
        self._running = running
        self._statement_of = statement_of
        self._marks = attachment.region.word("cleanup_marks")
        self._held: list[int] = []
        self.use(attachment.settings)

    def use(self, settings: Settings) -> None:
        """Go by these timeouts from the next wait on."""
        self._lock_timeout_ns = settings.lock_timeout * _NS_PER_MS
        self._deadlock_timeout_ns = settings.deadlock_timeout * _NS_PER_MS

    def wait_for(self, xid: int) -> None:
        """Return when the transaction is over.

        Raises ServerError 40P01 when `deadlock_timeout` has passed and the wait is part of a deadlock, 55P03 after
        `lock_timeout` (0 is never), and what a pending interrupt asks for.
        """
        host, latch = self._host, self._latch
        host.point(Point.ROW_LOCK_WAIT)
        began_ns = host.now_ns()
        look_ns = began_ns + self._deadlock_timeout_ns
        give_up_ns = began_ns + self._lock_timeout_ns if self._lock_timeout_ns else 0
        if not self._running.begin_wait(xid):
            return
        try:
            while True:
                latch.clear()
                if not self._running.is_running(xid):
                    return
                host.check_interrupts()
                now_ns = host.now_ns()
                if look_ns and now_ns >= look_ns:
                    look_ns = 0
                    if cycle := self._running.break_deadlock():
                        raise deadlock_error(cycle, self._statement_of)
                if give_up_ns and now_ns >= give_up_ns:
                    raise ServerError("canceling statement due to lock timeout", sqlstate=errors.LOCK_NOT_AVAILABLE)
                next_ns = min(filter(None, (look_ns, give_up_ns)), default=0)
                host.wait(latch, -((now_ns - next_ns) // _NS_PER_MS) if next_ns else None)
        finally:
            self._running.end_wait()

    def try_cleanup(self, relation: int, block: int) -> int:
        """Claim a page for clean-up; the mark to give to `end_cleanup`, or 0 if another process has it.

        Pages share marks by a hash: a clean-up is never owed to anybody, so a false refusal does no harm.
        """
        mark = (relation * 31 + block) % _MARKS
        word = self._marks + mark
        self._locks.acquire(LWLock.ROW_LOCKS)
        free = self._q[word] == 0
        if free:
            self._q[word] = self._owner
            self._held.append(mark)
        self._locks.release(LWLock.ROW_LOCKS)
        return mark + 1 if free else 0

    def end_cleanup(self, mark: int) -> None:
        """Give the page back."""
        self._held.remove(mark - 1)
        self._q[self._marks + mark - 1] = 0

    def release_all(self) -> None:
        """Give every mark back: what an ERROR does with the clean-up that it interrupted."""
        while self._held:
            self.end_cleanup(self._held[-1] + 1)
