"""The data directory: what is refused before a server touches it, and the lock that outlives its postmaster.

A directory that others may read, that another user owns or that lies where locks do not hold must be refused with what
to do about it. The interlock must be held by the directory and by whoever inherited its descriptor, not by a file that
an operator removes to "repair" a server that does not start.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.errors import LOCK_FILE_EXISTS, StartupError
from supervisor.postmaster import data_directory

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
35 22 0:31 / /mnt/a\\040-\\040b rw master:1 shared:7 - nfs4 server:/export rw,vers=4.2
36 22 0:32 /@data /srv rw shared:8 - btrfs /dev/sdb rw
37 22 0:40 / /home rw - fuse.sshfs somebody@host: rw
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that passes for a data directory."""
    made = tmp_path / "data"
    (made / "global").mkdir(parents=True)
    (made / "global" / "pg_control").touch()
    made.chmod(0o700)
    return made


def refusal(directory: Path) -> StartupError:
    with pytest.raises(StartupError) as caught:
        data_directory.check(directory)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value


def test_a_data_directory_passes(directory: Path) -> None:
    data_directory.check(directory)
    directory.chmod(0o750)
    data_directory.check(directory)


def test_one_that_does_not_exist_is_offered_init(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nope")
    assert error.message == f'data directory "{tmp_path}/nope" does not exist'
    assert error.hint == f"Make one with: crashbed init -D {tmp_path}/nope"


def test_one_without_a_control_file_is_offered_init(directory: Path) -> None:
    (directory / "global" / "pg_control").unlink()
    error = refusal(directory)
    assert 'it has no file "global/pg_control"' in error.message
    assert "crashbed init" in (error.hint or "")


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not a directory" in refusal(tmp_path / "file").message
    assert "could not access directory" in refusal(tmp_path / "file" / "data").message


@pytest.mark.parametrize("mode", [0o701, 0o704, 0o702, 0o720, 0o755, 0o777])
def test_permissions_that_let_others_in_are_refused(directory: Path, mode: int) -> None:
    directory.chmod(mode)
    error = refusal(directory)
    assert error.message == f'data directory "{directory}" has invalid permissions'
    assert error.hint == f"Permissions should be u=rwx (0700) or u=rwx,g=rx (0750). Run: chmod 0700 {directory}"


def test_anothers_directory_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = directory.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert refusal(directory).message == f'data directory "{directory}" has wrong ownership'


def test_a_network_file_system_is_refused_by_name(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_text: Callable[..., str] = Path.read_text

    def mounted_over_the_network(path: Path, *arguments: str, **options: str) -> str:
        if path == Path("/proc/self/mountinfo"):
            text = read_text(path)
            return "\n".join(line.partition(" - ")[0] + " - nfs4 server:/export rw" for line in text.splitlines())
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", mounted_over_the_network)
    error = refusal(directory)
    assert error.message == f'data directory "{directory}" lies on a network file system (nfs4)'
    assert "local file system" in (error.hint or "")


@pytest.mark.parametrize(
    ("number", "kind"), [(22, "ext4"), (35, "nfs4"), (36, "btrfs"), (37, "fuse.sshfs"), (3, "unknown")]
)
def test_the_mount_is_told_by_its_number(number: int, kind: str) -> None:
    about = f"pos:\t0\nflags:\t02300000\nmnt_id:\t{number}\nino:\t2\n"
    assert data_directory.mount_type(about, MOUNTS) == kind


def test_the_file_system_here_is_known_and_leaves_no_descriptor(directory: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert data_directory.file_system(directory) != "unknown"
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_interlock_is_taken_once(directory: Path) -> None:
    held = data_directory.interlock(directory)
    try:
        with pytest.raises(StartupError) as caught:
            data_directory.interlock(directory)
        assert caught.value.message == "pre-existing shared memory block is still in use"
        assert f'data directory "{directory}"' in (caught.value.hint or "")
        assert (caught.value.sqlstate, caught.value.exit_code) == (LOCK_FILE_EXISTS, 1)
    finally:
        os.close(held)
    os.close(data_directory.interlock(directory))


def test_whoever_inherited_the_descriptor_holds_the_interlock(directory: Path) -> None:
    held = data_directory.interlock(directory)
    inherited = os.dup(held)  # what a fork does: another descriptor of the same open file
    os.close(held)
    with pytest.raises(StartupError, match="still in use"):
        data_directory.interlock(directory)
    os.close(inherited)
    os.close(data_directory.interlock(directory))


def test_the_interlock_needs_no_file(directory: Path) -> None:
    held = data_directory.interlock(directory)
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(StartupError, match="still in use"):
        data_directory.interlock(directory)
    os.close(held)


def test_a_file_system_without_locks_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(StartupError, match="could not lock data directory") as caught:
        data_directory.interlock(directory)
    assert "flock" in (caught.value.hint or "")
