"""What a session promises: transactions, values, refusals.

What could go wrong: an error that leaves half of a statement behind, a value that comes back as another one, a failed
transaction that goes on, a wait that never ends, a row changed under a reader's feet, two sessions that share more
than the bytes of their region.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from supervisor.engine.storage.page import MAX_ITEM_BYTES
from supervisor.errors import ServerError
from supervisor.session.session import Session
from tests.support.engine_rig import SMALL, Rig

COLUMNS = [
    ("id", "integer"),
    ("flag", "bool"),
    ("big", "bigint"),
    ("real", "double precision"),
    ("name", "text"),
    ("blob", "bytea"),
]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, SMALL.replace(lock_timeout=50))
    rig.start()
    yield rig
    rig.crash()


@pytest.fixture
def session(rig: Rig) -> Session:
    session = rig.session()
    session.create_table("t", COLUMNS, "id")
    return session


def refused(sqlstate: str, call: object, *arguments: object) -> ServerError:
    with pytest.raises(ServerError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.sqlstate == sqlstate, caught.value
    return caught.value


def test_every_type_comes_back_as_it_went_in(session: Session) -> None:
    rows = [
        (1, True, 2**63 - 1, 1.5, "", b""),
        (2, False, -(2**63), -0.0, "äöü\t\n€", bytes(range(256))),
        (-(2**31), None, None, None, None, None),
        (2**31 - 1, True, 0, math.inf, "x" * 3000, b"y" * 3000),
    ]
    for row in rows:
        session.insert("t", row)
    assert list(session.scan("t")) == sorted(rows)
    assert [session.get("t", row[0]) for row in rows] == rows
    session.insert("t", (3, None, None, math.nan, None, None))
    found = session.get("t", 3)
    assert found is not None and isinstance(found[3], float) and math.isnan(found[3])


def test_an_integer_is_stored_as_a_double_where_the_column_is_one(session: Session) -> None:
    session.insert("t", (1, None, None, 7, None, None))
    assert session.get("t", 1) == (1, None, None, 7.0, None, None)


def test_numbers_and_moments_come_back_after_a_crash_as_exact_as_they_were(rig: Rig, session: Session) -> None:
    columns = [("id", "integer"), ("amount", "numeric"), ("price", "numeric(5, 2)"), ("at", "timestamptz")]
    session.create_table("exact", columns, "id")
    noon = datetime(2026, 6, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    session.insert("exact", (1, Decimal("-100.50"), Decimal("1.005"), noon))
    session.insert("exact", (2, Decimal("0.000"), Decimal("-1.005"), datetime(1, 1, 1, tzinfo=UTC)))
    session.insert("exact", (3, None, None, None))
    session.insert("exact", (4, 10**40, Decimal("NaN"), datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)))
    session.insert("exact", (5, Decimal("-Infinity"), 7, noon))
    rig.restart()
    rows = list(rig.session().scan("exact"))
    shown = [tuple(None if value is None else str(value) for value in row[1:]) for row in rows]
    assert shown == [
        ("-100.50", "1.01", "2026-06-01 10:00:00+00:00"),
        ("0.000", "-1.01", "0001-01-01 00:00:00+00:00"),
        (None, None, None),
        (str(10**40), "NaN", "9999-12-31 23:59:59.999999+00:00"),
        ("-Infinity", "7.00", "2026-06-01 10:00:00+00:00"),
    ]


@pytest.mark.parametrize(
    ("type_name", "value", "sqlstate"),
    [
        ("numeric", 1.5, "42804"),
        ("numeric", True, "42804"),
        ("numeric", Decimal("1E+131072"), "22003"),
        ("numeric", Decimal("1E-16384"), "22003"),
        ("numeric", Decimal("1." + "1" * 16_383), "54000"),
        ("numeric(3)", Decimal("999.5"), "22003"),
        ("numeric(3,-2)", Decimal(99_950), "22003"),
        ("numeric(2,4)", Decimal("0.00995"), "22003"),
        ("numeric(3)", Decimal("1E+131071"), "22003"),
        ("numeric(3)", Decimal("Infinity"), "22003"),
        ("timestamptz", datetime(2026, 1, 1), "42804"),
        ("timestamptz", "2026-01-01", "42804"),
        ("timestamptz", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "22008"),
    ],
)
def test_numbers_and_moments_that_do_not_fit_are_refused(
    session: Session, type_name: str, value: object, sqlstate: str
) -> None:
    session.create_table("exact", [("id", "integer"), ("v", type_name)], "id")
    refused(sqlstate, session.insert, "exact", (1, value))
    assert list(session.scan("exact")) == []


@pytest.mark.parametrize(
    ("row", "sqlstate"),
    [
        ((None, None, None, None, None, None), "23502"),
        ((2**31, None, None, None, None, None), "22003"),
        ((2, None, 2**63, None, None, None), "22003"),
        ((2, None, None, 10**400, None, None), "22003"),
        (("2", None, None, None, None, None), "42804"),
        ((True, None, None, None, None, None), "42804"),
        ((2, 1, None, None, None, None), "42804"),
        ((2, None, 1.0, None, None, None), "42804"),
        ((2, None, None, "1", None, None), "42804"),
        ((2, None, None, None, b"x", None), "42804"),
        ((2, None, None, None, None, "x"), "42804"),
        ((2, None, None, None, "a\0b", None), "22021"),
        ((2, None, None, None, "\ud800", None), "22021"),
        ((2, None, None, None, "x" * MAX_ITEM_BYTES, None), "54000"),
        ((2, None, None, None, "x" * 70_000, None), "54000"),
        ((2, None), "42601"),
        ((1, None, None, None, None, None), "23505"),
    ],
)
def test_wrong_rows_are_refused_and_leave_nothing(session: Session, row: tuple[object, ...], sqlstate: str) -> None:
    session.insert("t", (1, None, None, None, "one", None))
    before = list(session.scan("t"))
    refused(sqlstate, session.insert, "t", row)
    if sqlstate != "23505":
        refused(sqlstate, session.update, "t", 1, row)
    assert list(session.scan("t")) == before


def test_an_error_undoes_the_transaction_and_closes_it_to_all_but_its_end(session: Session) -> None:
    session.begin()
    session.insert("t", (1, None, None, None, None, None))
    refused("23505", session.insert, "t", (1, None, None, None, None, None))
    assert session.in_transaction and session.failed
    refused("25P02", session.get, "t", 1)
    refused("25P02", session.insert, "t", (2, None, None, None, None, None))
    refused("25P02", session.begin)
    assert session.commit() is False
    assert not session.in_transaction
    assert list(session.scan("t")) == []


def test_blocks_open_and_close_once(session: Session) -> None:
    refused("25P01", session.commit)
    session.rollback()
    session.begin()
    refused("25001", session.begin)
    assert session.commit() is True


def test_tables_that_are_and_are_not(rig: Rig, session: Session) -> None:
    refused("42P01", session.get, "nowhere", 1)
    refused("42P07", session.create_table, "t", COLUMNS, "id")
    refused("42704", session.create_table, "u", [("id", "serial")], "id")
    refused("42704", session.create_table, "u", [("id", "numeric(2,)")], "id")
    refused("22023", session.create_table, "u", [("id", "numeric(0)")], "id")
    refused("22023", session.create_table, "u", [("id", "numeric(5,1001)")], "id")
    refused("42703", session.create_table, "u", [("id", "integer")], "key")
    refused("42701", session.create_table, "u", [("id", "integer"), ("id", "text")], "id")
    refused("42602", session.create_table, "", [("id", "integer")], "id")
    session.begin()
    session.create_table("u", [("id", "integer")], "id")
    session.insert("u", (1,))
    refused("42P01", rig.session().get, "u", 1)
    session.rollback()
    refused("42P01", session.get, "u", 1)
    session.create_table("u", [("id", "text")], "id")
    assert rig.session().get("u", "one") is None


def test_a_table_of_a_transaction_that_a_crash_cut_off_is_not_there(rig: Rig, session: Session) -> None:
    session.begin()
    session.create_table("u", [("id", "integer")], "id")
    rig.restart()
    again = rig.session()
    refused("42P01", again.get, "u", 1)
    again.create_table("u", [("id", "text")], "id")
    again.insert("u", ("a",))
    rig.restart()
    assert list(rig.session().scan("u")) == [("a",)]


@pytest.mark.parametrize(
    ("type_name", "keys"),
    [
        ("bool", [False, True]),
        ("bigint", [-(2**63), -1, 0, 7, 2**63 - 1]),
        ("double precision", [-math.inf, -1.5, 0.0, 2.5, math.inf]),
        ("text", ["", "A", "B", "a", "aa", "ä", "€"]),
        ("bytea", [b"", b"\0", b"\0\0", b"\1", b"\xff"]),
        (
            "numeric",
            [*map(Decimal, ("-Infinity", "-120", "-12.03", "-12", "-0.1", "0", "0.09", "1", "10.0", "Infinity"))],
        ),
        ("timestamptz", [datetime(year, 1, 1, tzinfo=UTC) for year in (1, 1999, 2000, 2026, 9999)]),
    ],
)
def test_keys_of_every_type_are_in_order(session: Session, type_name: str, keys: list[object]) -> None:
    session.create_table("k", [("v", "integer"), ("id", type_name)], "id")
    for i, key in reversed(list(enumerate(keys))):
        session.insert("k", (i, key))  # type: ignore[arg-type]
    assert [row[1] for row in session.scan("k")] == keys
    assert [row[1] for row in session.scan("k", after=keys[0], limit=1)] == keys[1:2]  # type: ignore[arg-type]
    for i, key in enumerate(keys):
        assert session.get("k", key) == (i, key)  # type: ignore[arg-type]
    refused("23505", session.insert, "k", (0, keys[0]))
    refused("54000", session.insert, "k", (0, b"k" * 5000)) if type_name == "bytea" else None


def test_minus_zero_is_zero_and_nan_is_itself(session: Session) -> None:
    session.create_table("k", [("id", "double precision")], "id")
    session.insert("k", (-0.0,))
    refused("23505", session.insert, "k", (0.0,))
    session.insert("k", (math.nan,))
    refused("23505", session.insert, "k", (math.nan,))


def test_equal_numbers_are_one_key_whatever_their_zeros(session: Session) -> None:
    session.create_table("k", [("id", "numeric")], "id")
    session.insert("k", (Decimal("1.0"),))
    refused("23505", session.insert, "k", (Decimal("1.000"),))
    refused("23505", session.insert, "k", (1,))
    assert [str(row[0]) for row in session.scan("k")] == ["1.0"]
    session.insert("k", (Decimal("NaN"),))
    refused("23505", session.insert, "k", (Decimal("-NaN"),))
    refused("54000", session.insert, "k", (Decimal("1" * 3_000),))


def test_a_key_is_rounded_as_its_column_is_and_a_search_is_not(session: Session) -> None:
    session.create_table("k", [("id", "numeric(4,1)")], "id")
    session.insert("k", (Decimal("1.25"),))
    assert session.get("k", Decimal("1.3")) == (Decimal("1.3"),)
    assert session.get("k", Decimal("1.25")) is None
    refused("23505", session.insert, "k", (Decimal("1.34"),))
    assert session.update("k", Decimal("1.3"), (Decimal("2.05"),)) is True
    assert [row[0] for row in session.scan("k", after=2)] == [Decimal("2.1")]


def test_one_moment_is_one_key_whatever_its_zone(session: Session) -> None:
    session.create_table("k", [("id", "timestamptz")], "id")
    session.insert("k", (datetime(2026, 1, 1, 12, tzinfo=UTC),))
    refused("23505", session.insert, "k", (datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1))),))


def test_update_can_change_the_key(session: Session) -> None:
    session.create_table("k", [("id", "integer"), ("v", "text")], "id")
    session.insert("k", (1, "a"))
    session.insert("k", (2, "b"))
    assert session.update("k", 1, (3, "c")) is True
    refused("23505", session.update, "k", 2, (3, "d"))
    assert list(session.scan("k")) == [(2, "b"), (3, "c")]
    assert session.update("k", 1, (1, "x")) is False
    assert session.delete("k", 1) is False
    refused("42804", session.get, "k", "1")
    refused("23502", session.get, "k", None)
    refused("22003", session.get, "k", 2**40)


# Two sessions, two attachments, one region: they see each other only through its bytes.


def test_others_see_what_is_committed_and_nothing_else(rig: Rig, session: Session) -> None:
    other = rig.session()
    session.begin()
    session.insert("t", (1, None, 1, None, None, None))
    assert other.get("t", 1) is None
    session.commit()
    assert other.get("t", 1) is not None
    session.begin()
    session.delete("t", 1)
    assert session.get("t", 1) is None
    assert other.get("t", 1) is not None
    session.rollback()
    assert session.get("t", 1) is not None


def test_a_scan_keeps_its_snapshot(rig: Rig, session: Session) -> None:
    other = rig.session()
    for key in range(200):
        session.insert("t", (key, None, 0, None, "x" * 100, None))
    scan = other.scan("t")
    rows = [next(scan)]
    session.begin()
    for key in range(200):
        session.update("t", key, (key, None, 1, None, "y" * 150, None))
    session.insert("t", (1000, None, None, None, None, None))
    session.commit()
    rows += scan
    assert [(row[0], row[2]) for row in rows] == [(key, 0) for key in range(200)]
    assert sum(1 for row in other.scan("t") if row[2] == 1) == 200


def test_a_scan_ends_with_its_transaction(session: Session) -> None:
    for key in range(3):
        session.insert("t", (key, None, None, None, None, None))
    session.begin()
    scan = session.scan("t")
    next(scan)
    session.commit()
    refused("34000", next, scan)


def test_a_locked_row_times_out(rig: Rig, session: Session) -> None:
    other = rig.session()
    session.insert("t", (1, None, 0, None, None, None))
    session.begin()
    assert session.get("t", 1, for_update=True) is not None
    error = refused("55P03", other.get, "t", 1, True)
    assert error.message == "canceling statement due to lock timeout"
    refused("55P03", other.update, "t", 1, (1, None, 9, None, None, None))
    refused("55P03", other.delete, "t", 1)
    assert other.get("t", 1) == (1, None, 0, None, None, None)
    session.rollback()
    assert other.update("t", 1, (1, None, 9, None, None, None)) is True


def test_a_row_being_inserted_blocks_the_same_key(rig: Rig, session: Session) -> None:
    other = rig.session()
    session.begin()
    session.insert("t", (1, None, 0, None, None, None))
    refused("55P03", other.insert, "t", (1, None, 1, None, None, None))
    session.rollback()
    other.insert("t", (1, None, 1, None, None, None))
    assert session.get("t", 1) == (1, None, 1, None, None, None)


def wake_by(rig: Rig, action: object) -> None:
    """Have the next wait for a row do `action` (what another process does meanwhile)."""

    def passed(point: object) -> None:
        if getattr(point, "name", "") == "ROW_LOCK_WAIT":
            rig.point = lambda _: None
            action()  # type: ignore[operator]

    rig.point = passed


def test_a_waiter_goes_on_with_the_newest_version(rig: Rig, session: Session) -> None:
    other = rig.session()
    session.insert("t", (1, None, 0, None, None, None))
    session.begin()
    session.update("t", 1, (1, None, 5, None, None, None))
    wake_by(rig, session.commit)
    other.begin()
    assert other.get("t", 1, for_update=True) == (1, None, 5, None, None, None)
    other.commit()
    session.begin()
    session.delete("t", 1)
    wake_by(rig, session.commit)
    assert other.update("t", 1, (1, None, 6, None, None, None)) is False


def test_a_waiter_for_a_key_learns_how_it_ended(rig: Rig, session: Session) -> None:
    other = rig.session()
    session.begin()
    session.insert("t", (1, None, 0, None, None, None))
    wake_by(rig, session.commit)
    refused("23505", other.insert, "t", (1, None, 1, None, None, None))
    session.begin()
    session.delete("t", 1)
    wake_by(rig, session.commit)
    other.insert("t", (1, None, 2, None, None, None))
    session.begin()
    session.update("t", 1, (2, None, 3, None, None, None))
    wake_by(rig, session.rollback)
    assert other.get("t", 1, for_update=True) == (1, None, 2, None, None, None)


def test_a_change_between_snapshot_and_lock_begins_the_statement_again(rig: Rig, session: Session) -> None:
    """READ COMMITTED: an update adds to what was committed a moment ago, not to what its snapshot saw."""
    other = rig.session()
    session.insert("t", (1, None, 0, None, "x" * 3000, None))
    original = rig.engines[1].tables._running.snapshot

    def late() -> object:
        snapshot = original()
        rig.engines[1].tables._running.snapshot = original  # type: ignore[method-assign]
        session.update("t", 1, (1, None, 1, None, "y" * 6000, None))
        return snapshot

    rig.engines[1].tables._running.snapshot = late  # type: ignore[method-assign,assignment]
    other.begin()
    row = other.get("t", 1, for_update=True)
    assert row is not None and row[2] == 1
    other.commit()


def test_an_error_gives_back_what_it_held(rig: Rig, session: Session) -> None:
    engine = rig.engines[0]
    refused("42P01", session.get, "nowhere", 1)
    assert engine.attachment.locks.held == []
    q, procs = engine.attachment.region.q, engine.attachment.procs
    assert q[procs.xmin + engine.attachment.procno] == 0
    assert q[procs.xid + engine.attachment.procno] == 0
