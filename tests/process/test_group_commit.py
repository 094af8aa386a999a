"""Group commit with real processes. What could go wrong only there: a follower that nobody wakes; two leaders at once; a
record lost or doubled between two processes; a commit acknowledged by a sync that came before its write; every commit
paying for a sync of its own; a waiter that cannot be ended."""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.config import Settings
from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.wal.insert import Wal
from supervisor.engine.wal.rmgr import Rmgr
from supervisor.host import ProcessHost, SoloHost
from supervisor.points import Point
from tests.support.wal_world import IDENTITY, NEW_LOG, WalWorld, read_all

pytestmark = pytest.mark.live

PROCESSES = 6
COMMITS = 150
DEADLINE_S = 60.0
RESULT = struct.Struct("<q")


class CountingDisk(PosixDisk):
    """Counts the syncs of one process."""

    syncs = 0

    def fdatasync(self, handle: int) -> None:
        self.syncs += 1
        super().fdatasync(handle)


class Cluster:
    """A region, a log on the real disk, and children that are ended when the test is."""

    def __init__(self, root: Path) -> None:
        (root / "pg_wal").mkdir()
        self.root = root
        settings = Settings().replace(max_connections=PROCESSES + 2)
        self.disk = PosixDisk(root, SoloHost())
        self.world = WalWorld(self.disk, settings=settings)
        self.wal = self.world.started(NEW_LOG)
        self.pids: list[int] = []
        self.read, self.write = os.pipe()

    def fork(self, work: Callable[[Wal, CountingDisk], None], point: Callable[[Point], None] | None = None) -> int:
        """A process that attaches, works, and reports the number of its syncs."""
        pid = os.fork()
        if pid:
            self.pids.append(pid)
            return pid
        code = 1
        try:
            signal.signal(signal.SIGURG, lambda number, frame: None)
            host = ProcessHost(point=point) if point is not None else ProcessHost()
            disk = CountingDisk(self.root, host)
            self.world.disk = disk
            wal = self.world.wal(host)
            work(wal, disk)
            self.world.attachments[-1].detach()
            os.write(self.write, RESULT.pack(disk.syncs))
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)

    def wait(self, pid: int) -> int:
        """The raw status of a child, which must end in time."""
        deadline = time.monotonic() + DEADLINE_S
        host = ProcessHost()
        try:
            while True:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self.pids.remove(pid)
                    return status
                assert time.monotonic() < deadline, f"process {pid} has not ended within {DEADLINE_S:.0f} s"
                host.wait(None, 5)
        finally:
            host.close()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        host = ProcessHost()
        try:
            while not condition():
                assert time.monotonic() < deadline, f"not within {DEADLINE_S:.0f} s: {what}"
                host.wait(None, 2)
        finally:
            host.close()

    def states(self) -> list[int]:
        procs = self.world.attachments[0].procs
        return self.world.region.q[procs.flush_state : procs.flush_state + procs.count].tolist()

    def close(self) -> None:
        for pid in list(self.pids):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(self.read)
        os.close(self.write)
        self.wal.close()
        self.world.close()
        self.disk.close_root()


@pytest.fixture
def cluster(tmp_path: Path):
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


def commit(worker: int, size: int) -> Callable[[Wal, CountingDisk], None]:
    def work(wal: Wal, disk: CountingDisk) -> None:
        for n in range(COMMITS):
            end = wal.insert(Rmgr.TRANSACTION, 0, worker, struct.pack("<II", worker, n) + bytes(size))[1]
            wal.flush(end)
            assert wal.flushed_lsn() >= end

    return work


@pytest.mark.parametrize("size", [0, 5000])
def test_every_commit_is_there_once_and_syncs_are_shared(cluster: Cluster, size: int):
    """With 5,000 bytes a record the ring wraps and segments change while others wait."""
    pids = [cluster.fork(commit(worker, size)) for worker in range(PROCESSES)]
    assert [cluster.wait(pid) for pid in pids] == [0] * PROCESSES
    syncs = sum(RESULT.unpack(os.read(cluster.read, RESULT.size))[0] for _ in pids)
    records, reader = read_all(cluster.disk)
    found = [struct.unpack_from("<II", r.body) for r in records if r.rmgr is Rmgr.TRANSACTION]
    assert sorted(found) == [(worker, n) for worker in range(PROCESSES) for n in range(COMMITS)]
    for worker in range(PROCESSES):
        assert [n for who, n in found if who == worker] == list(range(COMMITS))
    assert reader.end_lsn == cluster.wal.flushed_lsn()
    assert syncs < 0.8 * PROCESSES * COMMITS, f"{syncs} syncs for {PROCESSES * COMMITS} commits"


def test_a_leader_that_is_killed_leaves_its_followers_waiting_and_sigquit_ends_them(cluster: Cluster):
    """Nothing heals, for the memory is no longer trusted; but whoever waits can always be told to go."""

    def stop_before_sync(point: Point) -> None:
        if point is Point.WAL_FLUSH_BEFORE_FSYNC:
            os.kill(os.getpid(), signal.SIGSTOP)

    def quit_at_once(wal: Wal, disk: CountingDisk) -> None:
        signal.signal(signal.SIGQUIT, lambda number, frame: os._exit(2))
        commit(2, 0)(wal, disk)

    leader = cluster.fork(commit(1, 0), stop_before_sync)
    assert os.waitpid(leader, os.WUNTRACED)[1] == signal.SIGSTOP << 8 | 0x7F
    followers = [cluster.fork(quit_at_once) for _ in range(3)]
    cluster.until(lambda: cluster.states().count(1) == 3, "three followers wait")
    os.kill(leader, signal.SIGKILL)
    assert os.WTERMSIG(cluster.wait(leader)) == signal.SIGKILL
    assert cluster.states().count(1) == 3
    for pid in followers:
        os.kill(pid, signal.SIGQUIT)
    assert [os.waitstatus_to_exitcode(cluster.wait(pid)) for pid in followers] == [2, 2, 2]
    # What was written before the leader died is in the kernel, and a new generation takes the log up behind it.
    records, reader = read_all(cluster.disk)
    assert reader.end is not None
    again = WalWorld(cluster.disk, identity=IDENTITY)
    wal = again.started(reader.end, records[0].lsn)
    wal.flush(wal.insert(Rmgr.TRANSACTION, 0, 9, b"after")[1])
    assert read_all(cluster.disk)[0][-1].body == b"after"
    wal.close()
    again.close()
