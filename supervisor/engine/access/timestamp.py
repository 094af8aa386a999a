"""timestamptz: moments, as rows and keys keep them (PostgreSQL's `utils/adt/timestamp.c`).

Owns the translation between aware datetimes in UTC and what is stored: the microseconds since 2000-01-01 00:00 UTC, an
int64 whose order is that of the moments. The years are those that Python can say, 1 to 9999; PostgreSQL's go from
4713 BC to 294276, and it has two infinities.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from supervisor.errors import DATETIME_FIELD_OVERFLOW, ServerError

EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def out_of_range(text: str = "") -> ServerError:
    """The error for a moment before the year 1 or after 9999; `text` is how the client wrote it."""
    return ServerError(
        f'timestamp out of range: "{text}"' if text else "timestamp out of range",
        sqlstate=DATETIME_FIELD_OVERFLOW,
        hint="This server keeps moments of the years 1 to 9999.",
    )


def in_utc(value: datetime) -> datetime:
    """The same moment, told in UTC; ServerError 22008 when UTC's year for it is not 1 to 9999."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise out_of_range() from None


def to_microseconds(value: datetime) -> int:
    """Since the epoch; `value` is aware."""
    return (value - EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """The moment, in UTC; ServerError 22008 for one that Python cannot say."""
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        raise out_of_range() from None
