"""Buffers and B-tree under real processes, with the real log and the real disk.

What could go wrong only there: two processes read one page into two buffers; an increment is lost
between a page's eviction and its next reader; two processes that each want two pages wait for each
other; a split and an insert beside it lose an entry; two processes add one primary key; and when all of
them are SIGKILLed in the middle of it, redo does not bring back what was acknowledged.

The pool is so small that nearly every access evicts something.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.config import Settings
from supervisor.engine.access.btree import Btree
from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.storage import page
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.storage.critical import CRITICAL
from supervisor.engine.wal import insert
from supervisor.engine.wal.insert import PageRef, Wal
from supervisor.engine.wal.reader import WalReader
from supervisor.engine.wal.rmgr import Rmgr
from supervisor.errors import UNIQUE_VIOLATION, ServerError
from supervisor.host import Host, ProcessHost, SoloHost
from supervisor.roles import Role
from supervisor.shmem.attachment import attach
from supervisor.shmem.region import Area
from tests.support.btree_checks import check_tree
from tests.support.redo import redo_btree
from tests.support.storage_fixtures import PAGE, storage_region
from tests.support.waiting import wait_until
from tests.support.wal_world import IDENTITY, NEW_LOG, SEGMENT

pytestmark = pytest.mark.live

WORKERS = 5
COUNTERS, INDEX = 7, 8
DEADLINE_S = 60.0
FIRST_RECORD = SEGMENT + 32
WORD = 20  # the word of a page that counts


class Process:
    """What one process has of the engine's lower half."""

    def __init__(self, world: World, host: Host, slot: int) -> None:
        self.world = world
        self.attachment = attach(world.region, host, world.settings, Role.BACKEND, slot)
        self.disk = PosixDisk(world.root, host)
        self.wal = Wal(self.disk, self.attachment, world.settings, IDENTITY)
        self.pool = BufferPool(self.disk, self.attachment, self.wal, world.settings)

    def tree(self, *, words: bool = True) -> Btree:
        return Btree(self.pool, self.wal, INDEX, word_keys=words)

    def close(self) -> None:
        self.pool.close()
        self.wal.close()
        self.attachment.detach()
        self.disk.close_root()


class World:
    """A data directory, a region over it, and children that end with the test."""

    def __init__(self, root: Path, n_buffers: int) -> None:
        self.root = root
        self.settings = Settings(shared_buffers=n_buffers * PAGE, max_connections=WORKERS + 3)
        for directory in ("base", "pg_wal"):
            (root / directory).mkdir(exist_ok=True)
        self.pids: list[int] = []
        self.new_region()

    def new_region(self) -> None:
        extra = [*insert.shmem_areas(self.settings), Area("test_words", 8 * 64)]
        self.region = storage_region(self.settings, extra)
        insert.shmem_init(self.region, self.settings)
        self.words = self.region.word("test_words")

    def fork(self, slot: int, work: Callable[[Process], None]) -> int:
        pid = os.fork()
        if pid:
            self.pids.append(pid)
            return pid
        code = 1
        try:
            signal.signal(signal.SIGURG, lambda number, frame: None)
            process = Process(self, ProcessHost(), slot)
            work(process)
            process.close()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)

    def wait_for_all(self) -> None:
        def nobody_is_left() -> bool:
            for pid in list(self.pids):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self.pids.remove(pid)
                    assert status == 0, f"process {pid} ended with status {status}"
            return not self.pids

        wait_until("every worker has ended", nobody_is_left, deadline_s=DEADLINE_S)

    def kill_all(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)
        self.pids.clear()


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[[int], World]]:
    made: list[World] = []

    def make(n_buffers: int) -> World:
        made.append(World(tmp_path, n_buffers))
        return made[-1]

    yield make
    for world in made:
        world.kill_all()
        world.region.close()


def add(process: Process, buffer: int, amount: int) -> None:
    """Add to a locked page's counter, logged as a whole page."""
    pool = process.pool
    at = pool.page_offset(buffer)
    pool.mark_dirty(buffer)
    with CRITICAL:
        pool.q[at // 8 + WORD] += amount
        reference = PageRef(*pool.tag(buffer), at, b"", True)
        pool.q[at // 8] = process.wal.insert(Rmgr.STORAGE, 0, 3, b"", [reference])[1]


def checkpoint_until_told(process: Process) -> None:
    """Checkpoints, one after the other: redo point, write, sync; then the redo point counts."""
    q, words = process.world.region.q, process.world.words
    while not q[words]:
        lsn = process.wal.begin_redo_point()
        process.pool.write_dirty()
        process.pool.sync()
        process.wal.flush(lsn + 1)
        q[words + 1] = lsn
        process.pool.background_write(4)
        process.attachment.host.wait(None, 1)


def test_no_increment_is_lost(make_world: Callable[[int], World]) -> None:
    """Single pages, and pairs of pages locked together in any order, while a checkpointer writes."""
    world = make_world(12)
    lead = Process(world, SoloHost(), 0)
    lead.wal.start_at(NEW_LOG, 0)
    lead.pool.create_relation(COUNTERS)
    pages = 25
    for _ in range(pages):
        buffer, _ = lead.pool.lock_new(COUNTERS)
        page.init(lead.pool.mm, lead.pool.page_offset(buffer), page.KIND_HEAP)
        add(lead, buffer, 100)
        lead.pool.unlock(buffer)
    rounds = 1500

    def work(process: Process) -> None:
        choice = random.Random(process.attachment.slot)
        for n in range(rounds):
            if n % 3:
                buffer = process.pool.lock(COUNTERS, choice.randrange(pages))
                add(process, buffer, 1)
                process.pool.unlock(buffer)
            else:
                pair = [(COUNTERS, block) for block in choice.sample(range(pages), 2)]
                buffers = process.pool.lock_many(pair)
                assert [process.pool.tag(buffer) for buffer in buffers] == pair
                add(process, buffers[0], -7)
                add(process, buffers[1], 7)
                for buffer in buffers:
                    process.pool.unlock(buffer)
            if n % 100 == 0:
                process.pool.new_block(COUNTERS)

    checkpointer = world.fork(WORKERS + 1, checkpoint_until_told)
    for worker in range(1, WORKERS + 1):
        world.fork(worker, work)
    wait_until(
        "the workers have ended",
        lambda: all(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) for pid in world.pids[1:]),
        deadline_s=DEADLINE_S,
    )
    assert checkpointer == world.pids[0]
    world.region.q[world.words] = 1
    world.wait_for_all()

    grown = WORKERS * rounds // 100
    assert lead.pool.relation_size(COUNTERS) == pages + grown
    lead.pool.write_dirty()
    total = 0
    file = (world.root / "base" / str(COUNTERS)).read_bytes()
    for block in range(pages):
        data = file[block * PAGE : (block + 1) * PAGE]
        page.verify(data, COUNTERS, block)
        total += int.from_bytes(data[8 * WORD : 8 * WORD + 8], "little", signed=True)
    assert total == 100 * pages + WORKERS * sum(1 for n in range(rounds) if n % 3)
    lead.close()


@pytest.mark.parametrize("words", [True, False])
def test_one_key_is_added_by_one_process(make_world: Callable[[int], World], words: bool) -> None:
    """All processes add the same keys, each in its own order: each key goes in once and no entry is lost."""
    world = make_world(16)
    lead = Process(world, SoloHost(), 0)
    lead.wal.start_at(NEW_LOG, 0)
    lead.pool.create_relation(INDEX)
    lead.tree(words=words).create(3)
    keys = [n if words else b"%04d" % n + b"k" * 200 for n in range(6000 if words else 1500)]

    def taken(tids: object) -> int:
        raise ServerError("duplicate key", sqlstate=UNIQUE_VIOLATION)

    def work(process: Process) -> None:
        tree, slot, won = process.tree(words=words), process.attachment.slot, 0
        order = list(range(len(keys)))
        if slot > 1:  # one of them in ascending order
            random.Random(slot).shuffle(order)
        for n in order:
            try:
                assert tree.insert_unique(keys[n], (n + 1) << 16 | slot, 3, taken) == 0
                won += 1
            except ServerError:
                assert [tid >> 16 for tid in tree.lookup(keys[n])] == [n + 1]
        world.region.q[world.words + slot] = won

    for worker in range(1, WORKERS + 1):
        world.fork(worker, work)
    world.wait_for_all()
    entries = check_tree(lead.tree(words=words))
    assert [key for key, _ in entries] == keys
    for worker in range(1, WORKERS + 1):
        won = sum(1 for _, tid in entries if tid & 0xFFFF == worker)
        assert world.region.q[world.words + worker] == won
    lead.close()


class NothingToFlush:
    """The log during redo: what is replayed is on disk."""

    def flush(self, lsn: int) -> None:
        return None


def test_what_was_acknowledged_survives_sigkill(make_world: Callable[[int], World]) -> None:
    """Inserts, removals, evictions and checkpoints are under way when everybody is killed at once.

    Each worker adds ascending keys of its own and takes every third one out again, and counts a step
    only when the log is flushed. A step more than it counted may have survived, never one less.
    """
    world = make_world(12)
    lead = Process(world, SoloHost(), 0)
    lead.wal.start_at(NEW_LOG, 0)
    lead.pool.create_relation(INDEX)
    lead.tree().create(3)
    lead.wal.flush(lead.wal.insert_lsn())
    lead.close()

    def work(process: Process) -> None:
        tree, slot = process.tree(), process.attachment.slot
        order = list(range(100_000))
        random.Random(slot).shuffle(order)
        for done, n in enumerate(order):
            key = n * 10 + slot
            tree.insert(key, key << 16 | 1, 3)
            if done % 3 == 2:
                last = order[done - 1] * 10 + slot
                assert tree.remove(last, last << 16 | 1)
            process.wal.flush(process.wal.insert_lsn())
            world.region.q[world.words + 8 + slot] = done + 1

    for worker in range(1, WORKERS + 1):
        world.fork(worker, work)
    world.fork(WORKERS + 1, checkpoint_until_told)
    counts = range(world.words + 8 + 1, world.words + 8 + WORKERS + 1)
    wait_until(
        "there was a checkpoint, and enough was acknowledged",
        lambda: world.region.q[world.words + 1] and sum(world.region.q[at] for at in counts) > 6000,
        deadline_s=DEADLINE_S,
    )
    world.kill_all()
    acknowledged = [world.region.q[at] for at in counts]
    redo_lsn = world.region.q[world.words + 1]
    world.region.close()
    world.new_region()

    after = Process(world, SoloHost(), 0)
    recovering = BufferPool(after.disk, after.attachment, NothingToFlush(), world.settings)
    reader = WalReader(after.disk, IDENTITY)
    redo_btree(after.disk, recovering, [r for r in reader.read_from(redo_lsn) if r.rmgr is Rmgr.BTREE])
    assert reader.end is not None
    assert redo_lsn > FIRST_RECORD
    after.wal.start_at(reader.end, redo_lsn)
    reader.close()
    recovering.close()

    found = {key for key, _ in check_tree(after.tree()) if isinstance(key, int)}
    for slot, steps in zip(range(1, WORKERS + 1), acknowledged, strict=True):
        order = list(range(100_000))
        random.Random(slot).shuffle(order)
        mine = {key for key in found if key % 10 == slot}
        came = {n * 10 + slot for n in order[:steps]}
        went = {order[done - 1] * 10 + slot for done in range(steps) if done % 3 == 2}
        next_one = {order[steps] * 10 + slot, order[steps - 1] * 10 + slot}  # the step that was under way
        assert came - went - next_one <= mine, f"worker {slot}: acknowledged entries are gone"
        assert mine <= (came - went) | next_one, f"worker {slot}: entries are back that were removed"
    tree = after.tree()
    for n in range(500):
        tree.insert(-n - 1, n << 16 | 1, 3)
    assert len(check_tree(tree)) == len(found) + 500
    after.close()
