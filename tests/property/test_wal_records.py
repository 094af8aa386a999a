"""Records and walks in general. What could go wrong, for inputs nobody thought of: a record that decodes to something
else; damage that passes the checks; a stale record behind the end that is taken for a new one; a commit that was flushed
and is gone after a power failure, or one that was not and comes back."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from supervisor.engine.wal.insert import Wal
from supervisor.engine.wal.lsn import segment_name
from supervisor.engine.wal.reader import WalEnd
from supervisor.engine.wal.record import (
    MAX_BLOCKS,
    PAGE_SIZE,
    BlockRef,
    crc32c,
    decode,
    encode_blocks,
    encode_record,
    hole,
)
from supervisor.engine.wal.rmgr import Rmgr
from tests.support.wal_world import NEW_LOG, SEGMENT, MemoryDisk, WalWorld, read_all

FIRST = f"pg_wal/{segment_name(1, 1, SEGMENT)}"
MODERATE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def pages(draw: st.DrawFn) -> bytes:
    page = bytearray(random.Random(draw(st.integers(0, 99))).randbytes(PAGE_SIZE))
    page[12:16] = draw(
        st.binary(min_size=4, max_size=4) | st.sampled_from([b"\x18\0\0\x20", b"\x18\0\x18\0", bytes(4)])
    )
    start, end = hole(bytes(page[12:16]))
    page[start:end] = bytes(end - start)
    return bytes(page)


u32 = st.integers(0, 2**32 - 1)
blocks = st.lists(st.builds(BlockRef, u32, u32, st.none() | pages(), st.binary(max_size=300)), max_size=MAX_BLOCKS)


@MODERATE
@given(st.integers(0, 2**63), u32, u32, st.sampled_from(Rmgr), st.integers(0, 255), st.binary(max_size=500), blocks)
def test_a_record_decodes_to_what_was_encoded(prev, incarnation, xid, rmgr, info, body, refs):
    data = encode_record(prev, incarnation, rmgr, info, xid, body, len(refs), encode_blocks(refs))
    assert len(data) % 8 == 0
    assert int.from_bytes(data[:4], "little") == crc32c(data[4:])
    record = decode(b"\xee" * 24 + data + b"\xee" * 24, 24, 4096)
    assert (record.lsn, record.end_lsn, record.prev_lsn) == (4096, 4096 + len(data), prev)
    assert (record.incarnation, record.xid, record.rmgr, record.info) == (incarnation, xid, rmgr, info)
    assert (record.body, record.blocks) == (body, tuple(refs))


def small_log(sizes: Sequence[int]) -> tuple[MemoryDisk, list[int]]:
    """A log of a START and records with bodies of these sizes; where each of its records ends in the file."""
    disk = MemoryDisk()
    world = WalWorld(disk)
    wal = world.started()
    ends = [wal.insert_lsn()] + [
        wal.insert(Rmgr.HEAP, n % 256, n, bytes([n]) * size)[1] for n, size in enumerate(sizes)
    ]
    wal.write_background()
    world.close()
    return disk, [end - SEGMENT for end in ends]


sizes_of_records = st.lists(st.integers(0, 120), min_size=1, max_size=12)


@MODERATE
@given(sizes_of_records, st.data())
def test_a_log_cut_anywhere_ends_exactly_before_the_cut_record(sizes, data):
    disk, ends = small_log(sizes)
    cut = data.draw(st.integers(32, ends[-1] - 1))
    rest = data.draw(st.sampled_from(["zeros", "end of file", "garbage"]))
    content = disk.files[FIRST]
    if rest == "end of file":
        del content[cut:]
    else:
        junk = random.Random(cut).randbytes(SEGMENT - cut) if rest == "garbage" else bytes(SEGMENT - cut)
        content[cut:] = junk
    records, reader = read_all(disk)
    whole = [end for end in ends if end <= cut]
    # Cut off within the padding or in zeros that the record ends with, it is still the record; so compare by bytes.
    if rest == "zeros":
        assert len(whole) <= len(records) <= len(whole) + 1
    else:
        assert [r.end_lsn - SEGMENT for r in records] == whole
        assert reader.end_reason


@settings(max_examples=25, deadline=None)
@given(sizes_of_records, st.data())
def test_every_flipped_bit_ends_the_log_exactly_before_its_record(sizes, data):
    disk, ends = small_log(sizes)
    content = disk.files[FIRST]
    number = data.draw(st.integers(0, len(ends) - 1))
    start = ends[number - 1] if number else 32
    for bit in range(start * 8, ends[number] * 8):
        content[bit // 8] ^= 1 << bit % 8
        records, _ = read_all(disk)
        assert [r.end_lsn - SEGMENT for r in records] == ends[:number], (bit // 8, bit % 8)
        content[bit // 8] ^= 1 << bit % 8


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 70_000), min_size=20, max_size=120), st.integers(0, 5))
@example([SEGMENT // 16 - 64] * 60, 1)
def test_around_the_ring_over_segments_and_through_recycled_ones_nothing_changes(sizes, every):
    disk = MemoryDisk()
    world = WalWorld(disk)
    wal = world.started()
    redo = SEGMENT + 32
    expected: list[bytes] = []
    for n, size in enumerate(sizes):
        body = n.to_bytes(4, "little") + bytes([n % 256]) * size
        wal.insert(Rmgr.HEAP, 0, n, body)
        expected.append(body)
        if every and n % (every * 7) == 3:
            # A checkpoint: what lies before it is recycled, its content stays behind the new end.
            redo = wal.begin_redo_point()
            wal.write_background()
            wal.remove_or_recycle(redo)
            expected.clear()
        if n % 5 == 0:
            wal.write_background()
            records, reader = read_all(disk, redo)
            assert [r.body for r in records if r.rmgr is Rmgr.HEAP] == expected
            assert reader.end_lsn in (wal.insert_lsn(), wal.insert_lsn() + -wal.insert_lsn() % SEGMENT)
    world.close()


class PowerCut(Exception):
    pass


class LosingDisk(MemoryDisk):
    """Keeps what every 512-byte sector was when its file was last synced, and can go back to any mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs_left = -1
        self._old: dict[str, dict[int, bytes]] = {}

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        path, content = self._handles[handle]
        old = self._old.setdefault(path, {})
        for at in range(offset // 512 * 512, offset + len(data), 512):
            old.setdefault(at, bytes(content[at : at + 512]).ljust(512, b"\0"))
        super().pwrite(handle, data, offset)

    def fdatasync(self, handle: int) -> None:
        super().fdatasync(handle)
        if self.syncs_left == 0:
            raise PowerCut
        self.syncs_left -= 1
        self._old.pop(self._handles[handle][0], None)

    fsync = fdatasync

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        if old in self._old:
            self._old[new] = self._old.pop(old)

    def unlink(self, path: str) -> None:
        super().unlink(path)
        self._old.pop(path, None)

    def crash(self, rng: random.Random, share: float) -> None:
        """Every process is gone, and with the power each sector that was not synced is new or old (`share`)."""
        for path, sectors in self._old.items():
            for at, old in sectors.items():
                if rng.random() < share:
                    self.files[path][at : at + 512] = old
        if share:
            self._old.clear()  # Without a power cut the kernel still has what was not synced.
        self._handles.clear()
        self.syncs_left = -1


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_a_crash_loses_nothing_flushed_and_brings_nothing_back(seed):
    """Records of one size, so that a lost record and a new one end at the same place as often as can be."""
    rng = random.Random(seed)
    size = rng.choice((0, 0, 32, 224, 480, 30_000))
    disk = LosingDisk()
    truth: list[int] = []
    end: WalEnd = NEW_LOG
    flushed = serial = 0
    for _ in range(rng.randint(2, 8)):
        world = WalWorld(disk)
        try:
            # Making the first segment takes a sync; with few of them left, the power goes while the log is taken up.
            disk.syncs_left = rng.randint(0, 5) + (2 if end == NEW_LOG else 0)
            wal: Wal = world.started(end, SEGMENT + 32)
            flushed = len(truth)  # What recovery read may have been in the kernel only, until now.
            often = rng.choice((0.0, 0.02, 0.3))
            for _ in range(rng.randint(0, 100)):
                serial += 1
                wal.insert(Rmgr.HEAP, 0, serial, bytes(size))
                truth.append(serial)
                if rng.random() < often:
                    wal.write_background()
                    flushed = len(truth)
            disk.syncs_left = 0
            wal.write_background()
        except PowerCut:
            pass
        world.close()
        disk.crash(rng, rng.choice((0.0, 0.3, 0.5, 1.0)))
        records, reader = read_all(disk)
        found = [r.xid for r in records if r.rmgr is Rmgr.HEAP]
        assert found == truth[: len(found)], "a record came back, or one is missing in the middle"
        assert len(found) >= flushed, "a flushed record is lost"
        truth = found
        end = reader.end or NEW_LOG
