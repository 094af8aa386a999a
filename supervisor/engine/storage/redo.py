"""What every redo function does with a page (PostgreSQL's XLogReadBufferForRedo).

A page image replaces the page whatever it was, and is not read first: it may be torn. Without one the
record applies if and only if the page is older than the record's end, so that replaying twice, or over
pages that were written before the crash, changes nothing.
"""

from __future__ import annotations

from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.storage.page import LSN_AT, PAGE_BYTES
from supervisor.engine.wal.record import WalRecord


def block_for_redo(pool: BufferPool, record: WalRecord, index: int) -> tuple[int, int, bool]:
    """(buffer, where its page begins, whether the record must be applied to it) for one block of a record.

    The buffer is locked. With an image in the record the page is finished already, its LSN included.
    """
    reference = record.blocks[index]
    image = reference.image
    buffer = pool.lock_for_redo(reference.relation, reference.block, zero=image is not None)
    at = pool.page_offset(buffer)
    if image is None:
        return buffer, at, pool.q[(at + LSN_AT) // 8] < record.end_lsn
    pool.mark_dirty(buffer)
    pool.mm[at : at + PAGE_BYTES] = image
    pool.q[(at + LSN_AT) // 8] = record.end_lsn
    return buffer, at, False


def finish_redo(pool: BufferPool, buffer: int, at: int, end_lsn: int) -> None:
    """Give a page that the record was applied to its LSN, and unlock it."""
    pool.mark_dirty(buffer)
    pool.q[(at + LSN_AT) // 8] = end_lsn
    pool.unlock(buffer)
