"""The kinds of process the server is made of.

Owns the one enumeration that everything else names a process by: the process table in shared memory, the
postmaster's policy table, the journal, the name a child gives itself. It says *which* kinds exist and nothing
about how each is treated; that is `supervisor.postmaster.child_types`, one row per role.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Role(IntEnum):
    """One kind of process. The integer is what shared memory and the journal store, so a child's value is
    never given to another; the postmaster's, which neither ever stores, stays behind them.

    The order is also the order of the counts in the postmaster's `State.children`.
    """

    STARTUP = 0
    CHECKPOINTER = 1
    BGWRITER = 2
    WALWRITER = 3
    BACKEND = 4
    DEAD_END = 5
    BGWORKER = 6
    POSTMASTER = 7

    @property
    def short_name(self) -> str:
        """The name for the journal and the process title (`cb:<short name>`): ASCII, at most 12
        characters."""
        return _SHORT_NAMES[self]


_SHORT_NAMES: Final[tuple[str, ...]] = (
    "startup",
    "checkpointer",
    "bgwriter",
    "walwriter",
    "backend",
    "dead_end",
    "bgworker",
    "postmaster",
)
"""Indexed by the value of the role."""

CHILD_ROLES: Final[tuple[Role, ...]] = tuple(role for role in Role if role is not Role.POSTMASTER)
"""Every role the postmaster can fork, in the order of their values."""
