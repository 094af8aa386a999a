"""The commit log: two bits for each transaction, in the pages of a relation of their own.

Owns what became of a transaction (PostgreSQL's `clog.c`). It never says whether one still runs: ask
`RunningTransactions` first, for the bits of a running transaction may already say "committed".

The log is a relation of the buffer pool (`CLOG_RELATION`), so that eviction, checksums, images of torn pages and the
sync at a checkpoint are those of every page. A commit sets its bits under the page's content lock *together with*
inserting the commit record, whose end becomes the page's LSN. From that follow two rules that PostgreSQL needs
machinery for:

- The bits reach the disk only after the commit record (WAL before data); and nobody reads them earlier, because the
  transaction still runs until its record is flushed (or, with `synchronous_commit` off, inserted).
- A checkpoint's redo point cannot fall between the record and the bits (what PostgreSQL's DELAY_CHKPT flag is for):
  the page is marked dirty, under its lock, before the record is inserted. A redo point before the record replays it;
  one after it finds the page dirty and writes it, and has to wait for the page's lock to do so.

A rollback writes nothing here: a transaction that is over and not marked committed was rolled back, or a crash ended
it. So a rollback cannot fail. Pages are made when the first commit needs them; a page that is not there says the
same as zeros, "never committed".
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

from supervisor.engine.storage import page as pages
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.storage.critical import CRITICAL
from supervisor.engine.transam.snapshot import RunningTransactions
from supervisor.engine.transam.xid import FIRST_NORMAL_XID
from supervisor.engine.wal.insert import PageRef, Wal
from supervisor.engine.wal.record import WalRecord
from supervisor.engine.wal.rmgr import Rmgr
from supervisor.points import Point

CLOG_RELATION = 3

XIDS_PER_PAGE = (pages.PAGE_BYTES - pages.HEADER_BYTES) * 4
_CACHE_LIMIT = 20_000
_TIME = Struct("<d")
_U16 = Struct("<H")
_LOWER_KIND = Struct("<H6xH")
"""Of a page, from `LOWER_AT` on."""


class Status(IntEnum):
    """What became of a transaction; the two bits."""

    IN_PROGRESS = 0
    COMMITTED = 1
    ABORTED = 2


class TransactionInfo(IntEnum):
    """The info byte of `Rmgr.TRANSACTION` records. Body of both: the time, an f64 of seconds since the epoch."""

    COMMIT = 0x00
    ABORT = 0x20


def place(xid: int) -> tuple[int, int, int]:
    """(block, byte within the page, shift within the byte) of a transaction's two bits."""
    index = xid % XIDS_PER_PAGE
    return xid // XIDS_PER_PAGE, pages.HEADER_BYTES + (index >> 2), (index & 3) << 1


class CommitLog:
    """The commit log as one process reads and writes it."""

    def __init__(self, pool: BufferPool, wal: Wal, running: RunningTransactions) -> None:
        self._pool = pool
        self._wal = wal
        self._running = running
        # Only final answers are kept: a number is not used again within the life of a process.
        self._known: dict[int, bool] = {}
        self.known = self._known.get

    def committed(self, xid: int) -> bool:
        """Whether a transaction that is over committed.

        Reads a page: never call it with a content lock held. `known(xid)` is the answer if it is at hand, or None.
        """
        if xid < FIRST_NORMAL_XID:
            return xid != 0
        known = self._known.get(xid)
        if known is None:
            known = self.status(xid) is Status.COMMITTED
            self.remember(xid, known)
        return known

    def remember(self, xid: int, committed: bool) -> None:
        """Note the end of the own transaction, which is over for everybody."""
        if len(self._known) >= _CACHE_LIMIT:
            self._known.clear()
        self._known[xid] = committed

    def status(self, xid: int) -> Status:
        """The two bits as they are now."""
        block, byte, shift = place(xid)
        if block >= self._pool.relation_size(CLOG_RELATION):
            return Status.IN_PROGRESS
        buffer = self._pool.lock(CLOG_RELATION, block)
        bits = self._pool.mm[self._pool.page_offset(buffer) + byte] >> shift & 3
        self._pool.unlock(buffer)
        return Status(bits)

    def prepare(self, xid: int) -> None:
        """Make sure the page for a commit exists: what may fail, fails here and not after the record."""
        block = xid // XIDS_PER_PAGE
        while self._pool.relation_size(CLOG_RELATION) <= block:
            buffer, _ = self._pool.lock_new(CLOG_RELATION)
            self._pool.unlock(buffer)

    def log_commit(self, xid: int, time: float) -> int:
        """Insert the commit record and set the bits, as one; returns the LSN to flush to."""
        block, byte, shift = place(xid)
        pool = self._pool
        buffer = pool.lock(CLOG_RELATION, block)
        at = pool.page_offset(buffer)
        with CRITICAL:
            pool.mark_dirty(buffer)
            _set_committed(pool, at, byte, shift)
            pool.host.point(Point.CLOG_UPDATE_UNDER_LOCK)
            _, end = self._wal.insert(
                Rmgr.TRANSACTION,
                TransactionInfo.COMMIT,
                xid,
                _TIME.pack(time),
                (PageRef(CLOG_RELATION, block, at),),
            )
            pool.q[at // 8] = end
        pool.unlock(buffer)
        return end


def _set_committed(pool: BufferPool, at: int, byte: int, shift: int) -> None:
    mm = pool.mm
    lower, kind = _LOWER_KIND.unpack_from(mm, at + pages.LOWER_AT)
    if kind == pages.KIND_NEW:
        pages.init(mm, at, pages.KIND_CLOG)
        lower = pages.HEADER_BYTES
    mm[at + byte] = mm[at + byte] & ~(3 << shift) | Status.COMMITTED << shift
    # What lies beyond the last bits in use is a hole, which page images leave out.
    if byte >= lower:
        _U16.pack_into(mm, at + pages.LOWER_AT, byte + 1)


def apply(record: WalRecord, index: int, pool: BufferPool, at: int) -> None:
    """Set the bits of a COMMIT again, see `storage.redo.Apply`."""
    _, byte, shift = place(record.xid)
    _set_committed(pool, at, byte, shift)


def record_time(record: WalRecord) -> float:
    """When the transaction of a COMMIT or ABORT record ended."""
    return float(_TIME.unpack(record.body)[0])


def encode_time(time: float) -> bytes:
    """The body of a transaction's last record."""
    return _TIME.pack(time)
