"""The log as text, one line per record, in pg_waldump's form.

What a record means is known to its manager alone, which describes it: a registry maps managers to functions. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from supervisor.engine.wal.lsn import format_lsn_padded
from supervisor.engine.wal.record import BlockRef, WalRecord
from supervisor.engine.wal.rmgr import RMGR_NAMES, Rmgr, XlogInfo

Describe = Callable[[WalRecord], str]
"""What a record says, in a few words that begin with its kind in capitals: `INSERT off 3`."""


def describe_xlog(record: WalRecord) -> str:
    """The kind of an XLOG record."""
    try:
        name = XlogInfo(record.info).name
    except ValueError:
        return f"UNKNOWN (0x{record.info:02X})"
    return f"START incarnation {record.incarnation}" if record.info == XlogInfo.START else name


def dump_line(record: WalRecord, describe: Mapping[Rmgr, Describe]) -> str:
    """One line; `len (rec/tot)` is without and with page images, in bytes. A manager without a function of its own
    shows its info byte."""
    total = record.end_lsn - record.lsn
    if record.rmgr in describe:
        text = describe[record.rmgr](record)
    elif record.rmgr == Rmgr.XLOG:
        text = describe_xlog(record)
    else:
        text = f"UNKNOWN (0x{record.info:02X})"
    blocks = "".join(_block(number, block) for number, block in enumerate(record.blocks))
    return (
        f"rmgr: {RMGR_NAMES[record.rmgr]:<11} len (rec/tot): {total - record.image_bytes:6}/{total:6}, "
        f"tx: {record.xid:10}, lsn: {format_lsn_padded(record.lsn)}, prev {format_lsn_padded(record.prev_lsn)}, "
        f"desc: {text}{blocks}"
    )


def _block(number: int, block: BlockRef) -> str:
    image = " FPW" if block.image is not None else ""
    return f", blkref #{number}: rel {block.relation} blk {block.block}{image}"
