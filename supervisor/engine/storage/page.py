"""The 8 KiB page: header, checksum, and line pointers to items (PostgreSQL's `bufpage.c`).

Owns the bytes of a page that every access method shares, as functions over a mapping and the byte
offset of the page in it; no object is made per page, because a page is looked at in well under a
microsecond. It never locks, logs or marks anything dirty: the caller holds the content lock and is in
a critical section when it changes a page.

    offset  size
    0       8     LSN: end of the last WAL record that changed the page (a word of `region.q`)
    8       4     CRC-32C, set when the page is written to its file; 0 in a page of zeros
    12      2     lower: first free byte; 14: upper: first byte in use after the hole
    16      2     special: where the access method's own bytes at the page's end begin (8192: none)
    18      2     flags: the low byte is this module's, the high byte the access method's
    20      2     kind: what the page holds (`KIND_*`); 0 is a page of zeros, new
    22      2     version of the layout
    24      8     one word for the access method's own use
    32      -     line pointers upwards, items downwards from special

A line pointer is a u32: bits 0-14 offset of the item in the page (or the line it redirects to), bits
15-16 state, bits 17-31 length. Lines are numbered from 1; a number stays an item's address for as
long as an index may point at it. Items begin at multiples of 8.

The checksum also covers the relation and the block number, so a page that was written to the wrong
place, or read from one, does not verify.
"""

from __future__ import annotations

from mmap import mmap
from struct import Struct

import google_crc32c

PAGE_BYTES = 8192
PAGE_WORDS = PAGE_BYTES // 8

LSN_AT = 0
CHECKSUM_AT = 8
LOWER_AT = 12
UPPER_AT = 14
SPECIAL_AT = 16
FLAGS_AT = 18
KIND_AT = 20
WORD_AT = 24
HEADER_BYTES = 32

KIND_NEW = 0
KIND_HEAP = 1
KIND_BTREE_WORD = 2  # eight-byte keys
KIND_BTREE_BYTES = 3  # keys of any length
KIND_CLOG = 4

FLAG_FREE_LINES = 0x0001  # some line pointer may be unused: a hint

UNUSED = 0
NORMAL = 1
REDIRECT = 2
DEAD = 3

LINE_BYTES = 4
MAX_ITEM_BYTES = (PAGE_BYTES - HEADER_BYTES - LINE_BYTES) & ~7  # one item alone on a page without special bytes

_VERSION = 1
_ZEROS = bytes(PAGE_BYTES)
_HEADER = Struct("<QIHHHHHHQ")
_PLACE = Struct("<II")
_U16 = Struct("<H")
_U32 = Struct("<I")
_BOUNDS_FLAGS = Struct("<HHHH")
_LOWER_UPPER = Struct("<HH")
_get_u16 = _U16.unpack_from
_get_u32 = _U32.unpack_from
_put_u32 = _U32.pack_into
_get_bounds = _LOWER_UPPER.unpack_from
_put_bounds = _LOWER_UPPER.pack_into


class InvalidPage(ValueError):
    """A page that was read is not the one that was written; the caller knows which it is."""


class WrongChecksum(InvalidPage):
    """What was read is not what was sealed for this place."""


def init(mm: mmap, page: int, kind: int, *, special_bytes: int = 0) -> None:
    """Make an empty page of a kind; its LSN stays, all else is lost. `special_bytes` is a multiple of 8."""
    special = PAGE_BYTES - special_bytes
    lsn = mm[page : page + 8]
    mm[page : page + PAGE_BYTES] = _ZEROS
    _HEADER.pack_into(mm, page, 0, 0, HEADER_BYTES, special, special, 0, kind, _VERSION, 0)
    mm[page : page + 8] = lsn


def kind(mm: mmap, page: int) -> int:
    """What the page holds; `KIND_NEW` for a page of zeros."""
    return int(_get_u16(mm, page + KIND_AT)[0])


def seal(data: bytes, relation: int, block: int) -> bytes:
    """The page as it goes to its file: `data` with the checksum of its contents and its place."""
    return b"".join((data[:CHECKSUM_AT], _U32.pack(_checksum(data, relation, block)), data[LOWER_AT:]))


def verify(data: bytes, relation: int, block: int) -> None:
    """Raise InvalidPage unless `data` is a page of zeros or was sealed for this very place."""
    if len(data) != PAGE_BYTES:
        raise InvalidPage(f"page has {len(data)} bytes, expected {PAGE_BYTES}")
    stored = _get_u32(data, CHECKSUM_AT)[0]
    computed = _checksum(data, relation, block)
    if stored != computed and data != _ZEROS:
        raise WrongChecksum(f"calculated checksum {computed:08X} but found {stored:08X}")
    lower, upper, special = _get_u16(data, LOWER_AT)[0], _get_u16(data, UPPER_AT)[0], _get_u16(data, SPECIAL_AT)[0]
    if not lower <= upper <= special <= PAGE_BYTES:
        raise InvalidPage(f"bounds lower {lower}, upper {upper}, special {special} are out of order")


def header_fault(mm: mmap, page: int) -> str:
    """What no `init` makes of a header, in words; "" if nothing. The bounds' order is for `verify`."""
    _, _, lower, _, special, flags, what, version, _ = _HEADER.unpack_from(mm, page)
    if lower < HEADER_BYTES:
        return f"lower {lower} lies in the header"
    if special & 7 or version != _VERSION:
        return f"special {special}, layout version {version}"
    if flags & ~(FLAG_FREE_LINES if what == KIND_HEAP else 0):
        return f"unknown flags {flags:04X}"
    return ""


def _checksum(data: bytes, relation: int, block: int) -> int:
    place = data[:CHECKSUM_AT] + _PLACE.pack(relation, block)
    return int(google_crc32c.extend(google_crc32c.value(data[LOWER_AT:]), place))


# Line pointers and items.


def bounds(mm: mmap, page: int) -> tuple[int, int, int]:
    """(lower, upper, special) of a page."""
    lower, upper, special, _ = _BOUNDS_FLAGS.unpack_from(mm, page + LOWER_AT)
    return lower, upper, special


def line_count(mm: mmap, page: int) -> int:
    """How many line pointers there are, unused ones included; lines are 1..line_count."""
    return int((_get_u16(mm, page + LOWER_AT)[0] - HEADER_BYTES) // LINE_BYTES)


def free_space(mm: mmap, page: int) -> int:
    """Bytes that one more item may have, its line pointer paid for (PageGetHeapFreeSpace); never negative."""
    lower, upper = _get_bounds(mm, page + LOWER_AT)
    return int(max(0, (upper - lower - LINE_BYTES) & ~7))


def item(mm: mmap, page: int, line: int) -> tuple[int, int, int]:
    """(state, offset of the item in the page or the line redirected to, length in bytes) of a line."""
    raw = _get_u32(mm, page + (HEADER_BYTES - LINE_BYTES) + LINE_BYTES * line)[0]
    return raw >> 15 & 3, raw & 0x7FFF, raw >> 17


def lines(mm: mmap, page: int) -> tuple[int, ...]:
    """Every line pointer as stored, line 1 first; `line_fields` takes one apart."""
    count = line_count(mm, page)
    return Struct(f"<{count}I").unpack_from(mm, page + HEADER_BYTES)


def line_fields(raw: int) -> tuple[int, int, int]:
    """(state, offset, length) of a line pointer as `lines` gives it."""
    return raw >> 15 & 3, raw & 0x7FFF, raw >> 17


def set_line(mm: mmap, page: int, line: int, state: int, offset: int = 0, length: int = 0) -> None:
    """Store a line pointer. Does not move items and does not give an item's bytes back: see `compact`."""
    _put_u32(mm, page + (HEADER_BYTES - LINE_BYTES) + LINE_BYTES * line, offset | state << 15 | length << 17)


def add_item(mm: mmap, page: int, data: bytes, line: int = 0) -> int:
    """Put an item on the page; returns its line, or 0 when there is no room (nothing is changed then).

    `line` 0 takes the first unused line, else a new one. Redo names the line: it may be unused or the
    next new one; anything else raises ValueError, for the page is not the one that was logged.
    """
    lower, upper = _get_bounds(mm, page + LOWER_AT)
    count = (lower - HEADER_BYTES) // LINE_BYTES
    if line == 0:
        line = _unused_line(mm, page, count) or count + 1
    elif line > count + 1 or (line <= count and item(mm, page, line)[0] != UNUSED):
        raise ValueError(f"line {line} of {count} is not free")
    length = len(data)
    start = (upper - length) & ~7
    if line > count:
        lower += LINE_BYTES
    if start < lower:
        return 0
    mm[page + start : page + start + length] = data
    _put_bounds(mm, page + LOWER_AT, lower, start)
    _put_u32(mm, page + (HEADER_BYTES - LINE_BYTES) + LINE_BYTES * line, start | NORMAL << 15 | length << 17)
    return line


def _unused_line(mm: mmap, page: int, count: int) -> int:
    flags = _get_u16(mm, page + FLAGS_AT)[0]
    if not flags & FLAG_FREE_LINES:
        return 0
    for line, raw in enumerate(Struct(f"<{count}I").unpack_from(mm, page + HEADER_BYTES), 1):
        if not raw >> 15 & 3:
            return line
    _U16.pack_into(mm, page + FLAGS_AT, flags & ~FLAG_FREE_LINES)
    return 0


def prune(
    mm: mmap,
    page: int,
    *,
    redirects: tuple[tuple[int, int], ...] = (),
    dead: tuple[int, ...] = (),
    unused: tuple[int, ...] = (),
) -> None:
    """Change line states and give the freed bytes back in one pass (heap_page_prune_execute).

    `redirects` are (line, line it leads to). The same arguments on the same page give the same page,
    so redo calls this too.
    """
    pointers = list(lines(mm, page))
    for line, target in redirects:
        pointers[line - 1] = target | REDIRECT << 15
    for line in dead:
        pointers[line - 1] = DEAD << 15
    for line in unused:
        pointers[line - 1] = 0
    _rewrite(mm, page, pointers)


def compact(mm: mmap, page: int) -> None:
    """Move all items together, so that all free bytes are one hole (PageRepairFragmentation)."""
    _rewrite(mm, page, list(lines(mm, page)))


def _rewrite(mm: mmap, page: int, pointers: list[int]) -> None:
    # Works on a copy and stores it once: nobody can find the page half rewritten, and a copy of a
    # page costs less than one extra call.
    old = mm[page : page + PAGE_BYTES]
    while pointers and not pointers[-1] >> 15 & 3:
        pointers.pop()
    special, flags = _get_u16(old, SPECIAL_AT)[0], _get_u16(old, FLAGS_AT)[0]
    parts: list[bytes] = []
    upper = special
    free_lines = False
    for index, raw in enumerate(pointers):
        state = raw >> 15 & 3
        if state == NORMAL:
            length = raw >> 17
            room = (length + 7) & ~7
            start = raw & 0x7FFF
            upper -= room
            parts.append(old[start : start + room])
            pointers[index] = upper | NORMAL << 15 | length << 17
        elif state == UNUSED:
            free_lines = True
    parts.reverse()
    lower = HEADER_BYTES + LINE_BYTES * len(pointers)
    flags = flags | FLAG_FREE_LINES if free_lines else flags & ~FLAG_FREE_LINES
    body = b"".join(
        (
            old[:LOWER_AT],
            _BOUNDS_FLAGS.pack(lower, upper, special, flags),
            old[KIND_AT:HEADER_BYTES],
            Struct(f"<{len(pointers)}I").pack(*pointers),
            bytes(upper - lower),
            *parts,
            old[special:],
        )
    )
    mm[page : page + PAGE_BYTES] = body
