"""The real disk. What could go wrong: a name leads out of the data directory; a short write is taken for a whole one;
an exec'd program inherits data files; a call passes no point, so no kill can be placed there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.engine.disk import posix
from supervisor.engine.disk.posix import PosixDisk
from supervisor.host import SoloHost
from supervisor.points import Point


@pytest.fixture
def passed() -> list[Point]:
    return []


@pytest.fixture
def disk(tmp_path: Path, passed: list[Point]):
    disk = PosixDisk(tmp_path, SoloHost(point=passed.append))
    yield disk
    disk.close_root()


def test_every_operation_does_what_it_says_and_passes_its_point(disk: PosixDisk, tmp_path: Path, passed: list[Point]):
    disk.mkdir("base")
    handle = disk.open("base/1", create=True, exclusive=True)
    disk.pwrite(handle, b"hello", 3)
    assert disk.pread(handle, 100, 0) == b"\0\0\0hello"
    assert disk.size(handle) == 8
    disk.truncate(handle, 4)
    assert (tmp_path / "base/1").read_bytes() == b"\0\0\0h"
    disk.fdatasync(handle)
    disk.fsync(handle)
    disk.close(handle)
    disk.rename("base/1", "base/2")
    disk.sync_directory("base")
    assert disk.list("base") == ["2"]
    assert disk.list("") == ["base"]
    assert disk.exists("base/2") and not disk.exists("base/1") and not disk.exists("base/2/3")
    disk.unlink("base/2")
    assert disk.list("base") == []
    assert {p for p in Point if p.name.startswith("DISK_")} == set(passed)


def test_whether_a_file_is_there_is_never_guessed(disk: PosixDisk, tmp_path: Path):
    """A segment that is not there is where the log ends: one that cannot be looked at must not be taken for it."""
    (tmp_path / "dangling").symlink_to("nowhere")
    assert disk.exists("dangling"), "the name is there, whatever it leads to"
    with pytest.raises(OSError, match="File name too long"):
        disk.exists("x" * 300)


def test_the_point_comes_before_the_operation(tmp_path: Path):
    def refuse(point: Point) -> None:
        if point is Point.DISK_OPEN:
            raise RuntimeError

    disk = PosixDisk(tmp_path, SoloHost(point=refuse))
    with pytest.raises(RuntimeError):
        disk.open("a", create=True)
    disk.close_root()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "../a", "a/../../b", "", "a//b", "./a", "a/", "a\0b"])
def test_no_path_leads_out(disk: PosixDisk, path: str):
    for operation in (disk.open, disk.unlink, disk.mkdir, disk.exists):
        with pytest.raises(ValueError, match="not a path inside"):
            operation(path)
    for old, new in ((path, "a"), ("a", path)):
        with pytest.raises(ValueError, match="not a path inside"):
            disk.rename(old, new)


def test_a_symbolic_link_to_a_file_is_refused(disk: PosixDisk, tmp_path: Path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(OSError):
        disk.open("link")


def test_the_data_directory_is_found_after_a_change_of_the_working_directory(disk: PosixDisk, monkeypatch):
    monkeypatch.chdir("/")
    disk.close(disk.open("here", create=True))
    assert disk.list("") == ["here"]


def test_handles_are_not_inherited_by_other_programs(disk: PosixDisk):
    handle = disk.open("a", create=True)
    assert not os.get_inheritable(handle)
    disk.close(handle)


def test_a_write_that_the_kernel_cuts_short_is_continued(disk: PosixDisk, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(posix.os, "pwrite", lambda handle, data, offset: real(handle, bytes(data)[:3], offset))
    handle = disk.open("a", create=True)
    disk.pwrite(handle, b"0123456789", 5)
    assert disk.pread(handle, 10, 5) == b"0123456789"
    disk.close(handle)


def test_a_read_that_the_kernel_cuts_short_is_continued(disk: PosixDisk, monkeypatch):
    handle = disk.open("a", create=True)
    disk.pwrite(handle, b"0123456789", 0)
    real = os.pread
    monkeypatch.setattr(posix.os, "pread", lambda handle, length, offset: real(handle, min(length, 4), offset))
    assert disk.pread(handle, 8, 1) == b"12345678"
    assert disk.pread(handle, 80, 1) == b"123456789"
    disk.close(handle)


def test_a_write_that_takes_nothing_is_an_error_and_not_an_endless_loop(disk: PosixDisk, monkeypatch):
    monkeypatch.setattr(posix.os, "pwrite", lambda handle, data, offset: 0)
    handle = disk.open("a", create=True)
    with pytest.raises(OSError, match="took no bytes"):
        disk.pwrite(handle, b"x", 0)
    disk.close(handle)


def test_missing_and_existing_files_are_told_apart(disk: PosixDisk):
    with pytest.raises(FileNotFoundError):
        disk.open("a")
    disk.close(disk.open("a", create=True))
    with pytest.raises(FileExistsError):
        disk.open("a", create=True, exclusive=True)
