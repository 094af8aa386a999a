"""Transaction numbers on their circle, and what a snapshot sees.

What could go wrong: a number that is older and compares as newer once the circle has closed; a transaction that ends
while a snapshot is taken and is seen by half; a horizon that is too new, so that a version is pruned that somebody
still needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.engine.transam.xid import (
    FIRST_NORMAL_XID,
    FROZEN_XID,
    HALF,
    STOP_MARGIN,
    XID_MASK,
    advance,
    distance,
    newer,
    precedes,
    retreat,
)
from supervisor.errors import ServerError
from tests.support.engine_rig import Rig

XIDS = st.integers(FIRST_NORMAL_XID, XID_MASK)


@given(XIDS, st.integers(1, HALF - 1))
def test_what_comes_within_half_the_circle_is_newer(xid: int, ahead: int) -> None:
    later = (xid + ahead) & XID_MASK
    if later >= FIRST_NORMAL_XID:
        assert precedes(xid, later) and not precedes(later, xid)
        assert newer(xid, later) == newer(later, xid) == later
        assert distance(xid, later) == ahead


@given(XIDS)
def test_neighbours(xid: int) -> None:
    assert precedes(xid, advance(xid)) and retreat(advance(xid)) == xid
    assert precedes(FROZEN_XID, xid) and not precedes(xid, FROZEN_XID)
    assert advance(XID_MASK) == FIRST_NORMAL_XID


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.start()
    yield rig
    rig.crash()


def test_a_snapshot_sees_what_had_ended(rig: Rig) -> None:
    a, b, c = rig.engine(), rig.engine(), rig.engine()
    first = a.transaction.ensure_xid()
    second = b.transaction.ensure_xid()
    snapshot = c.running.snapshot()
    assert snapshot.sees_as_running(first) and snapshot.sees_as_running(second)
    b.commit()
    assert c.running.snapshot().sees_as_running(first)
    assert not c.running.snapshot().sees_as_running(second)
    assert snapshot.sees_as_running(second)
    assert c.running.snapshot().sees_as_running(advance(second))


def test_a_snapshot_is_used_again_while_nothing_ends(rig: Rig) -> None:
    a, b = rig.engine(), rig.engine()
    one = a.running.snapshot()
    b.transaction.ensure_xid()
    assert a.running.snapshot() is one
    b.abort()
    assert a.running.snapshot() is not one


def test_the_horizon_is_held_by_numbers_and_by_snapshots(rig: Rig) -> None:
    a, b, c = rig.engine(), rig.engine(), rig.engine()
    first = a.transaction.ensure_xid()
    assert c.running.horizon() == first
    snapshot = b.running.snapshot()
    a.commit()
    assert snapshot.xmin == first and c.running.horizon() == first
    b.running.release_snapshot()
    assert c.running.horizon() == advance(first)


def test_numbers_go_round_the_circle(rig: Rig) -> None:
    session = rig.session()
    # As if four thousand million transactions had come and gone.
    rig.engines[0].running.start(XID_MASK - 3, XID_MASK - 10_000, 100)
    session.create_table("t", [("id", "integer"), ("n", "integer")], "id")
    session.insert("t", (1, 0))
    other = rig.session()
    for i in range(10):
        session.begin()
        assert session.update("t", 2, (2, i)) or session.insert("t", (2, i)) is None
        if i:
            assert other.get("t", 2) == (2, i - 1)
        session.commit()
        assert other.get("t", 2) == (2, i)
    assert rig.engines[0].running.counters()[0] < 20
    rig.checkpoint()
    session.update("t", 2, (2, 99))
    rig.restart()
    assert rig.session().get("t", 2) == (2, 99)
    assert rig.engines[0].running.counters()[0] < 30


def test_no_number_is_given_out_near_wraparound(rig: Rig) -> None:
    session = rig.session()
    session.create_table("t", [("id", "integer")], "id")
    rig.engines[0].running.start(100, (100 - HALF + STOP_MARGIN - 1) & XID_MASK, 100)
    with pytest.raises(ServerError) as caught:
        session.insert("t", (1,))
    assert caught.value.sqlstate == "54000"
    assert rig.engines[0].attachment.locks.held == []


def test_the_commit_log_grows_page_by_page(rig: Rig) -> None:
    session = rig.session()
    session.create_table("t", [("id", "integer")], "id")
    engine = rig.engines[0]
    for number in (40_000, 100_000, 32_639, 32_640):
        engine.running.start(number, FIRST_NORMAL_XID, 100)
        session.insert("t", (number,))
        rig.engine().clog.committed(number)
        assert engine.clog.status(number).name == "COMMITTED"
        assert engine.clog.status(number + 1).name == "IN_PROGRESS"
    rig.restart()
    assert [row[0] for row in rig.session().scan("t")] == [32_639, 32_640, 40_000, 100_000]
