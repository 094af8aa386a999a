"""Relation files: block n of relation R is the n-th 8 KiB of `base/R` (PostgreSQL's `md.c`, one segment).

Owns this process's handles and the checksum on the way in and out. It never knows what is in memory,
never extends a file on its own account, and never decides when a file must be synced.
"""

from __future__ import annotations

import errno

from supervisor.engine.disk.disk import Disk
from supervisor.engine.storage import page
from supervisor.errors import DATA_CORRUPTED, DISK_FULL, IO_ERROR, Panic, ServerError

DIRECTORY = "base"
MAX_HANDLES = 256


def relation_path(relation: int) -> str:
    """The file of a relation, relative to the data directory."""
    return f"{DIRECTORY}/{relation}"


class RelationFiles:
    """The files of the relations, as one process has them open."""

    def __init__(self, disk: Disk, *, fsync: bool) -> None:
        self._disk = disk
        self._fsync = fsync
        self._handles: dict[int, int] = {}

    def create(self, relation: int, *, missing_only: bool = False) -> None:
        """Make an empty file whose name is durable on return; ServerError if it cannot be made.

        An existing file is refused, or kept as it is with `missing_only` (redo). Then its name need not be durable:
        whoever repeats its creation calls `sync_names`.
        """
        path = relation_path(relation)
        if missing_only and self._disk.exists(path):
            return
        try:
            handle = self._disk.open(path, create=True, exclusive=True)
        except OSError as error:
            raise _file_error("create", relation, error) from error
        self._remember(relation, handle)
        if self._fsync:
            try:
                self._disk.fsync(handle)
                self._disk.sync_directory(DIRECTORY)
            except OSError as error:
                raise _file_error("fsync", relation, error) from error

    def size(self, relation: int) -> int:
        """Whole blocks in the file; what a torn extension left of the next one does not count."""
        try:
            return self._disk.size(self._handle(relation)) // page.PAGE_BYTES
        except OSError as error:
            raise _file_error("read", relation, error) from error

    def read(self, relation: int, block: int) -> bytes:
        """A page, verified. What the file does not have (a hole, or blocks never written) reads as zeros.

        ServerError XX001 for a page that is not the one written, 58030 for a file that cannot be read.
        """
        try:
            data = self._disk.pread(self._handle(relation), page.PAGE_BYTES, block * page.PAGE_BYTES)
        except OSError as error:
            raise _file_error("read", relation, error, block) from error
        if len(data) < page.PAGE_BYTES:
            data += bytes(page.PAGE_BYTES - len(data))
        try:
            page.verify(data, relation, block)
        except page.InvalidPage as error:
            raise ServerError(
                f'invalid page in block {block} of relation "{relation_path(relation)}"',
                sqlstate=DATA_CORRUPTED,
                detail=f"The {error}.",
            ) from error
        return data

    def write(self, relation: int, block: int, data: bytes) -> None:
        """Write a page with its checksum; it is not durable before `sync`."""
        try:
            self._disk.pwrite(self._handle(relation), page.seal(data, relation, block), block * page.PAGE_BYTES)
        except OSError as error:
            raise _file_error("write", relation, error, block) from error

    def sync(self, relation: int) -> None:
        """Make every write to the file durable, and its length; Panic if that fails.

        Not its times, which nobody reads: with fdatasync a file that only had pages overwritten costs no commit of
        the file system's journal.

        The kernel may have dropped the pages that it could not write, so a second fsync that succeeds
        would prove nothing (PostgreSQL's data_sync_retry=off); only the WAL still has them.
        """
        if not self._fsync:
            return
        try:
            self._disk.fdatasync(self._handle(relation))
        except OSError as error:
            raise Panic(f'could not fsync file "{relation_path(relation)}": {error.strerror}') from error

    def sync_names(self) -> None:
        """Make the names of the files durable; Panic if that fails."""
        if not self._fsync:
            return
        try:
            self._disk.sync_directory(DIRECTORY)
        except OSError as error:
            raise Panic(f'could not fsync file "{DIRECTORY}": {error.strerror}') from error

    def unlink(self, relation: int) -> None:
        """Remove the file; ServerError if that fails."""
        self.forget(relation)
        try:
            self._disk.unlink(relation_path(relation))
            if self._fsync:
                self._disk.sync_directory(DIRECTORY)
        except OSError as error:
            raise _file_error("remove", relation, error) from error

    def forget(self, relation: int) -> None:
        """Close the handle of a relation, if there is one."""
        handle = self._handles.pop(relation, None)
        if handle is not None:
            self._disk.close(handle)

    def close(self) -> None:
        """Close every handle."""
        for relation in list(self._handles):
            self.forget(relation)

    def _handle(self, relation: int) -> int:
        handle = self._handles.get(relation)
        if handle is None:
            handle = self._disk.open(relation_path(relation))
            self._remember(relation, handle)
        return handle

    def _remember(self, relation: int, handle: int) -> None:
        if len(self._handles) >= MAX_HANDLES:
            self.forget(next(iter(self._handles)))
        self._handles[relation] = handle


def _file_error(verb: str, relation: int, error: OSError, block: int | None = None) -> ServerError:
    where = f'file "{relation_path(relation)}"'
    if block is not None:
        where = f"block {block} in {where}"
    return ServerError(
        f"could not {verb} {where}: {error.strerror or error}",
        sqlstate=DISK_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else IO_ERROR,
    )
