"""Redo of pages: records are collected, and then each page is brought up to date by itself.

Owns when a record changes a page (PostgreSQL's `XLogReadBufferForRedo`). A page image replaces the page whatever it
was, and what is on disk is not read as a page first: it may be torn. Without an image the record applies if and only if
the page is older than the record's end, so that replaying twice, or over pages that were written before the crash,
changes nothing.

Records about different pages may be carried out in any order, because what a record does to a page depends on that page
and the record alone, and nobody reads the pages before redo is over. So the records of one batch are sorted by page: a
page is locked, looked up and marked once for all of its records, which keep their order. A crash within a batch leaves
some pages ahead of others, which is what a crash leaves anyway: each page's LSN says how far it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from supervisor.engine.disk.disk import Disk
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.storage.files import relation_path
from supervisor.engine.storage.page import LSN_AT, PAGE_BYTES
from supervisor.engine.wal.lsn import format_lsn
from supervisor.engine.wal.record import BlockRef, WalRecord
from supervisor.errors import ServerError, StartupError
from supervisor.points import Point

BATCH_RECORDS = 1_000
"""How many records are worth collecting: enough that a page is met often, few enough to keep 8 KiB images of."""

Apply = Callable[[WalRecord, int, BufferPool, int], None]
"""(record, index of its block, pool, byte offset of the page): change the locked page as the record says.

ValueError when the record does not fit the page. Images, LSNs, marks and locks are no concern of it.
"""

_BLOCK_MASK = 0xFFFF_FFFF


def not_redone(record: WalRecord, error: Exception) -> StartupError:
    """The error that ends recovery at a record."""
    return StartupError(
        f"could not redo the record at {format_lsn(record.lsn)}: {error}",
        hint="A page that is damaged and was not logged whole cannot be recovered from the write-ahead log.",
    )


class PageRedo:
    """The pages that collected records are about, and what brings them up to date; `apply` is by resource manager."""

    def __init__(self, disk: Disk, pool: BufferPool, apply: Mapping[int, Apply]) -> None:
        self._disk = disk
        self._pool = pool
        self._apply = apply
        self._collected: dict[int, list[WalRecord]] = {}
        self._changed: set[int] = set()
        self._handles: dict[int, int] = {}

    @property
    def pages_changed(self) -> int:
        """How many pages were older than a record about them."""
        return len(self._changed)

    def collect(self, record: WalRecord) -> None:
        """Have a record carried out with the next `carry_out`."""
        collected = self._collected
        for block in record.blocks:
            page = block.relation << 32 | block.block
            records = collected.get(page)
            if records is None:
                collected[page] = [record]
            else:
                records.append(record)

    def carry_out(self) -> None:
        """Bring every page that was collected for up to date, in file order. StartupError for what cannot be."""
        point = self._pool.host.point
        for page in sorted(self._collected):
            records = self._collected[page]
            for _ in records:
                point(Point.REDO_RECORD)
            self._bring_up_to_date(page, records)
        self._collected.clear()

    def close(self) -> None:
        """Give the files back that were looked into."""
        for handle in self._handles.values():
            self._disk.close(handle)
        self._handles.clear()

    def _bring_up_to_date(self, page: int, records: Sequence[WalRecord]) -> None:
        pool, q, mm = self._pool, self._pool.q, self._pool.mm
        record = records[0]
        try:
            torn = _block_of(record, page)[1].image is not None
            before = self._lsn_on_disk(page) if torn and page not in self._changed else -1
            buffer = pool.lock_for_redo(page >> 32, page & _BLOCK_MASK, zero=torn)
            at = pool.page_offset(buffer)
            word = (at + LSN_AT) // 8
            lsn = q[word]
            if before < 0:
                before = lsn
            apply = self._apply[record.rmgr]  # a relation is one manager's for as long as it is there
            changed = False
            for record in records:
                index, block = _block_of(record, page)
                if block.image is not None:
                    mm[at : at + PAGE_BYTES] = block.image
                elif lsn < record.end_lsn:
                    apply(record, index, pool, at)
                else:
                    continue
                lsn = record.end_lsn
                changed = True
        except (ServerError, ValueError) as error:
            raise not_redone(record, error) from error
        if changed:
            pool.mark_dirty(buffer)
            q[word] = lsn
        pool.unlock(buffer)
        if before < record.end_lsn:
            self._changed.add(page)

    def _lsn_on_disk(self, page: int) -> int:
        """The LSN of a page that may be torn: eight bytes of it are read, and no more is believed."""
        relation, block = page >> 32, page & _BLOCK_MASK
        handle = self._handles.get(relation)
        if handle is None:
            path = relation_path(relation)
            if not self._disk.exists(path):
                return 0
            handle = self._handles[relation] = self._disk.open(path)
        return int.from_bytes(self._disk.pread(handle, 8, block * PAGE_BYTES + LSN_AT), "little")


def _block_of(record: WalRecord, page: int) -> tuple[int, BlockRef]:
    """(index, block) of a record's part about a page."""
    blocks = record.blocks
    if len(blocks) == 1:  # what nearly every record has
        return 0, blocks[0]
    return next(found for found in enumerate(blocks) if found[1].relation << 32 | found[1].block == page)
