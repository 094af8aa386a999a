"""`postmaster.pid` and the socket's lock file (PostgreSQL's `CreateLockFile`, specification 7.2 and 7.3).

Eight lines: pid, data directory, start time, port, socket directory, listen address, shared memory
(here the generation's inode and number), status in exactly eight characters. pg_ctl, pg_isready's
users and monitoring read them, so the format is PostgreSQL's to the byte.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from supervisor.errors import LOCK_FILE_EXISTS, StartupError

NAME = "postmaster.pid"
_TRIES = 100


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
        return ("\n".join(lines) + "\n").encode()


class LockFile:
    """A lock file that this process has created and will remove."""

    def __init__(self, path: Path, contents: Contents) -> None:
        self.path = path
        self.contents = contents

    def rewrite(self, contents: Contents) -> None:
        """Replace what it says, with one write in place."""
        self.contents = contents
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            data = contents.encode()
            os.write(descriptor, data)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)

    def still_ours(self) -> bool:
        """Whether the file is there and names this process (`RecheckDataDirLockFile`)."""
        try:
            return read_pid(self.path.read_text(), self.path) == os.getpid()
        except (FileNotFoundError, NotADirectoryError, StartupError):
            return False

    def remove(self) -> None:
        """Remove it; gone already is fine."""
        self.path.unlink(missing_ok=True)


def read_pid(text: str, path: Path) -> int:
    """Line 1; raises StartupError for an empty file or one that does not begin with a pid."""
    if not text:
        raise StartupError(
            f'lock file "{path.name}" is empty',
            hint="Either another server is starting, or the lock file is the remnant of a previous server startup crash.",
            sqlstate=LOCK_FILE_EXISTS,
        )
    first = text.split("\n", 1)[0].strip()
    if not first.lstrip("-").isdigit() or int(first) == 0:
        raise StartupError(f'bogus data in lock file "{path.name}": "{first[:40]}"', sqlstate=LOCK_FILE_EXISTS)
    return abs(int(first))


def refuse_if_live(path: Path, *, directory: Path) -> None:
    """Raise StartupError F0001 if a lock file names a living process; a missing or stale one is left alone."""
    try:
        other = read_pid(path.read_text(), path)
    except FileNotFoundError:
        return
    if _alive(other):
        raise StartupError(
            f'lock file "{path.name}" already exists',
            hint=f'Is another postmaster (PID {other}) running in data directory "{directory}"?',
            sqlstate=LOCK_FILE_EXISTS,
        )


def create(path: Path, contents: Contents, *, directory: Path) -> LockFile:
    """Create a lock file, replacing one whose process is gone; raises StartupError F0001 otherwise.

    Our own pid, our parent's and $PG_GRANDPARENT_PID count as gone: after a reboot, or in a container,
    another process had the number. EPERM does too: another user's process cannot be our postmaster.
    """
    for _ in range(_TRIES):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            refuse_if_live(path, directory=directory)
            path.unlink(missing_ok=True)
            continue
        try:
            os.write(descriptor, contents.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return LockFile(path, contents)
    raise StartupError(f'could not create lock file "{path.name}": it comes back each time it is removed')


def _alive(pid: int) -> bool:
    grandparent = os.environ.get("PG_GRANDPARENT_PID", "")
    ours = {os.getpid(), os.getppid(), int(grandparent) if grandparent.isdigit() else 0}
    if pid in ours:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
