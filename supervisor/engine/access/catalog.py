"""The catalog: which tables there are, as rows of a table.

Owns the engine's own relations, the meaning of a catalog row, and each process's memory of the tables it has met. The
catalog is an ordinary heap with an ordinary index on the name, so that creating a table is as transactional and as
durable as inserting a row: a creation that is rolled back, or that a crash cuts off, leaves no table. It leaves two
files that no table names; they are harmless, and stay: relation numbers are not used again.

Tables are never changed or dropped, so a process may remember for ever what it once saw; what it does not know it
looks up. A table that the own transaction created is forgotten when that rolls back.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from supervisor import errors
from supervisor.engine.access.btree import Btree, Key, encode_key, word_keys
from supervisor.engine.access.tuple import MAX_COLUMNS, TYPES, Column, Row, RowCodec, Value, base_type, check_value
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.transam.clog import CLOG_RELATION
from supervisor.engine.wal.insert import Wal
from supervisor.engine.wal.record import WalRecord
from supervisor.errors import ServerError

CATALOG_HEAP = 1
CATALOG_INDEX = 2
ENGINE_RELATIONS = (CATALOG_HEAP, CATALOG_INDEX, CLOG_RELATION)

STORAGE_CREATE = 0x10
"""The info byte of `Rmgr.STORAGE` records. Body: the relation number. Inserted before the file is made."""
_RELATION = Struct("<I")

_MAX_NAME_BYTES = 63


class Table:
    """A table as the engine works on it: its relations, its columns, and how its rows become bytes."""

    def __init__(
        self, name: str, heap: int, index: int, columns: Sequence[Column], primary_key: str, pool: BufferPool, wal: Wal
    ) -> None:
        self.name = name
        self.heap = heap
        self.index = index
        self.columns = tuple(columns)
        self.key_at = [c.name for c in columns].index(primary_key)
        self.key_type = self.columns[self.key_at].base_type
        self.codec = RowCodec(name, columns, self.key_at)
        self.btree = Btree(pool, wal, index, word_keys=word_keys(self.key_type))
        self._plain_key = self.key_type in ("integer", "bigint")

    @property
    def primary_key(self) -> str:
        """The name of the key's column."""
        return self.columns[self.key_at].name

    def key_of(self, row: Row) -> Key:
        """The index key of a row that `codec.encode` accepted."""
        value = row[self.key_at]
        if self._plain_key:
            assert isinstance(value, int)
            return value
        return encode_key(self.key_type, self.codec.key_value(row))

    def search_key(self, value: Value) -> Key:
        """The index key to look a value up by; ServerError 42804 or 22003 as for a row, 23502 for null."""
        if value is None:
            raise ServerError(f'null key for table "{self.name}"', sqlstate=errors.NOT_NULL_VIOLATION)
        return encode_key(self.key_type, check_value(self.key_type, value, self.primary_key))


CATALOG_COLUMNS = (
    Column("name", "text"),
    Column("heap", "integer"),
    Column("index", "integer"),
    Column("columns", "text"),
    Column("primary_key", "text"),
)
"""The columns of the catalog's own table, `pg_class`."""


class Catalog:
    """The tables as one process knows them."""

    def __init__(self, pool: BufferPool, wal: Wal) -> None:
        self._pool = pool
        self._wal = wal
        self._tables: dict[str, Table] = {}
        self._own: list[str] = []
        self.known = self._tables.get
        self.catalog = Table("pg_class", CATALOG_HEAP, CATALOG_INDEX, CATALOG_COLUMNS, "name", pool, wal)
        """The table of tables."""

    def remember(self, row: Row, *, own: bool) -> Table:
        """The table that a catalog row describes; `own`: the running transaction made it."""
        name, heap, index, columns, primary_key = row
        assert isinstance(name, str) and isinstance(heap, int) and isinstance(index, int)
        assert isinstance(columns, str) and isinstance(primary_key, str)
        table = Table(name, heap, index, columns_from(columns), primary_key, self._pool, self._wal)
        self._tables[name] = table
        if own:
            self._own.append(name)
        return table

    def end_transaction(self, *, committed: bool) -> None:
        """Keep or forget the tables that the transaction created."""
        if self._own:
            if not committed:
                for name in self._own:
                    self._tables.pop(name, None)
            self._own.clear()


def table_row(name: str, heap: int, index: int, columns: Sequence[Column], primary_key: str) -> Row:
    """The catalog row of a table."""
    text = "\n".join(f"{column.name}\t{column.type_name}" for column in columns)
    return name, heap, index, text, primary_key


def columns_from(text: str) -> tuple[Column, ...]:
    """The columns that a catalog row's text names. TypeError for a text that `table_row` does not make."""
    return tuple(Column(*line.split("\t")) for line in text.split("\n"))


def check_definition(name: str, columns: Sequence[tuple[str, str]], primary_key: str) -> tuple[Column, ...]:
    """The columns of a table to be made; every check happens here, before anything is changed.

    ServerError: 42602 bad name, 42701 column twice, 42704 unknown type, 22023 bad precision or scale, 42703 key that is no
    column, 54011 too many.
    """
    _check_name(name)
    if len(columns) > MAX_COLUMNS:
        raise ServerError(f"tables can have at most {MAX_COLUMNS} columns", sqlstate="54011")
    seen: set[str] = set()
    for column, type_name in columns:
        _check_name(column)
        if column in seen:
            raise ServerError(f'column "{column}" specified more than once', sqlstate="42701")
        seen.add(column)
        if base_type(type_name) not in TYPES:
            raise ServerError(
                f'type "{type_name}" does not exist',
                sqlstate=errors.UNDEFINED_OBJECT,
                hint="Types: " + ", ".join(TYPES) + "; numeric may be declared as numeric(precision, scale).",
            )
    if primary_key not in seen:
        raise ServerError(f'column "{primary_key}" named in key does not exist', sqlstate=errors.UNDEFINED_COLUMN)
    return tuple(Column(column, type_name) for column, type_name in columns)


def _check_name(name: str) -> None:
    if not 0 < len(name.encode(errors="replace")) <= _MAX_NAME_BYTES or not name.isprintable():
        raise ServerError(
            f"invalid name: {name!r}", sqlstate="42602", hint="A name is 1 to 63 bytes of printable text."
        )


def no_such_table(name: str) -> ServerError:
    """The error for a table that the catalog does not have."""
    return ServerError(f'relation "{name}" does not exist', sqlstate=errors.UNDEFINED_TABLE)


def encode_storage_create(relation: int) -> bytes:
    """The body of a STORAGE_CREATE record."""
    return _RELATION.pack(relation)


def decode_storage_create(record: WalRecord) -> int:
    """The relation number of a STORAGE_CREATE record."""
    return int(_RELATION.unpack(record.body)[0])


def describe_storage(record: WalRecord) -> str:
    """What a STORAGE record says, its kind first."""
    if record.info == STORAGE_CREATE:
        return f"CREATE base/{decode_storage_create(record)}"
    return f"UNKNOWN (0x{record.info:02X})"
