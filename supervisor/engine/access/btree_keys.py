"""Values as keys whose order is that of the values (PostgreSQL's operator classes, as an encoding).

Owns the encoding. It never decodes: a row has its values, a key only has their order.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from struct import Struct

from supervisor.engine.access import numeric, timestamp
from supervisor.engine.access.btree_page import MAX_KEY_BYTES, Key
from supervisor.errors import (
    NUMERIC_VALUE_OUT_OF_RANGE,
    PROGRAM_LIMIT_EXCEEDED,
    UNDEFINED_OBJECT,
    ServerError,
)

_WORD_TYPES = frozenset({"bool", "integer", "bigint", "double precision", "timestamptz"})
_DOUBLE = Struct("<d")
_INT64 = Struct("<q")
_NAN = 0x7FF8_0000_0000_0000


def word_keys(type_name: str) -> bool:
    """Whether the keys of a type are eight-byte words; `Btree` wants to know."""
    return type_name in _WORD_TYPES


def encode_key(type_name: str, value: object) -> Key:
    """A value as a key: keys of one type are in the same order as its values.

    Integers, double precision, bool and timestamptz become an int64; text its UTF-8 bytes (the order of code points,
    collation "C"), bytea itself, numeric what `numeric.to_key` says. -0.0 is 0.0, 1.0 is 1.00, and NaN is equal to
    itself and greater than all, as in PostgreSQL.
    ServerError 54000 for a key that is too long, 22003 for an int beyond 64 bits or a numeric beyond its limits.
    """
    match value:
        case bool():
            return int(value)
        case float():
            return _encode_double(value)
        case int():
            if type_name == "double precision":
                return _encode_double(float(value))
            if type_name == "numeric":
                return _fitting(numeric.to_key(numeric.canonical(Decimal(value))))
            if not -(1 << 63) <= value < 1 << 63:
                raise ServerError("bigint out of range", sqlstate=NUMERIC_VALUE_OUT_OF_RANGE)
            return value
        case str() | bytes():
            return _fitting(value.encode() if isinstance(value, str) else value)
        case Decimal():
            return _fitting(numeric.to_key(numeric.canonical(value)))
        case datetime():
            return timestamp.to_microseconds(value)
    raise ServerError(f'type "{type_name}" cannot be a key', sqlstate=UNDEFINED_OBJECT)


def _fitting(key: bytes) -> bytes:
    if len(key) > MAX_KEY_BYTES:
        raise ServerError(
            f"index row size {len(key)} exceeds maximum {MAX_KEY_BYTES} for a primary key",
            sqlstate=PROGRAM_LIMIT_EXCEEDED,
            hint="Values larger than this cannot be indexed.",
        )
    return key


def _encode_double(value: float) -> int:
    if value != value:
        return _NAN
    bits: int = _INT64.unpack(_DOUBLE.pack(value + 0.0))[0]
    return bits if bits >= 0 else bits ^ 0x7FFF_FFFF_FFFF_FFFF
