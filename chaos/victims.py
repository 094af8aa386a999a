"""Whom a plan means, said without looking at a server: "the live child number draw mod n".

Owns the ways to mean one, some or all of the children that are alive when a fault strikes, and the rule that finds
them. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class AnyChild(msgspec.Struct, frozen=True, tag="any"):
    """Of the live children in fork order, the one at `draw` modulo their number."""

    draw: int


class RoleChild(msgspec.Struct, frozen=True, tag="role"):
    """Of the live children of a role (its short name) in fork order, the one at `draw` modulo their number."""

    role: str
    draw: int


class SeveralChildren(msgspec.Struct, frozen=True, tag="several"):
    """One child for each draw, taken in turn from those that are left."""

    draws: tuple[int, ...]


class EveryChild(msgspec.Struct, frozen=True, tag="every"):
    """All live children of a role (its short name)."""

    role: str


Victims = AnyChild | RoleChild | SeveralChildren | EveryChild


def pick(victims: Victims, live: Sequence[tuple[int, str]]) -> tuple[int, ...]:
    """The pids that a plan means, of the live children (pid, role's short name) in fork order.

    Fewer than meant when there are fewer; none when there is no child of the role.
    """
    match victims:
        case AnyChild(draw):
            return _one([pid for pid, _ in live], draw)
        case RoleChild(role, draw):
            return _one([pid for pid, of in live if of == role], draw)
        case SeveralChildren(draws):
            left = [pid for pid, _ in live]
            return tuple(left.pop(draw % len(left)) for draw in draws if left)
        case EveryChild(role):
            return tuple(pid for pid, of in live if of == role)


def _one(pids: list[int], draw: int) -> tuple[int, ...]:
    return (pids[draw % len(pids)],) if pids else ()
