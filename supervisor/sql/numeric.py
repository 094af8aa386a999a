"""numeric as clients see it (PostgreSQL's `numeric_in`, `numeric_out`, `numeric_recv`, `numeric_send`).

Owns the two formats. Not taken from PostgreSQL's input: hexadecimal, octal and binary digits, and underscores.
"""

from __future__ import annotations

import re
from decimal import Decimal
from struct import Struct
from typing import Final

from supervisor.engine.access import numeric
from supervisor.errors import INVALID_BINARY_REPRESENTATION, INVALID_TEXT_REPRESENTATION, ServerError

_TEXT: Final = re.compile(
    r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|[+-]?inf(?:inity)?)\s*", re.ASCII | re.IGNORECASE
)
_HEADER: Final = Struct("!HhHH")
"""How many digits, the power of 10,000 of the first, the sign, how many decimal digits are shown behind the point."""
_POSITIVE, _NEGATIVE, _NAN, _INFINITY, _MINUS_INFINITY = 0x0000, 0x4000, 0xC000, 0xD000, 0xF000
_SPECIAL: Final = {
    _NAN: Decimal("NaN"),
    _INFINITY: Decimal("Infinity"),
    _MINUS_INFINITY: Decimal("-Infinity"),
}
_DIGITS: Final = 4
"""Decimal digits in one of the format's digits."""


def from_text(text: str) -> Decimal:
    """The number; ServerError 22P02 for what is none, 22003 beyond the limits."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ServerError(f'invalid input syntax for type numeric: "{text}"', sqlstate=INVALID_TEXT_REPRESENTATION)
    return numeric.from_text(match[1])


def to_text(value: Decimal) -> bytes:
    """All digits and no exponent, zeros at the end included; ServerError 22003 beyond the limits."""
    value = numeric.canonical(value)
    return (f"{value:f}" if value.is_finite() else str(value)).encode()


def from_binary(data: bytes) -> Decimal:
    """The number; ServerError 22P03 for what is none. Digits beyond the shown scale are cut, as in `numeric_recv`."""
    bad = ServerError("incorrect binary data format for type numeric", sqlstate=INVALID_BINARY_REPRESENTATION)
    if len(data) < _HEADER.size:
        raise bad
    count, weight, sign, scale = _HEADER.unpack_from(data)
    if len(data) != _HEADER.size + 2 * count or scale > numeric.MAX_SCALE:
        raise bad
    if sign in _SPECIAL:
        return _SPECIAL[sign]
    groups = Struct(f"!{count}H").unpack_from(data, _HEADER.size)
    if sign not in (_POSITIVE, _NEGATIVE) or any(group >= 10**_DIGITS for group in groups):
        raise bad
    digits = "".join(f"{group:04d}" for group in groups)
    point = _DIGITS * (weight + 1)
    whole, fraction = digits[: max(point, 0)], digits[max(point, 0) :]
    whole = whole.ljust(point, "0") if count else ""
    fraction = ("0" * min(max(-point, 0), scale) + fraction)[:scale].ljust(scale, "0")
    return numeric.from_text(f"{'-' if sign == _NEGATIVE else ''}{whole or '0'}.{fraction}")


def to_binary(value: Decimal) -> bytes:
    """The number in base 10,000; ServerError 22003 beyond the limits."""
    value = numeric.canonical(value)
    for sign, special in _SPECIAL.items():
        if not value.is_finite() and str(value) == str(special):
            return _HEADER.pack(0, 0, sign, 0)
    whole, _, fraction = f"{value.copy_abs():f}".partition(".")
    scale = len(fraction)
    whole = whole.rjust(-(-len(whole) // _DIGITS) * _DIGITS, "0")
    fraction = fraction.ljust(-(-len(fraction) // _DIGITS) * _DIGITS, "0")
    weight = len(whole) // _DIGITS - 1
    digits = whole + fraction
    groups = [int(digits[at : at + _DIGITS]) for at in range(0, len(digits), _DIGITS)]
    first = next((at for at, group in enumerate(groups) if group), len(groups))
    while len(groups) > first and not groups[-1]:
        groups.pop()
    groups = groups[first:]
    header = _HEADER.pack(
        len(groups), weight - first if groups else 0, _NEGATIVE if value.is_signed() else _POSITIVE, scale
    )
    return header + Struct(f"!{len(groups)}H").pack(*groups)
