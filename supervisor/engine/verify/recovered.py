"""A cluster that was not shut down, as it would be after recovery: a copy of it, recovered in memory.

Owns the copy. The files of a server that was killed prove nothing by themselves: pages may be torn, and an index page
older than the heap page that it belongs to, and all of that is legal, because the log has what is missing. Checking
only what must hold before recovery would be checking nearly nothing; recovering the directory itself would change what
somebody may want to look at. So redo is run over a copy, which is shut down, and the checks are the same as ever. It
costs as much memory as the cluster and its log have bytes.
"""

from __future__ import annotations

from supervisor.config import Settings
from supervisor.engine.disk.disk import Disk
from supervisor.engine.disk.memory import MemoryDisk
from supervisor.engine.engine import Engine, engine_areas, engine_init
from supervisor.engine.recovery.checkpoint import CheckpointFlags, create_checkpoint
from supervisor.engine.recovery.control import CONTROL_DIRECTORY, CONTROL_FILE, ControlData
from supervisor.engine.recovery.redo import recover
from supervisor.engine.storage.files import DIRECTORY as BASE_DIRECTORY
from supervisor.engine.wal.lsn import WAL_DIRECTORY, parse_segment_name
from supervisor.host import SoloHost
from supervisor.log import Journal, ServerLog
from supervisor.roles import Role
from supervisor.shmem.attachment import attach
from supervisor.shmem.region import Region

_PIECE_BYTES = 1 << 20


def recovered_copy(disk: Disk, control: ControlData) -> MemoryDisk:
    """The cluster's files after recovery and an orderly shutdown; `disk` is only read.

    Raises what `recover` raises of a cluster that cannot be recovered: StartupError, ServerError, Panic.
    """
    host = SoloHost()
    copy = MemoryDisk(host)
    for directory in (BASE_DIRECTORY, CONTROL_DIRECTORY, WAL_DIRECTORY):
        copy.mkdir(directory)
    _copy(disk, copy, CONTROL_FILE)
    for name in disk.list(BASE_DIRECTORY):
        if name.isdecimal():
            _copy(disk, copy, f"{BASE_DIRECTORY}/{name}")
    for name in disk.list(WAL_DIRECTORY):
        if parse_segment_name(name, control.segment_size) is not None:
            _copy(disk, copy, f"{WAL_DIRECTORY}/{name}")
    settings = Settings().replace(fsync=False)
    region = Region.create(engine_areas(settings), name="crashbed:verify")
    try:
        engine_init(region, settings)
        attachment = attach(region, host, settings, Role.STARTUP, 0)
        engine = Engine(copy, attachment, settings, control, ServerLog.to_nowhere())
        recover(engine, control, engine.log, Journal.to_nowhere())
        create_checkpoint(engine, CheckpointFlags.IS_SHUTDOWN | CheckpointFlags.FAST)
        engine.close()
        attachment.detach()
    finally:
        region.close()
    return copy


def _copy(disk: Disk, copy: MemoryDisk, path: str) -> None:
    source, target = disk.open(path), copy.open(path, create=True)
    offset = 0
    while data := disk.pread(source, _PIECE_BYTES, offset):
        copy.pwrite(target, data, offset)
        offset += len(data)
    disk.close(source)
    copy.close(target)
