"""Resource managers: who wrote a record, and so who redoes and describes it.

The log itself knows only these numbers. What the info byte means is its manager's own affair; the XLOG manager's
values, which are the log's own and the checkpoints', are here too (numbers of PostgreSQL's pg_control.h where it
has the same record).
"""

from __future__ import annotations

from enum import IntEnum


class Rmgr(IntEnum):
    """A resource manager's number, as records carry it."""

    XLOG = 0
    TRANSACTION = 1
    STORAGE = 2
    HEAP = 3
    BTREE = 4


RMGR_NAMES = ("XLOG", "Transaction", "Storage", "Heap", "Btree")
"""Names as pg_waldump prints them, by number."""

RMGRS: tuple[Rmgr, ...] = tuple(Rmgr)
"""The managers by number: an index into it costs a tenth of Rmgr(number)."""


class XlogInfo(IntEnum):
    """The info byte of Rmgr.XLOG records."""

    CHECKPOINT_SHUTDOWN = 0x00
    """A checkpoint with nothing running: its redo pointer is its own LSN. Body: an encoded CheckPoint."""
    CHECKPOINT_ONLINE = 0x10
    """A checkpoint beside running transactions. Body: an encoded CheckPoint."""
    NOOP = 0x20
    """Nothing to redo."""
    SWITCH = 0x40
    """Nothing follows in this segment: the next record is the first of the next one."""
    CHECKPOINT_REDO = 0xE0
    """Where an online checkpoint's redo pointer points. Nothing to redo."""
    START = 0xF0
    """The first record of an incarnation, durable before anything follows it (see wal/insert.py). Nothing to redo."""
