"""Redo of the heap's records, and what they say in a listing of the log.

Each record changes one page, at byte positions that were logged with it; `storage.redo` says whether it still has to.
"""

from __future__ import annotations

from struct import Struct

from supervisor.engine.access import prune
from supervisor.engine.access.heap import AT, HOT, INSERT, MOVED, HeapInfo
from supervisor.engine.access.tuple import HEADER, HOT_UPDATED, LOCK_ONLY, XMAX_AT, XMAX_BITS
from supervisor.engine.storage import page as pages
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.wal.record import WalRecord

_header = HEADER.unpack_from
_put_end = Struct("<IIHH").pack_into

_INSERT, _DELETE, _UPDATE = int(HeapInfo.INSERT), int(HeapInfo.DELETE), int(HeapInfo.UPDATE)
_HOT_UPDATE, _LOCK, _PRUNE = int(HeapInfo.HOT_UPDATE), int(HeapInfo.LOCK), int(HeapInfo.PRUNE)


def apply(record: WalRecord, index: int, pool: BufferPool, page: int) -> None:
    """Repeat a record's change, see `storage.redo.Apply`."""
    info, xid = record.info, record.xid
    block, data = record.blocks[index].block, record.blocks[index].data
    mm = pool.mm
    if info == _HOT_UPDATE:
        offset, line = HOT.unpack_from(data)
        _add(pool, page, data[HOT.size :], line)
        at = page + offset
        _put_end(mm, at + XMAX_AT, xid, block, line, _header(mm, at)[4] & ~XMAX_BITS | HOT_UPDATED)
        prune.note_prunable(pool.q, page, xid)
    elif info == _INSERT:
        if pages.kind(mm, page) == pages.KIND_NEW:  # only an insertion is ever the first on its page
            pages.init(mm, page, pages.KIND_HEAP)
        _add(pool, page, data[INSERT.size :], INSERT.unpack_from(data)[0])
        prune.note_prunable(pool.q, page, xid)
    elif info == _LOCK:
        at = page + AT.unpack(data)[0]
        _put_end(mm, at + XMAX_AT, xid, 0, 0, _header(mm, at)[4] & ~XMAX_BITS | LOCK_ONLY)
    elif info == _UPDATE:
        offset, new_block, new_line = MOVED.unpack(data)
        at = page + offset
        _put_end(mm, at + XMAX_AT, xid, new_block, new_line, _header(mm, at)[4] & ~XMAX_BITS)
        prune.note_prunable(pool.q, page, xid)
    elif info == _DELETE:
        at = page + AT.unpack(data)[0]
        _put_end(mm, at + XMAX_AT, xid, 0, 0, _header(mm, at)[4] & ~XMAX_BITS)
        prune.note_prunable(pool.q, page, xid)
    elif info == _PRUNE:
        redirects, unused, oldest_kept = prune.decode(data)
        prune.carry_out(mm, page, redirects, unused, oldest_kept)
    else:
        raise ValueError(f"unknown heap record 0x{info:02X}")


def _add(pool: BufferPool, page: int, item: bytes, line: int) -> None:
    if not pages.add_item(pool.mm, page, item, line):
        raise ValueError(f"no room for line {line}: the page is not the one that was logged")


def describe(record: WalRecord) -> str:
    """What a record says, its kind first."""
    data = record.blocks[0].data
    match record.info:
        case HeapInfo.INSERT:
            return f"INSERT line {INSERT.unpack_from(data)[0]}"
        case HeapInfo.HOT_UPDATE:
            offset, line = HOT.unpack_from(data)
            return f"HOT_UPDATE old at {offset}, new line {line}"
        case HeapInfo.UPDATE:
            offset, block, line = MOVED.unpack(data)
            return f"UPDATE old at {offset}, new ({block},{line})"
        case HeapInfo.DELETE:
            return f"DELETE at {AT.unpack(data)[0]}"
        case HeapInfo.LOCK:
            return f"LOCK at {AT.unpack(data)[0]}"
        case HeapInfo.PRUNE:
            redirects, unused, _ = prune.decode(data)
            return f"PRUNE nredirected {len(redirects)}, nunused {len(unused)}"
    return f"UNKNOWN (0x{record.info:02X})"
