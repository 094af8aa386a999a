"""REPEATABLE READ: one snapshot for a whole transaction, and 40001 where READ COMMITTED would go on.

What could go wrong: a statement that sees what committed after the transaction's first one; a version pruned that
the old snapshot still needs; an update built on a version that the transaction has never seen (a lost update), also
when it was waited for; a snapshot that outlives its transaction and holds pruning back for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.errors import ServerError
from supervisor.points import Point
from supervisor.session.session import Session
from tests.support.engine_rig import SMALL, Rig

RR = "repeatable read"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, SMALL.replace(lock_timeout=50))
    rig.start()
    yield rig
    rig.crash()


@pytest.fixture
def other(rig: Rig) -> Session:
    """The session that changes things meanwhile. Row 1 of table t has the value 0."""
    session = rig.session()
    session.create_table("t", [("id", "integer"), ("v", "integer"), ("pad", "text")], "id")
    session.insert("t", (1, 0, ""))
    return session


@pytest.fixture
def session(rig: Rig, other: Session) -> Session:
    """The session whose isolation is tested."""
    return rig.session()


def refused(sqlstate: str, call: Callable[[], object]) -> ServerError:
    with pytest.raises(ServerError) as caught:
        call()
    assert caught.value.sqlstate == sqlstate, caught.value
    return caught.value


def while_waiting(rig: Rig, action: Callable[[], object]) -> None:
    """Have `action` done when the next wait for a row begins, as another process would."""

    def passed(point: Point) -> None:
        if point is Point.ROW_LOCK_WAIT:
            rig.point = lambda _: None
            action()

    rig.point = passed


def test_the_first_statement_takes_the_snapshot_and_not_begin(session: Session, other: Session) -> None:
    session.begin(RR)
    other.update("t", 1, (1, 1, ""))
    assert session.get("t", 1) == (1, 1, "")
    other.update("t", 1, (1, 2, ""))
    other.insert("t", (2, 0, ""))
    assert session.get("t", 1) == (1, 1, "")
    assert session.get("t", 2) is None and session.get("t", 2, for_update=True) is None
    assert list(session.scan("t")) == [(1, 1, "")]
    session.commit()
    assert list(session.scan("t")) == [(1, 2, ""), (2, 0, "")]


def test_read_committed_stays_the_default(session: Session, other: Session) -> None:
    session.begin()
    assert session.get("t", 1) == (1, 0, "")
    other.update("t", 1, (1, 1, ""))
    assert session.get("t", 1) == (1, 1, "")
    assert session.update("t", 1, (1, 2, "")) is True
    session.commit()


def test_an_insert_is_a_first_statement_too(session: Session, other: Session) -> None:
    session.begin(RR)
    session.insert("t", (10, 0, ""))
    other.update("t", 1, (1, 1, ""))
    assert list(session.scan("t")) == [(1, 0, ""), (10, 0, "")]
    session.commit()


def test_its_own_changes_are_seen(session: Session, other: Session) -> None:
    session.begin(RR)
    assert session.update("t", 1, (1, 5, "")) and session.get("t", 1) == (1, 5, "")
    assert session.update("t", 1, (1, 6, "")) and session.get("t", 1) == (1, 6, "")
    assert session.delete("t", 1) and session.get("t", 1) is None
    session.insert("t", (1, 7, ""))
    assert session.commit()
    assert other.get("t", 1) == (1, 7, "")


CHANGES: list[tuple[str, Callable[[Session], object]]] = [
    ("update", lambda session: session.update("t", 1, (1, 9, ""))),
    ("delete", lambda session: session.delete("t", 1)),
    ("lock", lambda session: session.get("t", 1, for_update=True)),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
@pytest.mark.parametrize("waits", [False, True], ids=["already-committed", "waited-for"])
@pytest.mark.parametrize("pad", ["", "x" * 6000], ids=["same-page", "moved"])
def test_a_row_updated_since_is_40001(
    rig: Rig, session: Session, other: Session, name: str, change: Callable[[Session], object], waits: bool, pad: str
) -> None:
    other.insert("t", (2, 0, "x" * 3000))
    session.begin(RR)
    assert session.get("t", 1) == (1, 0, "")
    other.begin()
    other.update("t", 1, (1, 1, pad))
    if waits:
        while_waiting(rig, other.commit)
    else:
        other.commit()
    error = refused("40001", lambda: change(session))
    assert error.message == "could not serialize access due to concurrent update"
    assert session.failed
    session.rollback()
    assert other.get("t", 1) == (1, 1, pad)
    # Tried again from its beginning it succeeds.
    session.begin(RR)
    assert change(session)
    assert session.commit()


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
@pytest.mark.parametrize("waits", [False, True], ids=["already-committed", "waited-for"])
def test_a_row_deleted_since_is_40001(
    rig: Rig, session: Session, other: Session, name: str, change: Callable[[Session], object], waits: bool
) -> None:
    session.begin(RR)
    assert session.get("t", 1) == (1, 0, "")
    other.begin()
    other.delete("t", 1)
    if waits:
        while_waiting(rig, other.commit)
    else:
        other.commit()
    error = refused("40001", lambda: change(session))
    # PostgreSQL's SELECT FOR UPDATE says "update" of both (`ExecLockRows`).
    kind = "update" if name == "lock" else "delete"
    assert error.message == f"could not serialize access due to concurrent {kind}"


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
def test_a_change_that_was_rolled_back_or_a_mere_lock_is_no_reason(
    rig: Rig, session: Session, other: Session, name: str, change: Callable[[Session], object]
) -> None:
    session.begin(RR)
    assert session.get("t", 1) == (1, 0, "")
    other.begin()
    other.update("t", 1, (1, 1, ""))
    while_waiting(rig, other.rollback)
    assert change(session)
    session.rollback()
    session.begin(RR)
    assert session.get("t", 1) == (1, 0, "")
    other.begin()
    other.get("t", 1, for_update=True)
    while_waiting(rig, other.commit)
    assert change(session)
    assert session.commit()


def test_a_duplicate_key_stays_23505_though_it_is_not_seen(session: Session, other: Session) -> None:
    session.begin(RR)
    assert session.get("t", 2) is None
    other.insert("t", (2, 0, ""))
    assert session.get("t", 2) is None
    refused("23505", lambda: session.insert("t", (2, 1, "")))


def test_a_key_that_was_freed_since_is_not_given_to_a_second_row(session: Session, other: Session) -> None:
    """Its snapshot sees the old row for as long as it lives: with a new one it would see two rows of one key."""
    session.begin(RR)
    assert session.get("t", 1) == (1, 0, "")
    other.delete("t", 1)
    error = refused("40001", lambda: session.insert("t", (1, 5, "")))
    assert error.message == "could not serialize access due to concurrent delete"
    session.rollback()
    assert list(session.scan("t")) == []


def test_a_table_made_since_is_found_and_seems_empty(session: Session, other: Session) -> None:
    """Tables are looked up as they are now, as in PostgreSQL: only rows are seen by the snapshot."""
    session.begin(RR)
    assert session.get("t", 1) is not None
    other.create_table("late", [("id", "integer")], "id")
    other.insert("late", (1,))
    assert list(session.scan("late")) == []
    refused("42P07", lambda: session.create_table("late", [("id", "integer")], "id"))


def test_pruning_waits_for_the_oldest_snapshot(rig: Rig, session: Session, other: Session) -> None:
    """Hundreds of versions go through the row's page, more than it can hold: it may lose none that is still seen."""
    for key in range(2, 20):
        other.insert("t", (key, 0, "x" * 100))
    before = list(other.scan("t"))
    session.begin(RR)
    scan = session.scan("t")
    first = next(scan)
    for turn in range(1, 30):
        for key in range(2, 20):
            other.update("t", key, (key, turn, "y" * 100))
    other.delete("t", 7)
    assert [first, *scan] == before
    assert list(session.scan("t")) == before
    assert session.get("t", 7) == (7, 0, "x" * 100)
    horizon = rig.engines[0].running.horizon()
    session.commit()
    assert rig.engines[0].running.horizon() != horizon, "the snapshot outlived its transaction"


@pytest.mark.parametrize("end", ["commit", "rollback", "error"])
def test_nothing_is_kept_after_the_end(rig: Rig, session: Session, other: Session, end: str) -> None:
    session.begin(RR)
    session.get("t", 1)
    other.update("t", 1, (1, 1, ""))
    if end == "error":
        refused("40001", lambda: session.delete("t", 1))
        session.rollback()
    else:
        getattr(session, end)()
    attachment = rig.engines[1].attachment
    assert attachment.region.q[attachment.procs.xmin + attachment.procno] == 0
    assert session.get("t", 1) == (1, 1, "")
    session.begin()
    other.update("t", 1, (1, 2, ""))
    assert session.get("t", 1) == (1, 2, ""), "a level outlived its transaction"
    session.commit()


@pytest.mark.parametrize("level", ["serializable", "REPEATABLE READ", "", "read uncommitted"])
def test_another_level_is_refused_and_nothing_is_begun(session: Session, level: str) -> None:
    error = refused("22023", lambda: session.begin(level))
    assert error.message == f'isolation level "{level}" is not supported'
    assert error.hint == "Available levels: read committed, repeatable read."
    assert not session.in_transaction and not session.failed
