"""A new data directory: its directories, its first relations, its first checkpoint (PostgreSQL's initdb and bootstrap).

Owns the layout of a data directory and its version. A directory is one only when the version file is there, which is
written last. It never touches a directory that has something in it.
"""

from __future__ import annotations

from supervisor.config import Settings
from supervisor.engine.access.btree import Btree
from supervisor.engine.access.catalog import CATALOG_INDEX, ENGINE_RELATIONS
from supervisor.engine.disk.disk import Disk
from supervisor.engine.engine import Engine, engine_areas, engine_init
from supervisor.engine.recovery.checkpoint import CheckpointFlags, create_checkpoint
from supervisor.engine.recovery.control import CheckPoint, ClusterState, ControlData, write_control
from supervisor.engine.storage.files import DIRECTORY as BASE_DIRECTORY
from supervisor.engine.transam.snapshot import FIRST_USER_RELATION
from supervisor.engine.transam.xid import BOOTSTRAP_XID, FIRST_NORMAL_XID
from supervisor.engine.wal.lsn import MAX_SEGMENT_SIZE, WAL_DIRECTORY, segment_size_is_valid
from supervisor.engine.wal.reader import WalEnd
from supervisor.errors import StartupError
from supervisor.host import Host, SoloHost
from supervisor.log import ServerLog
from supervisor.roles import Role
from supervisor.shmem.attachment import attach
from supervisor.shmem.region import Region

VERSION_FILE = "CRASHBED_VERSION"
VERSION = "1"
_DIRECTORIES = (BASE_DIRECTORY, "global", WAL_DIRECTORY)


def check_version(disk: Disk) -> None:
    """Raise StartupError unless this is a data directory of this version."""
    if not disk.exists(VERSION_FILE):
        raise StartupError(
            f'this is not a data directory: file "{VERSION_FILE}" is missing',
            hint="Make one with crashbed init -D DIR.",
        )
    handle = disk.open(VERSION_FILE)
    try:
        found = disk.pread(handle, 64, 0).decode(errors="replace").strip()
    finally:
        disk.close(handle)
    if found != VERSION:
        raise StartupError(
            "database files are incompatible with server",
            hint=f"The data directory was made by version {found!r}, this is version {VERSION}.",
        )


def initialise_cluster(
    disk: Disk,
    settings: Settings,
    *,
    system_identifier: int,
    segment_size: int = MAX_SEGMENT_SIZE,
    host: Host | None = None,
) -> ControlData:
    """Make an empty cluster in an empty directory, shut down and durable; returns its control data.

    `segment_size` in bytes, a power of two from 1 to 16 MiB; `host` for the time of day (a virtual one by default).
    Raises StartupError for a directory that is not empty, ValueError for a bad segment size, OSError.
    """
    if not segment_size_is_valid(segment_size):
        raise ValueError(f"segment size {segment_size} is not a power of two from 1 to 16 MiB")
    if disk.list(""):
        raise StartupError("the data directory exists but is not empty", hint="Remove or empty it, or take another.")
    host = host or SoloHost()
    for directory in _DIRECTORIES:
        disk.mkdir(directory)
    disk.sync_directory("")
    control = ControlData(
        system_identifier=system_identifier,
        state=ClusterState.SHUTDOWNING,
        time=host.wall_time(),
        checkpoint_lsn=0,
        checkpoint=CheckPoint(
            redo=0,
            next_xid=FIRST_NORMAL_XID,
            oldest_xid=FIRST_NORMAL_XID,
            next_relation=FIRST_USER_RELATION,
            time=host.wall_time(),
            shutdown=True,
        ),
        segment_size=segment_size,
    )
    write_control(disk, control)
    _bootstrap(disk, settings, control, host)
    handle = disk.open(VERSION_FILE, create=True, exclusive=True)
    disk.pwrite(handle, f"{VERSION}\n".encode(), 0)
    disk.fsync(handle)
    disk.close(handle)
    disk.sync_directory("")
    return control


def _bootstrap(disk: Disk, settings: Settings, control: ControlData, host: Host) -> None:
    region = Region.create(engine_areas(settings), name="crashbed:init")
    engine_init(region, settings)
    attachment = attach(region, host, settings, Role.BACKEND, 0)
    engine = Engine(disk, attachment, settings, control, ServerLog.to_nowhere())
    engine.wal.start_at(WalEnd(control.segment_size, 0, 0), 0)
    for relation in ENGINE_RELATIONS:
        engine.pool.create_relation(relation)
    Btree(engine.pool, engine.wal, CATALOG_INDEX, word_keys=False).create(BOOTSTRAP_XID)
    create_checkpoint(engine, CheckpointFlags.IS_SHUTDOWN | CheckpointFlags.FAST)
    engine.close()
    attachment.detach()
    region.close()
