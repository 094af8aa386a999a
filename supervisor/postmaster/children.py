"""The postmaster's private record of its children: slots and who is in them (PostgreSQL's `pmchild.c`).

Slot pools and the list of children live in the postmaster's own memory, made once in its life and
never rebuilt: what the dead may have written over cannot confuse them. Each kind of child has its own
pool, so that a flood of connections never keeps an auxiliary process from starting. A slot is given
back only by `release`, which only the reaper calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.config import Settings
from supervisor.postmaster.child_types import CHILD_TYPES
from supervisor.roles import CHILD_ROLES, Role


def pool_sizes(settings: Settings) -> dict[Role, int]:
    """Slots per pool, in slot order, as the policy table has them. Dead-end children have none."""
    return {role: CHILD_TYPES[role].pool_size(settings) for role in CHILD_ROLES if CHILD_TYPES[role].pool is not None}


class SlotPools:
    """Free slots per kind of child; slots are numbered from 1 over all pools."""

    def __init__(self, sizes: dict[Role, int]) -> None:
        self._free: dict[Role, list[int]] = {}
        self._role_of: dict[int, Role] = {}
        first = 1
        for role, size in sizes.items():
            slots = range(first, first + size)
            # A stack, so that a slot that was just given back is the next to be used.
            self._free[role] = list(reversed(slots))
            self._role_of.update(dict.fromkeys(slots, role))
            first += size
        self._assigned: set[int] = set()

    def assign(self, role: Role) -> int | None:
        """Take a slot of the role's pool, or None when it is empty."""
        free = self._free[role]
        if not free:
            return None
        slot = free.pop()
        self._assigned.add(slot)
        return slot

    def release(self, slot: int) -> None:
        """Give a slot back; raises ValueError for one that is not assigned (a slot released twice)."""
        if slot not in self._assigned:
            raise ValueError(f"child slot {slot} is released but not assigned")
        self._assigned.remove(slot)
        self._free[self._role_of[slot]].append(slot)

    def free_count(self, role: Role) -> int:
        """How many slots of a pool are free."""
        return len(self._free[role])


@dataclass(frozen=True, slots=True)
class PostmasterChild:
    """One living child; `slot` is 0 for a dead-end child."""

    pid: int
    role: Role
    slot: int
    nth: int


class Children:
    """The living children, newest first: the order in which they are signalled."""

    def __init__(self) -> None:
        self._by_pid: dict[int, PostmasterChild] = {}

    def add(self, child: PostmasterChild) -> None:
        """Record a child that was just forked."""
        self._by_pid[child.pid] = child

    def remove(self, pid: int) -> PostmasterChild | None:
        """Forget a child that was just reaped; None for a pid that is not ours."""
        return self._by_pid.pop(pid, None)

    def newest_first(self) -> Iterator[PostmasterChild]:
        """Every child, the one forked last first."""
        return iter(list(reversed(self._by_pid.values())))

    def pids(self) -> frozenset[int]:
        """Every child's pid."""
        return frozenset(self._by_pid)

    def of(self, role: Role) -> PostmasterChild | None:
        """The newest child of a role, or None."""
        return next((child for child in self.newest_first() if child.role is role), None)

    def __len__(self) -> int:
        return len(self._by_pid)
