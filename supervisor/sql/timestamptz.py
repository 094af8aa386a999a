"""timestamptz as clients see it: ISO 8601 text in the session's time zone, which is UTC, and microseconds in binary.

Owns the two formats. Of the texts that PostgreSQL takes (`DecodeDateTime`) it takes those in the order year, month,
day, with a numeric offset, Z, UTC, GMT or none, which means UTC. Years are 1 to 9999, and there is no infinity.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from struct import Struct
from typing import Final

from supervisor.engine.access import timestamp
from supervisor.errors import (
    DATETIME_FIELD_OVERFLOW,
    INVALID_BINARY_REPRESENTATION,
    INVALID_DATETIME_FORMAT,
    INVALID_TIME_ZONE_DISPLACEMENT,
    ServerError,
)

NAME: Final = "timestamp with time zone"
_TEXT: Final = re.compile(
    r"\s*(?P<year>[0-9]{4,6})-(?P<month>[0-9]{1,2})-(?P<day>[0-9]{1,2})"
    r"(?:(?:\s+|t)(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{1,2})(?::(?P<second>[0-9]{1,2})(?P<fraction>\.[0-9]*)?)?)?"
    r"\s*(?:z|utc|gmt|(?P<sign>[+-])(?P<zone_hour>[0-9]{1,2})(?::?(?P<zone_minute>[0-9]{2})(?::?(?P<zone_second>[0-9]{2}))?)?)?"
    r"(?P<era>\s+(?:bc|ad))?\s*",
    re.ASCII | re.IGNORECASE,
)
_INFINITE: Final = frozenset({"infinity", "+infinity", "-infinity"})
_MICROSECONDS: Final = Struct("!q")
_MAX_ZONE_HOURS: Final = 15
_MAX_SHOWN: Final = 128
"""Longer texts are not worth a look: nothing that says a moment needs as much."""


def from_text(text: str) -> datetime:
    """The moment, in UTC.

    ServerError 22007 for what says no moment, 22008 for a field or a moment out of range, 22009 for such an offset.
    """
    match = _TEXT.fullmatch(text) if len(text) <= _MAX_SHOWN else None
    if match is None:
        if text.strip().lower() in _INFINITE:
            raise timestamp.out_of_range(text.strip())
        raise ServerError(f'invalid input syntax for type {NAME}: "{text}"', sqlstate=INVALID_DATETIME_FORMAT)
    field = {name: int(match[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second")}
    if field["year"] > datetime.max.year or (match["era"] or "").strip().lower() == "bc":
        raise timestamp.out_of_range(text)
    # 24:00:00 is the next day's begin and a 60th second the next minute's, as in PostgreSQL (`DecodeTimeOnly`).
    of_day = timedelta(hours=field["hour"], minutes=field["minute"], seconds=field["second"])
    try:
        midnight = datetime(field["year"], field["month"], field["day"], tzinfo=UTC)
    except ValueError:
        raise _field_out_of_range(text) from None
    of_day += timedelta(microseconds=_microseconds(match["fraction"]))
    if field["minute"] > 59 or field["second"] > 60 or of_day > timedelta(hours=24):
        raise _field_out_of_range(text)
    try:
        return midnight + of_day - _offset(match)
    except OverflowError:
        raise timestamp.out_of_range(text) from None


def _field_out_of_range(text: str) -> ServerError:
    return ServerError(f'date/time field value out of range: "{text}"', sqlstate=DATETIME_FIELD_OVERFLOW)


def _microseconds(fraction: str | None) -> int:
    if fraction in (None, "."):
        return 0
    return int((Decimal(fraction) * 1_000_000).to_integral_value(ROUND_HALF_EVEN))


def _offset(match: re.Match[str]) -> timedelta:
    hours, minutes, seconds = (int(match[name] or 0) for name in ("zone_hour", "zone_minute", "zone_second"))
    if hours > _MAX_ZONE_HOURS or minutes > 59 or seconds > 59:
        raise ServerError(f'time zone displacement out of range: "{match[0]}"', sqlstate=INVALID_TIME_ZONE_DISPLACEMENT)
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    return -offset if match["sign"] == "-" else offset


def to_text(value: datetime) -> bytes:
    """The moment in the ISO style with the zone +00: no fraction, or one without zeros at its end."""
    text = timestamp.in_utc(value).replace(tzinfo=None).isoformat(" ")
    if "." in text:
        text = text.rstrip("0")
    return f"{text}+00".encode()


def from_binary(data: bytes) -> datetime:
    """The moment, in UTC; ServerError 22P03 for what is none, 22008 out of range."""
    if len(data) != _MICROSECONDS.size:
        raise ServerError(f"incorrect binary data format for type {NAME}", sqlstate=INVALID_BINARY_REPRESENTATION)
    return timestamp.from_microseconds(_MICROSECONDS.unpack(data)[0])


def to_binary(value: datetime) -> bytes:
    """Microseconds since 2000-01-01 00:00 UTC."""
    return _MICROSECONDS.pack(timestamp.to_microseconds(timestamp.in_utc(value)))
