"""numeric: exact decimal numbers, as rows keep them and as keys order them (PostgreSQL's `utils/adt/numeric.c`).

Owns which numbers there are, the rounding to a declared precision and scale, and two encodings: one that keeps
everything, the scale of trailing zeros included, and one that keeps the order alone, in which 1.0 is 1.00. It never
calculates: values pass through text, which is exact whatever a decimal context says.

    stored: a byte that says what it is (`_Kind`); of a finite number then 2 bytes, how many of its digits stand behind
            the point, and its digits, two to a byte
    key:    a byte that says which part of the number line it is on; of a finite number but zero then 3 bytes, the
            place of its first digit, and its digits, two to a byte and each one up; of a negative one all of that
            complemented, and a last byte that is above any other
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from enum import IntEnum
from struct import Struct
from typing import Final

from supervisor.errors import INVALID_PARAMETER_VALUE, NUMERIC_VALUE_OUT_OF_RANGE, ServerError

MAX_DIGITS_BEFORE_POINT: Final = 131_072
MAX_SCALE: Final = 16_383
"""PostgreSQL's limits of a number without a declared precision: what its two-byte weight and 14-bit scale can say."""

MAX_PRECISION: Final = 1_000
"""The most that `numeric(precision, scale)` may declare; scales go from minus that to that."""


class _Kind(IntEnum):
    POSITIVE = 0
    NEGATIVE = 1
    NAN = 2
    INFINITY = 3
    MINUS_INFINITY = 4


_SPECIAL: Final = {
    _Kind.NAN: Decimal("NaN"),
    _Kind.INFINITY: Decimal("Infinity"),
    _Kind.MINUS_INFINITY: Decimal("-Infinity"),
}
_HEADER: Final = Struct("<BH")
# In the order of the values: NaN is equal to itself and greater than all, as in PostgreSQL.
_KEY_MINUS_INFINITY, _KEY_NEGATIVE, _KEY_ZERO, _KEY_POSITIVE, _KEY_INFINITY, _KEY_NAN = (bytes([n]) for n in range(6))
_PLACE_BIAS: Final = 1 << 23
_ONE_UP: Final = str.maketrans("0123456789", "123456789a")
_COMPLEMENT: Final = bytes(255 - byte for byte in range(256))
_DECLARED: Final = re.compile(r"numeric\(\s*([0-9]+)\s*(?:,\s*([+-]?[0-9]+)\s*)?\)", re.ASCII)


def overflow() -> ServerError:
    """The error for a number beyond the limits."""
    return ServerError("value overflows numeric format", sqlstate=NUMERIC_VALUE_OUT_OF_RANGE)


def canonical(value: Decimal) -> Decimal:
    """The number as PostgreSQL has it: no negative zero, no exponent above zero, one NaN.

    Raises ServerError 22003 beyond `MAX_DIGITS_BEFORE_POINT` or `MAX_SCALE`.
    """
    if not value.is_finite():
        return _SPECIAL[_kind(value)]
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    if exponent < -MAX_SCALE or (value and value.adjusted() >= MAX_DIGITS_BEFORE_POINT):
        raise overflow()
    if exponent > 0:
        return Decimal(f"{value:f}") if value else Decimal(0)
    return value if value else value.copy_abs()


def _kind(value: Decimal) -> _Kind:
    if value.is_nan():
        return _Kind.NAN
    if value.is_infinite():
        return _Kind.MINUS_INFINITY if value.is_signed() else _Kind.INFINITY
    return _Kind.NEGATIVE if value.is_signed() else _Kind.POSITIVE


def _digits(value: Decimal) -> str:
    """The digits of a canonical finite number, without zeros before the first."""
    return f"{value.copy_abs():f}".replace(".", "").lstrip("0")


def to_bytes(value: Decimal) -> bytes:
    """A canonical number as a row keeps it."""
    kind = _kind(value)
    if kind in _SPECIAL:
        return bytes([kind])
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    digits = _digits(value)
    return _HEADER.pack(kind, -exponent) + bytes.fromhex(digits.zfill(len(digits) + len(digits) % 2))


def from_bytes(data: bytes) -> Decimal:
    """The number that `to_bytes` made these bytes of."""
    kind = _Kind(data[0])
    if kind in _SPECIAL:
        return _SPECIAL[kind]
    _, scale = _HEADER.unpack_from(data)
    sign = "-" if kind is _Kind.NEGATIVE else ""
    return Decimal(f"{sign}{data[_HEADER.size :].hex() or '0'}E-{scale}")


def to_key(value: Decimal) -> bytes:
    """A canonical number as bytes whose order is that of the numbers; equal numbers give equal bytes."""
    if value.is_nan():
        return _KEY_NAN
    if value.is_infinite():
        return _KEY_MINUS_INFINITY if value.is_signed() else _KEY_INFINITY
    if not value:
        return _KEY_ZERO
    digits = _digits(value).rstrip("0").translate(_ONE_UP)
    magnitude = (value.adjusted() + _PLACE_BIAS).to_bytes(3, "big")
    magnitude += bytes.fromhex(digits + "0" * (len(digits) % 2))
    if value.is_signed():
        # Of two numbers that begin alike the longer is the lesser, so the shorter needs an end above every digit.
        return _KEY_NEGATIVE + magnitude.translate(_COMPLEMENT) + b"\xff"
    return _KEY_POSITIVE + magnitude


@dataclass(frozen=True, slots=True)
class Declared:
    """What `numeric(precision, scale)` declares: at most so many digits, so many of them behind the point."""

    precision: int
    scale: int

    def apply(self, value: Decimal) -> Decimal:
        """A canonical number rounded to the scale, halves away from zero (`apply_typmod`); ServerError 22003."""
        if value.is_nan():
            return value
        if value.is_infinite():
            raise self._overflow("cannot hold an infinite value.")
        if value.adjusted() - MAX_PRECISION > self.precision - self.scale:
            raise self._overflow(self._limit())  # before rounding, which must not be asked for a million digits
        unit = Decimal((0, (1,), -self.scale))
        context = Context(prec=MAX_DIGITS_BEFORE_POINT + MAX_SCALE, rounding=ROUND_HALF_UP)
        rounded = value.quantize(unit, context=context)
        if rounded and rounded.adjusted() >= self.precision - self.scale:
            raise self._overflow(self._limit())
        return canonical(rounded)

    def _limit(self) -> str:
        whole = self.precision - self.scale
        return f"must round to an absolute value less than {f'10^{whole}' if whole else '1'}."

    def _overflow(self, what: str) -> ServerError:
        return ServerError(
            "numeric field overflow",
            sqlstate=NUMERIC_VALUE_OUT_OF_RANGE,
            detail=f"A field with precision {self.precision}, scale {self.scale} {what}",
        )


def declared(type_name: str) -> Declared | None:
    """What a type name of the form `numeric(precision)` or `numeric(precision, scale)` declares; None for others.

    Raises ServerError 22023 for a precision or scale that cannot be (`numerictypmodin`).
    """
    match = _DECLARED.fullmatch(type_name)
    if match is None:
        return None
    precision, scale = int(match[1][:9]), int((match[2] or "0")[:9])
    for what, number, least in (("precision", precision, 1), ("scale", scale, -MAX_PRECISION)):
        if not least <= number <= MAX_PRECISION:
            raise ServerError(
                f"NUMERIC {what} {number} must be between {least} and {MAX_PRECISION}",
                sqlstate=INVALID_PARAMETER_VALUE,
            )
    return Declared(precision, scale)


def from_text(text: str) -> Decimal:
    """The canonical number that an exact decimal numeral says; ServerError 22003 beyond the limits."""
    try:
        return canonical(Decimal(text))
    except InvalidOperation:  # the exponent is beyond what even the library can hold
        raise overflow() from None
