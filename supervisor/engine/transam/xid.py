"""Transaction numbers: 32 bits, compared on a circle (PostgreSQL's `access/transam.h`, `transam.c`).

Pure functions; nothing is kept here. Numbers 0 to 2 are never a running transaction's: 0 is none, 1 wrote what the
bootstrap of a cluster wrote (always committed), 2 is PostgreSQL's frozen one.
"""

from __future__ import annotations

INVALID_XID = 0
BOOTSTRAP_XID = 1
FROZEN_XID = 2
FIRST_NORMAL_XID = 3

XID_MASK = 0xFFFFFFFF
HALF = 1 << 31

STOP_MARGIN = 3_000_000
"""How many transactions before wraparound no more numbers are given out (`SetTransactionIdLimit`)."""


def precedes(a: int, b: int) -> bool:
    """Whether `a` is older than `b`. Permanent numbers (below 3) are older than every normal one."""
    if a < FIRST_NORMAL_XID or b < FIRST_NORMAL_XID:
        return a < b
    return (a - b) & HALF != 0


def advance(xid: int) -> int:
    """The number after `xid`, skipping the permanent ones when the circle closes."""
    xid = (xid + 1) & XID_MASK
    return xid if xid >= FIRST_NORMAL_XID else FIRST_NORMAL_XID


def retreat(xid: int) -> int:
    """The number before `xid`."""
    xid = (xid - 1) & XID_MASK
    return xid if xid >= FIRST_NORMAL_XID else XID_MASK


def newer(a: int, b: int) -> int:
    """The later of two numbers."""
    return b if precedes(a, b) else a


def distance(older: int, later: int) -> int:
    """How many numbers lie from `older` to `later` on the circle."""
    return (later - older) & XID_MASK
