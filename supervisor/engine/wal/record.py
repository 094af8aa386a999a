"""One write-ahead log record: its bytes, and the value they decode to.

Layout, little-endian, from a position that is a multiple of 8:

    crc             u32   CRC-32C of everything that follows, to the end of the record
    total_length    u32   bytes of the whole record, a multiple of 8
    prev            u64   LSN of the record before this one, exactly
    xid             u32
    incarnation     u32   which run of the log wrote it (wal/insert.py says why)
    rmgr, info      u8 u8
    n_blocks        u8
    padding         u8    zero bytes at the end, 0 to 7
    body_length     u32
    block headers   16 bytes each: relation u32, block u32, data_length u16, hole_start u16, hole_end u16, flags u16
    block contents  for each block its page image without the hole, if it has one, then its data
    body            then the padding

The CRC comes first so that one slice and one call verify a record, and the padding is inside so that no bit of the
stream between the first record and the last is outside a check. A page image leaves out the hole between the page's
`lower` and `upper`, the u16 at page offsets 12 and 14; a page on which these make no sense is kept whole.

Pure functions. They know nothing of where records lie in files (wal/reader.py) or in memory (wal/insert.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

import google_crc32c
import msgspec

from supervisor import errors
from supervisor.engine.wal.rmgr import RMGRS, Rmgr

PAGE_SIZE = 8192
MAX_BLOCKS = 8
MAX_BLOCK_DATA = 0xFFFF

HEADER = Struct("<IIQIIBBBBI")
"""crc, total_length, prev, xid, incarnation, rmgr, info, n_blocks, padding, body_length."""
HEADER_SIZE = HEADER.size
_AFTER_CRC = Struct("<IQIIBBBBI")
_CRC = Struct("<I")
_BLOCK = Struct("<IIHHHH")
_BLOCK_SIZE = _BLOCK.size
_BLOCKS = tuple(Struct("<" + "IIHHHH" * n) for n in range(MAX_BLOCKS + 1))
_HOLE = Struct("<HH")
_HOLE_AT = 12
_HAS_IMAGE = 1
_ZEROS = bytes(PAGE_SIZE)

crc32c = google_crc32c.value
"""CRC-32C of a bytes object (no other buffer type is taken)."""


class BlockRef(msgspec.Struct, frozen=True, gc=False):
    """A page that a record changes.

    `image` is the whole page of PAGE_SIZE bytes, its hole filled with zeros and whatever LSN it had: redo stores the
    record's. None means that the page is changed by `data` and the body.
    """

    relation: int
    block: int
    image: bytes | None
    data: bytes


class WalRecord(msgspec.Struct, frozen=True, gc=False):
    """A record that passed every check. `lsn` is its first byte, `end_lsn` the byte after its last."""

    lsn: int
    end_lsn: int
    prev_lsn: int
    xid: int
    rmgr: Rmgr
    info: int
    body: bytes
    blocks: tuple[BlockRef, ...]
    incarnation: int

    @property
    def image_bytes(self) -> int:
        """How many of the record's bytes are page images (what pg_waldump leaves out of `rec`)."""
        return sum(len(block.image) - _hole_length(block.image) for block in self.blocks if block.image is not None)


def hole(page_bounds: bytes) -> tuple[int, int]:
    """(start, end) of the part of a page that an image leaves out, from the 4 bytes at page offset 12."""
    lower, upper = _HOLE.unpack(page_bounds)
    # The bounds themselves must lie outside the hole, or they would come back as zeros.
    if _HOLE_AT + _HOLE.size <= lower <= upper <= PAGE_SIZE:
        return lower, upper
    return 0, 0


def encode_block(relation: int, block: int, data: bytes, page: bytes | None) -> tuple[bytes, bytes]:
    """(header, content) of one block; `page` is the image to take, PAGE_SIZE bytes, or None."""
    if page is None:
        return _BLOCK.pack(relation, block, len(data), 0, 0, 0), data
    start, end = hole(page[_HOLE_AT : _HOLE_AT + _HOLE.size])
    header = _BLOCK.pack(relation, block, len(data), start, end, _HAS_IMAGE)
    return header, (page[:start] + page[end:] + data if start != end else page + data)


def encode_record(
    prev_lsn: int,
    incarnation: int,
    rmgr: int,
    info: int,
    xid: int,
    body: bytes,
    n_blocks: int = 0,
    blocks: bytes = b"",
) -> bytes:
    """A whole record. `blocks` is the block headers followed by the block contents.

    Raises ServerError 54000 for more than MAX_BLOCKS blocks; what a segment can hold is for wal/insert.py to know.
    """
    if n_blocks > MAX_BLOCKS:
        raise errors.ServerError(
            f"too many pages in a WAL record: {n_blocks}, at most {MAX_BLOCKS}",
            sqlstate=errors.PROGRAM_LIMIT_EXCEEDED,
        )
    length = HEADER_SIZE + len(blocks) + len(body)
    padding = -length & 7
    fields = _AFTER_CRC.pack(length + padding, prev_lsn, xid, incarnation, rmgr, info, n_blocks, padding, len(body))
    rest = b"".join((fields, blocks, body, _ZEROS[:padding]))
    return _CRC.pack(crc32c(rest)) + rest


def encode_blocks(blocks: Sequence[BlockRef]) -> bytes:
    """The block part of a record from values rather than from pages in memory (tests, tools)."""
    parts = [encode_block(b.relation, b.block, b.data, b.image) for b in blocks]
    return b"".join([header for header, _ in parts] + [content for _, content in parts])


def decode(buffer: bytes, at: int, lsn: int) -> WalRecord:
    """The record at byte `at` of `buffer`, whose CRC, length and manager were checked by the caller.

    Raises ValueError if its parts do not add up, which no record that was written by `encode_record` does.
    """
    return decode_headed(HEADER.unpack_from(buffer, at), buffer, at, lsn)


def decode_headed(header: tuple[int, ...], buffer: bytes, at: int, lsn: int) -> WalRecord:
    """As `decode`, for a caller that has taken the header apart, as `HEADER` does, to check it."""
    _, total, prev, xid, incarnation, rmgr, info, n_blocks, padding, body_length = header
    body_end = at + total - padding
    body_at = body_end - body_length
    blocks: tuple[BlockRef, ...] = ()
    if n_blocks == 1:  # what nearly every record has
        relation, block, length, _, _, flags = _BLOCK.unpack_from(buffer, at + HEADER_SIZE)
        data = at + HEADER_SIZE + _BLOCK_SIZE
        if not flags and data + length == body_at:
            blocks = (BlockRef(relation, block, None, buffer[data:body_at]),)
    if n_blocks and not blocks:
        blocks = _decode_blocks(buffer, at + HEADER_SIZE, n_blocks, body_at)
    return WalRecord(lsn, lsn + total, prev, xid, RMGRS[rmgr], info, buffer[body_at:body_end], blocks, incarnation)


def _decode_blocks(buffer: bytes, at: int, n_blocks: int, body_at: int) -> tuple[BlockRef, ...]:
    content = at + n_blocks * _BLOCK_SIZE
    if n_blocks > MAX_BLOCKS or content > body_at:
        raise ValueError(f"{n_blocks} blocks do not fit into the record")
    blocks = []
    fields = _BLOCKS[n_blocks].unpack_from(buffer, at)
    for i in range(0, 6 * n_blocks, 6):
        relation, block, length, start, end, flags = fields[i : i + 6]
        image = None
        if flags & _HAS_IMAGE:
            stored = PAGE_SIZE - (end - start)
            middle = content + start
            image = buffer[content:middle] + _ZEROS[: end - start] + buffer[middle : content + stored]
            content += stored
        blocks.append(BlockRef(relation, block, image, buffer[content : content + length]))
        content += length
    if content != body_at:
        raise ValueError(f"the blocks end {content - body_at} bytes from the body")
    return tuple(blocks)


def _hole_length(page: bytes) -> int:
    start, end = hole(page[_HOLE_AT : _HOLE_AT + _HOLE.size])
    return end - start
