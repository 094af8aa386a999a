"""A tar.gz that is the same to the byte whenever its contents are.

Owns names, modes, owners and times in the archive, and that a file appears under its name whole or not at all. What goes
in, and in which order, is the caller's.
"""

from __future__ import annotations

import errno
import gzip
import os
import tarfile
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Protocol

LEVEL = 6
_FILE_MODE = 0o640
_DIRECTORY_MODE = 0o750
"""The most that PostgreSQL takes for a data directory."""


class Readable(Protocol):
    """What a file's content is read from."""

    def read(self, size: int = ..., /) -> bytes: ...


class Archive:
    """Writes one archive; a context manager. What was written appears as `path` when it ends without an error."""

    def __init__(self, path: Path) -> None:
        """Raises FileExistsError when there is something at `path`, OSError when nothing can be written beside it."""
        self.path = path
        self._unfinished = path.with_name(f".{path.name}.new")
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "is there already: remove it or choose another name", str(path))
        self._file = self._unfinished.open("wb")
        # Neither a name nor a time in gzip's header.
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=self._file, mtime=0)
        self._tar = tarfile.TarFile(fileobj=self._gzip, mode="w", format=tarfile.PAX_FORMAT)

    def add_bytes(self, name: str, content: bytes) -> None:
        """A file of these bytes."""
        self.add(name, BytesIO(content), len(content))

    def add(self, name: str, file: Readable, size: int) -> None:
        """A file of the next `size` bytes of `file`. Raises OSError when there are fewer."""
        member = tarfile.TarInfo(name)
        member.size = size
        member.mode = _FILE_MODE
        self._tar.addfile(member, file)

    def add_directory(self, name: str) -> None:
        """A directory, which may stay empty."""
        member = tarfile.TarInfo(name)
        member.type = tarfile.DIRTYPE
        member.mode = _DIRECTORY_MODE
        self._tar.addfile(member)

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._tar.close()
                self._gzip.close()
                self._file.close()
                self._unfinished.rename(self.path)
        finally:
            self._file.close()
            self._unfinished.unlink(missing_ok=True)
