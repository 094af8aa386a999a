"""The rehearsal before the first fork: a play that leaves nothing behind, on a disk that is one in name and content.

What could go wrong: the play leaves a descriptor, a handler or a mapping that every child would inherit; it ends early,
so that nothing is warm and nobody notices; the disk in memory answers where a real one would refuse, so that what is
rehearsed is not what will be done.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.engine.disk.disk import Disk
from supervisor.engine.disk.memory import MemoryDisk
from supervisor.engine.disk.posix import PosixDisk
from supervisor.host import ProcessHost, SoloHost, Wake
from supervisor.postmaster import heap
from supervisor.postmaster.initdb import initialise
from supervisor.postmaster.rehearsal import Rehearsal
from supervisor.processes.child import parent_death_signal


def descriptors() -> set[str]:
    return {str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in sorted(signal.valid_signals())]


@pytest.fixture(autouse=True)
def noticed_urgency() -> Iterator[None]:
    """SIGURG reaches a wakeup descriptor only when it has a handler."""
    before = signal.signal(signal.SIGURG, lambda number, frame: None)
    yield
    signal.signal(signal.SIGURG, before)


def test_the_play_goes_to_its_end_and_leaves_nothing(tmp_path: Path) -> None:
    initialise(tmp_path, segment_size=1 << 20)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    host = ProcessHost()
    disk = PosixDisk(tmp_path, host)
    # Without the newline that the file ends with: it would be part of the name, and the kernel's trace goes by lines.
    name = Path("/proc/self/comm").read_text().removesuffix("\n")
    open_before, handlers_before, death_signal = descriptors(), handlers(), parent_death_signal()
    try:
        rehearsal = Rehearsal(host, disk)
        rehearsal.run(2)
        rehearsal.close()
        assert descriptors() == open_before
        assert handlers() == handlers_before
        assert parent_death_signal() == death_signal
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
        assert "rehearsal" not in Path("/proc/self/maps").read_text()
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        signal.raise_signal(signal.SIGURG)
        assert host.wait(None, 10_000) is Wake.SIGNAL, "the wakeup descriptor is another host's"
    finally:
        Path("/proc/self/comm").write_text(name)
        host.close()
        disk.close_root()


def test_settling_changes_no_object() -> None:
    values = [bytes([number % 256]) * 1000 for number in range(5000)]
    copies = [bytes(bytearray(value)) for value in values]
    heap.settle()
    gc.unfreeze()
    assert values == copies


@pytest.fixture(params=["memory", "posix"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return MemoryDisk(SoloHost()) if request.param == "memory" else PosixDisk(tmp_path, SoloHost())


def test_both_disks_keep_the_same_files(disk: Disk) -> None:
    disk.mkdir("a")
    handle = disk.open("a/one", create=True, exclusive=True)
    disk.pwrite(handle, b"bc", 3)
    disk.pwrite(handle, b"d", 4)
    assert (disk.size(handle), disk.pread(handle, 10, 0), disk.pread(handle, 2, 3)) == (5, b"\0\0\0bd", b"bd")
    disk.truncate(handle, 4)
    disk.truncate(handle, 6)
    assert disk.pread(handle, 10, 0) == b"\0\0\0b\0\0"
    disk.close(handle)
    disk.rename("a/one", "a/two")
    assert (disk.list(""), disk.list("a"), disk.exists("a"), disk.exists("a/one")) == (["a"], ["two"], True, False)
    again = disk.open("a/two", create=True)
    assert disk.pread(again, 4, 0) == b"\0\0\0b"
    disk.fdatasync(again)
    disk.fsync(again)
    disk.close(again)
    disk.unlink("a/two")
    disk.sync_directory("a")
    assert disk.list("a") == []


def test_both_disks_refuse_the_same(disk: Disk) -> None:
    disk.close(disk.open("one", create=True))
    disk.mkdir("a")
    for refused, error in (
        (lambda: disk.open("none"), FileNotFoundError),
        (lambda: disk.open("one", create=True, exclusive=True), FileExistsError),
        (lambda: disk.mkdir("a"), FileExistsError),
        (lambda: disk.unlink("none"), FileNotFoundError),
        (lambda: disk.rename("none", "two"), FileNotFoundError),
    ):
        with pytest.raises(error):
            refused()
