"""The log of a data directory as text, for `crashbed waldump`.

Owns which manager describes which record. It only reads, so it may run beside a live server; then it shows the log up
to what is on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from supervisor.engine.access import btree, heap_redo
from supervisor.engine.access.catalog import describe_storage
from supervisor.engine.disk.disk import Disk
from supervisor.engine.recovery.control import ControlData
from supervisor.engine.transam.clog import TransactionInfo, record_time
from supervisor.engine.wal.dump import Describe, describe_xlog, dump_line
from supervisor.engine.wal.reader import WalReader
from supervisor.engine.wal.record import WalRecord
from supervisor.engine.wal.rmgr import Rmgr


def _describe_transaction(record: WalRecord) -> str:
    try:
        kind = TransactionInfo(record.info).name
    except ValueError:
        return f"UNKNOWN (0x{record.info:02X})"
    return f"{kind} {datetime.fromtimestamp(record_time(record), UTC):%Y-%m-%d %H:%M:%S.%f} UTC"


DESCRIBE: Mapping[Rmgr, Describe] = {
    Rmgr.XLOG: describe_xlog,
    Rmgr.TRANSACTION: _describe_transaction,
    Rmgr.STORAGE: describe_storage,
    Rmgr.HEAP: heap_redo.describe,
    Rmgr.BTREE: btree.describe,
}
"""What each manager's records say."""


def dump_wal(disk: Disk, control: ControlData, *, start: int | None = None, limit: int | None = None) -> Iterator[str]:
    """A line per record from the one at LSN `start` on (default: where redo would start), at most `limit`; after the
    last record a line that says why the log ends there."""
    reader = WalReader(disk, control)
    shown = 0
    try:
        for record in reader.read_from(control.checkpoint.redo if start is None else start):
            if limit is not None and shown >= limit:
                return
            yield dump_line(record, DESCRIBE)
            shown += 1
        yield f"end of log: {reader.end_reason}"
    finally:
        reader.close()
