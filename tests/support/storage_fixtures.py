"""What the tests of pages, buffers and indexes stand on: files in memory and a log that is a list.

`MemoryDisk` keeps files as bytes and writes down every call, so that a test can ask in which order
things happened and what a sync covered. `ListWal` is the contract of `Wal` without files: it takes
images by the same rule and gives its records back for replay. A `Server` is a region with one process.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from supervisor.config import Settings
from supervisor.engine.storage import buffers
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.wal.insert import PageRef
from supervisor.engine.wal.record import BlockRef, WalRecord
from supervisor.engine.wal.rmgr import Rmgr
from supervisor.host import SoloHost
from supervisor.roles import Role
from supervisor.shmem import lwlock, procarray
from supervisor.shmem.attachment import attach
from supervisor.shmem.region import Area, Region

PAGE = 8192


class MemoryDisk:
    """A Disk in memory. `durable` is what every file held when it was last synced."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.durable: dict[str, bytes] = {}
        self.calls: list[tuple[object, ...]] = []
        self.fail: dict[str, OSError] = {}
        self._open: dict[int, str] = {}

    def _call(self, name: str, *rest: object) -> None:
        self.calls.append((name, *rest))
        if name in self.fail:
            raise self.fail[name]

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        self._call("open", path)
        if path in self.files:
            if create and exclusive:
                raise FileExistsError(errno.EEXIST, "File exists", path)
        elif not create:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        else:
            self.files[path] = bytearray()
        handle = len(self._open) + 1
        self._open[handle] = path
        return handle

    def pread(self, handle: int, length: int, offset: int) -> bytes:
        self._call("pread", self._open[handle], offset)
        return bytes(self.files[self._open[handle]][offset : offset + length])

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        self._call("pwrite", self._open[handle], offset)
        file = self.files[self._open[handle]]
        if len(file) < offset:
            file += bytes(offset - len(file))
        file[offset : offset + len(data)] = data

    def size(self, handle: int) -> int:
        return len(self.files[self._open[handle]])

    def truncate(self, handle: int, length: int) -> None:
        raise NotImplementedError

    def fdatasync(self, handle: int) -> None:
        self.fsync(handle)

    def fsync(self, handle: int) -> None:
        path = self._open[handle]
        self._call("fsync", path)
        if path in self.files:
            self.durable[path] = bytes(self.files[path])

    def close(self, handle: int) -> None:
        self._call("close", self._open[handle])

    def rename(self, old: str, new: str) -> None:
        raise NotImplementedError

    def unlink(self, path: str) -> None:
        self._call("unlink", path)
        del self.files[path]
        self.durable.pop(path, None)

    def mkdir(self, path: str) -> None:
        self._call("mkdir", path)

    def list(self, path: str) -> list[str]:
        return sorted(name.removeprefix(path + "/") for name in self.files if name.startswith(path + "/"))

    def exists(self, path: str) -> bool:
        return path in self.files

    def sync_directory(self, path: str) -> None:
        self._call("sync_directory", path)


class ListWal:
    """The log as a list of records; flush is instant and is written into the disk's calls."""

    def __init__(self, disk: MemoryDisk, region: Region | None = None) -> None:
        self.records: list[WalRecord] = []
        self.region = region
        self.redo = 0
        self.full_page_writes = True
        self.end = 1 << 20
        self.flushed = 0
        self._disk = disk

    def insert(self, rmgr: Rmgr, info: int, xid: int, body: bytes, pages: Sequence[PageRef] = ()) -> tuple[int, int]:
        assert self.region is not None
        blocks = []
        for page in pages:
            lsn = self.region.q[page.page_offset // 8]
            image = None
            if page.force_image or (self.full_page_writes and lsn <= self.redo):
                image = self.region.mm[page.page_offset : page.page_offset + PAGE]
            blocks.append(BlockRef(page.relation, page.block, image, page.data))
        start = self.end
        self.end += 64
        previous = self.records[-1].lsn if self.records else 0
        self.records.append(WalRecord(start, self.end, previous, xid, rmgr, info, body, tuple(blocks), 1))
        return start, self.end

    def flush(self, lsn: int) -> None:
        self._disk.calls.append(("wal_flush", lsn))
        assert lsn <= self.end, "flush beyond the end of the log"
        self.flushed = max(self.flushed, lsn)


def storage_areas(settings: Settings) -> list[Area]:
    return [*procarray.shmem_areas(settings), *lwlock.shmem_areas(settings), *buffers.shmem_areas(settings)]


def storage_region(settings: Settings, extra: Sequence[Area] = ()) -> Region:
    region = Region.create([*storage_areas(settings), *extra])
    lwlock.shmem_init(region, settings)
    buffers.shmem_init(region, settings)
    return region


class Server:
    """A region with one process, and what survives it: `disk` and `wal`."""

    def __init__(
        self,
        n_buffers: int = 16,
        disk: MemoryDisk | None = None,
        wal: ListWal | None = None,
        host: SoloHost | None = None,
    ) -> None:
        self.settings = Settings(shared_buffers=n_buffers * PAGE, max_connections=8)
        self.disk = disk or MemoryDisk()
        self.region = storage_region(self.settings)
        self.wal = wal or ListWal(self.disk)
        self.wal.region = self.region
        self.host = host or SoloHost()
        self.attachment = attach(self.region, self.host, self.settings, Role.BACKEND, 0)
        self.pool = BufferPool(self.disk, self.attachment, self.wal, self.settings)

    def another_process(self, slot: int = 1) -> BufferPool:
        other = attach(self.region, SoloHost(), self.settings, Role.BACKEND, slot)
        return BufferPool(self.disk, other, self.wal, self.settings)

    def crash(self) -> Server:
        """Throw the memory away, keep files and log: a new region in which nothing was redone yet."""
        return Server(self.settings.n_buffers, self.disk, self.wal)
