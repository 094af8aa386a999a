"""What a workload asks of a database session, and what an error says.

Owns the structural `Session` (a backend's own session and an SQL connection both fit it) and the reading of
SQLSTATEs. It knows no exception class: an *orderly* error is one that carries a five-character `.sqlstate`
(the server's own errors, psycopg's), anything else tells nothing about what happened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

Row = tuple[Any, ...]
"""A row in column order. Values are bool, int, float, str, bytes, Decimal, aware datetime or None."""


READ_COMMITTED = "read committed"
REPEATABLE_READ = "repeatable read"


class Session(Protocol):
    """Transactions over typed rows. Outside begin and commit every call is a transaction of its own.

    Every method may raise an orderly error; the transaction is then to be rolled back.
    """

    @property
    def in_transaction(self) -> bool:
        """Whether begin was called and neither commit nor rollback since."""
        ...

    def create_table(self, name: str, columns: Sequence[tuple[str, str]], primary_key: str) -> None:
        """Make a table of (column name, type name) columns; the key's column is among them."""
        ...

    def begin(self, isolation: str = READ_COMMITTED) -> None:
        """Start a transaction at a level: "read committed" or "repeatable read" (of PostgreSQL: snapshot isolation)."""
        ...

    def commit(self) -> bool | None:
        """End the transaction; when this returns, it is durable. False: it had failed and was rolled back."""
        ...

    def rollback(self) -> None:
        """End the transaction as if it had not been."""
        ...

    def get(self, table: str, key: Any, for_update: bool = False) -> Row | None:
        """The row of a key, locked until the transaction ends if so asked; None if there is none."""
        ...

    def insert(self, table: str, row: Row) -> None:
        """Add a row; a key that is there already raises 23505."""
        ...

    def update(self, table: str, key: Any, row: Row) -> bool | None:
        """Replace the row of a key; False when there is none."""
        ...

    def delete(self, table: str, key: Any) -> bool | None:
        """Remove the row of a key; False when there is none."""
        ...

    def scan(self, table: str, after: Any = None, limit: int | None = None) -> Iterator[Row]:
        """The rows in key order, from the first key greater than `after`."""
        ...


class WorkloadError(Exception):
    """An error of a workload's own, known like any other by its `.sqlstate`."""

    def __init__(self, message: str, *, sqlstate: str) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.detail: str | None = None
        self.hint: str | None = None


INVALID_PARAMETER_VALUE = "22023"
NO_DATA_FOUND = "P0002"
UNIQUE_VIOLATION = "23505"
TRANSACTION_ROLLBACK = "40000"
SERIALIZATION_FAILURE = "40001"
STATEMENT_COMPLETION_UNKNOWN = "40003"
DEADLOCK_DETECTED = "40P01"
LOCK_NOT_AVAILABLE = "55P03"
IN_FAILED_SQL_TRANSACTION = "25P02"

RETRIABLE = frozenset({SERIALIZATION_FAILURE, DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE})
"""What a transaction may meet in a healthy server: the worker goes on with its next request."""


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE of an orderly error; None of anything else (a lost connection has none)."""
    sqlstate = getattr(error, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) and len(sqlstate) == 5 else None


def ends_session(sqlstate: str) -> bool:
    """Whether an error with this SQLSTATE means that no further statement will be answered.

    Class 08 is a connection lost; 57P01 to 57P05 are a server that shuts down, has crashed, is not ready,
    whose database was dropped, or that waited too long (PostgreSQL, Appendix A).
    """
    return sqlstate.startswith(("08", "57P"))


def surely_aborted(sqlstate: str) -> bool:
    """Whether an error that COMMIT itself raised proves that the transaction did not commit.

    Class 40 is a rollback by definition, except 40003, which says that nobody knows. Class 23 is a
    constraint checked at commit, 25P02 a COMMIT of a transaction that had failed before. Anything else
    could come after the commit record was written: a server that raises it may well have committed.
    """
    if sqlstate == STATEMENT_COMPLETION_UNKNOWN:
        return False
    return sqlstate[:2] in ("40", "23") or sqlstate in (IN_FAILED_SQL_TRANSACTION, LOCK_NOT_AVAILABLE)
