"""Leftovers of a crash: what the processes of the last memory wrote and may not have synced, made durable.

The marks of which file was written died with the memory, and the checkpoint that ends recovery moves the redo point
beyond everything that happened before. So before it counts, every relation file must be on disk (PostgreSQL's
`SyncDataDirectory`, which syncs the whole data directory before redo). The log and the names of its segments are the
startup process's to sync, when it takes the log up; a relation file's name is durable when its creation is over, or has
been repeated by redo.

Redo need not wait for it: it reads what the kernel has, and syncs the log itself before it writes a page. So the
checkpointer does it while the startup process replays, and the checkpoint that ends recovery does it itself if that has
not happened. What recovery writes meanwhile is marked in the new memory, and synced with its checkpoint.
"""

from __future__ import annotations

from typing import Final

from supervisor.engine.disk.disk import Disk
from supervisor.engine.storage.files import DIRECTORY, relation_path
from supervisor.errors import Panic
from supervisor.shmem.region import Area, Region

AREA: Final = Area("leftovers_synced", 8)


def leftovers_synced(region: Region) -> bool:
    """Whether it has been done in this memory."""
    return bool(region.q[region.word(AREA.name)])


def sync_leftovers(disk: Disk, region: Region, *, fsync: bool) -> int:
    """Make them durable, once in a memory; returns how many relation files. Panic when a sync fails.

    fdatasync: content and length count, not the times.
    """
    files = 0
    path = DIRECTORY
    try:
        for name in disk.list(DIRECTORY) if fsync else ():
            if name.isdecimal():
                path = relation_path(int(name))
                handle = disk.open(path)
                disk.fdatasync(handle)
                disk.close(handle)
                files += 1
    except OSError as error:
        raise Panic(f'could not fsync file "{path}": {error.strerror}') from error
    region.q[region.word(AREA.name)] = 1
    return files
