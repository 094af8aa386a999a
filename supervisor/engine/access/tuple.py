"""Row versions as bytes: the header that visibility is decided on, and the values of the columns.

Owns the layout of a version (PostgreSQL's `htup_details.h`, simplified) and the translation between bytes and typed
rows, with every check of a value against its column's type. It never sees a page.

    offset  size
    0       4    xmin: the transaction that made the version
    4       4    xmax: the one that deleted, replaced or locked it; 0: none
    8       4    next block \\ where the next version is, if xmax replaced this one; line 0: nowhere
    12      2    next line  /
    14      2    flags
    16      -    null bitmap (a set bit is a null; one byte per 8 columns), then the columns in order, packed: bool
                 1 byte, integer 4, bigint, double precision and timestamptz 8, text, bytea and numeric a 2-byte
                 length; then the bytes of the text, bytea and numeric columns, in order

Text is UTF-8, numeric as in `numeric.py`, timestamptz as in `timestamp.py`. A null takes the room of a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from struct import Struct
from typing import Any, NoReturn

from supervisor import errors
from supervisor.engine.access import numeric, timestamp
from supervisor.engine.access.btree import Key, encode_key
from supervisor.engine.storage.page import MAX_ITEM_BYTES
from supervisor.errors import ServerError

Value = bool | int | float | str | bytes | Decimal | datetime | None
Row = tuple[Value, ...]

HEADER = Struct("<IIIHH")
"""xmin, xmax, next block, next line, flags."""
HEADER_BYTES = HEADER.size
XMAX_AT = 4
NEXT_AT = 8
FLAGS_AT = 14

LOCK_ONLY = 0x0001  # xmax only locks the row
HOT_UPDATED = 0x0002  # the next version is on the same page and no index points to it
HEAP_ONLY = 0x0004  # no index points to this version: it is reached through the one before it
# Hints: what the commit log says. Set without marking the page dirty, see heap.
XMIN_COMMITTED = 0x0100
XMIN_INVALID = 0x0200
XMAX_COMMITTED = 0x0400
XMAX_INVALID = 0x0800
XMAX_BITS = LOCK_ONLY | HOT_UPDATED | XMAX_COMMITTED | XMAX_INVALID
"""What a new xmax makes void."""

MAX_COLUMNS = 64
_MAX_VARLENA = 0xFFFF

TYPES: tuple[str, ...] = ("bool", "integer", "bigint", "double precision", "text", "bytea", "numeric", "timestamptz")
_FORMATS = {
    "bool": "?",
    "integer": "i",
    "bigint": "q",
    "double precision": "d",
    "text": "H",
    "bytea": "H",
    "numeric": "H",
    "timestamptz": "q",
}
_VARYING = frozenset({"text", "bytea", "numeric"})
_STORED: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Value]]] = {
    "text": (str.encode, bytes.decode),
    "numeric": (numeric.to_bytes, numeric.from_bytes),
    "timestamptz": (timestamp.to_microseconds, timestamp.from_microseconds),
}
"""How a checked value becomes what is stored and back, for the types whose values are not stored as they are."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name and one of `TYPES`, or `numeric(precision, scale)`."""

    name: str
    type_name: str

    @property
    def base_type(self) -> str:
        """The one of `TYPES`."""
        return base_type(self.type_name)


def base_type(type_name: str) -> str:
    """The type without what is declared of it: numeric of `numeric(12,2)`. ServerError 22023, see `declared`."""
    return type_name if numeric.declared(type_name) is None else "numeric"


def check_value(type_name: str, value: Value, column: str) -> Value:
    """The value as its column keeps it; raises ServerError 42804 or 22003 (or 22021 for text). Not for nulls."""
    return _CHECKS[type_name](value, column)


def _mismatch(type_name: str, value: Value, column: str) -> NoReturn:
    raise ServerError(
        f'column "{column}" is of type {_sql_name(type_name)} but expression is of type {_python_type(value)}',
        sqlstate=errors.DATATYPE_MISMATCH,
        hint="You will need to rewrite or cast the expression.",
    )


_SQL_NAMES = {"bool": "boolean", "timestamptz": "timestamp with time zone"}
_PYTHON_TYPES = {
    bool: "boolean",
    int: "bigint",
    float: "double precision",
    str: "text",
    bytes: "bytea",
    Decimal: "numeric",
}


def _sql_name(type_name: str) -> str:
    return _SQL_NAMES.get(type_name, type_name)


def _python_type(value: object) -> str:
    if isinstance(value, datetime):
        return "timestamp without time zone" if value.utcoffset() is None else "timestamp with time zone"
    return _PYTHON_TYPES.get(type(value), type(value).__name__)


def _check_bool(value: Value, column: str) -> Value:
    return value if type(value) is bool else _mismatch("bool", value, column)


def _check_integer(value: Value, column: str) -> Value:
    if type(value) is not int:
        _mismatch("integer", value, column)
    if not -0x8000_0000 <= value <= 0x7FFF_FFFF:
        raise ServerError("integer out of range", sqlstate=errors.NUMERIC_VALUE_OUT_OF_RANGE)
    return value


def _check_bigint(value: Value, column: str) -> Value:
    if type(value) is not int:
        _mismatch("bigint", value, column)
    if not -0x8000_0000_0000_0000 <= value <= 0x7FFF_FFFF_FFFF_FFFF:
        raise ServerError("bigint out of range", sqlstate=errors.NUMERIC_VALUE_OUT_OF_RANGE)
    return value


def _check_double(value: Value, column: str) -> Value:
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ServerError(
                "value out of range for type double precision", sqlstate=errors.NUMERIC_VALUE_OUT_OF_RANGE
            ) from None
    return value if type(value) is float else _mismatch("double precision", value, column)


def _check_text(value: Value, column: str) -> Value:
    if type(value) is not str:
        _mismatch("text", value, column)
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise ServerError(
            'invalid character for encoding "UTF8"', sqlstate=errors.CHARACTER_NOT_IN_REPERTOIRE, detail=str(error)
        ) from None
    if b"\0" in encoded:
        raise ServerError(
            'invalid byte sequence for encoding "UTF8": 0x00', sqlstate=errors.CHARACTER_NOT_IN_REPERTOIRE
        )
    return value


def _check_bytea(value: Value, column: str) -> Value:
    return value if type(value) is bytes else _mismatch("bytea", value, column)


def _check_numeric(value: Value, column: str) -> Value:
    if type(value) is int:
        value = Decimal(value)
    return numeric.canonical(value) if type(value) is Decimal else _mismatch("numeric", value, column)


def _check_timestamptz(value: Value, column: str) -> Value:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        _mismatch("timestamptz", value, column)
    return timestamp.in_utc(value)


def _column_check(column: Column) -> Callable[[Value, str], Value]:
    check = _CHECKS[column.base_type]
    declared = numeric.declared(column.type_name)
    if declared is None:
        return check

    def check_declared(value: Value, name: str) -> Value:
        checked = check(value, name)
        assert isinstance(checked, Decimal)
        return declared.apply(checked)

    return check_declared


_CHECKS: dict[str, Callable[[Value, str], Value]] = {
    "bool": _check_bool,
    "integer": _check_integer,
    "bigint": _check_bigint,
    "double precision": _check_double,
    "text": _check_text,
    "bytea": _check_bytea,
    "numeric": _check_numeric,
    "timestamptz": _check_timestamptz,
}


class RowCodec:
    """Turns the rows of one table into bytes and back."""

    def __init__(self, table: str, columns: Sequence[Column], key: int) -> None:
        self._table = table
        self._columns = tuple(columns)
        self._key = key
        self._count = len(columns)
        self._bitmap_bytes = (self._count + 7) // 8
        types = [c.base_type for c in columns]
        self._struct = Struct(f"<{self._bitmap_bytes}s" + "".join(_FORMATS[name] for name in types))
        self._unpack = self._struct.unpack_from
        self._no_nulls = bytes(self._bitmap_bytes)
        self._checks = tuple((_column_check(c), c.name) for c in columns)
        self._varying = tuple(i for i, name in enumerate(types) if name in _VARYING)
        self._translated = tuple((i, *_STORED[name]) for i, name in enumerate(types) if name in _STORED)
        self._as_it_is = not self._varying and not self._translated
        self._key_field = key + 1
        self._key_type = types[key]
        self._word_key = self._key_type in ("bool", "integer", "bigint", "timestamptz")
        self._zeros = tuple(b"" if name in _VARYING else 0 for name in types)

    def encode(self, row: Row) -> bytes:
        """The bytes of a row; every check happens here, before anything is changed.

        Raises ServerError: 42601 wrong number of values, 23502 null key, 42804 wrong type, 22003 out of range,
        22021 not text, 54000 too big for a page.
        """
        if len(row) != self._count:
            more = "more" if len(row) > self._count else "fewer"
            raise ServerError(
                f'row for table "{self._table}" has {more} values than the table has columns',
                sqlstate=errors.SYNTAX_ERROR,
                detail=f"{len(row)} values, {self._count} columns.",
            )
        values: list[Value] = [
            None if value is None else check(value, name)
            for value, (check, name) in zip(row, self._checks, strict=True)
        ]
        for i, store, _ in self._translated:
            if values[i] is not None:
                values[i] = store(values[i])
        bitmap = self._no_nulls
        if None in values:
            bitmap = self._replace_nulls(values)
        if not self._varying:
            return self._struct.pack(bitmap, *values)
        return self._encode_varying(bitmap, values)

    def _replace_nulls(self, values: list[Value]) -> bytes:
        if values[self._key] is None:
            raise ServerError(
                f'null value in column "{self._columns[self._key].name}" of relation "{self._table}" '
                "violates not-null constraint",
                sqlstate=errors.NOT_NULL_VIOLATION,
            )
        bits = 0
        for i, value in enumerate(values):
            if value is None:
                bits |= 1 << i
                values[i] = self._zeros[i]
        return bits.to_bytes(self._bitmap_bytes, "little")

    def _encode_varying(self, bitmap: bytes, values: list[Value]) -> bytes:
        parts = [b""]
        size = HEADER_BYTES + self._struct.size
        for i in self._varying:
            data = values[i]
            assert isinstance(data, bytes)
            size += len(data)
            parts.append(data)
            values[i] = len(data) if len(data) <= _MAX_VARLENA else _MAX_VARLENA
        if size > MAX_ITEM_BYTES:
            raise ServerError(
                f"row is too big: size {size}, maximum size {MAX_ITEM_BYTES}", sqlstate=errors.PROGRAM_LIMIT_EXCEEDED
            )
        parts[0] = self._struct.pack(bitmap, *values)
        return b"".join(parts)

    def key_value(self, row: Row) -> Value:
        """The key of a row as its column keeps it: `numeric(p, s)` rounds it."""
        check, name = self._checks[self._key]
        return check(row[self._key], name)

    def has_key(self, body: bytes, key: Key) -> bool:
        """Whether the row of these bytes has an index key."""
        if self._word_key:
            return bool(self._unpack(body)[self._key_field] == key)
        return encode_key(self._key_type, self.decode(body)[self._key]) == key

    def decode(self, body: bytes) -> Row:
        """The row that `encode` made these bytes of."""
        fields = self._unpack(body)
        if self._as_it_is and fields[0] == self._no_nulls:
            return fields[1:]
        row = list(fields[1:])
        at = self._struct.size
        for i in self._varying:
            end = at + row[i]
            row[i] = body[at:end]
            at = end
        if fields[0] != self._no_nulls:
            bits = int.from_bytes(fields[0], "little")
            for i in range(self._count):
                if bits >> i & 1:
                    row[i] = None
        for i, _, load in self._translated:
            if row[i] is not None:
                row[i] = load(row[i])
        return tuple(row)
