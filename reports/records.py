"""Append-only files of JSON records that stay readable when their writer is SIGKILLed.

A record is written as one `write` of a newline and then the JSON. The newline comes first so that a record
torn by a kill is cut off by the record after it: a reader loses the torn one and nothing else. Nothing is
buffered in this process, so what `append` returned from is in the kernel's hands and outlives the process
(it is not fsynced: a run directory must survive the death of the harness, not of the machine).

Readers skip blank lines and count the lines that are not a whole record instead of failing on them: a torn
line means that no answer came, which is evidence too. A line that *is* a whole record but not of the type
asked for is no accident of a kill and raises.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")
Record = Mapping[str, Any] | msgspec.Struct


class RunDirectoryError(Exception):
    """Something is wrong with a run directory: the message says what, where, and what to do."""


def unusable(error: OSError, what: str, path: Path) -> RunDirectoryError:
    """What an `OSError` met while doing `what` to `path` means to the person who runs the harness."""
    remedy = {
        "ENOSPC": "free some space or choose another place with --out",
        "EDQUOT": "the quota of this user is used up: free some space or choose another place with --out",
        "EROFS": "the file system is mounted read-only: choose another place with --out",
        "EACCES": "this user may not: change the owner or mode, or choose another place with --out",
        "EFBIG": "the file-size limit (ulimit -f) or the file system's limit is reached",
        "EMFILE": "too many files are open: raise ulimit -n",
    }.get(_errno_name(error), "")
    return RunDirectoryError(f"could not {what} {path}: {error.strerror}" + (f" ({remedy})" if remedy else ""))


def _errno_name(error: OSError) -> str:
    import errno

    return errno.errorcode.get(error.errno or 0, "")


class RecordWriter:
    """Appends records to one file. One writer per file; any number of readers at any time."""

    __slots__ = ("_descriptor", "_encoder", "path")

    def __init__(self, path: Path) -> None:
        """Open `path` for appending, making it if need be. Raises RunDirectoryError."""
        self.path = path
        self._encoder = msgspec.json.Encoder()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            raise unusable(error, "open for appending", path) from error

    def append(self, record: Record) -> None:
        """Write one record. Raises RunDirectoryError when the disk is full or the write fails."""
        self._write(b"\n" + self._encoder.encode(record))

    def extend(self, records: Iterable[Record]) -> None:
        """Write many records at once: a kill tears at most one of them, and loses those after it."""
        data = b"".join(b"\n" + self._encoder.encode(record) for record in records)
        if data:
            self._write(data)

    def append_encoded(self, data: bytes) -> None:
        """Write records that are encoded already, each beginning with its newline. Raises RunDirectoryError."""
        self._write(data)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        if self._descriptor < 0:
            raise ValueError(f"{self.path} was closed")
        try:
            written = os.write(self._descriptor, data)
            # A short write is how a disk that is filling up answers. The rest is tried once, so that the
            # reason comes as an errno; a record that stays torn is one that readers count and skip.
            if written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            raise unusable(error, "append to", self.path) from error
        if written < len(data):
            raise RunDirectoryError(f"could not append to {self.path}: wrote {written} of {len(data)} bytes")


class RecordReader(Generic[T]):
    """Iterates over the records of one file, in the order written.

    `type` is `dict` or a msgspec Struct. After (and during) an iteration `count` is the number of records
    seen and `torn` the number of lines that were not a whole record. A file that does not exist has no
    records: a run that was killed early has not made all of them. `keep` chooses the records that count.
    """

    def __init__(self, path: Path, type: type[T], keep: Callable[[T], bool] | None = None) -> None:
        self.path = path
        self.type = type
        self._keep = keep
        self.count = 0
        self.torn = 0

    def __iter__(self) -> Iterator[T]:
        """Raises RunDirectoryError on an unreadable file or a whole record of another type."""
        self.count = self.torn = 0
        decode = msgspec.json.Decoder(self.type).decode
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        except OSError as error:
            raise unusable(error, "read", self.path) from error
        with file:
            for number, line in enumerate(file, start=1):
                if line.isspace():
                    continue
                try:
                    record = decode(line)
                except msgspec.ValidationError as error:
                    if not line.startswith(b"{"):
                        self.torn += 1
                        continue
                    raise RunDirectoryError(
                        f"{self.path}, line {number}: not a record of this version of crashbed: {error}"
                    ) from error
                except (msgspec.DecodeError, UnicodeDecodeError):
                    self.torn += 1
                    continue
                if self._keep is None or self._keep(record):
                    self.count += 1
                    yield record


def read_records(path: Path, keep: Callable[[dict[str, Any]], bool] | None = None) -> RecordReader[dict[str, Any]]:
    """The records of `path` as dictionaries; with `keep`, those that it chooses."""
    return RecordReader(path, dict[str, Any], keep)
