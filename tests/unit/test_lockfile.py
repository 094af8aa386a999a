"""postmaster.pid: eight lines, and when an old one may be replaced.

Taken for stale while its postmaster lives, two servers write one data directory. Taken for alive when it is not, a
server does not come back after a reboot. So every rule of PostgreSQL's CreateLockFile is tried, with pids that really
live and really do not. And a running postmaster must survive whatever happens to its file.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.errors import LOCK_FILE_EXISTS, StartupError
from supervisor.log import ServerLog
from supervisor.postmaster import lockfile
from supervisor.postmaster.lockfile import Contents, Status

NOWHERE = ServerLog.to_nowhere()
USE = "running in data directory"


def contents(directory: Path, pid: int | None = None) -> Contents:
    return Contents(
        pid=os.getpid() if pid is None else pid,
        data_directory=str(directory),
        start_time_s=1_700_000_000,
        port=5432,
        socket_directory="/tmp",
    )


def dead_pid() -> int:
    """A number that was a process's until just now."""
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
    return process.pid


@pytest.fixture
def living_pid() -> Iterator[int]:
    """A process of the same user that is alive, and is neither this one nor its parent."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate()


def refusal(path: Path) -> StartupError:
    with pytest.raises(StartupError) as caught:
        lockfile.create(path, contents(path.parent), USE)
    return caught.value


def test_the_eight_lines(tmp_path: Path) -> None:
    path = tmp_path / lockfile.NAME
    lock = lockfile.create(path, contents(tmp_path), USE)
    lock.rewrite(Contents(os.getpid(), str(tmp_path), 1_700_000_000, 5432, "/tmp", "", (123, 4), Status.READY), NOWHERE)
    lines = path.read_text().split("\n")
    assert lines == [
        str(os.getpid()), str(tmp_path), "1700000000", "5432", "/tmp", "", "      123         4", "ready   ", "",
    ]  # fmt: skip
    assert all(len(status) == 8 for status in Status)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_rewrite_with_less_to_say_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / lockfile.NAME
    lock = lockfile.create(path, contents(tmp_path / "a-long-name"), USE)
    lock.rewrite(contents(tmp_path), NOWHERE)
    assert path.read_bytes() == contents(tmp_path).encode()


def test_a_data_directory_whose_name_is_not_utf8_is_written_as_it_is(tmp_path: Path) -> None:
    directory = Path(os.fsdecode(b"/data/\xff"))
    assert b"\n/data/\xff\n" in contents(directory).encode()


def test_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / lockfile.NAME
    path.write_text(f"{dead_pid()}\nwhatever\n")
    lockfile.create(path, contents(tmp_path), USE)
    assert path.read_text().startswith(f"{os.getpid()}\n")


@pytest.mark.parametrize("whose", ["own", "parent", "grandparent"])
def test_a_number_that_is_in_use_by_ourselves_is_no_other_postmaster(
    tmp_path: Path, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / lockfile.NAME
    monkeypatch.setenv("PG_GRANDPARENT_PID", "1")
    pid = {"own": os.getpid(), "parent": os.getppid(), "grandparent": 1}[whose]
    path.write_text(f"{pid}\n")
    lockfile.create(path, contents(tmp_path), USE)
    assert path.read_text().startswith(f"{os.getpid()}\n")


def test_another_users_process_cannot_be_our_postmaster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_permitted(pid: int, number: int) -> None:
        raise PermissionError

    path = tmp_path / lockfile.NAME
    path.write_text("1\n")
    monkeypatch.setattr(os, "kill", not_permitted)
    lockfile.create(path, contents(tmp_path), USE)


def test_a_living_process_is_refused_and_its_file_left_alone(tmp_path: Path, living_pid: int) -> None:
    path = tmp_path / lockfile.NAME
    path.write_text(f"{living_pid}\n{tmp_path}\n")
    before = (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns)
    error = refusal(path)
    assert error.message == 'lock file "postmaster.pid" already exists'
    assert error.hint == f"Is another postmaster (PID {living_pid}) {USE}?"
    assert (error.sqlstate, error.exit_code) == (LOCK_FILE_EXISTS, 1)
    assert (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) == before


def test_a_negative_number_is_a_single_user_server(tmp_path: Path, living_pid: int) -> None:
    path = tmp_path / lockfile.NAME
    path.write_text(f"-{living_pid}\n")
    assert refusal(path).hint == f"Is another postgres (PID {living_pid}) {USE}?"


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"", 'lock file "postmaster.pid" is empty', "Either another server is starting, or the lock file is the "),
        (b"garbage\n", 'bogus data in lock file "postmaster.pid": "garbage"', "remove it"),
        (b"\n12\n", 'bogus data in lock file "postmaster.pid": ""', "remove it"),
        (b"0\n", 'bogus data in lock file "postmaster.pid": "0"', "remove it"),
        (b"99999999999999999999999\n", "bogus data", "remove it"),
        (b"4194305\n", "bogus data", "remove it"),
        (b"\xff\xfe\x00\n", "bogus data", "remove it"),
        ("²\n".encode(), "bogus data", "remove it"),
    ],
)
def test_a_file_that_names_nobody_is_refused_and_left_alone(
    tmp_path: Path, data: bytes, message: str, hint: str
) -> None:
    path = tmp_path / lockfile.NAME
    path.write_bytes(data)
    error = refusal(path)
    assert error.message.startswith(message)
    assert hint in (error.hint or "")
    assert error.sqlstate == LOCK_FILE_EXISTS
    assert path.read_bytes() == data


def test_a_directory_that_cannot_be_written_to_is_told_in_a_sentence(tmp_path: Path) -> None:
    # A directory in the file's place: also for root it can be neither created nor removed.
    (tmp_path / lockfile.NAME).mkdir()
    error = refusal(tmp_path / lockfile.NAME)
    assert error.message == 'could not read lock file "postmaster.pid": Is a directory'
    assert error.hint
    missing = refusal(tmp_path / "missing" / lockfile.NAME)
    assert missing.message == 'could not create lock file "postmaster.pid": No such file or directory'


def test_a_file_that_comes_back_each_time_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / lockfile.NAME
    path.write_text(f"{dead_pid()}\n")
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    assert "comes back each time" in refusal(path).message


def test_looking_leaves_a_missing_and_a_stale_file_alone(tmp_path: Path) -> None:
    path = tmp_path / lockfile.NAME
    lockfile.refuse_if_live(path, USE)
    assert not path.exists()
    path.write_text(f"{dead_pid()}\n")
    lockfile.refuse_if_live(path, USE)
    assert path.exists()


def test_a_running_postmaster_notices_that_its_file_is_gone_or_anothers(tmp_path: Path) -> None:
    path = tmp_path / lockfile.NAME
    lock = lockfile.create(path, contents(tmp_path), USE)
    assert lock.still_ours(NOWHERE)
    for others in (f"{os.getppid()}\n", "", "garbage", f"{os.getpid()}0\n"):
        path.write_text(others)
        assert not lock.still_ours(NOWHERE), others
    path.write_bytes(b"\xff\n")
    assert not lock.still_ours(NOWHERE)
    path.unlink()
    assert not lock.still_ours(NOWHERE)


def test_a_file_that_cannot_be_read_is_no_proof(tmp_path: Path) -> None:
    path = tmp_path / lockfile.NAME
    lock = lockfile.create(path, contents(tmp_path), USE)
    path.unlink()
    path.mkdir()
    assert lock.still_ours(NOWHERE)


def test_a_rewrite_of_a_file_that_is_gone_is_no_error_and_makes_none(tmp_path: Path) -> None:
    path = tmp_path / lockfile.NAME
    lock = lockfile.create(path, contents(tmp_path), USE)
    path.unlink()
    lock.rewrite(contents(tmp_path), NOWHERE)
    assert not path.exists()


def test_a_rewrite_leaves_anothers_file_alone(tmp_path: Path) -> None:
    path = tmp_path / lockfile.NAME
    lock = lockfile.create(path, contents(tmp_path), USE)
    path.write_text("1\nanother server's by now\n")
    lock.rewrite(contents(tmp_path), NOWHERE)
    assert path.read_text() == "1\nanother server's by now\n"


def test_only_ones_own_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / lockfile.NAME
    lock = lockfile.create(path, contents(tmp_path), USE)
    path.write_text("1\nanother server's by now\n")
    lock.remove()
    assert path.exists()
    path.write_bytes(contents(tmp_path).encode())
    lock.remove()
    assert not path.exists()
    lock.remove()
