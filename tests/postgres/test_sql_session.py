"""A workload asks the same of a session over SQL as of a backend's own, and is told the same.

What could go wrong: a COMMIT that the server turned into a ROLLBACK, taken for an acknowledgement; a row that is not
there, updated without a word; bytes, exact numbers or moments that come back as something else; an error whose SQLSTATE
gets lost; a scan that ends early because the caller asks for another row meanwhile.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from chaos.people import setup_arguments
from chaos.sql_session import SqlSession, open_session
from chaos.targets.postgres import PostgresTarget
from chaos.targets.postgres_programs import find_programs
from workloads.registry import WORKLOADS
from workloads.session import REPEATABLE_READ, TRANSACTION_ROLLBACK, WorkloadError, sqlstate_of
from workloads.worker import run_unrecorded
from workloads.workload import REFUSED, ROLLBACK_KIND

pytestmark = pytest.mark.live

Open = Callable[[], SqlSession]


@pytest.fixture(scope="module")
def conninfo() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="cb-test-") as directory:
        place = Path(directory)
        target = PostgresTarget(place / "pgdata", programs=find_programs(), options={}, log=place / "server.log")
        try:
            target.make_data_directory(target.data_directory)
            target.start()
            target.wait_ready()
            yield target.conninfo
            assert target.stop() == 0
        finally:
            target.close()


@pytest.fixture
def sessions(conninfo: str) -> Iterator[Open]:
    opened: list[SqlSession] = []

    def open_one() -> SqlSession:
        opened.append(open_session(conninfo))
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()


def fresh(session: SqlSession, name: str) -> SqlSession:
    session.create_table(name, [("id", "bigint"), ("value", "bigint")], "id")
    return session


def test_rows_are_typed_and_exact(sessions: Open) -> None:
    columns = ("bool", "integer", "bigint", "double precision", "text", "bytea", "numeric", "timestamptz")
    session = sessions()
    session.create_table("typed", [(f"c{n}", kind) for n, kind in enumerate(columns)], "c2")
    moment = datetime(2026, 11, 25, 16, 46, 2, 883000, UTC)
    row = (True, -7, 1 << 62, 0.1, "it's \\ %s", b"\x00\xff'", Decimal("1.500"), moment)
    session.insert("typed", row)
    empty = (None, None, -1, None, None, None, None, None)
    session.insert("typed", empty)
    assert session.get("typed", 1 << 62) == row
    assert list(sessions().scan("typed")) == [empty, row]


def test_what_is_not_there_is_told(sessions: Open) -> None:
    session = fresh(sessions(), "absent")
    assert session.get("absent", 1) is None
    assert session.update("absent", 1, (1, 5)) is False
    assert session.delete("absent", 1) is False
    session.insert("absent", (1, 5))
    assert session.update("absent", 1, (2, 6)) is True
    assert session.get("absent", 2, for_update=True) == (2, 6)
    assert session.delete("absent", 2) is True


def test_a_scan_is_in_key_order_and_bears_other_questions_meanwhile(sessions: Open) -> None:
    session = fresh(sessions(), "scanned")
    for key in (3, 1, 2):
        session.insert("scanned", (key, key * 10))
    assert [(key, session.get("scanned", key)) for key, _ in session.scan("scanned", 1)] == [(2, (2, 20)), (3, (3, 30))]
    assert [row[0] for row in session.scan("scanned", limit=2)] == [1, 2]


def test_a_commit_of_a_failed_transaction_is_none(sessions: Open) -> None:
    session = fresh(sessions(), "failed")
    session.insert("failed", (1, 1))
    session.begin()
    session.insert("failed", (2, 2))
    with pytest.raises(psycopg.Error) as caught:
        session.insert("failed", (1, 1))
    assert sqlstate_of(caught.value) == "23505"
    assert session.in_transaction
    assert session.commit() is False
    assert not session.in_transaction
    assert [row[0] for row in session.scan("failed")] == [1]


def test_a_row_that_changed_since_the_snapshot_is_a_serialization_failure(sessions: Open) -> None:
    one, other = fresh(sessions(), "contended"), sessions()
    one.insert("contended", (1, 1))
    one.begin(REPEATABLE_READ)
    assert one.get("contended", 1) == (1, 1)
    other.update("contended", 1, (1, 2))
    with pytest.raises(psycopg.Error) as caught:
        one.update("contended", 1, (1, 3))
    assert sqlstate_of(caught.value) == "40001"
    one.rollback()
    assert one.get("contended", 1) == (1, 2)


def test_a_lost_connection_has_no_sqlstate_that_proves_anything(sessions: Open) -> None:
    session, killer = fresh(sessions(), "lost"), sessions()
    session.begin()
    killer._cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (session.backend_pid,))
    with pytest.raises(psycopg.Error) as caught:
        session.insert("lost", (1, 1))
    assert sqlstate_of(caught.value) in (None, "57P01")


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_a_workload_runs_over_it_and_holds(sessions: Open, name: str) -> None:
    workload, session = WORKLOADS[name], sessions()
    set_up: Callable[..., None] = workload.setup
    set_up(session, **setup_arguments(name, 5))
    committed = set()
    for request in workload.requests(0, 0, 60, seed=5):
        try:
            run_unrecorded(workload.perform, session, request)
        except (WorkloadError, psycopg.Error) as error:
            expected = request.values.get(REFUSED, TRANSACTION_ROLLBACK)
            assert sqlstate_of(error) == expected and (REFUSED in request.values or request.kind == ROLLBACK_KIND)
        else:
            committed.add(request.operation)
    observation = workload.observation(list(workload.observe(session, -1)), -1, None)
    assert workload.invariant(observation) == []
    assert set(workload.fates([], observation)) <= committed
    assert len(committed) > 40
