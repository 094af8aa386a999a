"""The data directory as the postmaster meets it: ownership, kind of file system, and the interlock.

Owns the checks of PostgreSQL's `checkDataDir` and the lock that outlives the postmaster: a flock on a
descriptor of the directory itself, inherited by every child and never unlocked, only closed by exit.
While any old child lives a new postmaster cannot have it, also when `postmaster.pid` was deleted. It
takes the place of PostgreSQL's attach count of a System V segment.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from supervisor.errors import LOCK_FILE_EXISTS, StartupError

CONTROL_FILE = Path("global") / "pg_control"
# On these a flock may be local to the machine or not work at all.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "coda", "lustre", "beegfs", "gpfs", "glusterfs"}
    | {"orangefs", "ocfs2", "gfs2", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone"}
)
_UNUSABLE = 2  # PostgreSQL's exit status for a data directory that is none


def check(directory: Path) -> None:
    """Raise StartupError unless this is a data directory that this user owns and others cannot read."""
    try:
        status = directory.stat()
    except FileNotFoundError:
        raise StartupError(
            f'data directory "{directory}" does not exist',
            hint=f"Make one with: crashbed init -D {directory}",
            exit_code=_UNUSABLE,
        ) from None
    except OSError as error:
        raise _not_accessible(directory, error) from error
    if not stat.S_ISDIR(status.st_mode):
        raise StartupError(
            f'specified data directory "{directory}" is not a directory',
            hint="Give the directory itself, for instance: crashbed serve -D data",
            exit_code=_UNUSABLE,
        )
    if status.st_uid != os.geteuid():
        raise StartupError(
            f'data directory "{directory}" has wrong ownership',
            hint="The server must be started by the user that owns the data directory.",
            exit_code=_UNUSABLE,
        )
    if status.st_mode & 0o027:
        raise StartupError(
            f'data directory "{directory}" has invalid permissions',
            hint=f"Permissions should be u=rwx (0700) or u=rwx,g=rx (0750). Run: chmod 0700 {directory}",
            exit_code=_UNUSABLE,
        )
    try:
        found = (directory / CONTROL_FILE).exists()
    except OSError as error:
        raise _not_accessible(directory, error) from error
    if not found:
        raise StartupError(
            f'"{directory}" is not a crashbed data directory: it has no file "{CONTROL_FILE}"',
            hint=f"Make one with: crashbed init -D {directory}",
            exit_code=_UNUSABLE,
        )
    kind = file_system(directory)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StartupError(
            f'data directory "{directory}" lies on a network file system ({kind})',
            hint="The lock that keeps two servers apart does not hold there. Use a local file system.",
            exit_code=_UNUSABLE,
        )


def _not_accessible(directory: Path, error: OSError) -> StartupError:
    return StartupError(
        f'could not access directory "{directory}": {error.strerror}',
        hint="The server's user needs permission to search the directory and everything above it.",
        exit_code=_UNUSABLE,
    )


def file_system(directory: Path) -> str:
    """The type of the file system that a directory lies on, as /proc/self/mountinfo names it.

    The mount is told by its number and not by its device: those of btrfs and overlay do not match.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        about = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    finally:
        os.close(descriptor)
    return mount_type(about, Path("/proc/self/mountinfo").read_text())


def mount_type(about_descriptor: str, mounts: str) -> str:
    """The type of the mount that a descriptor's fdinfo names; "unknown" when the table of mounts lacks it."""
    number = next((line.split()[1] for line in about_descriptor.splitlines() if line.startswith("mnt_id:")), "")
    for line in mounts.splitlines():
        mount, _, rest = line.partition(" - ")
        if mount.split(" ", 1)[0] == number:
            return rest.split()[0]
    return "unknown"


def interlock(directory: Path) -> int:
    """Take the lock that every child will inherit; returns the descriptor to keep.

    Raises StartupError F0001 while processes of an earlier postmaster live (`PGSharedMemoryCreate`).
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartupError(
            "pre-existing shared memory block is still in use",
            hint=f'Terminate any old server processes associated with data directory "{directory}".',
            sqlstate=LOCK_FILE_EXISTS,
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise StartupError(
            f'could not lock data directory "{directory}": {error.strerror}',
            hint="The file system must support flock. Use a local one.",
            exit_code=_UNUSABLE,
        ) from error
    return descriptor
