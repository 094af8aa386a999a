"""A database in a dictionary, for workloads: transactions, a SIGKILL at any step, and nothing else.

Every call of a session and every write of a history is a step of `Database.tick`, which may raise `Killed`.
What was committed by then is what a perfect recovery finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Row = tuple[Any, ...]


class Killed(BaseException):
    """The process is gone: no except clause of the workload may run on."""


class OrderlyError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


class Database:
    """Committed rows by table and key, and how many more steps the process lives."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Any, Row]] = {}
        self.steps_to_live: int | None = None

    def tick(self) -> None:
        if self.steps_to_live is not None:
            if self.steps_to_live == 0:
                raise Killed
            self.steps_to_live -= 1


class MemorySession:
    """A session of the contract; `errors` maps (method, number of its call from 1) to the error to raise there.

    `errors_after` decides whether an error planted at commit comes after the commit took effect.
    """

    def __init__(
        self, database: Database, errors: dict[tuple[str, int], Exception] | None = None, *, errors_after: bool = False
    ) -> None:
        self.database = database
        self.errors = errors or {}
        self.errors_after = errors_after
        self.calls: dict[str, int] = {}
        self.changes: dict[tuple[str, Any], Row | None] | None = None
        self.log: list[str] = []

    @property
    def in_transaction(self) -> bool:
        return self.changes is not None

    def create_table(self, name: str, columns: Sequence[tuple[str, str]], primary_key: str) -> None:
        if name in self.database.tables:
            raise OrderlyError("42P07")
        self.database.tables[name] = {}

    def begin(self, isolation: str = "read committed") -> None:
        self._call("begin")
        self.log.append(f"begin {isolation}")
        self.changes = {}

    def commit(self) -> bool:
        self.database.tick()
        error = self._error("commit")
        if error is not None and not self.errors_after:
            raise error
        changes, self.changes = self.changes, None
        assert changes is not None
        for (table, key), row in changes.items():
            if row is None:
                del self.database.tables[table][key]
            else:
                self.database.tables[table][key] = row
        if error is not None:
            raise error
        self.database.tick()
        return True

    def rollback(self) -> None:
        self.log.append("rollback")
        self.changes = None

    def get(self, table: str, key: Any, for_update: bool = False) -> Row | None:
        self._call("get")
        if for_update:
            self.log.append(f"lock {table} {key}")
        if self.changes is not None and (table, key) in self.changes:
            return self.changes[table, key]
        return self.database.tables[table].get(key)

    def insert(self, table: str, row: Row) -> None:
        self._call("insert")
        if self.get(table, row[0]) is not None:
            raise OrderlyError("23505")
        self._change(table, row[0], row)

    def update(self, table: str, key: Any, row: Row) -> bool:
        self._call("update")
        if self.get(table, key) is None:
            return False
        self._change(table, key, row)
        return True

    def delete(self, table: str, key: Any) -> bool:
        self._change(table, key, None)
        return True

    def scan(self, table: str, after: Any = None, limit: int | None = None) -> Iterator[Row]:
        rows = self.database.tables[table]
        keys = sorted(key for key in rows if after is None or key > after)
        return (rows[key] for key in keys[:limit])

    def _change(self, table: str, key: Any, row: Row | None) -> None:
        assert self.changes is not None, "a workload changes nothing outside a transaction"
        self.changes[table, key] = row

    def _call(self, method: str) -> None:
        self.database.tick()
        error = self._error(method)
        if error is not None:
            raise error

    def _error(self, method: str) -> Exception | None:
        self.calls[method] = self.calls.get(method, 0) + 1
        return self.errors.get((method, self.calls[method]))


class Clock:
    """A clock of which every look is a step, and the host that a procedure sees."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.ns = 0

    def now_ns(self) -> int:
        self.database.tick()
        self.ns += 1
        return self.ns

    def check_interrupts(self) -> None:
        self.database.tick()
