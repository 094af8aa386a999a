"""Disk: everything durable goes through these calls, and through nothing else.

The engine imports no os. It asks a Disk, which is the real file system (`posix.PosixDisk`) or a simulated one that
knows what a power loss may leave behind. The protocol is therefore exactly what durability can depend on: what was
written, what was synced, which names were made durable by syncing their directory.

Rules for every implementation:

- A path is relative to the data directory, with `/` between its parts, and never leaves that directory.
- A handle is an int, valid in the process that opened it.
- `pwrite` writes everything or raises; it makes nothing durable. `fdatasync` and `fsync` make the file's content
  durable; `sync_directory` makes the names in a directory (creations, renames, removals) durable.
- Every call is a point of `supervisor.points` by itself, passed before the operation happens.
- OSError passes through unchanged. What an error means (ERROR or PANIC) is for the caller to say.
"""

from __future__ import annotations

from typing import Protocol


class Disk(Protocol):
    """The files of one data directory."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        """A handle for reading and writing `path`.

        `create` makes the file if it is missing; `exclusive` (with `create`) raises FileExistsError if it is not.
        """
        ...

    def pread(self, handle: int, length: int, offset: int) -> bytes:
        """Up to `length` bytes from byte `offset`; fewer only at the end of the file."""
        ...

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        """Write all of `data` at byte `offset`, extending the file if need be, or raise OSError."""
        ...

    def size(self, handle: int) -> int:
        """The file's length in bytes."""
        ...

    def truncate(self, handle: int, length: int) -> None:
        """Set the file's length in bytes; a longer file is filled with zeros."""
        ...

    def fdatasync(self, handle: int) -> None:
        """Make the file's content, and a length that changed, durable."""
        ...

    def fsync(self, handle: int) -> None:
        """Make the file's content and all its metadata durable."""
        ...

    def close(self, handle: int) -> None:
        """Give the handle back. Makes nothing durable."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, replacing what had that name. Durable after `sync_directory`."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a file's name. Durable after `sync_directory`."""
        ...

    def mkdir(self, path: str) -> None:
        """Make a directory; FileExistsError if it is there."""
        ...

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted. `""` is the data directory itself."""
        ...

    def exists(self, path: str) -> bool:
        """Whether something has this name."""
        ...

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""
        ...
