"""Which transactions run, and what a statement may see of them (PostgreSQL's `procarray.c`, `varsup.c`).

Owns the counters of transaction and relation numbers and the words `xid`, `xmin` and `wait_xid` of the PGPROC array,
all in the region. It never asks what became of a transaction that is over: that is the commit log's. The two must be asked in
this order, first "does it run?", then "did it commit?", because a commit is written to the log before its number
leaves the array.

Locks: XID_GEN while a number is given out; PROC_ARRAY while a transaction ends, while a wait for one begins or ends,
and while a snapshot, a horizon or a deadlock is looked for. A number enters the array before XID_GEN is released, so no snapshot can miss it and yet have seen a later
one end.
"""

from __future__ import annotations

from supervisor import errors
from supervisor.config import Settings
from supervisor.engine.transam.deadlock import Wait, find_cycle
from supervisor.engine.transam.xid import (
    FIRST_NORMAL_XID,
    HALF,
    STOP_MARGIN,
    advance,
    distance,
    newer,
    precedes,
    retreat,
)
from supervisor.shmem.attachment import Attachment
from supervisor.shmem.lwlock import LWLock
from supervisor.shmem.region import Area, Region

FIRST_USER_RELATION = 16
"""Numbers below it are the engine's own relations (see `engine.access.catalog`)."""

_NEXT_XID, _LATEST_COMPLETED, _COMPLETIONS, _ROW_WAITERS, _NEXT_RELATION, _OLDEST_XID = range(6)
_WORDS = 8


def shmem_areas(settings: Settings) -> list[Area]:
    """The counters; next to nothing."""
    return [Area("transam", 8 * _WORDS)]


def shmem_init(region: Region, settings: Settings) -> None:
    """Counters of an empty cluster; the startup process sets the true ones before anybody else looks."""
    base = region.word("transam")
    region.q[base + _NEXT_XID] = FIRST_NORMAL_XID
    region.q[base + _LATEST_COMPLETED] = retreat(FIRST_NORMAL_XID)
    region.q[base + _NEXT_RELATION] = FIRST_USER_RELATION
    region.q[base + _OLDEST_XID] = FIRST_NORMAL_XID


class Snapshot:
    """What one statement sees: the effects of every transaction that had ended when it was taken.

    `running` holds the numbers before `xmax` that had not ended; all numbers from `xmax` on count as running.
    `xmin` is the oldest running one (or `xmax`): everything before it had ended.
    """

    __slots__ = ("completions", "running", "xmax", "xmin")

    def __init__(self, xmin: int, xmax: int, running: frozenset[int], completions: int) -> None:
        self.xmin = xmin
        self.xmax = xmax
        self.running = running
        self.completions = completions

    def sees_as_running(self, xid: int) -> bool:
        """Whether the transaction had not ended when the snapshot was taken."""
        if xid < FIRST_NORMAL_XID:
            return False
        return (xid - self.xmax) & HALF == 0 or xid in self.running

    def __repr__(self) -> str:
        return f"Snapshot(xmin={self.xmin}, xmax={self.xmax}, running={sorted(self.running)})"


class RunningTransactions:
    """The running transactions of a region, as one process sees and joins them."""

    def __init__(self, attachment: Attachment) -> None:
        procs = attachment.procs
        base = attachment.region.word("transam")
        self._q = attachment.region.q
        self._locks = attachment.locks
        self._latches = attachment.latches
        self._next_xid = base + _NEXT_XID
        self._latest_completed = base + _LATEST_COMPLETED
        self._completions = base + _COMPLETIONS
        self._row_waiters = base + _ROW_WAITERS
        self._next_relation = base + _NEXT_RELATION
        self._oldest_xid = base + _OLDEST_XID
        self._xids = slice(procs.xid, procs.xid + procs.count)
        self._xmins = slice(procs.xmin, procs.xmin + procs.count)
        self._pids = slice(procs.pid, procs.pid + procs.count)
        self._waits = slice(procs.wait_xid, procs.wait_xid + procs.count)
        self._me = attachment.procno
        self._my_xid = procs.xid + attachment.procno
        self._my_xmin = procs.xmin + attachment.procno
        self._my_wait = procs.wait_xid + attachment.procno
        self._last: Snapshot | None = None

    def start(self, next_xid: int, oldest_xid: int, next_relation: int) -> None:
        """Set the counters: what recovery found. Only while nobody else is attached."""
        q = self._q
        q[self._next_xid] = next_xid
        q[self._latest_completed] = retreat(next_xid)
        q[self._completions] += 1
        q[self._oldest_xid] = oldest_xid
        q[self._next_relation] = next_relation

    def counters(self) -> tuple[int, int, int]:
        """(next xid, oldest xid, next relation number), as a checkpoint writes them down."""
        self._locks.acquire(LWLock.XID_GEN)
        q = self._q
        found = q[self._next_xid], q[self._oldest_xid], q[self._next_relation]
        self._locks.release(LWLock.XID_GEN)
        return found

    def assign(self) -> int:
        """Give this process's transaction a number and show it as running (`GetNewTransactionId`).

        Raises ServerError 54000 when the circle of numbers is nearly closed.
        """
        q = self._q
        self._locks.acquire(LWLock.XID_GEN)
        xid = q[self._next_xid]
        if distance(q[self._oldest_xid], xid) > HALF - STOP_MARGIN:
            self._locks.release(LWLock.XID_GEN)
            raise errors.ServerError(
                "database is not accepting commands that assign new transaction IDs to avoid wraparound data loss",
                sqlstate=errors.PROGRAM_LIMIT_EXCEEDED,
                hint="Rows are not frozen yet: copy the data into a new cluster.",
            )
        q[self._next_xid] = advance(xid)
        q[self._my_xid] = xid
        self._locks.release(LWLock.XID_GEN)
        return xid

    def take_relation_numbers(self, count: int) -> int:
        """The first of `count` fresh relation numbers."""
        self._locks.acquire(LWLock.XID_GEN)
        first = self._q[self._next_relation]
        self._q[self._next_relation] = first + count
        self._locks.release(LWLock.XID_GEN)
        return first

    def snapshot(self) -> Snapshot:
        """What a statement beginning now may see; published in `xmin` until `release_snapshot`.

        While no transaction has ended since the last one, the last one is still true (PostgreSQL's
        `GetSnapshotDataReuse`): numbers given out since then are all from `xmax` on.
        """
        q = self._q
        self._locks.acquire(LWLock.PROC_ARRAY)
        snapshot = self._last
        if snapshot is None or snapshot.completions != q[self._completions]:
            snapshot = self._last = self._compute()
        if q[self._my_xmin] == 0:
            q[self._my_xmin] = snapshot.xmin
        self._locks.release(LWLock.PROC_ARRAY)
        return snapshot

    def release_snapshot(self, still_needed: int = 0) -> None:
        """Nothing older than `still_needed` is looked at by this process any more (0: nothing at all)."""
        self._q[self._my_xmin] = still_needed

    def _compute(self) -> Snapshot:
        running = set(self._q[self._xids].tolist())
        running.discard(0)
        xmax = advance(self._q[self._latest_completed])
        oldest = xmax
        for xid in running:
            if precedes(xid, oldest):
                oldest = xid
        return Snapshot(oldest, xmax, frozenset(running), self._q[self._completions])

    def is_running(self, xid: int) -> bool:
        """Whether the transaction runs now, in this process or another.

        No lock: a number stands in one word from its assignment to its end and never comes back.
        """
        return xid in self._q[self._xids].tolist()

    def horizon(self) -> int:
        """The oldest number that anybody may still see as running: what ended before it is the past for all."""
        q = self._q
        self._locks.acquire(LWLock.PROC_ARRAY)
        oldest = advance(q[self._latest_completed])
        others = set(q[self._xids].tolist())
        others.update(q[self._xmins].tolist())
        self._locks.release(LWLock.PROC_ARRAY)
        for xid in others:
            if xid and precedes(xid, oldest):
                oldest = xid
        return oldest

    def finish(self, xid: int) -> None:
        """The transaction of this process is over: no snapshot from now on sees it as running.

        Wakes whoever waits for it (after the lock is released: they would need it).
        """
        q = self._q
        waiters: list[int] = []
        self._locks.acquire(LWLock.PROC_ARRAY)
        q[self._my_xid] = 0
        q[self._my_xmin] = 0
        q[self._latest_completed] = newer(q[self._latest_completed], xid)
        q[self._completions] += 1
        if q[self._row_waiters]:
            waiters = [procno for procno, waited in enumerate(q[self._waits].tolist()) if waited == xid]
        self._locks.release(LWLock.PROC_ARRAY)
        for procno in waiters:
            self._latches.set(procno)

    def begin_wait(self, xid: int) -> bool:
        """Announce that this process waits for a transaction's end; False if it is already over.

        Under the lock that `finish` holds, so that either the end is seen here or the wait is seen there.
        """
        self._locks.acquire(LWLock.PROC_ARRAY)
        running = self.is_running(xid)
        if running:
            self._q[self._my_wait] = xid
            self._q[self._row_waiters] += 1
        self._locks.release(LWLock.PROC_ARRAY)
        return running

    def end_wait(self) -> None:
        """Take the announcement back, whatever became of the wait."""
        self._locks.acquire(LWLock.PROC_ARRAY)
        self._forget_wait()
        self._locks.release(LWLock.PROC_ARRAY)

    def break_deadlock(self) -> tuple[Wait, ...]:
        """The cycle of waits that this process waits in, its own first; its wait is then taken back. () if none.

        Look and taking back are one under the lock: of the processes of a cycle that look at the same time, the first
        finds it and the others find it broken, so each cycle has one victim (`DeadLockCheck`).
        """
        q = self._q
        self._locks.acquire(LWLock.PROC_ARRAY)
        waits, pids = q[self._waits].tolist(), q[self._pids].tolist()
        procnos = find_cycle(self._me, q[self._xids].tolist(), waits)
        if procnos:
            self._forget_wait()
        self._locks.release(LWLock.PROC_ARRAY)
        return tuple(Wait(procno, pids[procno], waits[procno]) for procno in procnos)

    def _forget_wait(self) -> None:
        if self._q[self._my_wait]:
            self._q[self._my_wait] = 0
            self._q[self._row_waiters] -= 1
