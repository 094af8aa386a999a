"""The loop that performs requests one transaction each, and writes down what was asked and told.

Owns the meaning of an answer: when an operation is ok, when it has certainly failed, when nobody can tell.
Every workload that runs inside a backend runs through here, so that histories mean the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from workloads.history import HistoryWriter
from workloads.session import (
    IN_FAILED_SQL_TRANSACTION,
    RETRIABLE,
    TRANSACTION_ROLLBACK,
    Session,
    WorkloadError,
    ends_session,
    sqlstate_of,
    surely_aborted,
)
from workloads.workload import ISOLATION, REFUSED, ROLLBACK_KIND, Request

Perform = Callable[[Session, Request], Any]
"""`Workload.perform`."""


class Tally(NamedTuple):
    """How many requests a worker saw committed, and how many it saw fail."""

    committed: int
    failed: int


def run_requests(
    perform: Perform,
    session: Session,
    requests: Iterable[Request],
    history: HistoryWriter,
    check_interrupts: Callable[[], None],
) -> Tally:
    """Perform each request in a transaction of its own and record its invoke and its answer.

    A request that ends in a retriable error (40001, 40P01, 55P03) or the one it was made to end in (`REFUSED`), or was
    to be rolled back, has failed, and the next one follows. Any other orderly error is recorded and raised: hiding it would hide a finding. An
    error without a SQLSTATE, and one that ends the session, is raised with nothing recorded: this process
    cannot say more than its silence does.
    """
    committed = failed = 0
    for request in requests:
        check_interrupts()
        history.invoke(request)
        committing = False
        try:
            _begin(session, request)
            read = perform(session, request)
            if request.kind == ROLLBACK_KIND:
                session.rollback()
                history.fail(request, TRANSACTION_ROLLBACK)
                failed += 1
                continue
            committing = True
            _commit(session)
        except Exception as error:
            sqlstate = sqlstate_of(error)
            if sqlstate is None or ends_session(sqlstate):
                raise
            if session.in_transaction:
                session.rollback()
            if committing and not surely_aborted(sqlstate):
                history.unknown(request, sqlstate)
                raise
            history.fail(request, sqlstate)
            failed += 1
            if sqlstate not in RETRIABLE and sqlstate != request.values.get(REFUSED):
                raise
        else:
            history.ok(request, read)
            committed += 1
    return Tally(committed, failed)


def _begin(session: Session, request: Request) -> None:
    """Begin at the level that the request asks for, if it asks for one."""
    isolation = request.values.get(ISOLATION)
    if isolation is None:
        session.begin()
    else:
        session.begin(isolation)


def _commit(session: Session) -> None:
    """Commit, and take a COMMIT that rolled back for the failure it is: its answer is no acknowledgement."""
    if session.commit() is False:
        raise WorkloadError("the transaction had failed and was rolled back", sqlstate=IN_FAILED_SQL_TRANSACTION)


def run_unrecorded(perform: Perform, session: Session, request: Request) -> Any:
    """Perform one request for a client that keeps its own history: the statement's end is the answer.

    Returns what was read.

    So every failure is raised, a rollback on purpose among them (40000): only a commit ends the statement
    without an error. `record_answer` reads the error.
    """
    _begin(session, request)
    try:
        read = perform(session, request)
        if request.kind == ROLLBACK_KIND:
            raise WorkloadError("the request asked to be rolled back", sqlstate=TRANSACTION_ROLLBACK)
        _commit(session)
    except Exception as error:
        sqlstate = sqlstate_of(error)
        if sqlstate is not None and not ends_session(sqlstate) and session.in_transaction:
            session.rollback()
        raise
    return read


def record_answer(history: HistoryWriter, request: Request, error: BaseException | None, read: Any = None) -> None:
    """Record what a client was told of a request that it sent as one statement.

    The client cannot see whether an error came before COMMIT or from it, so only what proves a rollback in
    either case is a failure; everything else (no SQLSTATE, a lost connection, an internal error) is unknown.
    `read` is what the statement said that it read.
    """
    if error is None:
        history.ok(request, read)
        return
    sqlstate = sqlstate_of(error)
    if sqlstate is not None and surely_aborted(sqlstate):
        history.fail(request, sqlstate)
    else:
        history.unknown(request, sqlstate)
