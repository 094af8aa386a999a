"""`postmaster.pid` and the socket's lock file (PostgreSQL's `CreateLockFile`, specification 7.2 and 7.3).

Eight lines: pid, data directory, start time, port, socket directory, listen address, shared memory
(here the generation's inode and number), status in exactly eight characters. pg_ctl, pg_isready's
users and monitoring read them, so the format is PostgreSQL's to the byte.

A lock file is a note to people and tools and the first of two interlocks; the second, which no `rm` undoes, is
`data_directory.interlock`. So a postmaster that runs already is never stopped by trouble with its notes: what
cannot be rewritten or read is logged and left. It never removes a file that another process has put there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from supervisor.errors import LOCK_FILE_EXISTS, StartupError
from supervisor.log import Level, ServerLog

NAME = "postmaster.pid"
_TRIES = 100
_FIRST_LINE_BYTES = 64
_MODE = 0o600
_PID_MAX = 2**22  # the kernel's own limit (PID_MAX_LIMIT)


class Status(StrEnum):
    """Line 8, padded to eight characters."""

    STARTING = "starting"
    STOPPING = "stopping"
    READY = "ready   "
    STANDBY = "standby "


@dataclass(frozen=True, slots=True)
class Contents:
    """What the eight lines say."""

    pid: int
    data_directory: str
    start_time_s: int
    port: int
    socket_directory: str
    listen_address: str = ""
    shared_memory: tuple[int, int] = (0, 0)
    status: str = Status.STARTING

    def encode(self) -> bytes:
        """The file's bytes; the shared memory line has a constant width, so a rewrite fits."""
        inode, generation = self.shared_memory
        lines = (
            str(self.pid),
            self.data_directory,
            str(self.start_time_s),
            str(self.port),
            self.socket_directory,
            self.listen_address,
            f"{inode:9d} {generation:9d}",
            self.status,
        )
        return os.fsencode("\n".join(lines) + "\n")


class LockFile:
    """A lock file that this process has created and will remove."""

    def __init__(self, path: Path, contents: Contents) -> None:
        self.path = path
        self.contents = contents

    def rewrite(self, contents: Contents, log: ServerLog) -> None:
        """Replace what it says, with one write in place; trouble is logged (`AddToDataDirLockFile`).

        A file that another process has put there is left alone.
        """
        self.contents = contents
        data = contents.encode()
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if self._is_ours(os.read(descriptor, _FIRST_LINE_BYTES)):
                    os.pwrite(descriptor, data, 0)
                    os.ftruncate(descriptor, len(data))
            finally:
                os.close(descriptor)
        except OSError as error:
            log.log(Level.LOG, f'could not write file "{self.path.name}": {error.strerror}')

    def still_ours(self, log: ServerLog) -> bool:
        """Whether the file is there and names this process (`RecheckDataDirLockFile`).

        A file that is there and cannot be read counts as ours: it is no proof of anything.
        """
        try:
            data = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            log.log(Level.LOG, f'could not open file "{self.path.name}": {error.strerror}')
            return False
        except OSError as error:
            log.log(Level.LOG, f'could not open file "{self.path.name}": {error.strerror}; continuing anyway')
            return True
        if self._is_ours(data):
            return True
        found = _first_line(data)[:40].decode(errors="replace")
        log.log(Level.LOG, f'lock file "{self.path.name}" contains wrong PID: "{found}" instead of {self.contents.pid}')
        return False

    def remove(self) -> None:
        """Remove it if it still is the one that this process made; gone already is fine."""
        try:
            if self._is_ours(self.path.read_bytes()):
                self.path.unlink()
        except OSError:
            pass  # It was removed or cannot be: there is nothing more that an exiting process could do.

    def _is_ours(self, data: bytes) -> bool:
        return _first_line(data) == str(self.contents.pid).encode()


def _first_line(data: bytes) -> bytes:
    return data.split(b"\n", 1)[0].strip()


def in_directory(directory: Path) -> str:
    """The `use` of a data directory's lock file."""
    return f'running in data directory "{directory}"'


def with_socket(path: Path) -> str:
    """The `use` of a socket's lock file."""
    return f'using socket file "{path}"'


def read_pid(data: bytes, path: Path) -> int:
    """Line 1, negative for a single-user server; raises StartupError F0001 for an empty file or another beginning."""
    if not data:
        raise StartupError(
            f'lock file "{path.name}" is empty',
            hint="Either another server is starting, or the lock file is the remnant of a previous server startup crash.",
            sqlstate=LOCK_FILE_EXISTS,
        )
    first = _first_line(data)
    if re.fullmatch(rb"-?[0-9]{1,9}", first) is None or not 0 < abs(int(first)) <= _PID_MAX:
        shown = first[:40].decode(errors="replace")
        raise StartupError(
            f'bogus data in lock file "{path.name}": "{shown}"',
            hint=f'Look who uses "{path}"; if nobody does, remove it.',
            sqlstate=LOCK_FILE_EXISTS,
        )
    return int(first)


def refuse_if_live(path: Path, use: str) -> None:
    """Raise StartupError F0001 if a lock file names a living process; a missing or stale one is left alone.

    `use` ends the hint's question: what that process would be doing.
    """
    try:
        other = read_pid(path.read_bytes(), path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed("read", path, error) from error
    if _alive(abs(other)):
        program = "postmaster" if other > 0 else "postgres"
        raise StartupError(
            f'lock file "{path.name}" already exists',
            hint=f"Is another {program} (PID {abs(other)}) {use}?",
            sqlstate=LOCK_FILE_EXISTS,
        )


def create(path: Path, contents: Contents, use: str) -> LockFile:
    """Create a lock file, replacing one whose process is gone; raises StartupError, F0001 if it is not.

    Our own pid, our parent's and $PG_GRANDPARENT_PID count as gone: after a reboot, or in a container,
    another process had the number. EPERM does too: another user's process cannot be our postmaster.
    """
    for _ in range(_TRIES):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        except FileExistsError:
            refuse_if_live(path, use)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _failed("remove old", path, error) from error
            continue
        except OSError as error:
            raise _failed("create", path, error) from error
        try:
            os.write(descriptor, contents.encode())
            os.fsync(descriptor)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise _failed("write", path, error) from error
        finally:
            os.close(descriptor)
        return LockFile(path, contents)
    raise StartupError(
        f'could not create lock file "{path.name}": it comes back each time it is removed',
        hint=f'Something else makes "{path}" again and again; end it.',
    )


def _failed(what: str, path: Path, error: OSError) -> StartupError:
    return StartupError(
        f'could not {what} lock file "{path.name}": {error.strerror}',
        hint=f'The server must be able to make, read and remove files in "{path.parent}".',
    )


def _alive(pid: int) -> bool:
    grandparent = os.environ.get("PG_GRANDPARENT_PID", "")
    if pid in (os.getpid(), os.getppid()) or str(pid) == grandparent:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
