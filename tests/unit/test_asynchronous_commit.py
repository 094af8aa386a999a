"""synchronous_commit off: a commit that does not wait, what a crash may take of it, and what it must not.

What could go wrong: a commit that waits all the same; one that the WAL writer's round does not make durable; a page
that reaches the disk with a hint "committed" whose commit record does not, so that a row comes back of a transaction
that the crash had undone, while its other rows do not; a crash that loses the earlier of two commits and keeps the
later one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.session.session import Session
from tests.support.engine_rig import SMALL, Rig


def make(directory: Path, *, synchronous: bool) -> tuple[Rig, Session]:
    # With images of whole pages in the log, redo would wipe out what this is about: a hint that got out too early.
    rig = Rig(directory, SMALL.replace(synchronous_commit=synchronous, full_page_writes=False))
    rig.start()
    session = rig.session()
    session.create_table("t", [("id", "integer"), ("v", "text")], "id")
    rig.engines[0].wal.write_background()
    return rig, session


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig, _ = make(tmp_path, synchronous=False)
    yield rig
    rig.crash()


def rows(session: Session) -> list[int]:
    return [int(str(row[0])) for row in session.scan("t")]


def test_a_commit_is_seen_by_others_before_it_is_on_disk(rig: Rig) -> None:
    session, other, wal = rig.session(), rig.session(), rig.engines[0].wal
    flushed = wal.flushed_lsn()
    session.insert("t", (1, ""))
    assert wal.flushed_lsn() == flushed, "the commit waited for a flush"
    assert other.get("t", 1) == (1, "")


def test_with_the_setting_on_it_is_on_disk_first(tmp_path: Path) -> None:
    rig, session = make(tmp_path, synchronous=True)
    session.insert("t", (1, ""))
    assert rig.engines[0].wal.flushed_lsn() == rig.engines[0].wal.insert_lsn()
    rig.crash()


def test_a_crash_takes_what_came_after_the_wal_writers_last_round_and_nothing_else(rig: Rig) -> None:
    session = rig.session()
    for key in range(10):
        session.insert("t", (key, ""))
    rig.engines[0].wal.write_background()
    for key in range(10, 20):
        session.insert("t", (key, ""))
    rig.restart()
    assert rows(rig.session()) == list(range(10))


def test_no_page_says_of_a_transaction_that_it_committed_before_its_record_is_on_disk(rig: Rig) -> None:
    """The change is flushed, the commit is not, a reader leaves its hint, and the page is written out."""
    session, other = rig.session(), rig.session()
    session.begin()
    session.insert("t", (1, ""))
    xid = rig.engines[1].transaction.xid
    rig.engines[0].wal.write_background()
    session.commit()
    assert other.get("t", 1) == (1, "")
    # This page alone: a checkpoint would write the commit log's page too, and flush the record for its sake.
    writer = rig.engines[0]
    table = writer.tables.find("t")
    buffer = writer.pool.lock(table.heap, 0)
    writer.pool._write_back.write(buffer)
    writer.pool.unlock(buffer)
    rig.restart()
    engine = rig.engine()
    seen = Session(engine).get("t", 1) is not None
    assert seen == engine.clog.committed(xid), "the row's hint and the commit log contradict each other"
