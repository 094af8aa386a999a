"""The extended query protocol: prepared statements and portals of one session.

Owns what Parse and Bind leave behind and how it is looked up again: names, the unnamed ones that are replaced in
silence, portals that die with the transaction (here: at Sync, because every statement is a transaction of its own or
brings its own). It decides nothing about SQL: a plan comes from a function and is run by another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from supervisor.errors import (
    DUPLICATE_CURSOR,
    DUPLICATE_PREPARED_STATEMENT,
    FEATURE_NOT_SUPPORTED,
    INVALID_CURSOR_NAME,
    INVALID_SQL_STATEMENT_NAME,
    OBJECT_NOT_IN_PREREQUISITE_STATE,
    PROTOCOL_VIOLATION,
    ServerError,
)
from supervisor.sql.analyse import Column, Plan, placeholders
from supervisor.sql.execute import Parameter, Row
from supervisor.sql.types import UNKNOWN_OIDS, DataType, Value, type_of_oid
from supervisor.wire import codec
from supervisor.wire.connection import Connection
from supervisor.wire.messages import Bind, Close, Describe, Execute, FrontendMessage, Parse, Target

Prepare = Callable[[str], Plan | None]
Run = Callable[[str, Plan, Sequence[Parameter], Callable[[Row], None]], str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared statement; `plan` is None for an empty one."""

    text: str
    plan: Plan | None
    parameter_types: tuple[DataType, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """What its rows hold; empty for a statement without a result."""
        return () if self.plan is None else self.plan.columns


@dataclass(slots=True)
class Portal:
    """A prepared statement with its values. `tag` is there once it has run, `rows` what nobody has fetched yet."""

    prepared: Prepared
    values: tuple[Parameter, ...]
    formats: tuple[int, ...]
    tag: str | None = None
    complete: bool = False
    rows: deque[Row] = field(default_factory=deque)


class ExtendedQuery:
    """The prepared statements and portals of a session, and what each extended message does with them."""

    def __init__(self, connection: Connection, prepare: Prepare, run: Run) -> None:
        self._connection = connection
        self._prepare = prepare
        self._run = run
        self._statements: dict[str, Prepared] = {}
        self._portals: dict[str, Portal] = {}

    def handle(self, message: FrontendMessage) -> bool:
        """Acts on Parse, Bind, Describe, Execute or Close; False for any other message. Raises ServerError."""
        match message:
            case Parse():
                self._parse(message)
            case Bind():
                self._bind(message)
            case Describe():
                self._describe(message)
            case Execute():
                self._execute(message)
            case Close(target=Target.STATEMENT, name=name):
                self._statements.pop(name, None)
                self._connection.send(codec.CLOSE_COMPLETE)
            case Close(name=name):
                self._portals.pop(name, None)
                self._connection.send(codec.CLOSE_COMPLETE)
            case _:
                return False
        return True

    def end_of_series(self) -> None:
        """Sync: the implicit transaction is over, and with it every portal."""
        self._portals.clear()

    def forget_unnamed(self) -> None:
        """A simple query replaces the unnamed statement and portal."""
        self._statements.pop("", None)
        self._portals.pop("", None)

    def _parse(self, message: Parse) -> None:
        if message.name and message.name in self._statements:
            raise ServerError(
                f'prepared statement "{message.name}" already exists', sqlstate=DUPLICATE_PREPARED_STATEMENT
            )
        plan = self._prepare(message.text)
        types = _parameter_types(message.parameter_types, [] if plan is None else placeholders(plan))
        self._statements[message.name] = Prepared(message.text, plan, types)
        self._connection.send(codec.PARSE_COMPLETE)

    def _bind(self, message: Bind) -> None:
        prepared = self._statement(message.statement)
        if message.portal and message.portal in self._portals:
            raise ServerError(f'portal "{message.portal}" already exists', sqlstate=DUPLICATE_CURSOR)
        _check_bind(message, prepared)
        values = tuple(
            (_value(data, kind, codec.format_for(message.parameter_formats, index)), kind)
            for index, (data, kind) in enumerate(zip(message.parameters, prepared.parameter_types, strict=True))
        )
        self._portals[message.portal] = Portal(prepared, values, message.result_formats)
        self._connection.send(codec.BIND_COMPLETE)

    def _describe(self, message: Describe) -> None:
        formats: Sequence[int] = ()
        if message.target is Target.STATEMENT:
            prepared = self._statement(message.name)
            oids = [kind.oid for kind in prepared.parameter_types]
            self._connection.send(codec.parameter_description(oids))
        else:
            portal = self._portal(message.name)
            prepared, formats = portal.prepared, portal.formats
        if prepared.columns:
            self._connection.send(codec.row_description(described(prepared.columns), formats))
        else:
            self._connection.send(codec.NO_DATA)

    def _execute(self, message: Execute) -> None:
        portal = self._portal(message.portal)
        prepared = portal.prepared
        if prepared.plan is None:
            self._connection.send(codec.EMPTY_QUERY_RESPONSE)
            return
        if portal.complete:
            raise ServerError(f'portal "{message.portal}" cannot be run', sqlstate=OBJECT_NOT_IN_PREREQUISITE_STATE)
        send = row_sender(self._connection, prepared.columns, portal.formats)
        limited = message.max_rows > 0
        if portal.tag is None:
            # A statement runs to its end whatever part of its rows is asked for: what it changes must not
            # depend on how much of the answer is fetched.
            emit = portal.rows.append if limited else send
            portal.tag = self._run(prepared.text, prepared.plan, portal.values, emit)
        fetched = min(message.max_rows, len(portal.rows)) if limited else len(portal.rows)
        for _ in range(fetched):
            send(portal.rows.popleft())
        if limited and fetched == message.max_rows:
            # Also when these were the last rows: PostgreSQL has not looked for a next one either.
            self._connection.send(codec.PORTAL_SUSPENDED)
            return
        portal.complete = True
        self._connection.send(codec.command_complete(portal.tag))

    def _statement(self, name: str) -> Prepared:
        prepared = self._statements.get(name)
        if prepared is None:
            shown = f'prepared statement "{name}"' if name else "unnamed prepared statement"
            raise ServerError(f"{shown} does not exist", sqlstate=INVALID_SQL_STATEMENT_NAME)
        return prepared

    def _portal(self, name: str) -> Portal:
        portal = self._portals.get(name)
        if portal is None:
            raise ServerError(f'portal "{name}" does not exist', sqlstate=INVALID_CURSOR_NAME)
        return portal


def described(columns: Iterable[Column]) -> list[tuple[str, int, int]]:
    """Columns as RowDescription takes them."""
    return [(column.name, column.type.oid, column.type.size) for column in columns]


def row_sender(connection: Connection, columns: Sequence[Column], formats: Sequence[int]) -> Callable[[Row], None]:
    """A function that sends one row in the formats asked for."""
    encoders = [
        column.type.to_binary if codec.format_for(formats, index) else column.type.to_text
        for index, column in enumerate(columns)
    ]

    def send(row: Row) -> None:
        connection.send(
            codec.data_row(
                None if value is None else encode(value) for encode, value in zip(encoders, row, strict=True)
            )
        )

    return send


def _parameter_types(declared: Sequence[int], inferred: Sequence[DataType]) -> tuple[DataType, ...]:
    """The types of all parameters: as declared, else as the statement uses them.

    A declared parameter that the statement does not use and that has no type is text.
    """
    types = []
    for index in range(max(len(declared), len(inferred))):
        oid = declared[index] if index < len(declared) else 0
        if oid in UNKNOWN_OIDS and index < len(inferred):
            types.append(inferred[index])
            continue
        kind = type_of_oid(oid)
        if kind is None:
            raise ServerError(
                f"the type of parameter ${index + 1} (OID {oid}) is not supported",
                sqlstate=FEATURE_NOT_SUPPORTED,
            )
        types.append(kind)
    return tuple(types)


def _check_bind(message: Bind, prepared: Prepared) -> None:
    expected = len(prepared.parameter_types)
    if len(message.parameters) != expected:
        raise ServerError(
            f"bind message supplies {len(message.parameters)} parameters, but prepared statement "
            f'"{message.statement}" requires {expected}',
            sqlstate=PROTOCOL_VIOLATION,
        )
    formats = len(message.parameter_formats)
    if formats > 1 and formats != expected:
        raise ServerError(
            f"bind message has {formats} parameter formats but {expected} parameters",
            sqlstate=PROTOCOL_VIOLATION,
        )
    formats = len(message.result_formats)
    if formats > 1 and formats != len(prepared.columns):
        raise ServerError(
            f"bind message has {formats} result formats but query has {len(prepared.columns)} columns",
            sqlstate=PROTOCOL_VIOLATION,
        )


def _value(data: bytes | None, kind: DataType, form: int) -> Value | None:
    if data is None:
        return None
    return kind.from_binary(data) if form else kind.from_text(codec.decode_text(data))
