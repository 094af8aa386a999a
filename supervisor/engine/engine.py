"""The engine: everything that one process holds to work on one data directory in one region.

Assembles the parts and owns nothing else. An engine is made from a disk, an attachment (region, locks, host) and
settings; it has no other state that counts, so two engines over one region see each other only through its bytes.
The startup process makes the region's contents true (`recovery.redo.recover`) before anybody else's engine may work.
"""

from __future__ import annotations

from collections.abc import Callable

from supervisor.config import Settings
from supervisor.engine.access import room
from supervisor.engine.access.catalog import Catalog
from supervisor.engine.access.heap import Heap
from supervisor.engine.access.table import Tables
from supervisor.engine.disk.disk import Disk
from supervisor.engine.recovery.checkpoint import shmem_areas as checkpoint_areas
from supervisor.engine.recovery.checkpoint import shmem_init as checkpoint_init
from supervisor.engine.storage import buffers
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.transam import row_locks as row_locks_module
from supervisor.engine.transam import snapshot as snapshot_module
from supervisor.engine.transam.clog import CommitLog
from supervisor.engine.transam.row_locks import RowLocks
from supervisor.engine.transam.snapmgr import Isolation, SnapshotManager
from supervisor.engine.transam.snapshot import RunningTransactions
from supervisor.engine.transam.transaction import Transaction
from supervisor.engine.wal import insert as wal_module
from supervisor.engine.wal.asynchronous import FlushEverything
from supervisor.engine.wal.insert import Wal
from supervisor.engine.wal.segment import Identity
from supervisor.host import Host
from supervisor.log import ServerLog
from supervisor.shmem import lwlock, procarray
from supervisor.shmem.attachment import Attachment
from supervisor.shmem.region import Area, Region

_SUBSYSTEMS = (
    procarray.shmem_areas,
    lwlock.shmem_areas,
    wal_module.shmem_areas,
    snapshot_module.shmem_areas,
    row_locks_module.shmem_areas,
    room.shmem_areas,
    checkpoint_areas,
    buffers.shmem_areas,
)
_INITIALISERS = (
    lwlock.shmem_init,
    wal_module.shmem_init,
    snapshot_module.shmem_init,
    row_locks_module.shmem_init,
    room.shmem_init,
    checkpoint_init,
    buffers.shmem_init,
)


def engine_areas(settings: Settings) -> list[Area]:
    """The shared memory of the engine and of what it stands on: PGPROC entries, locks, WAL, counters, buffers."""
    return [area for subsystem in _SUBSYSTEMS for area in subsystem(settings)]


def engine_init(region: Region, settings: Settings) -> None:
    """Make a new region's engine areas ready; the creator calls it once, before anybody attaches."""
    for initialise in _INITIALISERS:
        initialise(region, settings)


def _no_statement(procno: int) -> str:
    return ""


class Engine:
    """One process's engine. `close` gives files back; the attachment is its owner's to detach.

    `statement_of(procno)` says what another process runs, for the log's account of a deadlock.
    """

    def __init__(
        self,
        disk: Disk,
        attachment: Attachment,
        settings: Settings,
        identity: Identity,
        log: ServerLog,
        *,
        statement_of: Callable[[int], str] = _no_statement,
    ) -> None:
        self.disk = disk
        self.attachment = attachment
        self.settings = settings
        self.identity = identity
        self.log = log
        self.host: Host = attachment.host
        self.wal = Wal(disk, attachment, settings, identity)
        before_data = self.wal if settings.synchronous_commit else FlushEverything(self.wal)
        self.pool = BufferPool(disk, attachment, before_data, settings)
        self.running = RunningTransactions(attachment)
        self.snapshots = SnapshotManager(self.running)
        self.clog = CommitLog(self.pool, self.wal, self.running)
        self.row_locks = RowLocks(attachment, self.running, statement_of)
        self.heap = Heap(attachment, self.pool, self.wal, self.clog, self.running, self.row_locks)
        self.catalog = Catalog(self.pool, self.wal)
        self.transaction = Transaction(attachment, self.wal, self.clog, self.running)
        self.tables = Tables(
            self.host,
            self.pool,
            self.wal,
            self.running,
            self.snapshots,
            self.row_locks,
            self.heap,
            self.catalog,
            self.transaction,
        )

    def use(self, settings: Settings) -> None:
        """Go by other settings from now on: those of a reload, which differ only in what a reload may change."""
        self.settings = settings
        self.wal.use(settings)
        self.row_locks.use(settings)

    def begin(self, isolation: Isolation) -> None:
        """Begin a transaction of several statements; one of a single statement needs no beginning."""
        self.snapshots.begin(isolation)

    def commit(self) -> None:
        """End the transaction, durably unless `synchronous_commit` is off."""
        self.transaction.commit()
        self.tables.end_transaction()
        self.snapshots.end()
        self.catalog.end_transaction(committed=True)

    def abort(self) -> None:
        """Undo the transaction and give back every lock and mark that an error left held."""
        self.attachment.locks.release_all()
        self.row_locks.release_all()
        self.transaction.abort()
        self.tables.end_transaction()
        self.snapshots.end()
        self.catalog.end_transaction(committed=False)

    def close(self) -> None:
        """Close this process's files."""
        self.pool.close()
        self.wal.close()
