"""Statements on one table: heap and index together, under one snapshot (PostgreSQL's executor, in a handful of calls).

Owns how a row is found through its key, how a statement waits for another transaction and then begins again with a
new snapshot (READ COMMITTED) or gives up (REPEATABLE READ), how a key is kept unique, and when an update goes to
another page. It is always called inside a transaction, and never ends one.

Order against races: the snapshot is taken before the index is read, so every version that it sees has its entry. A
tid from the index is only a claim: the row found there is asked for its key, for its line may have been given to
another row meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from supervisor import errors
from supervisor.engine.access.btree import Key
from supervisor.engine.access.catalog import (
    STORAGE_CREATE,
    Catalog,
    Table,
    encode_storage_create,
    no_such_table,
    table_row,
)
from supervisor.engine.access.heap import CHANGED, DELETED, DONE, MISSING, NO_ROOM, Heap
from supervisor.engine.access.tuple import Column, Row, Value
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.transam.row_locks import RowLocks
from supervisor.engine.transam.snapmgr import SnapshotManager
from supervisor.engine.transam.snapshot import RunningTransactions, Snapshot
from supervisor.engine.transam.transaction import Transaction
from supervisor.engine.wal.insert import Wal
from supervisor.engine.wal.rmgr import Rmgr
from supervisor.errors import ServerError
from supervisor.host import Host

_CHECK_EVERY = 256


class Tables:
    """What one process does with tables, in its current transaction."""

    def __init__(
        self,
        host: Host,
        pool: BufferPool,
        wal: Wal,
        running: RunningTransactions,
        snapshots: SnapshotManager,
        row_locks: RowLocks,
        heap: Heap,
        catalog: Catalog,
        transaction: Transaction,
    ) -> None:
        self._host = host
        self._pool = pool
        self._wal = wal
        self._running = running
        self._snapshots = snapshots
        self._row_locks = row_locks
        self._heap = heap
        self._catalog = catalog
        self._transaction = transaction
        # Rows that this transaction has locked or changed in place: where they are, and a snapshot that sees them.
        # Nobody else can change, move or prune them before the transaction ends, so both stay true.
        self._mine: dict[tuple[int, Key], tuple[int, Snapshot]] = {}

    def end_transaction(self) -> None:
        """The transaction is over: no row is its own any more."""
        self._mine.clear()

    # Tables.

    def find(self, name: str) -> Table:
        """The table of a name; ServerError 42P01."""
        table = self._catalog.known(name)
        if table is None:
            row = self._get(self._catalog.catalog, name, self._snapshots.catalog())
            if row is None:
                raise no_such_table(name)
            table = self._catalog.remember(row, own=False)
        return table

    def create(self, name: str, columns: Sequence[Column], primary_key: str) -> None:
        """Create a table; ServerError 42P07 if the name is taken (54000 if its definition does not fit a page)."""
        catalog = self._catalog.catalog
        known = self._catalog.known(name) is not None
        if known or self._get(catalog, name, self._snapshots.catalog()) is not None:
            raise _duplicate_table(name)
        catalog.codec.encode(table_row(name, 0, 0, columns, primary_key))
        xid = self._transaction.ensure_xid()
        first = self._running.take_relation_numbers(2)
        row = table_row(name, first, first + 1, columns, primary_key)
        self._make_files(xid, first, first + 1)
        table = self._catalog.remember(row, own=True)
        table.btree.create(xid)
        try:
            self.insert(catalog, row)
        except ServerError as error:
            if error.sqlstate == errors.UNIQUE_VIOLATION:
                raise _duplicate_table(name) from error
            raise

    def _make_files(self, xid: int, *relations: int) -> None:
        # The record first, and on disk: or a crash could leave a file whose number is given out again.
        end = 0
        for relation in relations:
            _, end = self._wal.insert(Rmgr.STORAGE, STORAGE_CREATE, xid, encode_storage_create(relation))
        self._wal.flush(end)
        for relation in relations:
            self._pool.create_relation(relation)

    # Rows.

    def get(self, table: Table, value: Value) -> Row | None:
        """The row with a key as the statement's snapshot sees it."""
        return self._get(table, value, self._snapshots.statement())

    def _get(self, table: Table, value: Value, snapshot: Snapshot) -> Row | None:
        key = table.search_key(value)
        row = None
        for tid in table.btree.lookup(key):
            row = self._visible(table, tid, key, snapshot)
            if row is not None:
                break
        self._snapshots.end_statement()
        return row

    def _visible(self, table: Table, tid: int, key: Key, snapshot: Snapshot) -> Row | None:
        body = self._heap.fetch(table.heap, tid, snapshot, self._transaction.xid)
        if body is None:
            return None
        row = table.codec.decode(body)
        return row if table.key_of(row) == key else None

    def get_for_update(self, table: Table, value: Value) -> Row | None:
        """The newest committed row with a key, locked for this transaction; waits for whoever changed it.

        ServerError 40001 if this transaction's one snapshot does not see that version.
        """
        key = table.search_key(value)
        while True:
            snapshot = self._snapshots.statement()
            tids = table.btree.lookup(key)
            result, body = MISSING, b""
            for tid in tids:
                xid = self._transaction.ensure_xid()
                result, body = self._heap.lock_row(table.heap, tid, snapshot, xid, table.codec.has_key, key)
                if result != MISSING:
                    break
            if result == DONE:
                self._mine[table.heap, key] = (tid, snapshot)
            elif result == DELETED:
                result = CHANGED  # PostgreSQL's `ExecLockRows` says "concurrent update" of both.
            if not self._again(table, tids, result):
                return table.codec.decode(body) if result == DONE else None

    def insert(self, table: Table, row: Row) -> None:
        """Add a row; ServerError 23505 if its key exists. Waits for a transaction whose end decides that.

        ServerError 40001 if the one snapshot of this transaction still sees a row of this key that was deleted since.
        PostgreSQL adds the row, and such a transaction then sees both; here a key names one row.
        """
        body = table.codec.encode(row)
        key = table.key_of(row)
        still_seen = self._snapshots.repeatable and self.get(table, row[table.key_at]) is not None
        xid = self._transaction.ensure_xid()
        tid = self._heap.insert(table.heap, xid, body)
        dead: list[int] = []

        def check(tids: Sequence[int]) -> int:
            dead[:] = tids
            return self._conflict(table, row, key, tids, xid)

        while waited_for := table.btree.insert_unique(key, tid, xid, check):
            self._row_locks.wait_for(waited_for)
            self._host.check_interrupts()
        if still_seen:
            raise _could_not_serialize("delete")
        if dead:
            self._clean_up(table, dead)

    def _conflict(self, table: Table, row: Row, key: Key, tids: Sequence[int], xid: int) -> int:
        for tid in tids:
            waited_for, body = self._heap.conflicting(table.heap, tid, xid)
            if not body or not table.codec.has_key(body, key):
                continue
            if waited_for:
                return waited_for
            raise ServerError(
                f'duplicate key value violates unique constraint "{table.name}_pkey"',
                sqlstate=errors.UNIQUE_VIOLATION,
                detail=f"Key ({table.primary_key})=({row[table.key_at]!r}) already exists.",
            )
        return 0

    def update(self, table: Table, value: Value, row: Row) -> bool:
        """Replace the newest committed row with a key; False if there is none. ServerError 40001: see `_again`."""
        body = table.codec.encode(row)
        key = table.search_key(value)
        if table.key_of(row) != key:
            # A row's identity is its key: another key is another row.
            if not self.delete(table, value):
                return False
            self.insert(table, row)
            return True
        mine = self._mine.get((table.heap, key))
        if mine is not None:
            result = self._update(table, *mine, key, body)
            if result == DONE:
                return True
        while True:
            snapshot = self._snapshots.statement()
            tids = table.btree.lookup(key)
            result = MISSING
            for tid in tids:
                result = self._update(table, tid, snapshot, key, body)
                if result != MISSING:
                    break
            if not self._again(table, tids, result):
                return result == DONE

    def _update(self, table: Table, tid: int, snapshot: Snapshot, key: Key, body: bytes) -> int:
        """Replace the version that a snapshot sees at one tid: a result of `Heap.update`."""
        xid = self._transaction.ensure_xid()
        result = self._heap.update(table.heap, tid, snapshot, xid, table.codec.has_key, key, body)
        if result == DONE:
            self._mine[table.heap, key] = (tid, snapshot)
        elif result == NO_ROOM:
            self._mine.pop((table.heap, key), None)
            self._move(table, tid, snapshot, xid, key, body)
            result = DONE
        return result

    def _move(self, table: Table, tid: int, snapshot: Snapshot, xid: int, key: Key, body: bytes) -> None:
        """Go on with an update that found no room on the row's page; the old version is locked."""
        heap, has_key = self._heap, table.codec.has_key
        block = tid >> 16
        if heap.clean_up(table.heap, block, self._remover(table)):
            result = heap.update(table.heap, tid, snapshot, xid, has_key, key, body)
            if result == DONE:
                return
        new_tid = heap.insert(table.heap, xid, body, avoid=block)
        table.btree.insert(key, new_tid, xid)
        heap.link(table.heap, tid, snapshot, xid, has_key, key, new_tid)

    def delete(self, table: Table, value: Value) -> bool:
        """Remove the newest committed row with a key; False if there is none. ServerError 40001: see `_again`."""
        key = table.search_key(value)
        self._mine.pop((table.heap, key), None)
        while True:
            snapshot = self._snapshots.statement()
            tids = table.btree.lookup(key)
            result = MISSING
            for tid in tids:
                xid = self._transaction.ensure_xid()
                result = self._heap.delete(table.heap, tid, snapshot, xid, table.codec.has_key, key)
                if result != MISSING:
                    break
            if not self._again(table, tids, result):
                return result == DONE

    def scan(self, table: Table, after: Value, limit: int | None) -> Iterator[Row]:
        """Rows in key order as one snapshot sees them, from the first key greater than `after`.

        The snapshot is taken at the first row asked for. ServerError 34000 if the transaction ended meanwhile.
        """
        start = None if after is None else table.search_key(after)
        number, snapshot = self._snapshots.open_scan()
        try:
            left = -1 if limit is None else limit
            for seen, (key, tid) in enumerate(table.btree.scan(start)):
                if left == 0:
                    break
                if seen % _CHECK_EVERY == 0:
                    self._host.check_interrupts()
                if key == start:
                    continue
                row = self._visible(table, tid, key, snapshot)
                if row is not None:
                    left -= 1
                    yield row
                    if not self._snapshots.is_open(number):
                        raise ServerError("the transaction of this scan is over", sqlstate="34000")
        finally:
            self._snapshots.close_scan(number)

    def _again(self, table: Table, tids: list[int], result: int) -> bool:
        """End a round of a statement that changes a row: False if `result` stands, True (after the wait that it
        asks for) if the statement must begin again.

        READ COMMITTED begins again with a new snapshot. A REPEATABLE READ transaction has but one: a version that was
        committed after it cannot be built upon, which is ServerError 40001 (`ExecUpdate`, `ExecDelete`,
        `ExecLockRows`).
        """
        self._snapshots.end_statement()
        if len(tids) > 1:
            self._clean_up(table, tids)
        if result in (DONE, MISSING):
            return False
        if result > DONE:
            self._row_locks.wait_for(result)
        elif self._snapshots.repeatable:
            raise _could_not_serialize("update" if result == CHANGED else "delete")
        self._host.check_interrupts()
        return True

    # What nobody needs any more.

    def _clean_up(self, table: Table, tids: Sequence[int]) -> None:
        """Take dead rows with one key out of index and heap: else every look at a much-updated key meets them."""
        for block in {tid >> 16 for tid in tids}:
            if self._heap.is_prunable(table.heap, block):
                self._heap.clean_up(table.heap, block, self._remover(table))

    def _remover(self, table: Table) -> Callable[[bytes, int], None]:
        def remove(body: bytes, tid: int) -> None:
            table.btree.remove(table.key_of(table.codec.decode(body)), tid)

        return remove


def _could_not_serialize(change: str) -> ServerError:
    return ServerError(f"could not serialize access due to concurrent {change}", sqlstate=errors.SERIALIZATION_FAILURE)


def _duplicate_table(name: str) -> ServerError:
    return ServerError(f'relation "{name}" already exists', sqlstate=errors.DUPLICATE_TABLE)
