"""A session: transactions over typed rows, READ COMMITTED or REPEATABLE READ, errors known by their SQLSTATE.

Owns the transaction a client is in and turns every error into a rolled-back one. It validates a row wholly
before anything is changed, so that wrong input leaves nothing half done. It never parses SQL and never touches
a page: `engine.access` does.

Rows are tuples in column order. Types and the Python values that stand for them: bool (bool), integer and bigint
(int), double precision (float), text (str), bytea (bytes); None is null. One column is the primary key.

Outside `begin`/`commit` each call is a transaction of its own, READ COMMITTED. An error inside a transaction rolls it back at once
and leaves the session in a failed transaction: every call but `commit` and `rollback` is then refused with 25P02,
and `commit` ends it as a rollback (as PostgreSQL does).

Rows may be locked in any order. Of transactions that wait for each other in a circle one is refused with 40P01 after
`deadlock_timeout` and is to be tried again; locking in table and key order avoids that second of waiting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from supervisor import errors
from supervisor.engine.access.catalog import check_definition
from supervisor.engine.access.tuple import Row, Value
from supervisor.engine.engine import Engine
from supervisor.engine.transam.snapmgr import Isolation
from supervisor.errors import ServerError


class Session:
    """One client's way to the data, in one process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tables = engine.tables
        self._known = engine.catalog.known
        self._in_block = False
        self._failed = False

    @property
    def in_transaction(self) -> bool:
        """Whether `begin` was called and neither `commit` nor `rollback` since (a failed one counts)."""
        return self._in_block

    @property
    def failed(self) -> bool:
        """Whether the transaction block had an error and only waits for its end (ReadyForQuery status E)."""
        return self._failed

    # Transactions.

    def begin(self, isolation: str = Isolation.READ_COMMITTED) -> None:
        """Open a transaction block; ServerError 25001 if one is open, 22023 for an isolation level that there is not.

        "read committed": each statement sees what had committed when it began, and a change is made to the newest
        committed version. "repeatable read": all statements see what had committed when the first one began; a
        change, or a lock, of a row that another transaction has changed since is ServerError 40001, and the
        transaction is to be tried again from its beginning.
        """
        if self._in_block:
            self._refuse_if_failed()
            raise ServerError("there is already a transaction in progress", sqlstate=errors.ACTIVE_SQL_TRANSACTION)
        self._engine.begin(_isolation(isolation))
        self._in_block = True

    def commit(self) -> bool:
        """End the block, durably: when this returns True, the transaction survives any crash. (With
        `synchronous_commit` off a crash within three times `wal_writer_delay` may still undo it.)

        False if the transaction had failed and was rolled back instead. ServerError 25P01 outside a block.
        """
        if not self._in_block:
            raise ServerError("there is no transaction in progress", sqlstate=errors.NO_ACTIVE_SQL_TRANSACTION)
        if self._failed:
            self._in_block = self._failed = False
            return False
        try:
            self._engine.commit()
        except ServerError:
            self._engine.abort()
            self._in_block = False
            raise
        self._in_block = False
        return True

    def rollback(self) -> None:
        """End the block and undo it. Does nothing outside one."""
        if self._in_block and not self._failed:
            self._engine.abort()
        self._in_block = self._failed = False

    def fail(self) -> None:
        """What an error outside this class does to the transaction: it is rolled back, a block is left failed."""
        self._engine.abort()
        self._failed = self._in_block

    # Statements.

    def create_table(self, name: str, columns: Sequence[tuple[str, str]], primary_key: str) -> None:
        """Create a table; ServerError 42P07 when there is one of this name, 42704 for an unknown type."""
        self._refuse_if_failed()
        try:
            checked = check_definition(name, columns, primary_key)
            self._tables.create(name, checked, primary_key)
            if not self._in_block:
                self._engine.commit()
        except ServerError:
            self.fail()
            raise

    def get(self, table: str, key: Value, for_update: bool = False) -> Row | None:
        """The row with this key, or None. `for_update` locks it until the transaction ends, waiting for whoever
        else has changed or locked it (55P03 after lock_timeout, 40P01 in a deadlock), and returns its newest
        committed version (40001 when a repeatable-read transaction does not see that one)."""
        self._refuse_if_failed()
        try:
            found = self._known(table) or self._tables.find(table)
            read = self._tables.get_for_update if for_update else self._tables.get
            row = read(found, key)
            if not self._in_block:
                self._engine.commit()
        except ServerError:
            self.fail()
            raise
        return row

    def insert(self, table: str, row: Row) -> None:
        """Add a row; ServerError 23505 when its key exists."""
        self._refuse_if_failed()
        try:
            self._tables.insert(self._known(table) or self._tables.find(table), row)
            if not self._in_block:
                self._engine.commit()
        except ServerError:
            self.fail()
            raise

    def update(self, table: str, key: Value, row: Row) -> bool:
        """Replace the row with this key (its key may change); False when there is none."""
        self._refuse_if_failed()
        try:
            found = self._tables.update(self._known(table) or self._tables.find(table), key, row)
            if not self._in_block:
                self._engine.commit()
        except ServerError:
            self.fail()
            raise
        return found

    def delete(self, table: str, key: Value) -> bool:
        """Remove the row with this key; False when there is none."""
        self._refuse_if_failed()
        try:
            found = self._tables.delete(self._known(table) or self._tables.find(table), key)
            if not self._in_block:
                self._engine.commit()
        except ServerError:
            self.fail()
            raise
        return found

    def scan(self, table: str, after: Value = None, limit: int | None = None) -> Iterator[Row]:
        """Rows in key order, from the first key greater than `after`, at most `limit`, as one snapshot sees them.

        The snapshot is taken when the first row is asked for. Outside a block other statements of this session
        must wait until the scan is at its end or closed.
        """
        self._refuse_if_failed()
        try:
            yield from self._tables.scan(self._known(table) or self._tables.find(table), after, limit)
        except ServerError:
            self.fail()
            raise

    def _refuse_if_failed(self) -> None:
        if self._failed:
            raise ServerError(
                "current transaction is aborted, commands ignored until end of transaction block",
                sqlstate=errors.IN_FAILED_SQL_TRANSACTION,
            )


def _isolation(name: str) -> Isolation:
    try:
        return Isolation(name)
    except ValueError:
        raise ServerError(
            f'isolation level "{name}" is not supported',
            sqlstate=errors.INVALID_PARAMETER_VALUE,
            hint=f"Available levels: {', '.join(Isolation)}.",
        ) from None
