"""The column types as clients see them: object identifiers, text and binary form.

Owns the conversion between Python values and the two formats of the protocol, and the assignment of one type to
another. OIDs and text forms are PostgreSQL's (`pg_type.dat`, `src/backend/utils/adt`). The values are those of the
session: bool, int, float, str, bytes, Decimal, aware datetime; None is null and never reaches a type. The two types
with much to say, numeric and timestamptz, have their forms in `numeric.py` and `timestamptz.py`.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from supervisor.errors import (
    CHARACTER_NOT_IN_REPERTOIRE,
    DATATYPE_MISMATCH,
    INVALID_BINARY_REPRESENTATION,
    INVALID_TEXT_REPRESENTATION,
    NUMERIC_VALUE_OUT_OF_RANGE,
    ServerError,
)
from supervisor.sql import numeric, timestamptz

Value = bool | int | float | str | bytes | Decimal | datetime


@dataclass(frozen=True, slots=True)
class DataType:
    """One type: PostgreSQL's name, OID, size in bytes (-1 varies), and its input and output functions.

    The input functions raise ServerError 22P02, 22P03 or 22003; those of moments 22007, 22008 or 22009.
    """

    name: str
    oid: int
    size: int
    from_text: Callable[[str], Value]
    from_binary: Callable[[bytes], Value]
    to_text: Callable[[Value], bytes]
    to_binary: Callable[[Value], bytes]


def _mismatched(type_name: str, value: Value) -> TypeError:
    return TypeError(f"a {type_name} column cannot hold {type(value).__name__}")


def _bad_text(type_name: str, text: str) -> ServerError:
    return ServerError(f'invalid input syntax for type {type_name}: "{text}"', sqlstate=INVALID_TEXT_REPRESENTATION)


def _bad_binary(type_name: str) -> ServerError:
    return ServerError(f"incorrect binary data format for type {type_name}", sqlstate=INVALID_BINARY_REPRESENTATION)


# -- bool


def _bool_from_text(text: str) -> bool:
    word = text.strip().lower()
    # Unique prefixes are enough, as in PostgreSQL's boolin; "o" alone could be either.
    if word and ("true".startswith(word) or "yes".startswith(word) or word in ("on", "1")):
        return True
    if word and ("false".startswith(word) or "no".startswith(word) or word in ("of", "off", "0")):
        return False
    raise _bad_text("boolean", text)


def _bool_from_binary(data: bytes) -> bool:
    if len(data) != 1:
        raise _bad_binary("boolean")
    return data != b"\0"


# -- integers


_INTEGER_TEXT: Final = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
_INTEGER_LAYOUT: Final = {2: struct.Struct("!h"), 4: struct.Struct("!i"), 8: struct.Struct("!q")}


def _integer_type(name: str, oid: int, size: int) -> DataType:
    limit = 1 << (8 * size - 1)
    layout = _INTEGER_LAYOUT[size]

    def from_text(text: str) -> int:
        if not _INTEGER_TEXT.fullmatch(text):
            raise _bad_text(name, text)
        # Longer digit strings are out of range anyway, and Python refuses to read very long ones.
        value = int(text) if len(text) < 1000 else limit
        if not -limit <= value < limit:
            raise ServerError(
                f'value "{text.strip()}" is out of range for type {name}',
                sqlstate=NUMERIC_VALUE_OUT_OF_RANGE,
            )
        return value

    def from_binary(data: bytes) -> int:
        if len(data) != size:
            raise _bad_binary(name)
        return int(layout.unpack(data)[0])

    def to_text(value: Value) -> bytes:
        if not isinstance(value, int):
            raise _mismatched(name, value)
        return b"%d" % value

    def to_binary(value: Value) -> bytes:
        return layout.pack(value)

    return DataType(name, oid, size, from_text, from_binary, to_text, to_binary)


# -- double precision


_FLOAT_TEXT: Final = re.compile(
    r"\s*[+-]?([0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?|\.[0-9]+([eE][+-]?[0-9]+)?|inf(inity)?|nan)\s*",
    re.ASCII | re.IGNORECASE,
)
_DOUBLE: Final = struct.Struct("!d")


def _float_from_text(text: str) -> float:
    if not _FLOAT_TEXT.fullmatch(text):
        raise _bad_text("double precision", text)
    value = float(text)
    if math.isinf(value) and "n" not in text.lower():
        raise ServerError(
            f'"{text.strip()}" is out of range for type double precision', sqlstate=NUMERIC_VALUE_OUT_OF_RANGE
        )
    return value


def _float_from_binary(data: bytes) -> float:
    if len(data) != 8:
        raise _bad_binary("double precision")
    return float(_DOUBLE.unpack(data)[0])


def _float_to_text(value: Value) -> bytes:
    """The shortest digits that read back as the same number, in PostgreSQL's notation (`float8out`)."""
    if not isinstance(value, float | int):
        raise _mismatched("double precision", value)
    number = float(value)
    if math.isnan(number):
        return b"NaN"
    if math.isinf(number):
        return b"Infinity" if number > 0 else b"-Infinity"
    text = repr(number).removesuffix(".0")
    if 1e15 <= abs(number) < 1e16:
        # The one decade where Python still writes all digits and PostgreSQL an exponent.
        sign, digits = ("-", text[1:]) if number < 0 else ("", text)
        whole = digits.partition(".")[0]
        significant = digits.replace(".", "").rstrip("0")
        fraction = f".{significant[1:]}" if len(significant) > 1 else ""
        text = f"{sign}{significant[0]}{fraction}e+{len(whole) - 1}"
    return text.encode()


# -- text and bytea


def _text_from_text(text: str) -> str:
    if "\0" in text:
        raise ServerError('invalid byte sequence for encoding "UTF8": 0x00', sqlstate=CHARACTER_NOT_IN_REPERTOIRE)
    return text


def _text_from_binary(data: bytes) -> str:
    try:
        return _text_from_text(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ServerError(
            f'invalid byte sequence for encoding "UTF8": 0x{data[error.start]:02x}',
            sqlstate=CHARACTER_NOT_IN_REPERTOIRE,
        ) from error


def _text_out(value: Value) -> bytes:
    return str(value).encode("utf-8")


_BYTEA_PIECE: Final = re.compile(rb"\\(\\|[0-3][0-7]{2})|[^\\]")


def _bytea_from_text(text: str) -> bytes:
    if text.startswith("\\x"):
        try:
            return bytes.fromhex(text[2:])
        except ValueError:
            raise _bad_text("bytea", text) from None
    data, at, out = text.encode("utf-8"), 0, bytearray()
    while at < len(data):
        piece = _BYTEA_PIECE.match(data, at)
        if piece is None:
            raise _bad_text("bytea", text)
        escaped = piece[1]
        out += piece[0] if escaped is None else b"\\" if escaped == b"\\" else bytes([int(escaped, 8)])
        at = piece.end()
    return bytes(out)


def _bytes_of(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise _mismatched("bytea", value)
    return value


# -- numeric and timestamptz


def _decimal_of(value: Value) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, int):
        return Decimal(value)
    raise _mismatched("numeric", value)


def _moment_of(value: Value) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise _mismatched("timestamptz", value)
    return value


BOOL: Final = DataType(
    "boolean",
    16,
    1,
    _bool_from_text,
    _bool_from_binary,
    lambda value: b"t" if value else b"f",
    lambda value: b"\1" if value else b"\0",
)
SMALLINT: Final = _integer_type("smallint", 21, 2)
INTEGER: Final = _integer_type("integer", 23, 4)
BIGINT: Final = _integer_type("bigint", 20, 8)
DOUBLE: Final = DataType(
    "double precision",
    701,
    8,
    _float_from_text,
    _float_from_binary,
    _float_to_text,
    _DOUBLE.pack,
)
TEXT: Final = DataType("text", 25, -1, _text_from_text, _text_from_binary, _text_out, _text_out)
BYTEA: Final = DataType(
    "bytea",
    17,
    -1,
    _bytea_from_text,
    lambda data: data,
    lambda value: b"\\x" + _bytes_of(value).hex().encode(),
    _bytes_of,
)
NUMERIC: Final = DataType(
    "numeric",
    1700,
    -1,
    numeric.from_text,
    numeric.from_binary,
    lambda value: numeric.to_text(_decimal_of(value)),
    lambda value: numeric.to_binary(_decimal_of(value)),
)
TIMESTAMPTZ: Final = DataType(
    timestamptz.NAME,
    1184,
    8,
    timestamptz.from_text,
    timestamptz.from_binary,
    lambda value: timestamptz.to_text(_moment_of(value)),
    lambda value: timestamptz.to_binary(_moment_of(value)),
)

UNKNOWN_OIDS: Final = frozenset({0, 705})
"""How a client leaves a parameter's type to the server: no type, or the pseudo-type unknown."""

_BY_NAME: Final = {
    **{kind.name: kind for kind in (BOOL, INTEGER, BIGINT, DOUBLE, TEXT, BYTEA, NUMERIC, TIMESTAMPTZ)},
    "bool": BOOL,
    "timestamptz": TIMESTAMPTZ,
}
_VARCHAR_OID: Final = 1043
_BY_OID: Final = {
    **{kind.oid: kind for kind in (BOOL, SMALLINT, INTEGER, BIGINT, DOUBLE, TEXT, BYTEA, NUMERIC, TIMESTAMPTZ)},
    _VARCHAR_OID: TEXT,
    **dict.fromkeys(UNKNOWN_OIDS, TEXT),
}
_INTEGERS: Final = (SMALLINT, INTEGER, BIGINT)


def type_named(name: str) -> DataType:
    """The type of a column or argument declared as `name`; raises KeyError for a name that is none."""
    return _BY_NAME[name]


def type_of_oid(oid: int) -> DataType | None:
    """The type a client declares a parameter as, or None for an OID that is not known here."""
    return _BY_OID.get(oid)


def assign(value: Value, source: DataType, target: DataType) -> Value:
    """`value` as `target` holds it: integers to wider or narrower ones, to numeric and to double precision, numeric to
    double precision, else the same type.

    Raises ServerError 42804 when the types do not go together, 22003 when the value does not fit.
    """
    if source is target:
        return value
    if source in _INTEGERS and isinstance(value, int):
        if target in _INTEGERS:
            limit = 1 << (8 * target.size - 1)
            if not -limit <= value < limit:
                raise ServerError(f"{target.name} out of range", sqlstate=NUMERIC_VALUE_OUT_OF_RANGE)
            return value
        if target is DOUBLE:
            return float(value)
        if target is NUMERIC:
            return Decimal(value)
    if source is NUMERIC and target is DOUBLE:
        return DOUBLE.from_text(NUMERIC.to_text(value).decode())  # as PostgreSQL does it, with its refusals
    raise ServerError(
        f"a value of type {source.name} cannot be assigned to type {target.name}", sqlstate=DATATYPE_MISMATCH
    )
