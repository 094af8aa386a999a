"""The control file, global/pg_control: where recovery starts, and whose data directory it is.

One block of PAGE_SIZE bytes, written in place with one write and one sync, never extended. What means anything lies in
its first 512 bytes, which a disk writes as a whole, and a CRC-32C covers the entire block, so a torn or damaged file is
seen. There is no second copy to fall back on: as in PostgreSQL, a control file that is damaged stops the start, because
guessing where recovery begins would lose commits silently.

Layout, little-endian: magic 8 bytes, crc u32 (of everything behind it), version u32, then the fields of that version.
The CRC's place is the same in every version, so "damaged" and "of another version" can be told apart.

This module owns the file's bytes and its text form. It never decides what a state means: recovery does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import IntEnum
from struct import Struct

import google_crc32c
import msgspec

from supervisor.engine.disk.disk import Disk
from supervisor.engine.wal.lsn import format_lsn, segment_name, segment_size_is_valid
from supervisor.engine.wal.record import PAGE_SIZE
from supervisor.errors import Panic, StartupError

CONTROL_DIRECTORY = "global"
CONTROL_FILE = f"{CONTROL_DIRECTORY}/pg_control"
CONTROL_VERSION = 1
_MAGIC = b"crashbed"
_PREFIX = Struct("<8sII")
_CRC_END = 12
_FIELDS = Struct("<QIIdQII")
_CHECKPOINT = Struct("<QIIIIdIBB2x")
_STATE_TEXTS = (
    "starting up",
    "shut down",
    "shut down in recovery",
    "shutting down",
    "in crash recovery",
    "in archive recovery",
    "in production",
)
_RESTORE_HINT = (
    "The control file cannot be rebuilt. Restore the data directory from a copy, or make a new one; "
    "its other files are unchanged."
)


class ClusterState(IntEnum):
    """What the server was doing when it last wrote the control file (PostgreSQL's DBState)."""

    STARTUP = 0
    SHUTDOWNED = 1
    SHUTDOWNED_IN_RECOVERY = 2
    SHUTDOWNING = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    IN_PRODUCTION = 6

    @property
    def text(self) -> str:
        """As pg_controldata prints it."""
        return _STATE_TEXTS[self]


class CheckPoint(msgspec.Struct, frozen=True):
    """What a checkpoint says: the body of its record, and copied into the control file.

    `redo` is the LSN that redo starts from; `time` seconds since the epoch; `shutdown` whether nothing ran beside it.
    """

    redo: int
    next_xid: int
    oldest_xid: int
    next_relation: int
    time: float
    shutdown: bool
    oldest_active_xid: int = 0
    timeline: int = 1
    full_page_writes: bool = True


class ControlData(msgspec.Struct, frozen=True):
    """The content of the control file; it serves as the log's `Identity`.

    A changed one is made with `msgspec.structs.replace(control, state=..., time=...)`. `time` is when it was last
    written, in seconds since the epoch; `checkpoint_lsn` the last checkpoint's record, `checkpoint` its content.
    """

    system_identifier: int
    state: ClusterState
    time: float
    checkpoint_lsn: int
    checkpoint: CheckPoint
    segment_size: int
    timeline: int = 1
    block_size: int = PAGE_SIZE
    version: int = CONTROL_VERSION


def encode_checkpoint(checkpoint: CheckPoint) -> bytes:
    """The body of a checkpoint record; the same length for every value."""
    return _CHECKPOINT.pack(
        checkpoint.redo,
        checkpoint.next_xid,
        checkpoint.oldest_xid,
        checkpoint.oldest_active_xid,
        checkpoint.next_relation,
        checkpoint.time,
        checkpoint.timeline,
        checkpoint.shutdown,
        checkpoint.full_page_writes,
    )


def decode_checkpoint(body: bytes) -> CheckPoint:
    """The value of a checkpoint record's body; ValueError if it has another length."""
    if len(body) != _CHECKPOINT.size:
        raise ValueError(f"a checkpoint record's body has {len(body)} bytes, expected {_CHECKPOINT.size}")
    redo, next_xid, oldest_xid, oldest_active_xid, next_relation, time, timeline, shutdown, images = _CHECKPOINT.unpack(
        body
    )
    return CheckPoint(
        redo=redo,
        next_xid=next_xid,
        oldest_xid=oldest_xid,
        next_relation=next_relation,
        time=time,
        shutdown=bool(shutdown),
        oldest_active_xid=oldest_active_xid,
        timeline=timeline,
        full_page_writes=bool(images),
    )


def encode_control(control: ControlData) -> bytes:
    """The whole block."""
    fields = _FIELDS.pack(
        control.system_identifier,
        control.timeline,
        control.state,
        control.time,
        control.checkpoint_lsn,
        control.segment_size,
        control.block_size,
    )
    content = (fields + encode_checkpoint(control.checkpoint)).ljust(PAGE_SIZE - _PREFIX.size, b"\0")
    version = control.version.to_bytes(4, "little")
    return _PREFIX.pack(_MAGIC, google_crc32c.value(version + content), control.version) + content


def decode_control(block: bytes) -> ControlData:
    """The value of a block. StartupError says what is wrong with one that is torn, damaged or of another version."""
    if len(block) != PAGE_SIZE:
        raise StartupError(
            f'could not read file "{CONTROL_FILE}": read {len(block)} of {PAGE_SIZE}', hint=_RESTORE_HINT
        )
    magic, crc, version = _PREFIX.unpack_from(block)
    if magic != _MAGIC:
        raise StartupError(f'file "{CONTROL_FILE}" is not a control file of crashbed', hint=_RESTORE_HINT)
    if crc != google_crc32c.value(block[_CRC_END:]):
        raise StartupError(f'incorrect checksum in control file "{CONTROL_FILE}"', hint=_RESTORE_HINT)
    if version != CONTROL_VERSION:
        raise StartupError(
            "database files are incompatible with server: the database cluster was initialized with "
            f"PG_CONTROL_VERSION {version}, but the server was compiled with PG_CONTROL_VERSION {CONTROL_VERSION}",
            hint="Use the server version that made this data directory, or make a new one.",
        )
    system_identifier, timeline, state, time, checkpoint_lsn, segment_size, block_size = _FIELDS.unpack_from(
        block, _PREFIX.size
    )
    at = _PREFIX.size + _FIELDS.size
    if block_size != PAGE_SIZE:
        raise StartupError(
            "database files are incompatible with server: the database cluster was initialized with "
            f"BLCKSZ {block_size}, but the server was compiled with BLCKSZ {PAGE_SIZE}",
            hint="Use a server of that block size, or make a new data directory.",
        )
    if not segment_size_is_valid(segment_size):
        raise StartupError(
            f'invalid WAL segment size in control file "{CONTROL_FILE}" ({segment_size} bytes)',
            hint="The WAL segment size must be a power of two between 1 MB and 16 MB. " + _RESTORE_HINT,
        )
    if state >= len(_STATE_TEXTS):
        raise StartupError(
            f'control file "{CONTROL_FILE}" contains invalid database cluster state {state}', hint=_RESTORE_HINT
        )
    return ControlData(
        system_identifier=system_identifier,
        state=ClusterState(state),
        time=time,
        checkpoint_lsn=checkpoint_lsn,
        checkpoint=decode_checkpoint(block[at : at + _CHECKPOINT.size]),
        segment_size=segment_size,
        timeline=timeline,
        block_size=block_size,
        version=version,
    )


def read_control(disk: Disk) -> ControlData:
    """The data directory's control file; StartupError if it is missing, unreadable, damaged or of another version."""
    try:
        handle = disk.open(CONTROL_FILE)
        try:
            block = disk.pread(handle, PAGE_SIZE, 0)
        finally:
            disk.close(handle)
    except OSError as error:
        raise StartupError(
            f'could not open file "{CONTROL_FILE}": {error.strerror or error}',
            hint="Is this a data directory? Make one with: crashbed init -D DIR",
        ) from error
    return decode_control(block)


def write_control(disk: Disk, control: ControlData, *, fsync: bool = True) -> None:
    """Write the control file in place and make it durable, unless `fsync` is off; make it if it is missing.

    Its content is synced and not its times (fdatasync): those cost a commit of the file system's journal. Raises Panic if the disk fails: which of the two states is on disk is then unknown.
    """
    try:
        new = not disk.exists(CONTROL_FILE)
        handle = disk.open(CONTROL_FILE, create=new)
        try:
            disk.pwrite(handle, encode_control(control), 0)
            if fsync:
                disk.fdatasync(handle)
        finally:
            disk.close(handle)
        if new and fsync:
            disk.sync_directory(CONTROL_DIRECTORY)
    except OSError as error:
        raise Panic(f'could not write file "{CONTROL_FILE}": {error.strerror or error}') from error


def controldata_text(control: ControlData) -> str:
    """The content as pg_controldata prints it: its labels, as far as they apply, one line each. Times are UTC."""
    checkpoint = control.checkpoint
    redo_file = segment_name(checkpoint.timeline, checkpoint.redo // control.segment_size, control.segment_size)
    lines = (
        ("pg_control version number", str(control.version)),
        ("Database system identifier", str(control.system_identifier)),
        ("Database cluster state", control.state.text),
        ("pg_control last modified", _date(control.time)),
        ("Latest checkpoint location", format_lsn(control.checkpoint_lsn)),
        ("Latest checkpoint's REDO location", format_lsn(checkpoint.redo)),
        ("Latest checkpoint's REDO WAL file", redo_file),
        ("Latest checkpoint's TimeLineID", str(checkpoint.timeline)),
        ("Latest checkpoint's full_page_writes", "on" if checkpoint.full_page_writes else "off"),
        ("Latest checkpoint's NextXID", f"0:{checkpoint.next_xid}"),
        ("Latest checkpoint's NextOID", str(checkpoint.next_relation)),
        ("Latest checkpoint's oldestXID", str(checkpoint.oldest_xid)),
        ("Latest checkpoint's oldestActiveXID", str(checkpoint.oldest_active_xid)),
        ("Time of latest checkpoint", _date(checkpoint.time)),
        ("Database block size", str(control.block_size)),
        ("Bytes per WAL segment", str(control.segment_size)),
    )
    return "".join(f"{label + ':':<38}{value}\n" for label, value in lines)


def _date(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%a %b %e %H:%M:%S %Y")
