"""Opens connections, sends `CALL`, and learns what became of it: the load of a cycle.

Two kinds of client. Workers live inside the server: one connection each, one `CALL bank(...)` that runs many
transactions in the backend that the connection forked, which writes its own history. The outside client sends
one operation per statement and writes its history here, before and after: its CommandComplete is the
acknowledgement. One thread drives all of them through libpq's non-blocking calls (psycopg's `pq`), so that the
harness stays small beside what it measures.

It never judges: a connection that ends tells nothing about its last operation.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

import msgspec
import psycopg
from psycopg import pq

from workloads.calls import READ_COLUMN
from workloads.history import HistoryWriter
from workloads.worker import record_answer
from workloads.workload import Request

Value = int | str | bool

CONNECT_TIMEOUT_S = 5.0


class Ended(Enum):
    """How a worker's statement ended."""

    COMPLETED = "completed"
    REFUSED = "refused"
    LOST = "lost"


class ConnectError(Exception):
    """A connection could not be opened; `sqlstate` tells why when the server said it."""

    def __init__(self, message: str, sqlstate: str | None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class CallError(Exception):
    """A statement was refused or its connection lost; known by `sqlstate` as workloads know errors."""

    def __init__(self, message: str, sqlstate: str | None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


def connect(conninfo: str) -> pq.abc.PGconn:
    """Open a connection; raises ConnectError."""
    (opened,) = connect_all(conninfo, 1)
    if isinstance(opened, ConnectError):
        raise opened
    return opened


def connect_all(conninfo: str, count: int) -> list[pq.abc.PGconn | ConnectError]:
    """Open connections side by side, in order: the server forks their backends in that order, and they start at once.

    In steps, for libpq prints the notices of a connection that it opens in one to stderr: those of survivors of a
    crash would stand in the middle of the live view.
    """
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    opened: list[pq.abc.PGconn | ConnectError] = []
    waiting: dict[int, pq.abc.PGconn] = {}
    try:
        for number in range(count):
            waiting[number] = pq.PGconn.connect_start(conninfo.encode())
            opened.append(waiting[number])
        ready = list(waiting)
        events: dict[int, int] = {}
        while True:
            for number in ready:
                connection = waiting[number]
                state = _step(connection)
                if state in (pq.PollingStatus.READING, pq.PollingStatus.WRITING):
                    events[number] = select.POLLIN if state == pq.PollingStatus.READING else select.POLLOUT
                    continue
                del waiting[number]
                if state == pq.PollingStatus.FAILED:
                    message = connection.get_error_message().strip()
                    opened[number] = ConnectError(message, sqlstate_in(message))
                    connection.finish()
            if not waiting:
                return opened
            ready = _readable(waiting, events, deadline)
            if not ready:
                for number, connection in waiting.items():
                    opened[number] = ConnectError(f"no answer within {CONNECT_TIMEOUT_S:g} s", None)
                    connection.finish()
                return opened
    except BaseException:
        for entry in opened:
            if not isinstance(entry, ConnectError):
                entry.finish()
        raise


def _step(connection: pq.abc.PGconn) -> pq.PollingStatus:
    """Take an opening connection as far as it goes without waiting."""
    if connection.status == pq.ConnStatus.BAD:
        return pq.PollingStatus.FAILED
    state = connection.connect_poll()
    if state == pq.PollingStatus.OK:
        connection.nonblocking = 1
    return pq.PollingStatus(state)


def _readable(waiting: Mapping[int, pq.abc.PGconn], events: Mapping[int, int], deadline: float) -> list[int]:
    """Which of the opening connections can go on; none when time is up."""
    poll = select.poll()
    numbers = {}
    for number, connection in waiting.items():
        poll.register(connection.socket, events[number])
        numbers[connection.socket] = number
    return [numbers[descriptor] for descriptor, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]


def call_text(procedure: str, arguments: Mapping[str, Value]) -> bytes:
    """`CALL procedure(name => value, ...)` with literals."""
    return f"CALL {procedure}({', '.join(f'{n} => {_literal(v)}' for n, v in arguments.items())})".encode()


def run_call(conninfo: str, procedure: str, arguments: Mapping[str, Value]) -> list[tuple[str | None, ...]]:
    """Run one CALL on a connection of its own and return its rows as text; raises ConnectError, CallError."""
    return run_statement(conninfo, call_text(procedure, arguments))


def run_statement(conninfo: str, statement: bytes) -> list[tuple[str | None, ...]]:
    """Run one statement on a connection of its own and return its rows as text; raises ConnectError, CallError."""
    connection = connect(conninfo)
    try:
        result = connection.exec_(statement)
        if result.status == pq.ExecStatus.TUPLES_OK:
            return [
                tuple(
                    None if (value := result.get_value(row, column)) is None else value.decode()
                    for column in range(result.nfields)
                )
                for row in range(result.ntuples)
            ]
        if result.status == pq.ExecStatus.COMMAND_OK:
            return []
        message = result.get_error_message().strip()
        sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
        raise CallError(message, sqlstate.decode() if sqlstate else None)
    finally:
        connection.finish()


class Worker:
    """One connection and the statement that runs on it.

    `told` is what the statement's answer says that its request has read, None when it says nothing.
    """

    def __init__(self, connection: pq.abc.PGconn) -> None:
        self._connection = connection
        self.ended: Ended | None = None
        self.message = ""
        self.sqlstate: str | None = None
        self.told: Any = None

    @property
    def backend_pid(self) -> int:
        """The server process of this connection, as BackendKeyData told."""
        return self._connection.backend_pid

    @property
    def socket(self) -> int:
        """The descriptor to wait for; -1 once it is closed."""
        return self._connection.socket if self.ended is not Ended.LOST else -1

    def send(self, statement: bytes) -> None:
        """Send a statement without waiting for its end."""
        # An answer's SQLSTATE must not be taken for the next one's: a lost connection has none.
        self.ended, self.message, self.sqlstate, self.told = None, "", None, None
        try:
            self._connection.send_query(statement)
            self._connection.flush()
        except psycopg.OperationalError as error:
            self._lose(str(error))

    def read(self) -> Ended | None:
        """Take in what came; returns how the statement ended, or None while it runs."""
        if self.ended is not None:
            return self.ended
        try:
            self._connection.consume_input()
            while not self._connection.is_busy():
                result = self._connection.get_result()
                if result is None:
                    self.ended = self.ended or Ended.COMPLETED
                    return self.ended
                if result.status == pq.ExecStatus.TUPLES_OK:
                    self.told = _read_of(result)
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    self.message = result.get_error_message().strip()
                    code = result.error_field(pq.DiagnosticField.SQLSTATE)
                    self.sqlstate = code.decode() if code else None
                    if self.sqlstate is None or self._connection.status != pq.ConnStatus.OK:
                        self._lose(self.message)
                        return self.ended
                    self.ended = Ended.REFUSED
        except psycopg.OperationalError as error:
            self._lose(str(error))
        return self.ended

    def close(self) -> None:
        """Close the connection."""
        self._connection.finish()
        self.ended = self.ended or Ended.LOST

    def _lose(self, message: str) -> None:
        self.message = message
        self.ended = Ended.LOST


class OutsideClient:
    """Sends requests one by one over a connection of its own and records what it was told."""

    def __init__(
        self,
        connection: pq.abc.PGconn,
        procedure: str,
        requests: Iterable[tuple[Request, int]],
        history: HistoryWriter,
    ) -> None:
        """`requests` come with the seed that makes the procedure draw the same request."""
        self.worker = Worker(connection)
        self._procedure = procedure
        self._requests: Iterator[tuple[Request, int]] = iter(requests)
        self._history = history
        self._open: Request | None = None
        self.acknowledged = 0
        self.done = False
        self._next()

    def read(self) -> None:
        """Take in an answer, record it, and send the next request."""
        while self._open is not None and not self.done:
            ended = self.worker.read()
            if ended is None:
                return
            error = None if ended is Ended.COMPLETED else CallError(self.worker.message, self.worker.sqlstate)
            record_answer(self._history, self._open, error, self.worker.told)
            self._open = None
            if ended is Ended.LOST:
                self.done = True
                return
            self.acknowledged += ended is Ended.COMPLETED
            self._next()

    def close(self) -> None:
        """Close the connection; an open request stays unanswered, which is what was told."""
        self.worker.close()
        self.done = True

    def _next(self) -> None:
        request, seed = next(self._requests, (None, 0))
        if request is None:
            self.done = True
            return
        self._open = request
        self._history.invoke(request)
        arguments: dict[str, Value] = {
            "worker": request.worker,
            "first": request.operation,
            "transactions": 1,
            "seed": seed,
            "history": False,
        }
        self.worker.send(call_text(self._procedure, arguments))


def wait_any(sockets: Iterable[int], timeout_s: float) -> None:
    """Wait until one of the sockets has something to say, at most so long."""
    poll = select.poll()
    for descriptor in sockets:
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
    poll.poll(timeout_s * 1000)


def _read_of(result: pq.abc.PGresult) -> Any:
    """What the only row of a load procedure's answer says was read; None without such a column, or a null in it."""
    names = [result.fname(column) for column in range(result.nfields)]
    if result.ntuples != 1 or READ_COLUMN.encode() not in names:
        return None
    value = result.get_value(0, names.index(READ_COLUMN.encode()))
    return None if value is None else msgspec.json.decode(value)


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("'", "''") + "'"


def sqlstate_in(message: str) -> str | None:
    """libpq gives no SQLSTATE for a failed connection, only the text."""
    for text, sqlstate in (
        ("the database system is", "57P03"),
        ("too many clients", "53300"),
    ):
        if text in message:
            return sqlstate
    return None
