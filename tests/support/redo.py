"""Redo of a list of records without a cluster around it, for tests of one access method."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.engine.access import btree
from supervisor.engine.disk.disk import Disk
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.storage.redo import PageRedo
from supervisor.engine.wal.record import WalRecord
from supervisor.engine.wal.rmgr import Rmgr


def redo_btree(disk: Disk, pool: BufferPool, records: Sequence[WalRecord], *, batch: int = 50) -> None:
    """Replay the records of an index, so many together."""
    redo = PageRedo(disk, pool, {Rmgr.BTREE: btree.apply})
    for begin in range(0, len(records), batch):
        for record in records[begin : begin + batch]:
            redo.collect(record)
        redo.carry_out()
    redo.close()
