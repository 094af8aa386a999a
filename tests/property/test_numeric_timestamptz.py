"""A number and a moment come back as they went in, and their keys are in their order.

What could go wrong: zeros at the end are lost, a digit falls off at a boundary of the packed forms, the shorter of two
numbers that begin alike sorts on the wrong side, a negative one the wrong way round, and only for one value in a million.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from math import floor

from hypothesis import given
from hypothesis import strategies as st

from supervisor.engine.access import numeric, timestamp
from supervisor.engine.access.tuple import Column, RowCodec
from supervisor.sql.types import NUMERIC, TIMESTAMPTZ

SPECIAL = st.sampled_from([Decimal("Infinity"), Decimal("-Infinity")])
FINITE = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30),
    # Few digits far apart, where prefixes and zeros between digits decide.
    st.builds(
        lambda sign, digits, scale: Decimal((sign, digits, -scale)),
        st.sampled_from([0, 1]),
        st.lists(st.sampled_from([0, 0, 0, 1, 9]), min_size=1, max_size=40).map(tuple),
        st.integers(-30, 60),
    ),
).map(numeric.canonical)
NUMBERS = st.one_of(FINITE, SPECIAL)
MOMENTS = st.datetimes(
    min_value=datetime(1, 1, 3),
    max_value=datetime(9999, 12, 29),
    timezones=st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


@given(NUMBERS)
def test_a_number_comes_back_with_its_scale_from_every_form(value: Decimal) -> None:
    assert str(numeric.from_bytes(numeric.to_bytes(value))) == str(value)
    assert str(NUMERIC.from_binary(NUMERIC.to_binary(value))) == str(value)
    assert str(NUMERIC.from_text(NUMERIC.to_text(value).decode())) == str(value)


@given(NUMBERS, NUMBERS)
def test_keys_of_numbers_compare_as_the_numbers_do(one: Decimal, other: Decimal) -> None:
    assert (numeric.to_key(one) < numeric.to_key(other)) == (one < other)
    assert (numeric.to_key(one) == numeric.to_key(other)) == (one == other)
    assert numeric.to_key(one) < numeric.to_key(Decimal("NaN"))


@given(FINITE, st.integers(-40, 60))
def test_rounding_goes_to_the_nearest_and_halves_away_from_zero(value: Decimal, scale: int) -> None:
    rounded = numeric.Declared(numeric.MAX_PRECISION, scale).apply(value)
    unit = Fraction(10) ** -scale
    nearest = floor(Fraction(value.copy_abs()) / unit + Fraction(1, 2)) * unit
    assert Fraction(rounded.copy_abs()) == nearest
    assert not rounded or rounded.is_signed() == value.is_signed()
    assert rounded.as_tuple().exponent == -max(scale, 0)


@given(MOMENTS)
def test_a_moment_comes_back_from_every_form(value: datetime) -> None:
    assert timestamp.from_microseconds(timestamp.to_microseconds(value)) == value
    assert TIMESTAMPTZ.from_binary(TIMESTAMPTZ.to_binary(value)) == value
    assert TIMESTAMPTZ.from_text(TIMESTAMPTZ.to_text(value).decode()) == value
    assert TIMESTAMPTZ.from_text(value.isoformat()) == value


@given(MOMENTS, MOMENTS)
def test_keys_of_moments_compare_as_the_moments_do(one: datetime, other: datetime) -> None:
    assert (timestamp.to_microseconds(one) < timestamp.to_microseconds(other)) == (one < other)


@given(
    st.none() | NUMBERS, st.none() | MOMENTS, st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8"))
)
def test_a_row_of_them_comes_back(number: Decimal | None, moment: datetime | None, text: str | None) -> None:
    types = [("id", "integer"), ("n", "numeric"), ("at", "timestamptz"), ("t", "text"), ("m", "numeric")]
    codec = RowCodec("t", [Column(*column) for column in types], 0)
    row = codec.decode(codec.encode((1, number, moment, text, number)))
    assert row == (1, number, moment, text, number)
    assert str(row[1]) == str(number)
    assert moment is None or (isinstance(row[2], datetime) and row[2].tzinfo is UTC)
