"""Inserting and flushing. What could go wrong: a page is not imaged although a checkpoint began; the ring overwrites what
is not yet written; a flush returns before its record is on disk; a failed sync is shrugged off."""

from __future__ import annotations

import pytest

from supervisor.config import Settings
from supervisor.engine.wal.insert import PageRef, Wal
from supervisor.engine.wal.rmgr import Rmgr, XlogInfo
from supervisor.engine.wal.words import MIN_RING_BYTES
from supervisor.errors import Panic, ServerError
from supervisor.host import SoloHost
from supervisor.points import Point
from supervisor.shmem.lwlock import LWLock
from tests.support.wal_world import NEW_LOG, SEGMENT, MemoryDisk, WalWorld, read_all

PAGE = (20).to_bytes(2, "little")


@pytest.fixture
def world():
    world = WalWorld()
    yield world
    world.close()


def put(wal: Wal, body: bytes = b"body") -> int:
    return wal.insert(Rmgr.HEAP, 1, 7, body)[1]


def test_nothing_can_be_inserted_before_recovery_has_found_the_end(world: WalWorld):
    wal = world.wal()
    with pytest.raises(ServerError, match="cannot make new WAL entries during recovery"):
        put(wal)
    assert world.attachments[0].locks.held == []


def test_records_come_back_as_they_were_inserted(world: WalWorld):
    wal = world.started()
    first = wal.insert(Rmgr.HEAP, 0x30, 7, b"abc")
    second = wal.insert(Rmgr.TRANSACTION, 0, 8, b"")
    wal.flush(second[1])
    records, reader = read_all(world.disk)
    assert [(r.rmgr, r.info, r.xid, r.body, r.lsn, r.end_lsn) for r in records[1:]] == [
        (Rmgr.HEAP, 0x30, 7, b"abc", *first),
        (Rmgr.TRANSACTION, 0, 8, b"", *second),
    ]
    assert reader.end_lsn == wal.insert_lsn() == wal.flushed_lsn()


def test_a_new_log_begins_with_a_durable_start_record(world: WalWorld):
    wal = world.started()
    assert world.disk.calls[-1][0] == "fdatasync"
    records, _ = read_all(world.disk)
    assert [(r.rmgr, r.info, r.prev_lsn, r.incarnation) for r in records] == [(Rmgr.XLOG, XlogInfo.START, 0, 1)]
    assert wal.insert_lsn() == wal.flushed_lsn() == records[0].end_lsn


def test_what_is_inserted_is_not_on_disk_until_it_is_flushed(world: WalWorld):
    wal = world.started()
    end = put(wal)
    assert len(read_all(world.disk)[0]) == 1
    assert wal.flushed_lsn() < end
    wal.flush(end)
    assert len(read_all(world.disk)[0]) == 2


def test_a_flush_of_what_is_flushed_touches_no_file(world: WalWorld):
    wal = world.started()
    end = put(wal)
    wal.flush(end)
    world.disk.calls.clear()
    wal.flush(end)
    assert not wal.write_background()
    assert world.disk.calls == []


def test_one_flush_is_one_write_and_one_sync(world: WalWorld):
    wal = world.started()
    put(wal)
    end = put(wal)
    world.disk.calls.clear()
    wal.flush(end)
    assert [name for name, _ in world.disk.calls] == ["pwrite", "fdatasync"]


def test_without_fsync_nothing_is_synced():
    world = WalWorld(settings=Settings().replace(fsync=False, max_connections=8))
    wal = world.started()
    wal.flush(put(wal))
    assert not [name for name, _ in world.disk.calls if "sync" in name]
    assert len(read_all(world.disk)[0]) == 2
    world.close()


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync"])
def test_a_disk_that_fails_is_a_panic_and_nobody_leads_again(world: WalWorld, operation: str):
    wal = world.started()
    end = put(wal)
    world.disk.failing.add(operation)
    with pytest.raises(Panic, match="Input/output error"):
        wal.flush(end)
    assert wal.flushed_lsn() < end
    world.disk.failing.clear()
    with pytest.raises(RuntimeError, match="would never end"):
        world.wal().flush(end)


def test_a_flush_of_what_was_never_inserted_is_an_error_that_names_both(world: WalWorld):
    wal = world.started()
    with pytest.raises(ServerError, match=r"xlog flush request 0/200000 is not satisfied --- flushed only to 0/"):
        wal.flush(2 * SEGMENT)
    wal.flush(put(wal))


def test_two_ways_into_one_log_see_each_other_only_through_the_bytes(world: WalWorld):
    one = world.started()
    two = world.wal()
    put(one, b"one")
    end = put(two, b"two")
    one.flush(end)
    assert two.flushed_lsn() == end
    put(two, b"three")
    assert two.write_background()
    assert [r.body for r in read_all(world.disk)[0][1:]] == [b"one", b"two", b"three"]


def test_the_background_writer_takes_everything(world: WalWorld):
    wal = world.started()
    end = put(wal)
    assert wal.write_background()
    assert wal.flushed_lsn() == end


class TestPageImages:
    def test_a_page_beyond_the_redo_pointer_is_not_imaged(self, world: WalWorld):
        wal = world.started()
        world.set_page(0, wal.redo_pointer() + 8, b"content")
        wal.insert(Rmgr.HEAP, 0, 1, b"", [PageRef(5, 0, world.page_offset(0), b"delta")])
        wal.write_background()
        (block,) = read_all(world.disk)[0][1].blocks
        assert (block.relation, block.block, block.image, block.data) == (5, 0, None, b"delta")

    def test_a_page_at_or_before_the_redo_pointer_is(self, world: WalWorld):
        wal = world.started()
        redo = wal.begin_redo_point()
        assert wal.redo_pointer() == redo
        world.set_page(0, redo, b"content")
        wal.insert(Rmgr.HEAP, 0, 1, b"x", [PageRef(5, 9, world.page_offset(0), b"delta")])
        wal.write_background()
        records = read_all(world.disk)[0]
        assert (records[1].lsn, records[1].info) == (redo, XlogInfo.CHECKPOINT_REDO)
        (block,) = records[2].blocks
        assert block.image is not None and block.image[8:15] == b"content"
        assert (block.data, records[2].body) == (b"delta", b"x")

    def test_a_checkpoint_that_begins_before_the_lock_is_taken_is_noticed(self):
        """The page was looked at against the old redo pointer; the new one is published before the lock is ours."""
        started: list[int] = []

        def checkpoint_in_between(point: Point) -> None:
            if point is Point.WAL_INSERT_BEFORE_LOCK and not started:
                started.append(0)
                started[0] = other.begin_redo_point()

        world = WalWorld()
        other = world.started()
        wal = world.wal(SoloHost(point=checkpoint_in_between))
        world.set_page(0, other.insert_lsn(), b"content")
        start, _ = wal.insert(Rmgr.HEAP, 0, 1, b"", [PageRef(5, 0, world.page_offset(0))])
        assert start > started[0]
        wal.write_background()
        assert read_all(world.disk)[0][-1].blocks[0].image is not None
        world.close()

    def test_off_means_off_but_a_caller_may_insist(self):
        world = WalWorld(settings=Settings().replace(full_page_writes=False, max_connections=8))
        wal = world.started()
        wal.begin_redo_point()
        world.set_page(0, 0, b"content")
        at = world.page_offset(0)
        wal.insert(Rmgr.HEAP, 0, 1, b"", [PageRef(5, 0, at)])
        wal.insert(Rmgr.HEAP, 0, 1, b"", [PageRef(5, 0, at, force_image=True)])
        wal.write_background()
        images = [r.blocks[0].image is not None for r in read_all(world.disk)[0][2:]]
        assert images == [False, True]
        world.close()

    def test_the_hole_is_left_out_and_comes_back_as_zeros(self, world: WalWorld):
        wal = world.started()
        lower, upper = 100, 8000
        bounds = lower.to_bytes(2, "little") + upper.to_bytes(2, "little")
        page = (b"\x11" * 4 + bounds).ljust(8184, b"\x22")
        world.set_page(0, 0, page)
        start, end = wal.insert(Rmgr.HEAP, 0, 1, b"", [PageRef(5, 0, world.page_offset(0), b"")])
        assert end - start < 8192 - 7900 + 100
        wal.write_background()
        image = read_all(world.disk)[0][1].blocks[0].image
        whole = bytes(8) + page
        assert image == whole[:lower] + bytes(upper - lower) + whole[upper:]

    @pytest.mark.parametrize(("lower", "upper"), [(9000, 9100), (200, 100), (0, 8192), (15, 8192), (100, 8193)])
    def test_bounds_that_make_no_sense_keep_the_page_whole(self, world: WalWorld, lower: int, upper: int):
        wal = world.started()
        page = (b"\x11" * 4 + lower.to_bytes(2, "little") + upper.to_bytes(2, "little")).ljust(8184, b"\x22")
        world.set_page(0, 0, page)
        wal.insert(Rmgr.HEAP, 0, 1, b"", [PageRef(5, 0, world.page_offset(0))])
        wal.write_background()
        assert read_all(world.disk)[0][1].blocks[0].image == bytes(8) + page

    def test_eight_pages_in_one_record_and_not_nine(self, world: WalWorld):
        wal = world.started()
        pages = [PageRef(5, n, world.page_offset(n), bytes([n]) * 100) for n in range(8)]
        for n in range(8):
            world.set_page(n, 0, bytes([n + 65]) * 8184)
        wal.insert(Rmgr.BTREE, 0, 1, b"split", pages)
        wal.write_background()
        record = read_all(world.disk)[0][1]
        assert [(b.block, b.image[-1:], b.data[:1]) for b in record.blocks] == [
            (n, bytes([n + 65]), bytes([n])) for n in range(8)
        ]
        with pytest.raises(ServerError, match="9 pages is too large") as caught:
            wal.insert(Rmgr.BTREE, 0, 1, b"", [*pages, pages[0]])
        assert caught.value.sqlstate == "54000"


class TestRing:
    def test_more_than_the_ring_holds_is_flushed_on_the_way(self, world: WalWorld):
        wal = world.started()
        bodies = [bytes([n % 251]) * 5000 for n in range(200)]
        for body in bodies:
            put(wal, body)
        assert wal.flushed_lsn() > SEGMENT + 200 * 5000 - MIN_RING_BYTES
        wal.write_background()
        assert [r.body for r in read_all(world.disk)[0][1:] if r.rmgr is Rmgr.HEAP] == bodies

    def test_no_lock_is_held_while_a_full_ring_is_written(self):
        held: list[list[int]] = []

        def look(point: Point) -> None:
            if point is Point.WAL_FLUSH_BEFORE_WRITE:
                held.append(list(world.attachments[-1].locks.held))

        world = WalWorld(host=SoloHost(point=look))
        wal = world.started()
        for _ in range(100):
            put(wal, bytes(5000))
        assert held and not any(held)
        world.close()

    def test_the_largest_record_fits_and_one_byte_more_is_an_error(self, world: WalWorld):
        wal = world.started()
        most = ((MIN_RING_BYTES - 32) // 2 & ~7) - 32
        for _ in range(10):
            put(wal, bytes(most))
        with pytest.raises(ServerError, match="too large") as caught:
            put(wal, bytes(most + 1))
        assert caught.value.sqlstate == "54000"
        put(wal)
        wal.write_background()
        assert sum(r.rmgr is Rmgr.HEAP for r in read_all(world.disk)[0]) == 11

    def test_block_data_that_a_header_cannot_count_is_an_error(self, world: WalWorld):
        wal = world.started()
        with pytest.raises(ServerError, match="too large"):
            wal.insert(Rmgr.HEAP, 0, 1, b"", [PageRef(1, 1, world.page_offset(0), bytes(65536))])


class TestCheckpointRecords:
    def test_a_shutdown_checkpoint_is_its_own_redo_pointer(self, world: WalWorld):
        wal = world.started()
        before = wal.insert_lsn()
        start, end = wal.insert_shutdown_checkpoint(lambda lsn: lsn.to_bytes(8, "little"), before)
        wal.flush(end)
        assert wal.redo_pointer() == start
        record = read_all(world.disk)[0][-1]
        assert (record.lsn, record.info) == (start, XlogInfo.CHECKPOINT_SHUTDOWN)
        assert int.from_bytes(record.body, "little") == start

    def test_a_record_that_slips_in_is_a_panic(self, world: WalWorld):
        wal = world.started()
        before = wal.insert_lsn()
        put(wal)
        with pytest.raises(Panic, match="concurrent write-ahead log activity"):
            wal.insert_shutdown_checkpoint(lambda lsn: bytes(8), before)


def test_every_point_of_an_insert_and_a_flush_is_passed_in_order():
    passed: list[Point] = []
    world = WalWorld(host=SoloHost(point=passed.append))
    wal = world.started()
    passed.clear()
    wal.flush(put(wal))
    assert [p for p in passed if p.name.startswith("WAL_")] == [
        Point.WAL_INSERT_BEFORE_LOCK,
        Point.WAL_INSERT_UNDER_LOCK,
        Point.WAL_INSERT_AFTER_COPY,
        Point.WAL_FLUSH_BEFORE_WRITE,
        Point.WAL_FLUSH_BEFORE_FSYNC,
        Point.WAL_FLUSH_AFTER_FSYNC,
    ]
    world.close()


def test_commit_delay_waits_only_in_company():
    settings = Settings().replace(commit_delay=1500, max_connections=8)
    world = WalWorld(settings=settings)
    wal = world.started()
    q, procs = world.region.q, world.attachments[0].procs
    before = world.host.now_ns()
    wal.flush(put(wal))
    assert world.host.now_ns() - before < 1_000_000
    for procno in range(1, 6):
        q[procs.xid + procno] = 100 + procno
    before = world.host.now_ns()
    wal.flush(put(wal))
    assert 2_000_000 <= world.host.now_ns() - before < 3_000_000
    world.close()


def test_the_leader_hands_over_in_a_circle_and_wakes_only_whom_it_must(world: WalWorld):
    """Followers are planted as words: 2 and 5 are covered, 1 and 7 are not; the successor after process 0 is 1."""
    wal = world.started()
    q, procs = world.region.q, world.attachments[0].procs
    end = put(wal)
    for procno, lsn in ((1, end + 8), (2, end), (5, 1), (7, end + 8)):
        q[procs.flush_lsn + procno] = lsn
        q[procs.flush_state + procno] = 1
    wal.flush(end)
    assert [q[procs.flush_state + n] for n in range(8)] == [0, 2, 0, 0, 0, 0, 0, 1]
    assert [q[procs.latch + n] for n in range(8)] == [0, 1, 1, 0, 0, 1, 0, 0]
    assert LWLock.WAL_FLUSH not in world.attachments[0].locks.held
    # Process 1 leads now: the next one has to wait for its word.
    with pytest.raises(RuntimeError, match="would never end"):
        wal.flush(put(wal))


def test_handles_are_given_back(world: WalWorld):
    disk = world.disk
    assert isinstance(disk, MemoryDisk)
    wal = world.started(NEW_LOG)
    wal.flush(put(wal))
    wal.close()
    assert disk.open_handles == 0
