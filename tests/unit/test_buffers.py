"""The buffer pool, one process and its possible mistakes.

What could go wrong: a page reaches its file before the WAL that explains it; a change made while the
page is being written is forgotten; a checkpoint syncs nothing of what others wrote; a failed read or
write leaves a buffer that nobody can ever use again, or a page that looks clean and is lost; a page is
found in a buffer that has long had another; a corrupt page is served.

The disk writes down every call, so that order is asserted and not assumed.
"""

from __future__ import annotations

import errno
import random

import pytest

from supervisor.config import Settings
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.storage.critical import CRITICAL
from supervisor.engine.storage.mapping import BufferMapping
from supervisor.engine.storage.mapping import shmem_areas as mapping_areas
from supervisor.errors import DATA_CORRUPTED, DISK_FULL, IO_ERROR, OUT_OF_MEMORY, Panic, ServerError
from supervisor.host import Wake
from supervisor.points import Point
from supervisor.shmem.lwlock import LWLock
from supervisor.shmem.region import Region
from tests.support.storage_fixtures import PAGE, Server

RELATION = 5
FILE = "base/5"


@pytest.fixture
def server() -> Server:
    server = Server(n_buffers=8)
    server.pool.create_relation(RELATION)
    return server


def change(server: Server, buffer: int, value: int) -> int:
    """Put a number on a locked page, log it, and return its LSN."""
    pool = server.pool
    at = pool.page_offset(buffer)
    pool.mark_dirty(buffer)
    pool.q[at // 8 + 10] = value
    server.wal.end += 64
    pool.q[at // 8] = server.wal.end
    return server.wal.end


def fill(server: Server, blocks: int) -> None:
    """Extend the relation; block n has the number n."""
    for block in range(blocks):
        buffer, found = server.pool.lock_new(RELATION)
        assert found == block
        change(server, buffer, block)
        server.pool.unlock(buffer)


def value(server: Server, block: int) -> int:
    buffer = server.pool.lock(RELATION, block)
    found = server.pool.q[server.pool.page_offset(buffer) // 8 + 10]
    server.pool.unlock(buffer)
    return found


def test_pages_survive_eviction(server: Server) -> None:
    fill(server, 50)
    assert [value(server, block) for block in range(50)] == list(range(50))
    order = list(range(50)) * 4
    random.Random(3).shuffle(order)
    assert [value(server, block) for block in order] == order


def test_buffers_are_filled_from_the_first_up(server: Server) -> None:
    for expected in range(8):
        buffer, _ = server.pool.lock_new(RELATION)
        assert buffer == expected
        server.pool.unlock(buffer)


def test_no_page_is_written_before_its_wal(server: Server) -> None:
    lsns: dict[int, int] = {}
    for block in range(40):
        buffer, _ = server.pool.lock_new(RELATION)
        lsns[block] = change(server, buffer, block)
        server.pool.unlock(buffer)
    server.pool.write_dirty()
    flushed = writes = 0
    for call in server.disk.calls:
        if call[0] == "wal_flush":
            flushed = max(flushed, int(str(call[1])))
        elif call[0] == "pwrite":
            writes += 1
            block = int(str(call[2])) // PAGE
            assert flushed >= lsns[block], f"block {block} was written before its WAL"
    assert writes == 40


def test_a_checkpoint_writes_what_is_dirty_and_syncs_what_anybody_wrote(server: Server) -> None:
    fill(server, 20)  # 12 of them were evicted, 8 are dirty in memory
    other = server.another_process()
    assert other.write_dirty() == 8
    assert FILE not in server.disk.durable or not server.disk.durable[FILE]
    assert other.sync() == 1
    assert server.disk.durable[FILE] == bytes(server.disk.files[FILE])
    assert len(server.disk.durable[FILE]) == 20 * PAGE
    assert other.write_dirty() == 0
    assert other.sync() == 0


def test_a_sync_mark_that_is_missing_shows(server: Server) -> None:
    """The planted omission: the same run, with an evictor that does not say that it wrote."""
    server.pool._relations.mark_unsynced = lambda relation: None  # type: ignore[method-assign]
    fill(server, 20)
    server.pool.write_dirty()
    assert server.another_process().sync() == 0
    assert server.disk.durable[FILE] != bytes(server.disk.files[FILE])


def test_a_write_that_overlaps_a_sync_is_synced_by_the_next_one(server: Server) -> None:
    """The page's write is over and its mark not yet made when a checkpoint syncs: the mark must outlive it."""
    fill(server, 1)
    other = server.another_process()
    mark = server.pool._relations.mark_unsynced

    def checkpoint_then_mark(relation: int) -> None:
        other.sync()
        server.disk.durable.clear()  # as if that fsync had come before the write
        mark(relation)

    server.pool._relations.mark_unsynced = checkpoint_then_mark  # type: ignore[method-assign]
    server.pool.write_dirty()
    assert other.write_dirty() == 0, "the page counts as clean"
    assert other.sync() == 1
    assert server.disk.durable[FILE] == bytes(server.disk.files[FILE])


def test_a_change_during_the_write_leaves_the_page_dirty(server: Server) -> None:
    fill(server, 1)
    changes: list[int] = []

    def change_meanwhile(point: Point) -> None:
        if point == Point.BUFFER_WRITE_AFTER and not changes:
            buffer = server.pool.lock(RELATION, 0)
            changes.append(change(server, buffer, 77))
            server.pool.unlock(buffer)

    server.pool._write_back._point = change_meanwhile
    assert server.pool.write_dirty() == 1
    assert changes
    assert server.pool.write_dirty() == 1, "the second change would be lost"
    assert value(server.crash(), 0) == 77


def test_a_page_that_somebody_writes_is_not_written_twice_at_once(server: Server) -> None:
    fill(server, 1)
    other = server.another_process()
    order = []

    def look(point: Point) -> None:
        if point == Point.BUFFER_WRITE_AFTER:
            order.append(other.background_write(10))
            buffer = server.pool.lock(RELATION, 0)
            change(server, buffer, 5)
            server.pool.unlock(buffer)
            order.append(other.background_write(10))

    server.pool._write_back._point = look
    server.pool.write_dirty()
    assert order == [0, 0]


def test_no_lock_is_held_over_a_read_or_a_write(server: Server) -> None:
    held = []
    locks = server.attachment.locks

    class Watching:
        def __getattr__(self, name: str) -> object:
            if name in ("pread", "pwrite", "fsync", "size", "open"):
                held.append(list(locks.held))
            return getattr(server.disk, name)

    server.pool._files._disk = Watching()  # type: ignore[assignment]
    fill(server, 20)
    for block in range(20):
        value(server, block)
    server.pool.write_dirty()
    server.pool.sync()
    assert held
    assert not any(held)


def test_no_page_is_asked_for_under_another_lock(server: Server) -> None:
    fill(server, 20)
    buffer = server.pool.lock(RELATION, 19)
    for block in (0, 18):  # on disk, in memory
        with pytest.raises(RuntimeError, match="a page is asked for while locks"):
            server.pool.lock(RELATION, block)
    with pytest.raises(RuntimeError, match="a page is asked for while locks"):
        server.pool.lock_many([(RELATION, 1), (RELATION, 2)])
    with pytest.raises(RuntimeError, match="a page is asked for while locks"):
        server.pool.lock_new(RELATION)
    server.pool.unlock(buffer)


def test_a_stale_memory_does_not_make_two_processes_wait_for_each_other(server: Server) -> None:
    """We hold page 18 and remember page 19 in a buffer that another process has locked for page 3; it wants
    page 18 next. To wait for it while we hold page 18 would be a deadlock; with nothing held it is not."""
    fill(server, 20)
    server.pool.write_dirty()
    other = server.another_process()
    theirs = other.lock(RELATION, 3)
    server.pool.lock_many([(RELATION, 17), (RELATION, 18)])
    server.attachment.locks.release_all()
    server.pool._seen[RELATION << 32 | 19] = theirs
    waited = []

    def wait(*arguments: object) -> Wake:
        assert server.attachment.locks.held == []
        other.unlock(theirs)
        waited.append(True)
        return Wake.LATCH

    server.host.wait = wait  # type: ignore[method-assign,assignment]
    buffers = server.pool.lock_many([(RELATION, 18), (RELATION, 19)])
    assert [server.pool.tag(buffer)[1] for buffer in buffers] == [18, 19]
    for buffer in buffers:
        server.pool.unlock(buffer)
    assert waited


def test_several_pages_are_locked_together_and_in_the_order_asked_for(server: Server) -> None:
    fill(server, 20)
    buffers = server.pool.lock_many([(RELATION, 9), (RELATION, 2), (RELATION, 17)])
    assert [server.pool.tag(buffer)[1] for buffer in buffers] == [9, 2, 17]
    # In ascending order of blocks, so that two processes cannot wait for each other.
    assert [server.pool.tag(lock - len(LWLock))[1] for lock in server.attachment.locks.held] == [2, 9, 17]
    for buffer in buffers:
        server.pool.unlock(buffer)
    pins = server.pool._pins
    assert server.pool.q[pins : pins + 8].tolist() == [0] * 8


def test_a_failure_while_several_pages_are_read_leaves_no_pin(server: Server) -> None:
    fill(server, 20)
    with pytest.raises(ServerError):
        server.pool.lock_many([(RELATION, 1), (RELATION, 2), (RELATION, 99)])
    assert server.attachment.locks.held == []
    pins = server.pool._pins
    assert server.pool.q[pins : pins + 8].tolist() == [0] * 8


def pressure(server: Server, pool: BufferPool) -> None:
    """Read so much that everything that may leave the pool does."""
    for _ in range(3):
        for block in range(30):
            pool.unlock(pool.lock(RELATION, block))


def test_a_pinned_page_stays(server: Server) -> None:
    fill(server, 30)
    pool = server.pool
    buffer = pool.lock(RELATION, 7)
    pool.q[pool._pins + buffer] += 1
    pool.unlock(buffer)
    pressure(server, server.another_process())
    assert pool.tag(buffer) == (RELATION, 7)
    pool.q[pool._pins + buffer] -= 1
    pressure(server, server.another_process(2))
    assert pool.tag(buffer) != (RELATION, 7)


def test_a_page_that_is_being_written_stays(server: Server) -> None:
    """Otherwise its next reader could read the file before the write, and its next writer overtake it."""
    fill(server, 30)
    server.pool.write_dirty()
    other = server.another_process()
    buffer = server.pool.lock(RELATION, 7)
    change(server, buffer, 70)
    server.pool.unlock(buffer)
    seen: list[tuple[int, int]] = []

    def press(point: Point) -> None:
        if point == Point.BUFFER_WRITE_AFTER:
            server.pool.q[server.pool._usage + buffer] = 0
            pressure(server, other)
            seen.append(other.tag(buffer))

    server.pool._write_back._point = press
    assert server.pool.write_dirty() == 1
    assert seen == [(RELATION, 7)]


def test_a_page_that_is_being_read_is_read_once(server: Server) -> None:
    fill(server, 30)
    server.pool.write_dirty()
    other = server.another_process()
    found: list[str] = []

    def read_too(point: Point) -> None:
        if point == Point.BUFFER_READ and not found:
            # The other process would wait for us; as nobody else runs here, its wait must not end by a second read.
            other.host.wait = stop  # type: ignore[method-assign,assignment]
            found.append("asked")
            with pytest.raises(InterruptedError):
                other.lock(RELATION, 3)

    def stop(*arguments: object) -> None:
        raise InterruptedError

    server.pool._point = read_too
    server.disk.calls.clear()
    assert value(server, 3) == 3
    assert found
    assert sum(call[0] == "pread" for call in server.disk.calls) == 1


def test_when_every_buffer_is_in_use_it_says_so(server: Server) -> None:
    fill(server, 20)
    server.pool.write_dirty()
    other = server.another_process()
    locked = other.lock_many([(RELATION, block) for block in range(8)])
    began = server.host.now_ns()
    with pytest.raises(ServerError, match="no unpinned buffers available") as caught:
        server.pool.lock(RELATION, 12)
    assert caught.value.sqlstate == OUT_OF_MEMORY
    assert server.host.now_ns() - began > 5_000_000_000
    for buffer in locked:
        other.unlock(buffer)
    assert value(server, 12) == 12


@pytest.mark.parametrize("at", [0, 9, 20, 100, 8191])
def test_a_corrupt_page_is_refused_by_name_and_its_buffer_is_free_again(server: Server, at: int) -> None:
    fill(server, 30)
    server.pool.write_dirty()
    server.disk.files[FILE][3 * PAGE + at] ^= 4
    after = server.crash()
    for _ in range(20):
        with pytest.raises(ServerError, match='invalid page in block 3 of relation "base/5"') as caught:
            after.pool.lock(RELATION, 3)
        assert caught.value.sqlstate == DATA_CORRUPTED
    assert after.attachment.locks.held == []
    assert [value(after, block) for block in range(4, 30)] == list(range(4, 30))


def test_two_pages_that_changed_places_are_refused(server: Server) -> None:
    fill(server, 4)
    server.pool.write_dirty()
    file = server.disk.files[FILE]
    file[PAGE : 2 * PAGE], file[2 * PAGE : 3 * PAGE] = file[2 * PAGE : 3 * PAGE], file[PAGE : 2 * PAGE]
    after = server.crash()
    for block in (1, 2):
        with pytest.raises(ServerError, match="invalid page"):
            after.pool.lock(RELATION, block)


def test_a_block_beyond_the_end_is_refused(server: Server) -> None:
    fill(server, 2)
    with pytest.raises(ServerError, match="could not read block 2"):
        server.pool.lock(RELATION, 2)


def test_a_failed_write_keeps_the_page_dirty(server: Server) -> None:
    fill(server, 8)
    server.disk.fail["pwrite"] = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ServerError, match="could not write block") as caught:
        server.pool.write_dirty()
    assert caught.value.sqlstate == DISK_FULL
    with pytest.raises(ServerError, match="could not write block"):
        server.pool.new_block(RELATION)
    assert server.attachment.locks.held == []
    del server.disk.fail["pwrite"]
    assert server.pool.write_dirty() == 8
    after = server.crash()
    assert [value(after, block) for block in range(8)] == list(range(8))


def test_a_failed_read_says_why(server: Server) -> None:
    fill(server, 20)
    server.disk.fail["pread"] = OSError(errno.EIO, "Input/output error")
    with pytest.raises(ServerError, match="could not read block 0 in file") as caught:
        server.pool.lock(RELATION, 0)
    assert caught.value.sqlstate == IO_ERROR
    del server.disk.fail["pread"]
    assert value(server, 0) == 0


def test_a_failed_fsync_is_a_panic(server: Server) -> None:
    fill(server, 1)
    server.pool.write_dirty()
    server.disk.fail["fsync"] = OSError(errno.EIO, "Input/output error")
    with pytest.raises(Panic, match='could not fsync file "base/5"'):
        server.pool.sync()


def test_an_unwritten_page_between_written_ones_reads_as_zeros(server: Server) -> None:
    fill(server, 2)
    server.pool.new_block(RELATION)
    buffer, block = server.pool.lock_new(RELATION)
    change(server, buffer, 3)
    server.pool.unlock(buffer)
    server.pool.write_dirty()
    after = server.crash()
    assert block == 3
    assert after.pool.relation_size(RELATION) == 4
    assert [value(after, n) for n in range(4)] == [0, 1, 0, 3]


def test_a_torn_extension_does_not_count(server: Server) -> None:
    fill(server, 2)
    server.pool.write_dirty()
    server.disk.files[FILE] += b"half a page"
    after = server.crash()
    assert after.pool.relation_size(RELATION) == 2
    assert after.pool.lock_new(RELATION)[1] == 2


def test_processes_agree_on_the_size(server: Server) -> None:
    other = server.another_process()
    assert other.relation_size(RELATION) == 0
    assert [server.pool.new_block(RELATION), other.new_block(RELATION), server.pool.new_block(RELATION)] == [0, 1, 2]
    assert other.relation_size(RELATION) == server.pool.relation_size(RELATION) == 3


def test_processes_see_each_others_changes(server: Server) -> None:
    other = server.another_process()
    fill(server, 3)
    buffer = other.lock(RELATION, 1)
    assert other.q[other.page_offset(buffer) // 8 + 10] == 1
    assert not server.attachment.locks.try_acquire(len(LWLock) + buffer)
    other.unlock(buffer)


def test_redo_makes_files_and_blocks_that_are_missing(server: Server) -> None:
    buffer = server.pool.lock_for_redo(77, 5, zero=False)
    assert server.pool.relation_size(77) == 6
    assert server.pool.mm[server.pool.page_offset(buffer) :][:PAGE] == bytes(PAGE)
    server.pool.unlock(buffer)


def test_redo_with_an_image_does_not_read_the_torn_page(server: Server) -> None:
    fill(server, 2)
    server.pool.write_dirty()
    server.disk.files[FILE][100] ^= 1
    after = server.crash()
    buffer = after.pool.lock_for_redo(RELATION, 0, zero=True)
    assert after.pool.mm[after.pool.page_offset(buffer) :][:PAGE] == bytes(PAGE)
    after.pool.unlock(buffer)
    buffer = after.pool.lock_for_redo(RELATION, 1, zero=True)
    assert value_at(after, buffer) == 0
    change(after, buffer, 9)
    after.pool.unlock(buffer)
    assert value(after, 1) == 9


def value_at(server: Server, buffer: int) -> int:
    return server.pool.q[server.pool.page_offset(buffer) // 8 + 10]


def test_a_dropped_relation_is_gone_from_memory_and_disk(server: Server) -> None:
    fill(server, 5)
    server.pool.drop_relation(RELATION)
    assert FILE not in server.disk.files
    assert server.pool.write_dirty() == 0
    assert server.pool.sync() == 0
    with pytest.raises(ServerError, match="could not read file"):
        server.pool.relation_size(RELATION)


def test_a_relation_is_created_once_and_its_name_is_durable(server: Server) -> None:
    assert ("sync_directory", "base") in server.disk.calls
    with pytest.raises(ServerError, match="could not create"):
        server.pool.create_relation(RELATION)


def test_background_writing_takes_only_what_the_clock_left(server: Server) -> None:
    fill(server, 8)
    assert server.pool.background_write(100) == 0, "all pages were just used"
    usage = server.pool._usage
    for buffer in range(5):
        server.pool.q[usage + buffer] = 0
    assert server.pool.background_write(2) == 2
    assert server.pool.background_write(100) == 3
    assert server.pool.write_dirty() == 3


def test_a_page_in_use_outlives_pages_that_are_read_once(server: Server) -> None:
    fill(server, 60)
    server.disk.calls.clear()
    for block in range(60):
        value(server, block)
        value(server, 59)
        value(server, 59)
    reads = [call for call in server.disk.calls if call[0] == "pread" and call[2] == 59 * PAGE]
    assert len(reads) <= 1


def test_an_error_in_a_critical_section_is_a_panic() -> None:
    with pytest.raises(Panic, match="boom"), CRITICAL:
        raise ValueError("boom")
    with pytest.raises(KeyboardInterrupt), CRITICAL:
        raise KeyboardInterrupt


def test_the_mapping_agrees_with_a_dict() -> None:
    settings = Settings(shared_buffers=64 * PAGE)
    region = Region.create(mapping_areas(settings))
    mapping = BufferMapping(region, settings)
    choice = random.Random(5)
    tags = [choice.randrange(1, 4) << 32 | choice.randrange(100) for _ in range(200)]
    model: dict[int, int] = {}
    for _ in range(20_000):
        tag = choice.choice(tags)
        if tag in model:
            mapping.delete(tag)
            del model[tag]
        elif len(model) < 64:
            model[tag] = choice.randrange(64)
            mapping.put(tag, model[tag])
        other = choice.choice(tags)
        assert mapping.get(other) == model.get(other, -1)


def test_pages_are_seeded_from_the_file_once(server: Server) -> None:
    fill(server, 3)
    server.pool.write_dirty()
    after = server.crash()
    other = after.another_process()
    assert after.pool.relation_size(RELATION) == 3
    after.disk.files[FILE] += bytes(PAGE)  # what nobody announced does not count any more
    assert other.relation_size(RELATION) == 3
