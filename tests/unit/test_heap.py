"""The heap under many versions: room is found again, index entries go with their rows, nothing grows without bound.

What could go wrong: a hot row whose page fills up for good; a line given to another row while an index entry still
leads there; a pruning that takes a version an older snapshot needs; a page that is damaged and read all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.config import Settings
from supervisor.engine.storage.page import PAGE_BYTES
from supervisor.errors import ServerError
from supervisor.session.session import Session
from tests.support.engine_rig import SMALL, Rig

COLUMNS = [("id", "integer"), ("n", "bigint"), ("filler", "text")]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, SMALL)
    rig.start()
    yield rig
    rig.crash()


def filled(rig: Rig, rows: int, filler: str = "") -> Session:
    session = rig.session()
    session.create_table("t", COLUMNS, "id")
    session.begin()
    for key in range(rows):
        session.insert("t", (key, 0, filler))
    session.commit()
    return session


def relation_sizes(rig: Rig) -> tuple[int, int]:
    """Blocks of table t's heap and index."""
    engine = rig.engines[0]
    table = engine.tables.find("t")
    return engine.pool.relation_size(table.heap), engine.pool.relation_size(table.index)


def entries(rig: Rig, key: int) -> list[int]:
    return rig.engines[0].tables.find("t").btree.lookup(key)


def test_hot_rows_do_not_grow_the_table(rig: Rig) -> None:
    session = filled(rig, 8)
    for i in range(3000):
        key = i % 8
        session.update("t", key, (key, i, "x" * 50))
    assert [row[1] for row in session.scan("t")] == list(range(2992, 3000))
    heap, index = relation_sizes(rig)
    assert heap <= 2 and index == 1
    assert all(len(entries(rig, key)) <= 2 for key in range(8))


def test_hot_rows_that_were_held_back_by_a_snapshot_come_back_to_size(rig: Rig) -> None:
    """An open scan keeps every version; when it is over, the pages it filled are used again."""
    session = filled(rig, 8)
    other = rig.session()
    scan = other.scan("t")
    next(scan)
    for i in range(1500):
        session.update("t", i % 8, (i % 8, i, "x" * 50))
    grown = relation_sizes(rig)[0]
    assert grown > 5
    assert [row[1] for row in scan] == [0] * 7
    for i in range(6000):
        session.update("t", i % 8, (i % 8, i, "x" * 50))
    assert relation_sizes(rig)[0] <= grown
    assert all(len(entries(rig, key)) <= 2 for key in range(8)), [entries(rig, key) for key in range(8)]


def test_hot_rows_of_many_sessions(rig: Rig) -> None:
    filled(rig, 8)
    sessions = [rig.session() for _ in range(4)]
    for i in range(600):
        for number, session in enumerate(sessions):
            session.begin()
            row = session.get("t", number, for_update=True)
            assert row is not None
            session.update("t", number, (number, row[1] + 1, row[2]))
        for session in sessions[:: -1 if i % 2 else 1]:
            session.commit()
    assert [row[1] for row in sessions[0].scan("t")][:4] == [600] * 4
    assert relation_sizes(rig)[0] <= 3


def test_rows_inserted_and_deleted_again_and_again_use_the_same_pages(rig: Rig) -> None:
    session = filled(rig, 1)
    for turn in range(30):
        session.begin()
        for key in range(1, 60):
            session.insert("t", (key, turn, "x" * 200))
        session.commit()
        session.begin()
        for key in range(1, 60):
            assert session.delete("t", key)
        session.commit()
    assert relation_sizes(rig)[0] <= 10
    assert [row[0] for row in session.scan("t")] == [0]


def test_aborted_versions_are_dropped(rig: Rig) -> None:
    session = filled(rig, 4)
    for i in range(800):
        session.begin()
        session.update("t", i % 4, (i % 4, -1, "x" * 60))
        session.insert("t", (100 + i % 7, -1, "x" * 60))
        session.rollback()
    assert [row[1] for row in session.scan("t")] == [0] * 4
    assert relation_sizes(rig)[0] <= 3


def test_an_update_to_another_page_and_back(rig: Rig) -> None:
    session = filled(rig, 3, "x" * 2000)
    assert session.update("t", 1, (1, 1, "y" * 5000))
    assert session.update("t", 1, (1, 2, "z" * 100))
    assert [(row[0], row[1], len(str(row[2]))) for row in session.scan("t")] == [
        (0, 0, 2000),
        (1, 2, 100),
        (2, 0, 2000),
    ]
    rig.restart()
    assert [row[1] for row in rig.session().scan("t")] == [0, 2, 0]


def test_an_old_snapshot_keeps_what_it_sees(rig: Rig) -> None:
    session = filled(rig, 2)
    other = rig.session()
    scan = other.scan("t")
    assert next(scan) == (0, 0, "")
    for i in range(500):
        session.update("t", 1, (1, i + 1, "x" * 100))
    assert next(scan) == (1, 0, "")


def test_a_stale_index_entry_leads_to_no_other_row(rig: Rig) -> None:
    """A reader that has read the index before a clean-up finds another row at the tid, and must not take it."""
    session = filled(rig, 3)
    table = rig.engines[0].tables.find("t")
    stale = table.btree.lookup(1)
    lookup = table.btree.lookup
    table.btree.lookup = lambda key: stale if key == 2 else lookup(key)  # type: ignore[method-assign]
    assert session.get("t", 2) is None
    assert session.update("t", 2, (2, 9, "")) is False
    assert session.delete("t", 2) is False
    assert session.get("t", 2, for_update=True) is None
    table.btree.lookup = lookup  # type: ignore[method-assign]
    assert [row[1] for row in session.scan("t")] == [0, 0, 0]


def test_a_damaged_page_is_refused_with_file_and_block(rig: Rig, tmp_path: Path) -> None:
    filled(rig, 100, "x" * 200)
    heap = rig.engines[0].tables.find("t").heap
    rig.stop()
    file = tmp_path / "base" / str(heap)
    data = bytearray(file.read_bytes())
    data[PAGE_BYTES + 5000] ^= 1
    file.write_bytes(data)
    rig.start()
    session = rig.session()
    with pytest.raises(ServerError) as caught:
        list(session.scan("t"))
    assert caught.value.sqlstate == "XX001"
    assert f'block 1 of relation "base/{heap}"' in caught.value.message
    assert session.get("t", 0) == (0, 0, "x" * 200)


def test_an_evicted_page_keeps_its_row_locks(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Settings().replace(shared_buffers=16 * 8192, max_connections=8, fsync=False, lock_timeout=10))
    rig.start()
    session = filled(rig, 200, "x" * 2000)
    other = rig.session()
    rig.checkpoint()
    session.begin()
    assert session.get("t", 7, for_update=True) is not None
    assert sum(1 for _ in other.scan("t")) == 200
    with pytest.raises(ServerError) as caught:
        other.get("t", 7, for_update=True)
    assert caught.value.sqlstate == "55P03"
    rig.crash()


def test_transactions_that_end_in_another_order_than_their_numbers(rig: Rig) -> None:
    """A version can be dead for all while the one before it, whose end has a newer number, is only recently dead."""
    filled(rig, 3)
    older, between, newer = rig.session(), rig.session(), rig.session()
    older.begin()
    older.update("t", 0, (0, 1, ""))
    between.begin()
    between.update("t", 2, (2, 1, ""))
    newer.update("t", 1, (1, 1, ""))
    older.update("t", 1, (1, 2, ""))
    older.commit()
    # What `between` holds back lies between the two numbers.
    for i in range(300):
        newer.update("t", 0, (0, i, "x" * 20))
        assert newer.get("t", 1) == (1, 2, "")
    between.commit()
    assert [row[1] for row in newer.scan("t")] == [299, 2, 1]


def test_rows_that_an_aborted_transaction_made_and_changed(rig: Rig) -> None:
    """Their versions are a chain that is dead altogether: none may be freed while the index leads to its first."""
    session = filled(rig, 0)
    session.begin()
    for key in range(60):
        session.insert("t", (key, 0, ""))
    for key in range(60):
        session.update("t", key, (key, 1, ""))
    session.rollback()
    for turn in range(5):
        session.begin()
        for key in range(100, 300):
            session.insert("t", (key, turn, ""))
        session.rollback()
    for key in range(60):
        session.insert("t", (key, 2, ""))
    assert [row[:2] for row in session.scan("t")] == [(key, 2) for key in range(60)]
    assert all(len(entries(rig, key)) == 1 for key in range(60))
