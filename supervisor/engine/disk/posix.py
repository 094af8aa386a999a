"""PosixDisk: the Disk of a real data directory. The one engine module that imports os.

Paths are checked by their text (no absolute path, no `..`, no empty part) and opened relative to a descriptor of the
data directory, so neither a wrong name nor a change of the working directory leads out of it. A symbolic link that an
operator puts inside on purpose (PostgreSQL's way to move pg_wal) is followed for directories and refused for files.

Handles are plain descriptors with O_CLOEXEC, so an exec'd program inherits none. Each call passes its point first;
`size`, `exists` and `close` neither read nor change anything durable and have no point.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from supervisor.host import Host
from supervisor.points import Point

_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700


class PosixDisk:
    """The files under `root`, which must exist. OSError passes through from every call."""

    def __init__(self, root: str | Path, host: Host) -> None:
        self._point = host.point
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close_root(self) -> None:
        """Give the directory's descriptor back; the disk cannot be used any more."""
        os.close(self._root)

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        """See Disk.open."""
        self._point(Point.DISK_OPEN)
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        if create:
            flags |= os.O_CREAT
        if exclusive:
            flags |= os.O_EXCL
        return os.open(_inside(path), flags, _FILE_MODE, dir_fd=self._root)

    def pread(self, handle: int, length: int, offset: int) -> bytes:
        """See Disk.pread. A short read that is not the end of the file is continued."""
        self._point(Point.DISK_PREAD)
        data = os.pread(handle, length, offset)
        while len(data) < length:
            more = os.pread(handle, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        """See Disk.pwrite."""
        self._point(Point.DISK_PWRITE)
        done = os.pwrite(handle, data, offset)
        while done < len(data):
            # The kernel took a part (a full disk, a signal): ask for the rest, which tells the reason.
            step = os.pwrite(handle, memoryview(data)[done:], offset + done)
            if step == 0:
                raise OSError(errno.EIO, "write took no bytes")
            done += step

    def size(self, handle: int) -> int:
        """See Disk.size."""
        return os.fstat(handle).st_size

    def truncate(self, handle: int, length: int) -> None:
        """See Disk.truncate."""
        self._point(Point.DISK_TRUNCATE)
        os.ftruncate(handle, length)

    def fdatasync(self, handle: int) -> None:
        """See Disk.fdatasync."""
        self._point(Point.DISK_FDATASYNC)
        os.fdatasync(handle)

    def fsync(self, handle: int) -> None:
        """See Disk.fsync."""
        self._point(Point.DISK_FSYNC)
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """See Disk.close."""
        os.close(handle)

    def rename(self, old: str, new: str) -> None:
        """See Disk.rename."""
        self._point(Point.DISK_RENAME)
        os.rename(_inside(old), _inside(new), src_dir_fd=self._root, dst_dir_fd=self._root)

    def unlink(self, path: str) -> None:
        """See Disk.unlink."""
        self._point(Point.DISK_UNLINK)
        os.unlink(_inside(path), dir_fd=self._root)

    def mkdir(self, path: str) -> None:
        """See Disk.mkdir."""
        self._point(Point.DISK_MKDIR)
        os.mkdir(_inside(path), _DIRECTORY_MODE, dir_fd=self._root)

    def list(self, path: str) -> list[str]:
        """See Disk.list."""
        self._point(Point.DISK_LIST)
        directory = self._open_directory(path)
        try:
            return sorted(os.listdir(directory))
        finally:
            os.close(directory)

    def exists(self, path: str) -> bool:
        """See Disk.exists."""
        # Not stat: a look at the times makes the kernel keep the next write's exactly, and the sync after it write the
        # inode. Not access: it answers every error with no, and a segment that is not there is where the log ends.
        try:
            handle = os.open(_inside(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        except (FileNotFoundError, NotADirectoryError):
            return False
        os.close(handle)
        return True

    def sync_directory(self, path: str) -> None:
        """See Disk.sync_directory."""
        self._point(Point.DISK_SYNC_DIRECTORY)
        directory = self._open_directory(path)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _open_directory(self, path: str) -> int:
        inside = "." if path in ("", ".") else _inside(path)
        return os.open(inside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root)


def _inside(path: str) -> str:
    """The path itself, if its text stays inside the data directory; else ValueError."""
    parts = path.split("/")
    if "" in parts or "." in parts or ".." in parts or "\0" in path:
        raise ValueError(f"not a path inside the data directory: {path!r}")
    return path
