"""One transaction's life: a number at its first write, a commit that is durable when it returns, a rollback.

Owns the order of the steps of a commit (PostgreSQL's `RecordTransactionCommit` and `CommitTransaction`):

1. the commit record, together with the bits of the commit log (`clog` says why they are one),
2. the flush: from here on the commit survives any crash. With `synchronous_commit` off nobody waits for it: the WAL
   writer makes it within three times `wal_writer_delay`, and a crash before it takes the transaction back, with all
   that committed after it (`wal.asynchronous` says what keeps pages honest meanwhile),
3. the number leaves the array of running transactions: from here on others see it,
4. whoever waited for one of its rows is woken (which is why no row needs to be unlocked).

A transaction that wrote nothing has no number and no record. One that a crash interrupted is simply never marked
committed. This module never touches rows.
"""

from __future__ import annotations

from supervisor.engine.transam.clog import CommitLog, TransactionInfo, encode_time
from supervisor.engine.transam.snapshot import RunningTransactions
from supervisor.engine.wal.insert import Wal
from supervisor.engine.wal.rmgr import Rmgr
from supervisor.host import Host
from supervisor.points import Point
from supervisor.shmem.attachment import Attachment


class Transaction:
    """The transaction that this process is in; one object serves one after the other."""

    def __init__(self, attachment: Attachment, wal: Wal, clog: CommitLog, running: RunningTransactions) -> None:
        self._host: Host = attachment.host
        self._wal = wal
        self._clog = clog
        self._running = running
        self._synchronous = attachment.settings.synchronous_commit
        self.xid = 0
        """Its number; 0 while it has written nothing."""

    def ensure_xid(self) -> int:
        """The number, assigned now if this is the first write; raises ServerError 54000 near wraparound."""
        xid = self.xid
        if not xid:
            xid = self._running.assign()
            self.xid = xid
            self._clog.prepare(xid)
        return xid

    def commit(self) -> None:
        """Make the transaction durable (unless `synchronous_commit` is off), then visible. Raises ServerError only before the record is inserted."""
        xid = self.xid
        if not xid:
            self._running.release_snapshot()
            return
        point = self._host.point
        point(Point.COMMIT_BEFORE_RECORD)
        end = self._clog.log_commit(xid, self._host.wall_time())
        point(Point.COMMIT_AFTER_RECORD)
        if self._synchronous:
            self._wal.flush(end)
            point(Point.COMMIT_AFTER_FLUSH)
        point(Point.COMMIT_BEFORE_VISIBLE)
        self.xid = 0
        self._running.finish(xid)
        self._clog.remember(xid, True)
        point(Point.COMMIT_AFTER_VISIBLE)

    def abort(self) -> None:
        """Give the transaction up. Its record is for the readers of the log; nothing waits for it."""
        xid = self.xid
        if not xid:
            self._running.release_snapshot()
            return
        self._host.point(Point.ABORT_BEFORE_RECORD)
        self._wal.insert(Rmgr.TRANSACTION, TransactionInfo.ABORT, xid, encode_time(self._host.wall_time()))
        self.xid = 0
        self._running.finish(xid)
