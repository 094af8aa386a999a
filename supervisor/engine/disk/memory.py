"""MemoryDisk: files that are bytes of this process and end with it. For a rehearsal, not for data.

It keeps what Disk promises of names and contents. Nothing is ever durable and nothing is lost: whoever wants to know
what a power loss leaves needs another disk.
"""

from __future__ import annotations

from supervisor.host import Host
from supervisor.points import Point


class MemoryDisk:
    """An empty data directory in memory. Raises FileNotFoundError and FileExistsError as a real one does."""

    def __init__(self, host: Host) -> None:
        self._point = host.point
        self._files: dict[str, bytearray] = {}
        self._directories = {""}
        self._handles: dict[int, bytearray] = {}
        self._next = 1

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        """See Disk.open."""
        self._point(Point.DISK_OPEN)
        if path in self._files:
            if exclusive:
                raise FileExistsError(path)
        elif create:
            self._files[path] = bytearray()
        self._require(path)
        handle = self._next
        self._next += 1
        self._handles[handle] = self._files[path]
        return handle

    def pread(self, handle: int, length: int, offset: int) -> bytes:
        """See Disk.pread."""
        self._point(Point.DISK_PREAD)
        return bytes(self._handles[handle][offset : offset + length])

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        """See Disk.pwrite."""
        self._point(Point.DISK_PWRITE)
        file = self._handles[handle]
        if len(file) < offset:
            file += bytes(offset - len(file))
        file[offset : offset + len(data)] = data

    def size(self, handle: int) -> int:
        """See Disk.size."""
        return len(self._handles[handle])

    def truncate(self, handle: int, length: int) -> None:
        """See Disk.truncate."""
        self._point(Point.DISK_TRUNCATE)
        file = self._handles[handle]
        del file[length:]
        file += bytes(length - len(file))

    def fdatasync(self, handle: int) -> None:
        """See Disk.fdatasync."""
        self._point(Point.DISK_FDATASYNC)

    def fsync(self, handle: int) -> None:
        """See Disk.fsync."""
        self._point(Point.DISK_FSYNC)

    def close(self, handle: int) -> None:
        """See Disk.close."""
        del self._handles[handle]

    def rename(self, old: str, new: str) -> None:
        """See Disk.rename."""
        self._point(Point.DISK_RENAME)
        self._require(old)
        self._files[new] = self._files.pop(old)

    def unlink(self, path: str) -> None:
        """See Disk.unlink."""
        self._point(Point.DISK_UNLINK)
        self._require(path)
        del self._files[path]

    def mkdir(self, path: str) -> None:
        """See Disk.mkdir."""
        self._point(Point.DISK_MKDIR)
        if path in self._directories:
            raise FileExistsError(path)
        self._directories.add(path)

    def list(self, path: str) -> list[str]:
        """See Disk.list."""
        self._point(Point.DISK_LIST)
        prefix = f"{path}/" if path else ""
        names = {*self._files, *self._directories} - {path}
        return sorted({name[len(prefix) :].split("/")[0] for name in names if name.startswith(prefix)})

    def exists(self, path: str) -> bool:
        """See Disk.exists."""
        return path in self._files or path in self._directories

    def sync_directory(self, path: str) -> None:
        """See Disk.sync_directory."""
        self._point(Point.DISK_SYNC_DIRECTORY)

    def _require(self, path: str) -> None:
        if path not in self._files:
            raise FileNotFoundError(path)
