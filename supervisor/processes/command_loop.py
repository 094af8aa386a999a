"""A backend's conversation: message in, statement run, answer out (PostgreSQL's `postgres.c`, `PostgresMain`).

Owns the order of messages: when ReadyForQuery is due, what an error does to the rest of a query or of a series of
extended messages, and that an acknowledgement is sent only after the statement has returned. It binds `sql` to `wire`,
which know nothing of each other, and knows no signal handler and no shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from supervisor.errors import FEATURE_NOT_SUPPORTED, PROTOCOL_VIOLATION, SYNTAX_ERROR, ServerError, SessionFatal
from supervisor.host import Host
from supervisor.log import Level, ServerLog
from supervisor.points import Point
from supervisor.processes.extended_query import ExtendedQuery, described, row_sender
from supervisor.processes.interrupts import Interrupts
from supervisor.sql.analyse import Plan, analyse
from supervisor.sql.execute import Executor, Parameter, Row
from supervisor.sql.parse import parse
from supervisor.sql.procedures import Procedure
from supervisor.wire import codec
from supervisor.wire.connection import Connection
from supervisor.wire.messages import (
    CopyMessage,
    Flush,
    FrontendMessage,
    FunctionCall,
    Query,
    Sync,
    Terminate,
)

_EXTENDED_TYPES = frozenset(b"PBDECH")
"""After an error in one of these, everything is skipped until Sync."""


class CommandLoop:
    """Serves one client until it leaves."""

    def __init__(
        self,
        connection: Connection,
        executor: Executor,
        procedures: Mapping[str, Procedure],
        interrupts: Interrupts,
        log: ServerLog,
        report_activity: Callable[[str], None],
        reload: Callable[[], object],
    ) -> None:
        self._connection = connection
        self._executor = executor
        self._procedures = procedures
        self._interrupts = interrupts
        self._log = log
        self._report_activity = report_activity
        self._reload = reload
        self._host: Host = executor.host
        self._skipping = False
        self._text = ""
        self._extended = ExtendedQuery(connection, self._prepare, self._run)

    def run(self) -> None:
        """Until the client says Terminate or is gone.

        Raises SessionFatal when the session must end with a word to the client, and whatever is not an error of a
        statement: those are the process's business.
        """
        ready = True
        while True:
            if ready:
                self._host.point(Point.BACKEND_READY)
                self._connection.send(codec.ready_for_query(b"I"))
            message = self._connection.receive_message()
            if message is None:
                level = Level.LOG if self._connection.unread else Level.DEBUG1
                self._log.log(level, "unexpected EOF on client connection")
                return
            if self._interrupts.take_reload():
                # Never in the midst of a statement: one that began with some settings ends with them.
                self._reload()
            kind, body = message
            if self._skipping and kind not in b"SX":
                ready = False
                continue
            self._interrupts.begin_statement()
            try:
                decoded = codec.decode(kind, body)
                if isinstance(decoded, Terminate):
                    return
                ready = self._handle(decoded)
            except SessionFatal:
                raise
            except ServerError as error:
                self._log.error(error, Level.ERROR, statement=self._text)
                self._connection.send(codec.error_response("ERROR", error))
                self._skipping = kind in _EXTENDED_TYPES
                ready = not self._skipping
            finally:
                self._interrupts.end_statement()

    def _handle(self, message: FrontendMessage) -> bool:
        """Acts on one message; True if ReadyForQuery is due."""
        match message:
            case Query(text=text):
                self._simple_query(text)
                return True
            case Sync():
                self._skipping = False
                self._extended.end_of_series()
                return True
            case Flush():
                self._connection.flush()
            case CopyMessage():
                pass
            case FunctionCall():
                raise ServerError("function calls are not supported", sqlstate=FEATURE_NOT_SUPPORTED)
            case _:
                if not self._extended.handle(message):
                    raise SessionFatal(f"unexpected message {message!r}", sqlstate=PROTOCOL_VIOLATION)
        return False

    def _simple_query(self, text: str) -> None:
        self._extended.forget_unnamed()
        self._begin(text)
        statements = parse(text)
        if not statements:
            self._connection.send(codec.EMPTY_QUERY_RESPONSE)
        for statement in statements:
            plan = analyse(statement, self._procedures)
            if plan.columns:
                self._connection.send(codec.row_description(described(plan.columns)))
            tag = self._executor.run(plan, (), row_sender(self._connection, plan.columns, ()))
            self._connection.send(codec.command_complete(tag))

    def _begin(self, text: str) -> None:
        self._text = text
        self._report_activity(text)
        self._host.point(Point.STATEMENT_BEGIN)

    def _prepare(self, text: str) -> Plan | None:
        """For the extended protocol: the plan of a text of one statement, None for one of none."""
        self._text = text
        statements = parse(text)
        if len(statements) > 1:
            raise ServerError("cannot insert multiple commands into a prepared statement", sqlstate=SYNTAX_ERROR)
        return analyse(statements[0], self._procedures) if statements else None

    def _run(self, text: str, plan: Plan, values: Sequence[Parameter], emit: Callable[[Row], None]) -> str:
        """For the extended protocol: runs a plan."""
        self._begin(text)
        return self._executor.run(plan, values, emit)
