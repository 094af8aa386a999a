"""Slot pools against a model: any sequence of forks and deaths, with every kind of child.

A slot given to two children makes their flags one; a slot that is lost lowers the connection limit for ever, which
nobody notices for months; a pool that takes from another lets a connection flood keep the checkpointer from starting; a
slot released twice is given to two later. The pools live as long as the postmaster, so sequences are long.
"""

from __future__ import annotations

import pytest
from hypothesis import settings as run_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisor.config import Settings
from supervisor.postmaster.children import Children, PostmasterChild, SlotPools, pool_sizes
from supervisor.roles import CHILD_ROLES, Role

POOLED = tuple(role for role in CHILD_ROLES if role is not Role.DEAD_END)


class SlotPoolsMachine(RuleBasedStateMachine):
    """The model: for each role the set of its slots, and who is in which."""

    @initialize(connections=st.integers(1, 4), workers=st.integers(0, 2))
    def make(self, connections: int, workers: int) -> None:
        sizes = pool_sizes(Settings(max_connections=connections, max_worker_processes=workers))
        self.pools = SlotPools(sizes)
        self.children = Children()
        self.size = sizes
        self.slots: dict[Role, set[int]] = {}
        first = 1
        for role, size in sizes.items():
            self.slots[role] = set(range(first, first + size))
            first += size
        self.alive: list[PostmasterChild] = []  # in fork order
        self.pid = 100
        self.last_released: dict[Role, int] = {}

    def used(self, role: Role) -> set[int]:
        return {child.slot for child in self.alive if child.role is role}

    @rule(role=st.sampled_from(POOLED))
    def fork(self, role: Role) -> None:
        slot = self.pools.assign(role)
        free = self.slots[role] - self.used(role)
        if not free:
            assert slot is None, f"slot {slot} was given to a second child"
            return
        assert slot in free
        last = self.last_released.pop(role, None)
        assert last is None or slot == last, "the slot that was given back last is the next to be used"
        self.begin(role, slot)

    @rule()
    def fork_a_dead_end_child(self) -> None:
        self.begin(Role.DEAD_END, 0)

    def begin(self, role: Role, slot: int) -> None:
        self.pid += 1
        child = PostmasterChild(self.pid, role, slot, 1)
        self.children.add(child)
        self.alive.append(child)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        child = data.draw(st.sampled_from(self.alive))
        assert self.children.remove(child.pid) == child
        self.alive.remove(child)
        if child.slot:
            self.pools.release(child.slot)
            self.last_released[child.role] = child.slot
            with pytest.raises(ValueError, match=f"child slot {child.slot} is released but not assigned"):
                self.pools.release(child.slot)

    @rule(slot=st.integers(-2, 20))
    def release_what_nobody_has(self, slot: int) -> None:
        if slot not in {child.slot for child in self.alive if child.slot}:
            with pytest.raises(ValueError, match="is released but not assigned"):
                self.pools.release(slot)

    @rule(pid=st.integers(1, 99))
    def reap_a_stranger(self, pid: int) -> None:
        assert self.children.remove(pid) is None

    @invariant()
    def nothing_is_lost_and_nothing_doubled(self) -> None:
        used = [child.slot for child in self.alive if child.slot]
        assert len(used) == len(set(used))
        for role in POOLED:
            assert self.pools.free_count(role) == self.size[role] - len(self.used(role))

    @invariant()
    def children_are_told_newest_first(self) -> None:
        assert list(self.children.newest_first()) == self.alive[::-1]
        assert len(self.children) == len(self.alive)
        for role in CHILD_ROLES:
            newest = next((child for child in reversed(self.alive) if child.role is role), None)
            assert self.children.of(role) == newest


TestSlotPools = SlotPoolsMachine.TestCase
TestSlotPools.settings = run_settings(max_examples=60, stateful_step_count=60)


def test_connections_have_twice_as_many_slots_and_every_other_process_its_own() -> None:
    sizes = pool_sizes(Settings(max_connections=7, max_worker_processes=3))
    assert sizes.pop(Role.BACKEND) == 14
    assert sizes.pop(Role.BGWORKER) == 3
    assert set(sizes) == set(CHILD_ROLES) - {Role.BACKEND, Role.BGWORKER, Role.DEAD_END}
    assert set(sizes.values()) == {1}


def test_a_child_may_die_while_the_children_are_told() -> None:
    children = Children()
    for pid in (1, 2, 3):
        children.add(PostmasterChild(pid, Role.BACKEND, pid, pid))
    told = []
    for child in children.newest_first():
        children.remove(child.pid)
        told.append(child.pid)
    assert told == [3, 2, 1]
    assert len(children) == 0
