"""Reading the log. What could go wrong: bytes that are no record are taken for one, and a transaction comes back that was
never acknowledged; or the walk ends too early, and one that was is lost. Each check has its test and its words."""

from __future__ import annotations

import pytest

from supervisor.engine.wal import reader as reader_module
from supervisor.engine.wal.dump import dump_line
from supervisor.engine.wal.insert import PageRef, Wal
from supervisor.engine.wal.lsn import format_lsn, segment_name
from supervisor.engine.wal.reader import WalEnd, WalReader
from supervisor.engine.wal.record import BlockRef, WalRecord, encode_record
from supervisor.engine.wal.rmgr import Rmgr, XlogInfo
from supervisor.engine.wal.segment import WalIdentity
from tests.support.wal_world import IDENTITY, NEW_LOG, SEGMENT, MemoryDisk, WalWorld, read_all

FIRST = f"pg_wal/{segment_name(1, 1, SEGMENT)}"


class Log:
    """A log of a START and three records of 64 bytes, and the position of each."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.world = WalWorld(self.disk)
        self.wal = self.world.started()
        self.starts = [self.wal.insert(Rmgr.HEAP, 1, 7, bytes([n]) * 32)[0] for n in range(3)]
        self.end = self.wal.insert_lsn()
        self.wal.write_background()
        self.content = self.disk.files[FIRST]

    def put(self, lsn: int, record: bytes) -> None:
        self.content[lsn - SEGMENT : lsn - SEGMENT + len(record)] = record

    def bodies(self, identity: WalIdentity = IDENTITY) -> tuple[list[int], str]:
        records, reader = read_all(self.disk, identity=identity)
        return [r.body[0] for r in records if r.body], reader.end_reason


@pytest.fixture
def log():
    log = Log()
    yield log
    log.world.close()


def record(
    prev: int, *, incarnation: int = 1, rmgr: int = Rmgr.HEAP, info: int = 0, body: bytes = b"\x09" * 32
) -> bytes:
    return encode_record(prev, incarnation, rmgr, info, 7, body)


def test_zeros_end_the_log(log: Log):
    assert log.bodies() == ([0, 1, 2], f"invalid record length at {format_lsn(log.end)}: expected at least 32, got 0")


@pytest.mark.parametrize("length", [8, 24, 33, 36])
def test_a_length_that_no_record_has(log: Log, length: int):
    log.put(log.starts[1] + 4, length.to_bytes(4, "little"))
    where = format_lsn(log.starts[1])
    assert log.bodies() == ([0], f"invalid record length at {where}: expected at least 32, got {length}")


def test_a_length_beyond_the_segment(log: Log):
    log.put(log.starts[1] + 4, SEGMENT.to_bytes(4, "little"))
    assert log.bodies() == ([0], f"record length {SEGMENT} at {format_lsn(log.starts[1])} too long")


def test_an_unknown_manager(log: Log):
    log.put(log.starts[1], record(log.starts[0], rmgr=77))
    assert log.bodies() == ([0], f"invalid resource manager ID 77 at {format_lsn(log.starts[1])}")


@pytest.mark.parametrize("off", [-8, 8, -SEGMENT])
def test_a_prev_link_that_is_not_exact(log: Log, off: int):
    log.put(log.starts[1], record(log.starts[0] + off))
    link, where = format_lsn(log.starts[0] + off), format_lsn(log.starts[1])
    assert log.bodies() == ([0], f"record with incorrect prev-link {link} at {where}")


def test_a_damaged_record(log: Log):
    log.content[log.starts[1] - SEGMENT + 40] ^= 1
    where = format_lsn(log.starts[1])
    assert log.bodies() == ([0], f"incorrect resource manager data checksum in record at {where}")


@pytest.mark.parametrize(
    ("incarnation", "rmgr", "info"),
    [(0, Rmgr.HEAP, 0), (2, Rmgr.HEAP, 0), (1, Rmgr.XLOG, XlogInfo.START), (3, Rmgr.XLOG, XlogInfo.START)],
)
def test_an_incarnation_that_does_not_follow(log: Log, incarnation: int, rmgr: int, info: int):
    log.put(log.starts[1], record(log.starts[0], incarnation=incarnation, rmgr=rmgr, info=info))
    bodies, reason = log.bodies()
    assert bodies == [0]
    assert reason == f"record with out-of-sequence incarnation {incarnation} (after 1) at {format_lsn(log.starts[1])}"


def test_content_that_does_not_add_up_is_an_end_and_not_an_error(log: Log):
    log.put(log.starts[1], encode_record(log.starts[0], 1, Rmgr.HEAP, 0, 7, b"", 2, b"\xff" * 32))
    bodies, reason = log.bodies()
    assert bodies == [0]
    assert reason.startswith(f"invalid record content at {format_lsn(log.starts[1])}: ")


class TestSegmentHeader:
    def test_a_missing_file(self, log: Log):
        del log.disk.files[FIRST]
        assert log.bodies() == ([], f'could not open file "{FIRST}": No such file or directory')

    def test_a_file_of_zeros(self, log: Log):
        log.content[:] = bytes(SEGMENT)
        assert log.bodies()[1].startswith("invalid magic number 00000000 in WAL segment 000000010000000000000001, ")

    def test_a_file_that_is_cut_off(self, log: Log):
        del log.content[20:]
        assert log.bodies()[1].startswith("could not read from WAL segment")
        del log.content[:]
        assert log.bodies()[1].startswith("could not read from WAL segment")

    def test_another_system(self, log: Log):
        reason = log.bodies(WalIdentity(8, 1, SEGMENT))[1]
        assert reason.startswith("WAL file is from different database system: ")
        assert str(IDENTITY.system_identifier) in reason and reason.endswith("identifier is 8")

    def test_another_segment_size(self, log: Log):
        name = f"pg_wal/{segment_name(1, 1, 2 * SEGMENT)}"
        log.disk.files[name] = log.content + log.content
        records, reader = read_all(log.disk, 2 * SEGMENT + 32, WalIdentity(IDENTITY.system_identifier, 1, 2 * SEGMENT))
        assert records == []
        assert reader.end_reason == "WAL file is from different database system: incorrect segment size in page header"

    def test_a_recycled_one(self, log: Log):
        log.disk.files[f"pg_wal/{segment_name(1, 2, SEGMENT)}"] = log.content
        records, reader = read_all(log.disk, 2 * SEGMENT + 32)
        assert records == [] and reader.end is None and reader.end_lsn == 0
        assert reader.end_reason.startswith("unexpected pageaddr 0/100000 in WAL segment 000000010000000000000002, ")

    def test_every_flipped_bit_of_the_header(self, log: Log):
        for bit in range(32 * 8):
            log.content[bit // 8] ^= 1 << bit % 8
            assert log.bodies()[0] == []
            log.content[bit // 8] ^= 1 << bit % 8
        assert log.bodies()[0] == [0, 1, 2]


def test_a_record_that_lost_its_predecessor_never_comes_back(log: Log):
    """The second record is lost in a power failure, the third survives it. The log goes on with a START and a record
    that ends exactly where the lost one did: prev-link and CRC of the third are right again, and it must stay gone."""
    lost = log.starts[1]
    log.put(lost, bytes(64))
    records, reader = read_all(log.disk)
    assert reader.end == WalEnd(lost, log.starts[0], 1)
    again = WalWorld(log.disk)
    wal = again.started(reader.end, SEGMENT + 32)
    assert wal.insert_lsn() == lost + 32
    # The worst case: what the stale record calls its predecessor is now a valid record at the same place.
    start, end = wal.insert(Rmgr.HEAP, 1, 7, b"")
    assert end == log.starts[2]
    stale = record(start, body=b"\x63" * 32)
    log.put(end, stale)
    wal.write_background()
    records, reader = read_all(log.disk)
    assert [r.lsn for r in records[-2:]] == [lost, start]
    assert reader.end_reason == f"record with out-of-sequence incarnation 1 (after 2) at {format_lsn(end)}"
    again.close()


def test_a_start_record_that_was_not_confirmed_is_overwritten(log: Log):
    log.put(log.starts[2], bytes(64))
    for _ in range(3):
        _, reader = read_all(log.disk)
        assert reader.end is not None and reader.end.incarnation == 1
        again = WalWorld(log.disk)
        again.started(reader.end, SEGMENT + 32)
        again.close()
        log.content[log.starts[2] - SEGMENT + 9] ^= 4  # torn


class TestReading:
    def test_one_record_at_a_place_that_somebody_remembers(self, log: Log):
        reader = WalReader(log.disk, IDENTITY)
        found = reader.read_record(log.starts[2])
        assert found is not None and found.body == b"\x02" * 32
        assert reader.end == WalEnd(log.end, log.starts[2], 1)
        assert reader.read_record(log.starts[2] + 8) is None
        assert "at " + format_lsn(log.starts[2] + 8) in reader.end_reason
        assert reader.read_record(9 * SEGMENT + 32) is None
        assert "could not open file" in reader.end_reason
        reader.close()
        log.wal.close()
        assert log.disk.open_handles == 0

    def test_a_lone_record_must_point_backwards(self, log: Log):
        log.put(log.starts[1], record(log.starts[1]))
        reader = WalReader(log.disk, IDENTITY)
        assert reader.read_record(log.starts[1]) is None
        assert "incorrect prev-link" in reader.end_reason
        reader.close()

    def test_the_end_is_known_at_every_record(self, log: Log):
        reader = WalReader(log.disk, IDENTITY)
        for found in reader.read_from(SEGMENT + 32):
            assert reader.end == WalEnd(found.end_lsn, found.lsn, 1)
        reader.close()

    def test_a_second_walk_sees_what_was_written_since(self, log: Log):
        reader = WalReader(log.disk, IDENTITY)
        assert len(list(reader.read_from(SEGMENT + 32))) == 4
        log.wal.insert(Rmgr.HEAP, 0, 1, b"more")
        log.wal.write_background()
        assert len(list(reader.read_from(SEGMENT + 32))) == 5
        reader.close()

    def test_from_the_start_of_a_segment(self, log: Log):
        assert len(read_all(log.disk, SEGMENT)[0]) == 4

    @pytest.mark.parametrize("piece", [64, 100, 1000, 4096])
    def test_any_size_of_pieces_gives_the_same_records(self, monkeypatch, piece: int):
        world = WalWorld()
        wal = world.started(NEW_LOG)
        for n in range(300):
            wal.insert(Rmgr.HEAP, 0, n, bytes(n * 7 % 2000))
        wal.write_background()
        whole = read_all(world.disk)[0]
        monkeypatch.setattr(reader_module, "FIRST_PIECE_BYTES", piece)
        monkeypatch.setattr(reader_module, "PIECE_BYTES", piece)
        assert read_all(world.disk)[0] == whole
        world.close()

    def test_an_idle_log_is_not_read_whole(self):
        world = WalWorld(identity=WalIdentity(1, 1, 16 << 20))
        wal = world.started(WalEnd(16 << 20, 0, 0))
        wal.insert(Rmgr.HEAP, 0, 1, b"x")
        wal.write_background()
        assert isinstance(world.disk, MemoryDisk)
        world.disk.calls.clear()
        read_all(world.disk, (16 << 20) + 32, world.identity)
        assert world.disk.count("pread") == 1
        world.close()


class TestDump:
    def test_a_line_has_pg_waldumps_form(self):
        found = WalRecord(0x153E3B0, 0x153E3B0 + 64, 0x153E378, 738, Rmgr.HEAP, 0, b"", (BlockRef(5, 0, None, b""),), 1)
        assert dump_line(found, {Rmgr.HEAP: lambda r: "INSERT off 3"}) == (
            "rmgr: Heap        len (rec/tot):     64/    64, tx:        738, lsn: 0/0153E3B0, prev 0/0153E378, "
            "desc: INSERT off 3, blkref #0: rel 5 blk 0"
        )

    def test_images_count_in_the_total_alone(self):
        world = WalWorld()
        wal = world.started()
        world.set_page(0, 0, b"x" * 4 + (100).to_bytes(2, "little") + (8092).to_bytes(2, "little"))
        wal.insert(Rmgr.HEAP, 0x20, 7, b"", [PageRef(5, 3, world.page_offset(0), b"12345678")])
        wal.write_background()
        line = dump_line(read_all(world.disk)[0][1], {})
        assert "len (rec/tot):     56/   256," in line
        assert line.endswith("desc: UNKNOWN (0x20), blkref #0: rel 5 blk 3 FPW")
        world.close()

    def test_the_logs_own_records_are_known_without_a_registry(self, log: Log):
        lines = [dump_line(r, {}) for r in read_all(log.disk)[0]]
        assert lines[0].startswith("rmgr: XLOG ") and lines[0].endswith("desc: START incarnation 1")

    def test_an_unknown_kind_is_shown_as_a_number(self):
        found = WalRecord(64, 96, 0, 0, Rmgr.XLOG, 0x77, b"", (), 1)
        assert "desc: UNKNOWN (0x77)" in dump_line(found, {})


def test_a_disk_error_is_not_the_end_of_the_log(log: Log):
    log.disk.failing.add("pread")
    with pytest.raises(OSError):
        read_all(log.disk)


def test_the_writer_and_the_reader_agree_on_the_end(log: Log):
    wal: Wal = log.wal
    assert read_all(log.disk)[1].end_lsn == wal.insert_lsn() == wal.flushed_lsn()
