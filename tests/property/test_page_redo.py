"""However records are cut into batches, and however often redo is cut off and begun again, each acts exactly once.

What could go wrong: a batch that is sorted by page carries a page's records out in another order than they have; a
record is left out or applied twice where one batch ends and the next begins; after a crash within a batch, pages that
were written already and pages that were not are taken for the same age; a page's image is put over what came after it.

What a record does here cannot be undone by doing it again: it multiplies a word of its page by ten and adds a digit.
"""

from __future__ import annotations

from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.storage.page import LSN_AT
from supervisor.engine.storage.redo import PageRedo
from supervisor.engine.wal.record import BlockRef, WalRecord
from supervisor.engine.wal.rmgr import Rmgr
from supervisor.errors import StartupError
from supervisor.host import SoloHost
from supervisor.points import Point
from tests.support.engine_rig import Crash
from tests.support.storage_fixtures import PAGE, ListWal, MemoryDisk, Server

RELATION = 7
PAGES = 4
WORD_AT = 64
LIMIT = 10**12
_word = Struct("<Q")

# A record: the pages that it is about, each with whether it brings the page's image.
RECORDS = st.lists(
    st.dictionaries(st.integers(0, PAGES - 1), st.sampled_from([False, False, False, True]), min_size=1, max_size=3),
    min_size=1,
    max_size=40,
)


def act(value: int, number: int) -> int:
    return (value * 10 + number % 10) % LIMIT


def apply(record: WalRecord, index: int, pool: BufferPool, at: int) -> None:
    (value,) = _word.unpack_from(pool.mm, at + WORD_AT)
    _word.pack_into(pool.mm, at + WORD_AT, act(value, record.xid))


def logged(plan: list[dict[int, bool]]) -> tuple[list[WalRecord], dict[int, int]]:
    """The records of a plan, and what each page's word must be in the end."""
    values = dict.fromkeys(range(PAGES), 0)
    records = []
    for number, about in enumerate(plan, 1):
        blocks = []
        for block, with_image in about.items():
            values[block] = act(values[block], number)
            image = None
            if with_image:
                image = bytes(WORD_AT) + _word.pack(values[block]) + bytes(PAGE - WORD_AT - 8)
            blocks.append(BlockRef(RELATION, block, image, b""))
        records.append(WalRecord(100 * number, 100 * number + 64, 0, number, Rmgr.HEAP, 0, b"", tuple(blocks), 1))
    return records, values


def found(pool: BufferPool) -> dict[int, int]:
    words = {}
    for block in range(PAGES):
        buffer = pool.lock_for_redo(RELATION, block, zero=False)
        (words[block],) = _word.unpack_from(pool.mm, pool.page_offset(buffer) + WORD_AT)
        pool.unlock(buffer)
    return words


def redo(server: Server, records: list[WalRecord], batch: int) -> int:
    """Replay; how many pages it changed."""
    pages = PageRedo(server.disk, server.pool, {Rmgr.HEAP: apply})
    for number, record in enumerate(records, 1):
        pages.collect(record)
        if number % batch == 0:
            pages.carry_out()
    pages.carry_out()
    pages.close()
    assert server.attachment.locks.held == []
    return pages.pages_changed


class CrashingHost(SoloHost):
    """Dies when it has passed REDO_RECORD so often."""

    def __init__(self, passes: int) -> None:
        super().__init__(point=self._pass)
        self._left = passes

    def _pass(self, point: Point) -> None:
        if point is Point.REDO_RECORD:
            self._left -= 1
            if not self._left:
                raise Crash


def a_server(disk: MemoryDisk, host: SoloHost | None = None) -> Server:
    return Server(PAGES - 1, disk, ListWal(disk), host)  # one buffer too few, so that pages are evicted


@given(RECORDS, st.integers(1, 50))
def test_every_record_acts_once_whatever_the_batch(plan: list[dict[int, bool]], batch: int) -> None:
    records, expected = logged(plan)
    server = a_server(MemoryDisk())
    touched = {block for about in plan for block in about}
    assert redo(server, records, batch) == len(touched)
    assert found(server.pool) == expected
    server.region.close()


@given(
    RECORDS, st.lists(st.tuples(st.integers(1, 50), st.integers(1, 60), st.booleans()), max_size=3), st.integers(1, 50)
)
def test_redo_that_was_cut_off_is_begun_again(
    plan: list[dict[int, bool]], crashes: list[tuple[int, int, bool]], batch: int
) -> None:
    records, expected = logged(plan)
    disk = MemoryDisk()
    for its_batch, passes, write in crashes:
        server = a_server(disk, CrashingHost(passes))
        try:
            redo(server, records, its_batch)
        except Crash:
            if write:
                server.pool.write_dirty()
        server.region.close()
    server = a_server(disk)
    redo(server, records, batch)
    assert found(server.pool) == expected
    redo(server, records, batch)
    assert found(server.pool) == expected, "replayed twice"
    server.region.close()


def test_the_record_that_does_not_fit_is_named() -> None:
    def refuse(record: WalRecord, index: int, pool: BufferPool, at: int) -> None:
        if record.xid == 2:
            raise ValueError("no room")

    records, _ = logged([{0: False}, {0: False}, {0: False}])
    server = a_server(MemoryDisk())
    pages = PageRedo(server.disk, server.pool, {Rmgr.HEAP: refuse})
    for record in records:
        pages.collect(record)
    with pytest.raises(StartupError, match="could not redo the record at 0/C8: no room"):
        pages.carry_out()


def test_a_page_that_is_newer_than_its_records_is_left_alone() -> None:
    records, _ = logged([{0: False}, {0: False}])
    server = a_server(MemoryDisk())
    buffer = server.pool.lock_for_redo(RELATION, 0, zero=True)
    server.pool.q[(server.pool.page_offset(buffer) + LSN_AT) // 8] = records[-1].end_lsn
    server.pool.unlock(buffer)
    assert redo(server, records, 50) == 0
    assert found(server.pool)[0] == 0
    assert not server.pool.is_dirty(buffer)
