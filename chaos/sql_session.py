"""A session over SQL: what a workload asks, said to any server of PostgreSQL's protocol through psycopg.

Owns the statements. It fits `workloads.session.Session` without being one: a workload performs the same requests here
as in a backend of the built-in server. Errors come as psycopg raises them, known by their `.sqlstate`; a lost
connection has none. It retries nothing and hides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from workloads.session import READ_COMMITTED, Row

_SHAPE: Final = """
    SELECT a.attname, a.attnum = ANY (i.indkey)
      FROM pg_attribute a JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
     WHERE a.attrelid = %s::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum"""
_BEGIN: Final[dict[str, LiteralString]] = {
    READ_COMMITTED: "BEGIN ISOLATION LEVEL READ COMMITTED",
    "repeatable read": "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "serializable": "BEGIN ISOLATION LEVEL SERIALIZABLE",
}


@dataclass(frozen=True, slots=True)
class TableStatements:
    """The statements over one table, made once."""

    get: bytes
    lock: bytes
    insert: bytes
    update: bytes
    delete: bytes
    scan: bytes
    scan_after: bytes

    @classmethod
    def of(cls, table: str, columns: Sequence[str], key: str) -> TableStatements:
        """For a table of these columns whose primary key is one of them."""
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        values = sql.SQL(", ").join([sql.Placeholder()] * len(columns))
        parts = {"t": sql.Identifier(table), "k": sql.Identifier(key), "names": names, "values": values}

        def statement(text: LiteralString) -> bytes:
            return sql.SQL(text).format(**parts).as_bytes()

        changes = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(column)) for column in columns)
        return cls(
            get=statement("SELECT {names} FROM {t} WHERE {k} = %s"),
            lock=statement("SELECT {names} FROM {t} WHERE {k} = %s FOR UPDATE"),
            insert=statement("INSERT INTO {t} ({names}) VALUES ({values})"),
            update=sql.SQL("UPDATE {} SET {} WHERE {} = %s").format(parts["t"], changes, parts["k"]).as_bytes(),
            delete=statement("DELETE FROM {t} WHERE {k} = %s"),
            scan=statement("SELECT {names} FROM {t} ORDER BY {k} LIMIT %s"),
            scan_after=statement("SELECT {names} FROM {t} WHERE {k} > %s ORDER BY {k} LIMIT %s"),
        )


class SqlSession:
    """One connection. `tables` keeps what was learned of tables; sessions of one database may share it."""

    def __init__(self, connection: psycopg.Connection[Row], tables: dict[str, TableStatements] | None = None) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._tables = {} if tables is None else tables
        self._open = False

    @property
    def in_transaction(self) -> bool:
        """Whether begin was called and neither commit nor rollback since."""
        return self._open

    @property
    def backend_pid(self) -> int:
        """The server process of this connection, as BackendKeyData told."""
        return self._connection.info.backend_pid

    def create_table(self, name: str, columns: Sequence[tuple[str, str]], primary_key: str) -> None:
        """Make a table of (column name, type name) columns; the key's column is among them."""
        defined = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(_type_name(kind))) for column, kind in columns
        )
        self._cursor.execute(
            sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(
                sql.Identifier(name), defined, sql.Identifier(primary_key)
            )
        )
        self._tables[name] = TableStatements.of(name, [column for column, _ in columns], primary_key)

    def begin(self, isolation: str = READ_COMMITTED) -> None:
        """Start a transaction at a level."""
        self._cursor.execute(_BEGIN[isolation])
        self._open = True

    def commit(self) -> bool:
        """End the transaction; False when it had failed and the server rolled it back."""
        self._open = False
        self._cursor.execute("COMMIT")
        return self._cursor.statusmessage == "COMMIT"

    def rollback(self) -> None:
        """End the transaction as if it had not been."""
        self._open = False
        self._cursor.execute("ROLLBACK")

    def get(self, table: str, key: Any, for_update: bool = False) -> Row | None:
        """The row of a key, locked if so asked; None if there is none."""
        statements = self._statements(table)
        return self._cursor.execute(statements.lock if for_update else statements.get, (key,)).fetchone()

    def insert(self, table: str, row: Row) -> None:
        """Add a row; a key that is there already raises 23505."""
        self._cursor.execute(self._statements(table).insert, row)

    def update(self, table: str, key: Any, row: Row) -> bool:
        """Replace the row of a key; False when there is none."""
        return self._cursor.execute(self._statements(table).update, (*row, key)).rowcount == 1

    def delete(self, table: str, key: Any) -> bool:
        """Remove the row of a key; False when there is none."""
        return self._cursor.execute(self._statements(table).delete, (key,)).rowcount == 1

    def scan(self, table: str, after: Any = None, limit: int | None = None) -> Iterator[Row]:
        """The rows in key order, from the first key greater than `after`."""
        statements = self._statements(table)
        if after is None:
            self._cursor.execute(statements.scan, (limit,))
        else:
            self._cursor.execute(statements.scan_after, (after, limit))
        # Read whole before the first is handed out: the caller may ask for other rows meanwhile.
        return iter(self._cursor.fetchall())

    def checkpoint(self) -> None:
        """What was committed is in its files when this returns."""
        self._cursor.execute("CHECKPOINT")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _statements(self, table: str) -> TableStatements:
        known = self._tables.get(table)
        if known is None:
            shape = self._cursor.execute(_SHAPE, (table,)).fetchall()
            key = next(name for name, is_key in shape if is_key)
            known = self._tables[table] = TableStatements.of(table, [name for name, _ in shape], key)
        return known


def open_session(conninfo: str, tables: dict[str, TableStatements] | None = None) -> SqlSession:
    """A session on a connection of its own. Raises psycopg.OperationalError."""
    return SqlSession(psycopg.connect(conninfo, autocommit=True), tables)


def _type_name(kind: str) -> LiteralString:
    """The workload's name of a type, as SQL: one of the few that there are."""
    return _TYPES[kind]


_TYPES: Final[Mapping[str, LiteralString]] = {
    "bool": "boolean",
    "integer": "integer",
    "bigint": "bigint",
    "double precision": "double precision",
    "text": "text",
    "bytea": "bytea",
    "numeric": "numeric",
    "timestamptz": "timestamptz",
}
