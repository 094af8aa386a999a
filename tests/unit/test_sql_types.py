"""Values at the edge: what clients write and read must be what the session holds.

What could go wrong: a text form that PostgreSQL would refuse is taken for a value, a number that does not fit is cut,
a result that a driver reads back is another number than the one stored.
"""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from supervisor.errors import ServerError
from supervisor.sql.types import (
    BIGINT,
    BOOL,
    BYTEA,
    DOUBLE,
    INTEGER,
    NUMERIC,
    SMALLINT,
    TEXT,
    TIMESTAMPTZ,
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
        (NUMERIC, " -017.50 ", Decimal("-17.50")),
        (NUMERIC, "1.5e3", Decimal(1500)),
        (NUMERIC, ".5", Decimal("0.5")),
        (NUMERIC, "5.", Decimal(5)),
        (NUMERIC, "-inf", Decimal("-Infinity")),
        (NUMERIC, "9" * 131_072, Decimal("9" * 131_072)),
        (TIMESTAMPTZ, "2026-01-02 03:04:05.678901+00", datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)),
        (TIMESTAMPTZ, "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (TIMESTAMPTZ, "2026-01-02 03:04:05 UTC", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (TIMESTAMPTZ, "2026-1-2", datetime(2026, 1, 2, tzinfo=UTC)),
        (TIMESTAMPTZ, "2026-01-02 03:04-05:30", datetime(2026, 1, 2, 8, 34, tzinfo=UTC)),
        (TIMESTAMPTZ, "2026-01-02 03:04+0530", datetime(2026, 1, 1, 21, 34, tzinfo=UTC)),
        (TIMESTAMPTZ, "2026-01-02 03:04+5", datetime(2026, 1, 1, 22, 4, tzinfo=UTC)),
        (TIMESTAMPTZ, "2026-01-02 24:00:00", datetime(2026, 1, 3, tzinfo=UTC)),
        (TIMESTAMPTZ, "2026-01-02 03:04:60", datetime(2026, 1, 2, 3, 5, tzinfo=UTC)),
        (TIMESTAMPTZ, "2026-01-02 03:04:05.9999999", datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)),
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
        (NUMERIC, "", "22P02"),
        (NUMERIC, ".", "22P02"),
        (NUMERIC, "1_0", "22P02"),
        (NUMERIC, "-NaN", "22P02"),
        (NUMERIC, "1e131072", "22003"),
        (NUMERIC, "1e-16384", "22003"),
        (NUMERIC, "1e99999999999999999999", "22003"),
        (NUMERIC, "1e-99999999999999999999", "22003"),
        (TIMESTAMPTZ, "yesterday", "22007"),
        (TIMESTAMPTZ, "2026-01-02 03", "22007"),
        (TIMESTAMPTZ, "2026-01-02+", "22007"),
        (TIMESTAMPTZ, "2026-13-02", "22008"),
        (TIMESTAMPTZ, "2026-02-29", "22008"),
        (TIMESTAMPTZ, "2026-01-02 24:00:01", "22008"),
        (TIMESTAMPTZ, "2026-01-02 03:60", "22008"),
        (TIMESTAMPTZ, "10000-01-01", "22008"),
        (TIMESTAMPTZ, "0001-01-01 00:00+01", "22008"),
        (TIMESTAMPTZ, "0044-03-15 BC", "22008"),
        (TIMESTAMPTZ, "infinity", "22008"),
        (TIMESTAMPTZ, "2026-01-02 00:00+16", "22009"),
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
        (NUMERIC, Decimal("0"), b"0", bytes(8)),
        (NUMERIC, Decimal("0.00"), b"0.00", struct.pack("!HhHH", 0, 0, 0, 2)),
        (NUMERIC, Decimal("-12345.6780"), b"-12345.6780", struct.pack("!HhHH3H", 3, 1, 0x4000, 4, 1, 2345, 6780)),
        (NUMERIC, Decimal("0.00001"), b"0.00001", struct.pack("!HhHHH", 1, -2, 0, 5, 1000)),
        (NUMERIC, Decimal(20_000), b"20000", struct.pack("!HhHHH", 1, 1, 0, 0, 2)),
        (NUMERIC, Decimal("-Infinity"), b"-Infinity", struct.pack("!HhHH", 0, 0, 0xF000, 0)),
        (TIMESTAMPTZ, datetime(2000, 1, 1, tzinfo=UTC), b"2000-01-01 00:00:00+00", bytes(8)),
        (
            TIMESTAMPTZ,
            datetime(1999, 12, 31, 23, 59, 59, 500_000, UTC),
            b"1999-12-31 23:59:59.5+00",
            struct.pack("!q", -500_000),
        ),
        (
            TIMESTAMPTZ,
            datetime(1, 1, 1, tzinfo=UTC),
            b"0001-01-01 00:00:00+00",
            struct.pack("!q", -63_082_281_600_000_000),
        ),
    ],
)
def test_both_formats_hold_the_value(kind: DataType, value: Value, text: bytes, binary: bytes) -> None:
    assert kind.to_text(value) == text
    assert kind.to_binary(value) == binary
    assert kind.from_text(text.decode()) == value
    assert kind.from_binary(binary) == value


@pytest.mark.parametrize("kind", [BOOL, SMALLINT, INTEGER, BIGINT, DOUBLE, NUMERIC, TIMESTAMPTZ])
def test_binary_values_of_the_wrong_size_are_refused(kind: DataType) -> None:
    with pytest.raises(ServerError) as caught:
        kind.from_binary(b"\0\0\0")
    assert caught.value.sqlstate == "22P03"


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!HhHHH", 1, 0, 0, 0, 10_000),
        struct.pack("!HhHHH", 1, 0, 0x1000, 0, 1),
        struct.pack("!HhHHH", 2, 0, 0, 0, 1),
        struct.pack("!HhHHH", 1, 0, 0, 0x4000, 1),
    ],
)
def test_binary_numbers_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(ServerError) as caught:
        NUMERIC.from_binary(data)
    assert caught.value.sqlstate == "22P03"


def test_a_binary_number_is_cut_to_the_scale_it_shows() -> None:
    assert NUMERIC.to_text(NUMERIC.from_binary(struct.pack("!HhHH2H", 2, 0, 0, 1, 7, 6789))) == b"7.6"
    assert NUMERIC.to_text(NUMERIC.from_binary(struct.pack("!HhHHH", 1, -3, 0, 2, 9999))) == b"0.00"


def test_numbers_are_written_without_exponent_and_negative_zero() -> None:
    assert NUMERIC.to_text(Decimal("1E+3")) == b"1000"
    assert NUMERIC.to_text(Decimal("1E-7")) == b"0.0000001"
    assert NUMERIC.to_text(Decimal("-0.0")) == b"0.0"
    assert NUMERIC.to_text(Decimal("-NaN")) == b"NaN"
    assert NUMERIC.from_binary(NUMERIC.to_binary(Decimal("NaN"))).is_nan()


def test_moments_are_written_in_utc_wherever_they_were_said() -> None:
    said = datetime(2026, 7, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert TIMESTAMPTZ.to_text(said) == b"2026-06-30 23:30:00+00"
    assert TIMESTAMPTZ.from_binary(TIMESTAMPTZ.to_binary(said)) == said
    with pytest.raises(ServerError) as caught:
        TIMESTAMPTZ.from_binary(struct.pack("!q", 1 << 62))
    assert caught.value.sqlstate == "22008"


def test_binary_text_must_be_utf8() -> None:
    with pytest.raises(ServerError) as caught:
        TEXT.from_binary(b"\xff")
    assert caught.value.sqlstate == "22021"


def test_integers_go_where_they_fit() -> None:
    assert assign(5, SMALLINT, BIGINT) == 5
    assert assign(5, BIGINT, INTEGER) == 5
    assert assign(5, INTEGER, DOUBLE) == 5.0
    assert assign(5, BIGINT, NUMERIC) == Decimal(5)
    assert assign(Decimal("0.1"), NUMERIC, DOUBLE) == 0.1
    with pytest.raises(ServerError) as caught:
        assign(Decimal("1e400"), NUMERIC, DOUBLE)
    assert caught.value.sqlstate == "22003"
    with pytest.raises(ServerError) as caught:
        assign(2**31, BIGINT, INTEGER)
    assert caught.value.sqlstate == "22003"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (TEXT, INTEGER),
        (INTEGER, TEXT),
        (BOOL, INTEGER),
        (DOUBLE, BIGINT),
        (INTEGER, BOOL),
        (NUMERIC, BIGINT),
        (DOUBLE, NUMERIC),
        (TEXT, TIMESTAMPTZ),
    ],
)
def test_other_types_do_not_mix(source: DataType, target: DataType) -> None:
    with pytest.raises(ServerError) as caught:
        assign(1, source, target)
    assert caught.value.sqlstate == "42804"


def test_types_are_found_by_name_and_oid() -> None:
    assert type_named("bool") is type_named("boolean") is BOOL
    assert type_of_oid(21) is SMALLINT
    assert type_of_oid(1043) is type_of_oid(0) is TEXT
    assert type_named("timestamptz") is type_named("timestamp with time zone") is type_of_oid(1184) is TIMESTAMPTZ
    assert type_named("numeric") is type_of_oid(1700) is NUMERIC
    assert type_of_oid(1082) is None
    with pytest.raises(KeyError):
        type_named("smallint")
