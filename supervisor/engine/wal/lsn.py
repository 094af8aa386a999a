"""LSN: a byte position in the endless stream of write-ahead log, as one int.

Segment number n holds the positions [n * segment_size, (n + 1) * segment_size). Segment 0 is never used, so that
position 0 can mean "none" (PostgreSQL's InvalidXLogRecPtr). Pure functions; nothing is kept here.
"""

from __future__ import annotations

INVALID_LSN = 0

MIN_SEGMENT_SIZE = 1 << 20
"""The smallest segment, in bytes. The largest is PostgreSQL's default, see MAX_SEGMENT_SIZE."""

MAX_SEGMENT_SIZE = 16 << 20

WAL_DIRECTORY = "pg_wal"


def format_lsn(lsn: int) -> str:
    """The text `%X/%X` that PostgreSQL 18 writes in its log."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def format_lsn_padded(lsn: int) -> str:
    """The text `%X/%08X` that pg_waldump writes."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:08X}"


def parse_lsn(text: str) -> int:
    """The LSN of a text made by either form. Raises ValueError for anything else."""
    high, slash, low = text.partition("/")
    if not slash or not 1 <= len(high) <= 8 or not 1 <= len(low) <= 8:
        raise ValueError(f"invalid LSN: {text!r}")
    return int(high, 16) << 32 | int(low, 16)


def segment_size_is_valid(segment_size: int) -> bool:
    """Whether a size in bytes may be a segment's: a power of two from 1 to 16 MiB."""
    return MIN_SEGMENT_SIZE <= segment_size <= MAX_SEGMENT_SIZE and segment_size & (segment_size - 1) == 0


def segment_name(timeline: int, segno: int, segment_size: int) -> str:
    """The file name of a segment: timeline, then the number in two parts (PostgreSQL's XLogFileName)."""
    per_id = 0x1_0000_0000 // segment_size
    return f"{timeline:08X}{segno // per_id:08X}{segno % per_id:08X}"


def parse_segment_name(name: str, segment_size: int) -> tuple[int, int] | None:
    """(timeline, segno) of a segment's file name; None if the name is not one for this segment size."""
    if len(name) != 24 or not all(c in "0123456789ABCDEF" for c in name):
        return None
    per_id = 0x1_0000_0000 // segment_size
    if int(name[16:], 16) >= per_id:
        return None
    return int(name[:8], 16), int(name[8:16], 16) * per_id + int(name[16:], 16)


def segment_path(timeline: int, segno: int, segment_size: int) -> str:
    """A segment's path relative to the data directory."""
    return f"{WAL_DIRECTORY}/{segment_name(timeline, segno, segment_size)}"
