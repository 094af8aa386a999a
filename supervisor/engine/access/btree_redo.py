"""Redo and description of the B-tree's WAL records (PostgreSQL's `nbtxlog.c`).

Owns what the records mean:

    INSERT_LEAF  block 0: the leaf; data: the entry and its index
    DELETE       block 0: the leaf; data: the index of the entry that goes
    SPLIT        block 0: the page that is split; data: how many entries stay, its new right sibling
                 block 1: the sibling, always an image; block 2: the parent; data: the entry and its index
    NEWROOT      block 0: the root; if it was split, blocks 1 and 2: its halves; all of them images

Whether a record still has to change a page, `storage.redo` says.
"""

from __future__ import annotations

from struct import Struct

from supervisor.engine.access.btree_bytes import BytesLayout
from supervisor.engine.access.btree_page import Layout
from supervisor.engine.access.btree_words import WordLayout
from supervisor.engine.storage import page as pages
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.wal.record import WalRecord
from supervisor.errors import Panic

# PostgreSQL's numbers (nbtxlog.h).
INSERT_LEAF = 0x00
SPLIT = 0x30
DELETE = 0x70
NEWROOT = 0xA0

_INSERT = Struct("<HHIQ")  # index, nothing, child, tid
_SPLIT = Struct("<HHI")  # entries that stay, nothing, new right sibling


def insert_data(index: int, child: int, tid: int, key: bytes) -> bytes:
    """The block data for an entry at an index."""
    return _INSERT.pack(index, 0, child, tid) + key


def split_data(kept: int, right: int) -> bytes:
    """The block data for the page that is split."""
    return _SPLIT.pack(kept, 0, right)


def apply(record: WalRecord, index: int, pool: BufferPool, at: int) -> None:
    """Repeat a record's change, see `storage.redo.Apply`. Panic if it does not fit the page it is for."""
    reference = record.blocks[index]
    try:
        _apply(record.info, index, reference.data, _layout(pool, at), at)
    except ValueError as error:
        raise Panic(
            f"WAL record at {record.lsn:X} does not fit block {reference.block} of relation {reference.relation}"
        ) from error


def _layout(pool: BufferPool, at: int) -> Layout:
    kind = pages.kind(pool.mm, at)
    if kind == pages.KIND_BTREE_WORD:
        return WordLayout(pool.mm, pool.q)
    if kind == pages.KIND_BTREE_BYTES:
        return BytesLayout(pool.mm)
    raise ValueError(f"a page of kind {kind} is not a B-tree page")


def _apply(info: int, index: int, data: bytes, layout: Layout, at: int) -> None:
    if info == DELETE:
        layout.remove(at, _INSERT.unpack_from(data)[0])
    elif info == INSERT_LEAF or (info == SPLIT and index == 2):
        place, _, child, tid = _INSERT.unpack_from(data)
        layout.insert(at, place, layout.key_from(data[_INSERT.size :]), tid, child)
    elif info == SPLIT and index == 0:
        kept, _, right = _SPLIT.unpack(data)
        layout.write(at, layout.read(at).split(kept, right)[0])
    else:
        raise ValueError(f"no image for block {index} of a record with info {info:#x}")


def describe(record: WalRecord) -> str:
    """The record in the words of pg_waldump."""
    if record.info == NEWROOT:
        halves = ", ".join(str(reference.block) for reference in record.blocks[1:])
        return f"NEWROOT halves: {halves}" if halves else "NEWROOT"
    if record.info == SPLIT:
        kept, _, right = _SPLIT.unpack(record.blocks[0].data)
        return f"SPLIT firstrightoff: {kept}, right: {right}"
    if record.info in (INSERT_LEAF, DELETE):
        place, _, _, tid = _INSERT.unpack_from(record.blocks[0].data)
        name = "INSERT_LEAF" if record.info == INSERT_LEAF else "DELETE"
        return f"{name} off: {place}, row: ({tid >> 16},{tid & 0xFFFF})"
    return f"UNKNOWN info: {record.info:#04x}"
