"""psycopg 3 against a live server: what the harness itself uses, and the extended protocol as a driver speaks it.

What could go wrong: after five executions psycopg prepares a statement by itself, and a server that serves only
simple queries fails on the sixth; parameters come as binary int2 or int8 by their value and not by the procedure's
types; an error comes without the SQLSTATE by which a workload decides what it means.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import psycopg
import pytest

from tests.conftest import MakeServer
from tests.support.server import LiveServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

Session = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def session(server: LiveServer) -> Iterator[Session]:
    with server.connect() as connection:
        connection.execute("CALL bank_setup(accounts => 10, initial => 100)")
        yield connection


def test_a_call_returns_its_rows_with_their_types(session: Session) -> None:
    cursor = session.execute("CALL bank(worker => 1, first => 1, transactions => 3, seed => 5)")
    assert cursor.statusmessage == "CALL"
    assert cursor.description is not None
    assert [(column.name, column.type_code) for column in cursor.description] == [("committed", 20), ("failed", 20)]
    committed, failed = cursor.fetchall()[0]
    assert (committed, failed) >= (0, 0)
    observed = session.execute("CALL bank_observe()").fetchall()
    assert observed


def test_the_sixth_execution_is_a_prepared_one(session: Session) -> None:
    pids = {session.execute("SELECT pg_backend_pid()").fetchone() for _ in range(12)}
    assert pids == {(session.info.backend_pid,)}


@pytest.mark.parametrize("first", [1, 70_000, 2**40])
def test_parameters_fit_the_procedure_whatever_size_they_come_in(session: Session, first: int) -> None:
    for number in range(7):
        session.execute(
            "CALL bank(worker => %s, first => %s, transactions => %s, seed => %s, history => %s)",
            (2, first + number, 1, -5, True),
        )


def test_binary_results_are_read_back(session: Session) -> None:
    cursor = session.execute("SELECT pg_backend_pid()", binary=True)
    assert cursor.fetchone() == (session.info.backend_pid,)


@pytest.mark.parametrize("binary", [False, True])
def test_numbers_and_moments_are_sent_and_read_back_in_both_formats(make_server: MakeServer, binary: bool) -> None:
    server = make_server({"shared_preload_libraries": "tests.support.typed_procedures"}).start()
    placeholder = "%b" if binary else "%t"
    statement = f"CALL exact_keep(at => {placeholder}, amount => {placeholder})"
    noon = datetime(2026, 6, 1, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=2)))
    with server.connect() as session:
        session.execute("CALL exact_setup()")
        for minute, amount in enumerate(("-12.500", "0.004", "1E+7", "NaN", None)):
            number = None if amount is None else Decimal(amount)
            values = (noon + timedelta(minutes=minute), number)
            cursor = session.execute(statement, values, binary=binary)  # type: ignore[call-overload]
        assert [column.type_code for column in cursor.description] == [1184, 1700, 1700]
        rows = cursor.fetchall()
        assert [row[0] for row in rows] == [noon + timedelta(minutes=minute) for minute in range(5)]
        assert {row[0].utcoffset() for row in rows} == {timedelta(0)}
        assert [str(row[1]) for row in rows] == ["-12.500", "0.004", "10000000", "NaN", "None"]
        assert [str(row[2]) for row in rows] == ["-12.50", "0.00", "10000000.00", "NaN", "None"]
        with pytest.raises(psycopg.errors.NumericValueOutOfRange, match="numeric field overflow"):
            session.execute(statement, (datetime.now(UTC), Decimal(10**8)))  # type: ignore[call-overload]
        literal = session.execute("CALL exact_keep('1999-12-31 23:59:59.25-01', -0.0050)").fetchall()[0]
    assert (str(literal[0]), str(literal[1])) == ("2000-01-01 00:59:59.250000+00:00", "-0.0050")


def test_statements_in_a_pipeline_are_answered_in_order_and_fail_together(session: Session) -> None:
    with session.pipeline():
        port, pid = session.execute("SHOW port"), session.execute("SELECT pg_backend_pid()")
    assert (port.fetchone(), pid.fetchone()) == (("5432",), (session.info.backend_pid,))
    with pytest.raises(psycopg.errors.UndefinedObject), session.pipeline():
        session.execute("SHOW nosuch")
        session.execute("SHOW port")
    assert session.execute("SHOW port").fetchone() == ("5432",)


@pytest.mark.parametrize(
    ("statement", "values", "error"),
    [
        ("CALL nosuch()", None, psycopg.errors.UndefinedFunction),
        ("CALL bank_setup(accounts => %s)", ("x",), psycopg.errors.InvalidTextRepresentation),
        ("CALL bank_setup(accounts => %s)", (2**40,), psycopg.errors.NumericValueOutOfRange),
        ("CALL bank_setup(accounts => %s)", (None,), psycopg.errors.NullValueNotAllowed),
        ("CALL bank_setup(accounts => 1.5)", None, psycopg.errors.DatatypeMismatch),
        ("CALL", None, psycopg.errors.SyntaxError),
        ("SELECT 1", None, psycopg.errors.FeatureNotSupported),
    ],
)
def test_errors_have_their_class_and_the_session_goes_on(
    session: Session, statement: str, values: tuple[object, ...] | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        session.execute(statement, values)  # type: ignore[call-overload]
    assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert session.execute("SHOW port").fetchone() == ("5432",)


def test_transaction_blocks_are_refused_with_the_way_out(server: LiveServer) -> None:
    with psycopg.connect(server.target.conninfo) as connection:
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="Connect with autocommit"):
            connection.execute("SHOW port")
        connection.rollback()


def test_a_running_call_can_be_cancelled_and_what_it_committed_stays(server: LiveServer, session: Session) -> None:
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            session.execute("CALL bank(worker => 3, first => 1, transactions => 1000000, seed => 1)")
        except psycopg.Error as error:
            outcome.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        # It is forgotten while nothing runs, so first something must.
        history = server.history
        wait_until("the call to have begun", lambda: any(path.stat().st_size for path in history.iterdir()))
        session.cancel()
    finally:
        worker.join(20)
    assert isinstance(outcome[0], psycopg.errors.QueryCanceled)
    assert str(outcome[0]) == "canceling statement due to user request"
    assert session.execute("CALL bank_observe()").fetchall()


def test_a_cancel_while_nothing_runs_is_forgotten(session: Session) -> None:
    os.kill(session.info.backend_pid, signal.SIGINT)
    assert session.execute("SHOW port").fetchone() == ("5432",)
    session.cancel_safe()
    assert session.execute("SHOW port").fetchone() == ("5432",)


def test_the_limit_of_connections_is_told_and_a_place_becomes_free(server: LiveServer) -> None:
    sessions = [server.connect() for _ in range(20)]
    with pytest.raises(psycopg.OperationalError, match="sorry, too many clients already"):
        server.connect()
    sessions.pop().close()

    def connected() -> bool:
        try:
            sessions.append(server.connect())
        except psycopg.OperationalError:
            return False
        return True

    wait_until("a place to become free", connected)
    for connection in sessions:
        connection.close()
