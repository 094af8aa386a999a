"""A write-ahead log in one process, for tests: a disk of dictionaries, a region, and as many Wal objects as wanted."""

from __future__ import annotations

from supervisor.config import Settings
from supervisor.engine.disk.disk import Disk
from supervisor.engine.wal import insert
from supervisor.engine.wal.insert import Wal
from supervisor.engine.wal.reader import WalEnd, WalReader
from supervisor.engine.wal.record import WalRecord
from supervisor.engine.wal.segment import WalIdentity
from supervisor.host import Host, SoloHost
from supervisor.roles import Role
from supervisor.shmem import lwlock, procarray
from supervisor.shmem.attachment import Attachment, attach
from supervisor.shmem.region import Area, Region

SEGMENT = 1 << 20
IDENTITY = WalIdentity(7_000_000_001, 1, SEGMENT)
PAGES = 8
NEW_LOG = WalEnd(SEGMENT, 0, 0)


class MemoryDisk:
    """A Disk that forgets nothing and loses nothing; counts its calls, and fails the ones it is told to."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.calls: list[tuple[str, str]] = []
        self.failing: set[str] = set()
        self._handles: dict[int, tuple[str, bytearray]] = {}

    def _call(self, name: str, path: str) -> None:
        self.calls.append((name, path))
        if name in self.failing:
            raise OSError(5, "Input/output error")

    def count(self, name: str) -> int:
        return sum(1 for called, _ in self.calls if called == name)

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        self._call("open", path)
        if path not in self.files:
            if not create:
                raise FileNotFoundError(2, "No such file or directory", path)
            self.files[path] = bytearray()
        elif exclusive:
            raise FileExistsError(17, "File exists", path)
        handle = max(self._handles, default=0) + 1
        self._handles[handle] = (path, self.files[path])
        return handle

    def pread(self, handle: int, length: int, offset: int) -> bytes:
        self._call("pread", self._handles[handle][0])
        return bytes(self._handles[handle][1][offset : offset + length])

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        path, content = self._handles[handle]
        self._call("pwrite", path)
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    def size(self, handle: int) -> int:
        return len(self._handles[handle][1])

    def truncate(self, handle: int, length: int) -> None:
        path, content = self._handles[handle]
        self._call("truncate", path)
        del content[length:]
        content.extend(bytes(length - len(content)))

    def fdatasync(self, handle: int) -> None:
        self._call("fdatasync", self._handles[handle][0])

    def fsync(self, handle: int) -> None:
        self._call("fsync", self._handles[handle][0])

    def close(self, handle: int) -> None:
        del self._handles[handle]

    def rename(self, old: str, new: str) -> None:
        self._call("rename", new)
        self.files[new] = self.files.pop(old)

    def unlink(self, path: str) -> None:
        self._call("unlink", path)
        del self.files[path]

    def mkdir(self, path: str) -> None:
        self._call("mkdir", path)

    def list(self, path: str) -> list[str]:
        self._call("list", path)
        return sorted(name.removeprefix(path + "/") for name in self.files if name.startswith(path + "/"))

    def exists(self, path: str) -> bool:
        return path in self.files

    def sync_directory(self, path: str) -> None:
        self._call("sync_directory", path)

    @property
    def open_handles(self) -> int:
        return len(self._handles)


class WalWorld:
    """One generation: a region, and the log on a disk that may outlive it."""

    def __init__(
        self,
        disk: Disk | None = None,
        *,
        settings: Settings | None = None,
        identity: WalIdentity = IDENTITY,
        host: Host | None = None,
    ) -> None:
        self.disk: Disk = MemoryDisk() if disk is None else disk
        self.settings = settings or Settings().replace(wal_buffers=64 << 10, max_connections=8)
        self.identity = identity
        self.host = host or SoloHost()
        areas = [*lwlock.shmem_areas(self.settings), *procarray.shmem_areas(self.settings)]
        areas += [*insert.shmem_areas(self.settings), Area("pages", PAGES * 8192, 8192)]
        self.region = Region.create(areas)
        lwlock.shmem_init(self.region, self.settings)
        insert.shmem_init(self.region, self.settings)
        self.attachments: list[Attachment] = []

    def wal(self, host: Host | None = None) -> Wal:
        """One more process's way into the log."""
        attachment = attach(self.region, host or self.host, self.settings, Role.BACKEND, len(self.attachments))
        self.attachments.append(attachment)
        return Wal(self.disk, attachment, self.settings, self.identity)

    def started(self, end: WalEnd = NEW_LOG, redo: int = 0) -> Wal:
        wal = self.wal()
        wal.start_at(end, redo)
        return wal

    def page_offset(self, number: int) -> int:
        return self.region.offset("pages") + number * 8192

    def set_page(self, number: int, lsn: int, content: bytes) -> None:
        """A page of which everything behind the LSN is `content`."""
        at = self.page_offset(number)
        self.region.mm[at : at + 8192] = lsn.to_bytes(8, "little") + content.ljust(8184, b"\0")

    def close(self) -> None:
        for attachment in self.attachments:
            attachment.detach()
        self.region.close()


def read_all(
    disk: Disk, start: int = SEGMENT + 32, identity: WalIdentity = IDENTITY
) -> tuple[list[WalRecord], WalReader]:
    """Every valid record from `start` on, and the reader with its end."""
    reader = WalReader(disk, identity)
    records = list(reader.read_from(start))
    reader.close()
    return records, reader
