"""Values at the edge: what clients write and read must be what the session holds.

What could go wrong: a text form that PostgreSQL would refuse is taken for a value, a number that does not fit is cut,
a result that a driver reads back is another number than the one stored.
"""

from __future__ import annotations

import math
import struct

import pytest

from supervisor.errors import ServerError
from supervisor.sql.types import (
    BIGINT,
    BOOL,
    BYTEA,
    DOUBLE,
    INTEGER,
    SMALLINT,
    TEXT,
    DataType,
    Value,
    assign,
    type_named,
    type_of_oid,
)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (BOOL, "t", True),
        (BOOL, " TRUE ", True),
        (BOOL, "on", True),
        (BOOL, "ye", True),
        (BOOL, "0", False),
        (BOOL, "of", False),
        (INTEGER, " -17 ", -17),
        (INTEGER, "2147483647", 2**31 - 1),
        (BIGINT, "-9223372036854775808", -(2**63)),
        (DOUBLE, "1.5e3", 1500.0),
        (DOUBLE, "-Infinity", -math.inf),
        (DOUBLE, ".5", 0.5),
        (TEXT, " as is ", " as is "),
        (BYTEA, "\\x00ff", b"\0\xff"),
        (BYTEA, "a\\\\b\\001", b"a\\b\1"),
        (BYTEA, "", b""),
    ],
)
def test_text_forms_are_read(kind: DataType, text: str, value: Value) -> None:
    assert kind.from_text(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "sqlstate"),
    [
        (BOOL, "o", "22P02"),
        (BOOL, "", "22P02"),
        (BOOL, "truely", "22P02"),
        (INTEGER, "", "22P02"),
        (INTEGER, "1_000", "22P02"),
        (INTEGER, "1.0", "22P02"),
        (INTEGER, "٣", "22P02"),
        (INTEGER, "2147483648", "22003"),
        (BIGINT, "9" * 5000, "22003"),
        (DOUBLE, "1_0", "22P02"),
        (DOUBLE, "e5", "22P02"),
        (DOUBLE, "1e999", "22003"),
        (BYTEA, "\\xf", "22P02"),
        (BYTEA, "\\", "22P02"),
        (BYTEA, "\\400", "22P02"),
        (TEXT, "a\0b", "22021"),
    ],
)
def test_what_is_no_text_form_is_refused(kind: DataType, text: str, sqlstate: str) -> None:
    with pytest.raises(ServerError) as caught:
        kind.from_text(text)
    assert caught.value.sqlstate == sqlstate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, b"1"),
        (-0.0, b"-0"),
        (0.1, b"0.1"),
        (1e15, b"1e+15"),
        (-1234567890123456.0, b"-1.234567890123456e+15"),
        (999999999999999.0, b"999999999999999"),
        (1e16, b"1e+16"),
        (1.5e300, b"1.5e+300"),
        (0.0001, b"0.0001"),
        (0.00001, b"1e-05"),
        (math.inf, b"Infinity"),
        (-math.inf, b"-Infinity"),
        (math.nan, b"NaN"),
    ],
)
def test_double_precision_is_written_as_postgresql_writes_it(value: float, text: bytes) -> None:
    assert DOUBLE.to_text(value) == text


@pytest.mark.parametrize(
    ("kind", "value", "text", "binary"),
    [
        (BOOL, True, b"t", b"\1"),
        (BOOL, False, b"f", b"\0"),
        (SMALLINT, -2, b"-2", b"\xff\xfe"),
        (INTEGER, 258, b"258", b"\0\0\1\2"),
        (BIGINT, -1, b"-1", b"\xff" * 8),
        (DOUBLE, 0.5, b"0.5", struct.pack("!d", 0.5)),
        (TEXT, "ü", b"\xc3\xbc", b"\xc3\xbc"),
        (BYTEA, b"\0\xff", b"\\x00ff", b"\0\xff"),
    ],
)
def test_both_formats_hold_the_value(kind: DataType, value: Value, text: bytes, binary: bytes) -> None:
    assert kind.to_text(value) == text
    assert kind.to_binary(value) == binary
    assert kind.from_text(text.decode()) == value
    assert kind.from_binary(binary) == value


@pytest.mark.parametrize("kind", [BOOL, SMALLINT, INTEGER, BIGINT, DOUBLE])
def test_binary_values_of_the_wrong_size_are_refused(kind: DataType) -> None:
    with pytest.raises(ServerError) as caught:
        kind.from_binary(b"\0\0\0")
    assert caught.value.sqlstate == "22P03"


def test_binary_text_must_be_utf8() -> None:
    with pytest.raises(ServerError) as caught:
        TEXT.from_binary(b"\xff")
    assert caught.value.sqlstate == "22021"


def test_integers_go_where_they_fit() -> None:
    assert assign(5, SMALLINT, BIGINT) == 5
    assert assign(5, BIGINT, INTEGER) == 5
    assert assign(5, INTEGER, DOUBLE) == 5.0
    with pytest.raises(ServerError) as caught:
        assign(2**31, BIGINT, INTEGER)
    assert caught.value.sqlstate == "22003"


@pytest.mark.parametrize(
    ("source", "target"), [(TEXT, INTEGER), (INTEGER, TEXT), (BOOL, INTEGER), (DOUBLE, BIGINT), (INTEGER, BOOL)]
)
def test_other_types_do_not_mix(source: DataType, target: DataType) -> None:
    with pytest.raises(ServerError) as caught:
        assign(1, source, target)
    assert caught.value.sqlstate == "42804"


def test_types_are_found_by_name_and_oid() -> None:
    assert type_named("bool") is type_named("boolean") is BOOL
    assert type_of_oid(21) is SMALLINT
    assert type_of_oid(1043) is type_of_oid(0) is TEXT
    assert type_of_oid(1700) is None
    with pytest.raises(KeyError):
        type_named("smallint")
