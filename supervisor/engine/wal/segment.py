"""The first bytes of a segment file: whose log it is, and which part of it.

Layout, little-endian: crc u32 (CRC-32C of the rest), magic u32, system_identifier u64, timeline u32, segment_size
u32, start_lsn u64. The start LSN is what rejects a recycled segment, whose content is old but once was valid: its
header names the place it had. The header is part of the stream, written together with the segment's first records.

Pure. A failed check is told in PostgreSQL's words (xlogreader.c, XLogReaderValidatePageHeader).
"""

from __future__ import annotations

from struct import Struct
from typing import Protocol

import msgspec

from supervisor.engine.wal.lsn import format_lsn, segment_name
from supervisor.engine.wal.record import crc32c

SEGMENT_MAGIC = 0x4C41_5743
_HEADER = Struct("<IIQIIQ")
_AFTER_CRC = Struct("<IQIIQ")
_CRC = Struct("<I")
SEGMENT_HEADER_SIZE = _HEADER.size


class Identity(Protocol):
    """Whose log it is. ControlData has these; `WalIdentity` is the bare value."""

    @property
    def system_identifier(self) -> int:
        """A number made once, when the data directory was."""
        ...

    @property
    def timeline(self) -> int:
        """Which history of the log; crash recovery keeps it."""
        ...

    @property
    def segment_size(self) -> int:
        """Bytes per segment file, a power of two."""
        ...


class WalIdentity(msgspec.Struct, frozen=True):
    """An `Identity` by itself."""

    system_identifier: int
    timeline: int
    segment_size: int


def encode_segment_header(identity: Identity, start_lsn: int) -> bytes:
    """The header of the segment that begins at `start_lsn`."""
    rest = _AFTER_CRC.pack(
        SEGMENT_MAGIC, identity.system_identifier, identity.timeline, identity.segment_size, start_lsn
    )
    return _CRC.pack(crc32c(rest)) + rest


def check_segment_header(header: bytes, identity: Identity, start_lsn: int) -> str | None:
    """None if these bytes are the header of the segment at `start_lsn`, else what is wrong with them."""
    segment = segment_name(identity.timeline, start_lsn // identity.segment_size, identity.segment_size)
    where = f"in WAL segment {segment}, LSN {format_lsn(start_lsn)}, offset 0"
    if len(header) < SEGMENT_HEADER_SIZE:
        return f"could not read from WAL segment {segment}, offset 0: read {len(header)} of {SEGMENT_HEADER_SIZE}"
    crc, magic, system_identifier, timeline, segment_size, start = _HEADER.unpack_from(header)
    if magic != SEGMENT_MAGIC:
        return f"invalid magic number {magic:08X} {where}"
    if crc != crc32c(header[_CRC.size : SEGMENT_HEADER_SIZE]):
        return f"incorrect segment header checksum {where}"
    if system_identifier != identity.system_identifier:
        return (
            "WAL file is from different database system: WAL file database system identifier is "
            f"{system_identifier}, pg_control database system identifier is {identity.system_identifier}"
        )
    if segment_size != identity.segment_size:
        return "WAL file is from different database system: incorrect segment size in page header"
    if start != start_lsn:
        return f"unexpected pageaddr {format_lsn(start)} {where}"
    if timeline != identity.timeline:
        return f"out-of-sequence timeline ID {timeline} (after {identity.timeline}) {where}"
    return None
