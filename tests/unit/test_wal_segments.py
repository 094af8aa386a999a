"""Segment files. What could go wrong: a record is split or lost where a segment ends; a segment is taken into use before
its name is durable; recycling replaces a segment that is in use, or keeps what should go."""

from __future__ import annotations

import pytest

from supervisor.config import Settings
from supervisor.engine.wal.insert import Wal
from supervisor.engine.wal.lsn import (
    format_lsn,
    format_lsn_padded,
    parse_lsn,
    parse_segment_name,
    segment_name,
    segment_size_is_valid,
)
from supervisor.engine.wal.reader import WalEnd
from supervisor.engine.wal.rmgr import Rmgr, XlogInfo
from supervisor.errors import Panic
from tests.support.wal_world import IDENTITY, NEW_LOG, SEGMENT, MemoryDisk, WalWorld, read_all

MIB = 1 << 20


@pytest.fixture
def world():
    world = WalWorld()
    yield world
    world.close()


def put(wal: Wal, body: bytes) -> tuple[int, int]:
    return wal.insert(Rmgr.HEAP, 1, 7, body)


def fill(wal: Wal, room: int) -> None:
    """Insert until exactly `room` bytes of the segment are left."""
    while True:
        left = -wal.insert_lsn() % SEGMENT - room
        if left == 0:
            return
        put(wal, bytes(left - 32 if left <= 50_000 else 40_000))


def segments(disk: MemoryDisk) -> list[int]:
    return [int(name[8 + 8 + 7 :], 16) for name in disk.list("pg_wal")]


class TestLsnText:
    def test_both_forms_and_back(self):
        assert format_lsn(0x1_0000_00FF) == "1/FF"
        assert format_lsn_padded(0x153E3B0) == "0/0153E3B0"
        assert parse_lsn("1/FF") == parse_lsn("1/000000FF") == 0x1_0000_00FF

    @pytest.mark.parametrize("text", ["", "1", "/1", "1/", "1/123456789", "x/1"])
    def test_what_is_not_an_lsn(self, text: str):
        with pytest.raises(ValueError):
            parse_lsn(text)

    def test_segment_names_are_postgresqls(self):
        assert segment_name(1, 1, 16 * MIB) == "000000010000000000000001"
        assert segment_name(1, 256, 16 * MIB) == "000000010000000100000000"
        assert segment_name(1, 4096, MIB) == "000000010000000100000000"
        for size in (MIB, 4 * MIB, 16 * MIB):
            for segno in (1, 255, 256, 4095, 4096, 123_456):
                assert parse_segment_name(segment_name(3, segno, size), size) == (3, segno)
        for name in ("xlogtemp.1", "00000001000000000000000g", "000000010000000000000100", "0" * 23):
            assert parse_segment_name(name, 16 * MIB) is None

    def test_sizes(self):
        assert [size for size in (0, 1, MIB // 2, MIB, 3 * MIB, 16 * MIB, 32 * MIB) if segment_size_is_valid(size)] == [
            MIB,
            16 * MIB,
        ]


@pytest.mark.parametrize("room", [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 4096])
def test_records_go_on_in_the_next_segment_whatever_room_is_left(world: WalWorld, room: int):
    wal = world.started()
    fill(wal, room)
    assert -wal.insert_lsn() % SEGMENT == room
    before = wal.insert_lsn()
    start, _ = put(wal, b"y" * 5000)
    assert start == 2 * SEGMENT + 32
    wal.write_background()
    records, reader = read_all(world.disk)
    assert records[-1].body == b"y" * 5000
    assert reader.end_lsn == wal.insert_lsn()
    switched = records[-2].info == XlogInfo.SWITCH and records[-2].rmgr is Rmgr.XLOG
    assert switched == (room >= 32)
    assert records[-1].prev_lsn == (before if switched else records[-2].lsn)


@pytest.mark.parametrize("room", [0, 24, 32, 64])
def test_a_crash_at_a_segments_end_goes_on_in_the_next(world: WalWorld, room: int):
    wal = world.started()
    fill(wal, room)
    wal.write_background()
    _, reader = read_all(world.disk)
    assert reader.end is not None
    again = WalWorld(world.disk)
    wal = again.started(reader.end, SEGMENT + 32)
    put(wal, b"after")
    wal.write_background()
    records, _ = read_all(world.disk)
    assert records[-1].body == b"after"
    assert records[-2].incarnation == 2
    assert (records[-2].lsn > 2 * SEGMENT) == (room < 32)
    again.close()


def test_a_segment_is_whole_and_its_name_durable_before_it_is_used(world: WalWorld):
    world.started()
    disk = world.disk
    assert isinstance(disk, MemoryDisk)
    path = f"pg_wal/{segment_name(1, 1, SEGMENT)}"
    assert len(disk.files[path]) == SEGMENT
    calls = disk.calls
    made = [i for i, (name, at) in enumerate(calls) if "xlogtemp" in at]
    renamed = calls.index(("rename", path))
    named = calls.index(("sync_directory", "pg_wal"), renamed)
    used = calls.index(("pwrite", path))
    assert calls[made[-1]][0] == "fsync" and made[-1] < renamed < named < used


def test_a_full_segment_is_synced_before_the_next_is_begun(world: WalWorld):
    wal = world.started()
    fill(wal, 64)
    wal.write_background()
    disk = world.disk
    assert isinstance(disk, MemoryDisk)
    put(wal, bytes(100))
    disk.calls.clear()
    wal.write_background()
    first, second = (f"pg_wal/{segment_name(1, n, SEGMENT)}" for n in (1, 2))
    order = [call for call in disk.calls if call[0] in ("pwrite", "fdatasync") and "xlogtemp" not in call[1]]
    assert order == [("pwrite", first), ("fdatasync", first), ("pwrite", second), ("fdatasync", second)]


def test_taking_up_the_log_syncs_what_recovery_read_and_removes_left_over_files(world: WalWorld):
    wal = world.started()
    for _ in range(60):
        put(wal, bytes(40_000))
    wal.write_background()
    disk = world.disk
    assert isinstance(disk, MemoryDisk)
    disk.files["pg_wal/xlogtemp.123"] = bytearray(5)
    _, reader = read_all(disk)
    assert reader.end is not None and reader.end_lsn > 3 * SEGMENT
    disk.calls.clear()
    again = WalWorld(disk)
    again.started(reader.end, 2 * SEGMENT + 32)
    second, third = (f"pg_wal/{segment_name(1, n, SEGMENT)}" for n in (2, 3))
    calls = [call for call in disk.calls if call[0] in ("pwrite", "fdatasync")]
    assert calls == [("fdatasync", second), ("pwrite", third), ("fdatasync", third)]
    assert "pg_wal/xlogtemp.123" not in disk.files
    again.close()


def test_incarnations_count_up_at_every_start():
    disk = MemoryDisk()
    end: WalEnd = NEW_LOG
    for n in range(1, 5):
        world = WalWorld(disk)
        wal = world.started(end, 0)
        put(wal, b"%d" % n)
        wal.write_background()
        records, reader = read_all(disk)
        assert reader.end is not None
        end = reader.end
        assert (records[-1].incarnation, records[-1].body) == (n, b"%d" % n)
        world.close()


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync", "rename", "sync_directory"])
def test_a_disk_that_fails_when_the_log_is_taken_up_is_a_panic(world: WalWorld, operation: str):
    assert isinstance(world.disk, MemoryDisk)
    world.disk.failing.add(operation)
    wal = world.wal()
    with pytest.raises(Panic):
        wal.start_at(NEW_LOG, 0)
    assert wal.insert_lsn() == 0


class TestRecycling:
    @staticmethod
    def world(**settings: object) -> WalWorld:
        return WalWorld(settings=Settings().replace(**{"max_connections": 8, **settings}))

    def test_old_segments_become_future_ones_up_to_the_horizon_and_the_rest_goes(self):
        world = self.world(min_wal_size=2 * MIB, max_wal_size=4 * MIB)
        wal = world.started()
        disk = world.disk
        assert isinstance(disk, MemoryDisk)
        while wal.insert_lsn() < 8 * SEGMENT + 100:
            put(wal, bytes(60_000))
        wal.write_background()
        old = bytes(disk.files[f"pg_wal/{segment_name(1, 1, SEGMENT)}"])
        redo = wal.begin_redo_point()
        wal.write_background()
        # The first checkpoint knows no distance: min_wal_size, here segments 8 and 9, is the horizon.
        assert wal.remove_or_recycle(redo) == (0, 6, 1)
        assert segments(disk) == [8, 9]
        assert bytes(disk.files[f"pg_wal/{segment_name(1, 9, SEGMENT)}"]) == old
        while wal.insert_lsn() < 9 * SEGMENT + 100:
            put(wal, bytes(60_000))
        wal.write_background()
        records, reader = read_all(disk, redo)
        assert records[0].lsn == redo and reader.end_lsn == wal.insert_lsn()
        world.close()

    def test_the_horizon_follows_the_log_between_checkpoints_up_to_max_wal_size(self):
        world = self.world(min_wal_size=2 * MIB, max_wal_size=6 * MIB)
        wal = world.started()
        disk = world.disk
        assert isinstance(disk, MemoryDisk)
        for _ in range(2):
            for _ in range(50):
                put(wal, bytes(60_000))
            redo = wal.begin_redo_point()
            wal.write_background()
            wal.remove_or_recycle(redo)
        current = redo // SEGMENT
        assert segments(disk)[0] == current
        assert current + 2 <= segments(disk)[-1] <= current + 5
        world.close()

    def test_nothing_that_redo_needs_is_touched(self):
        world = self.world()
        wal = world.started()
        assert isinstance(world.disk, MemoryDisk)
        for _ in range(70):
            put(wal, bytes(40_000))
        wal.write_background()
        before = segments(world.disk)
        assert wal.remove_or_recycle(SEGMENT + 32) == (0, 0, 0)
        assert segments(world.disk) == before
        world.close()

    def test_the_next_segment_is_made_ahead_when_this_one_is_nearly_full(self):
        world = self.world()
        wal = world.started()
        assert isinstance(world.disk, MemoryDisk)
        assert not wal.preallocate()
        while wal.insert_lsn() % SEGMENT < 0.8 * SEGMENT:
            put(wal, bytes(40_000))
        assert wal.preallocate()
        assert not wal.preallocate()
        assert segments(world.disk) == [1, 2]
        assert not [name for name in world.disk.files if "temp" in name]
        world.close()

    def test_a_rename_that_fails_leaves_the_log_usable(self):
        world = self.world()
        wal = world.started()
        assert isinstance(world.disk, MemoryDisk)
        for _ in range(70):
            put(wal, bytes(40_000))
        redo = wal.begin_redo_point()
        wal.write_background()
        world.disk.failing.add("rename")
        with pytest.raises(OSError):
            wal.remove_or_recycle(redo)
        world.disk.failing.clear()
        wal.flush(put(wal, b"x")[1])
        world.close()

    def test_names_that_cannot_be_made_durable_are_a_panic(self):
        world = self.world()
        wal = world.started()
        assert isinstance(world.disk, MemoryDisk)
        for _ in range(70):
            put(wal, bytes(40_000))
        redo = wal.begin_redo_point()
        wal.write_background()
        world.disk.failing.add("sync_directory")
        with pytest.raises(Panic):
            wal.remove_or_recycle(redo)
        world.close()

    def test_files_that_are_no_segments_are_left_alone(self):
        world = self.world()
        wal = world.started()
        assert isinstance(world.disk, MemoryDisk)
        for name in ("archive_status", "00000002.history", segment_name(2, 1, SEGMENT)):
            world.disk.files[f"pg_wal/{name}"] = bytearray()
        for _ in range(70):
            put(wal, bytes(40_000))
        redo = wal.begin_redo_point()
        wal.write_background()
        wal.remove_or_recycle(redo)
        assert {"archive_status", "00000002.history", segment_name(2, 1, SEGMENT)} <= set(world.disk.list("pg_wal"))
        world.close()


def test_the_identity_of_the_tests_is_what_the_segment_says(world: WalWorld):
    world.started()
    assert isinstance(world.disk, MemoryDisk)
    header = bytes(world.disk.files[f"pg_wal/{segment_name(1, 1, SEGMENT)}"][:32])
    assert int.from_bytes(header[8:16], "little") == IDENTITY.system_identifier
    assert int.from_bytes(header[24:32], "little") == SEGMENT
