"""Waiting for another transaction, and the marks that keep two processes from cleaning one page up at a time.

A row's lock is the number of the transaction that changed or locked it, written in the row, so waiting for a row is
waiting for that transaction's end (PostgreSQL's `XactLockTableWait`). The wait sleeps in `Host.wait` and so must
never begin with a lightweight lock held.

Nothing is queued: a woken process tries again beside others. There is no deadlock detection; see `session`.
"""

from __future__ import annotations

from supervisor import errors
from supervisor.config import Settings
from supervisor.engine.transam.snapshot import RunningTransactions
from supervisor.errors import ServerError
from supervisor.points import Point
from supervisor.shmem.attachment import Attachment
from supervisor.shmem.lwlock import LWLock
from supervisor.shmem.region import Area, Region

_MARKS = 256


def shmem_areas(settings: Settings) -> list[Area]:
    """The owner words of the clean-up marks."""
    return [Area("cleanup_marks", 8 * _MARKS)]


def shmem_init(region: Region, settings: Settings) -> None:
    """All free: zeroed memory is right."""


class RowLocks:
    """One process's way to wait for rows, and to claim a page for clean-up."""

    def __init__(self, attachment: Attachment, running: RunningTransactions) -> None:
        self._q = attachment.region.q
        self._locks = attachment.locks
        self._latch = attachment.latch
        self._host = attachment.host
        self._owner = attachment.procno + 1
        self._running = running
        self._marks = attachment.region.word("cleanup_marks")
        self._held: list[int] = []
        self.timeout_ms = attachment.settings.lock_timeout

    def wait_for(self, xid: int) -> None:
        """Return when the transaction is over.

        Raises ServerError 55P03 after `lock_timeout` (ms; 0 is never), and what a pending interrupt asks for.
        """
        host, latch = self._host, self._latch
        host.point(Point.ROW_LOCK_WAIT)
        deadline_ns = host.now_ns() + self.timeout_ms * 1_000_000 if self.timeout_ms else 0
        if not self._running.begin_wait(xid):
            return
        try:
            while True:
                latch.clear()
                if not self._running.is_running(xid):
                    return
                host.check_interrupts()
                if not deadline_ns:
                    host.wait(latch, None)
                    continue
                remaining_ms = (deadline_ns - host.now_ns() + 999_999) // 1_000_000
                if remaining_ms <= 0:
                    raise ServerError("canceling statement due to lock timeout", sqlstate=errors.LOCK_NOT_AVAILABLE)
                host.wait(latch, remaining_ms)
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
