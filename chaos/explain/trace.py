"""An operation's records in the WAL that a run left: where its row was written, and whether its transaction committed.

Reads the kept data directory with the server's own WAL reader, from the oldest segment that is still there. It tells
what is in the log and what is not; what that means is for `reasons`. A row is known by all its values, so the record
found is certainly this operation's; its transaction is known by the number that the record carries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from supervisor.engine.access.heap import HOT, INSERT, HeapInfo
from supervisor.engine.access.tuple import HEADER_BYTES, Column, RowCodec
from supervisor.engine.disk.disk import Disk
from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.recovery.control import read_control
from supervisor.engine.transam.clog import TransactionInfo
from supervisor.engine.wal.lsn import WAL_DIRECTORY, parse_segment_name
from supervisor.engine.wal.reader import WalReader
from supervisor.engine.wal.record import WalRecord
from supervisor.engine.wal.rmgr import Rmgr
from supervisor.engine.wal.segment import SEGMENT_HEADER_SIZE
from supervisor.errors import ServerError, StartupError
from supervisor.host import SoloHost
from workloads.append import STEPS
from workloads.customers import logged_row
from workloads.workload import Operation

IsRow = Callable[[bytes], bool]
"""Whether the values of a version, behind its header, are those that an operation wrote."""

_TRANSFER = RowCodec(
    "bank_transfer", [Column(name, "bigint") for name in ("op", "worker", "source", "target", "amount")], 0
)
_HISTORY = RowCodec(
    "tpcb_history",
    [Column(name, "bigint") for name in ("op", "worker", "account", "teller", "branch", "delta", "balance")],
    0,
)
_LOG = RowCodec(
    "customers_log",
    [Column("op", "bigint"), Column("action", "text"), Column("subject", "bigint"), Column("amount", "bigint")],
    0,
)
_ELEMENT = Struct(">Q")
_BEFORE_VERSION = {HeapInfo.INSERT: INSERT.size, HeapInfo.HOT_UPDATE: HOT.size}


def _transfer(operation: Operation) -> IsRow:
    values = operation.values
    row = (operation.operation, operation.worker, values["source"], values["target"], values["amount"])
    written = _TRANSFER.encode(row)
    return lambda body: body == written


def _history(operation: Operation) -> IsRow:
    values = operation.values
    asked = (values["account"], values["teller"], values["branch"], values["delta"])
    # The balance, which comes last, the server found out.
    written = _HISTORY.encode((operation.operation, operation.worker, *asked, 0))
    return lambda body: len(body) == len(written) and body[:-8] == written[:-8]


def _list(operation: Operation) -> IsRow:
    # An element names its writer, and the first that an operation appends is the last of the list that it then writes.
    elements = [element for _, element in operation.values[STEPS] if element is not None]
    if not elements:
        return lambda body: False
    written = _ELEMENT.pack(elements[0])
    return lambda body: body.endswith(written)


def _logged(operation: Operation) -> IsRow:
    written = _LOG.encode(logged_row(operation.operation, operation.values))
    return lambda body: body == written


ROWS: Mapping[str, Callable[[Operation], IsRow]] = {
    "bank": _transfer,
    "append": _list,
    "tpcb": _history,
    "customers": _logged,
}
"""Per workload, what tells the first row that names an operation."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies: its first byte and the byte after its last, whose transaction's it is, and which
    incarnation of the log it belongs to."""

    lsn: int
    end_lsn: int
    xid: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Trace:
    """What a log that is whole from `begin_lsn` to `end_lsn` holds of one operation; None is what it does not hold.

    `row` is the record that writes the operation's row, `commit` the COMMIT record of the row's transaction.
    """

    begin_lsn: int
    end_lsn: int
    row: Place | None
    commit: Place | None


class NoWal(Exception):
    """The log cannot be read any more; the message says why, as the end of "the WAL cannot tell: ..."."""


def trace_operation(data_directory: Path, row: IsRow) -> Trace:
    """Look up the records of the operation that wrote this row. Raises NoWal."""
    if not data_directory.is_dir():
        raise NoWal("the data directory was not kept (it is after a finding, or with --keep)")
    try:
        disk = PosixDisk(str(data_directory), SoloHost())
        control = read_control(disk)
        begin = _oldest(disk, control.timeline, control.segment_size)
        reader = WalReader(disk, control)
        try:
            row_place, commit = find(reader.read_from(begin), row)
            end = reader.end_lsn
        finally:
            reader.close()
    except (OSError, ServerError, StartupError) as error:
        raise NoWal(f"{data_directory}: {error}") from error
    if not end:
        raise NoWal(f"{data_directory / WAL_DIRECTORY}: {reader.end_reason}")
    return Trace(begin, end, row_place, commit)


def find(records: Iterable[WalRecord], row: IsRow) -> tuple[Place | None, Place | None]:
    """(the record that writes this row, the COMMIT record of its transaction), from records in order of LSN.

    A transaction number seen in the log is not given out again, so the first COMMIT behind the row is its own.
    """
    inserted: Place | None = None
    for record in records:
        if inserted is None:
            version = _version(record)
            if version is not None and row(version[HEADER_BYTES:]):
                inserted = _place(record)
        elif record.rmgr == Rmgr.TRANSACTION and record.info == TransactionInfo.COMMIT and record.xid == inserted.xid:
            return inserted, _place(record)
    return inserted, None


def _version(record: WalRecord) -> bytes | None:
    """The version that a record puts on its page, header and values; None of any other record."""
    before = _BEFORE_VERSION.get(HeapInfo(record.info)) if record.rmgr == Rmgr.HEAP else None
    return None if before is None else record.blocks[0].data[before:]


def _place(record: WalRecord) -> Place:
    return Place(record.lsn, record.end_lsn, record.xid, record.incarnation)


def _oldest(disk: Disk, timeline: int, segment_size: int) -> int:
    """The LSN of the first record of the oldest segment."""
    parsed = [parse_segment_name(name, segment_size) for name in disk.list(WAL_DIRECTORY)]
    numbers = [found[1] for found in parsed if found is not None and found[0] == timeline]
    if not numbers:
        raise NoWal("the kept data directory has no WAL segment")
    return min(numbers) * segment_size + SEGMENT_HEADER_SIZE
