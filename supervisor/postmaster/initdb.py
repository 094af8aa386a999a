"""Making a data directory (PostgreSQL's initdb): what `crashbed init` does.

Owns the directory itself, its mode and `postgresql.conf`; what the engine keeps inside it is made by
`supervisor.engine`. It never touches a directory that holds anything, and what it made it removes again when it
cannot finish: half a data directory would be in the way of the next try.
"""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

from supervisor.config import Settings, sample_file
from supervisor.config_file import NAME as CONFIG_FILE
from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.recovery.cluster import initialise_cluster
from supervisor.errors import Panic, StartupError
from supervisor.host import SoloHost

SEGMENT_SIZES = tuple(megabytes * 1024**2 for megabytes in (1, 2, 4, 8, 16))
DEFAULT_SEGMENT_SIZE = 16 * 1024**2


class _InitHost(SoloHost):
    """A process alone, which nobody can wake, in the time of this world."""

    def wall_time(self) -> float:
        return time.time()


def initialise(
    directory: Path, *, segment_size: int = DEFAULT_SEGMENT_SIZE, system_identifier: int | None = None
) -> int:
    """Make a data directory and return its system identifier; raises StartupError.

    `segment_size` is that of WAL segments in bytes, a power of two from 1 to 16 MiB.
    """
    if segment_size not in SEGMENT_SIZES:
        raise StartupError(f"a WAL segment cannot have {segment_size} bytes", hint="Choose 1, 2, 4, 8 or 16 MiB.")
    identifier = system_identifier if system_identifier is not None else secrets.randbits(63)
    existed = directory.exists()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise StartupError(
                f'directory "{directory}" exists but is not empty',
                hint="Remove or empty it, or choose another; nothing was changed.",
            )
        directory.chmod(0o700)
    except OSError as error:
        raise _failed(directory, error.strerror) from error
    done = False
    try:
        _fill(directory, segment_size, identifier)
        done = True
    except (OSError, Panic) as error:
        raise _failed(directory, error.strerror if isinstance(error, OSError) else str(error)) from error
    finally:
        if not done:
            _empty(directory, itself=not existed)
    return identifier


def _fill(directory: Path, segment_size: int, identifier: int) -> None:
    host = _InitHost()
    disk = PosixDisk(str(directory), host)
    try:
        initialise_cluster(disk, Settings(), system_identifier=identifier, segment_size=segment_size, host=host)
    finally:
        disk.close_root()
    (directory / CONFIG_FILE).touch(mode=0o600)
    (directory / CONFIG_FILE).write_text(sample_file())


def _empty(directory: Path, *, itself: bool) -> None:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    if itself:
        directory.rmdir()


def _failed(directory: Path, reason: str | None) -> StartupError:
    return StartupError(
        f'could not make data directory "{directory}": {reason}',
        hint="It needs about 20 MB of space and permission to write; what was begun has been removed.",
    )
