"""Judging isolation: no false alarm on a database that kept its word, and two checkers that agree on everything.

The checker itself is what this is about. Good histories come from a database whose scheduler Hypothesis drives, at both
levels, with failures, answers that never came and a crash at the end. Then something in them is changed: two elements
are swapped, a read is cut or takes in what it should not have seen, an element is lost, a failure turns out to have
committed, a transaction claims a stricter level. Whatever that makes of a history, a second checker, written from the
definitions alone, must say the same of each transaction.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from chaos.oracles.isolation import Isolation, examine
from chaos.oracles.isolation_levels import Anomaly
from tests.support.list_scheduler import Lists, Scheduler
from tests.support.second_isolation_checker import Findings, check
from workloads.session import REPEATABLE_READ
from workloads.workload import ISOLATION, Operation, Outcome

SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
WITHOUT_ANTI_DEPENDENCIES = (Anomaly.G0, Anomaly.G1C)

schedules = st.builds(
    lambda choose, slots, active, capacity, length: Scheduler(
        choose, slots=slots, active=active, capacity=capacity
    ).run(length),
    st.randoms(use_true_random=False),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([2, 3, 100]),
    st.integers(1, 16),
)


def agree(found: Isolation, second: Findings) -> None:
    operations = found.dependencies.operations

    def names(nodes: Sequence[int] | frozenset[int]) -> frozenset[int]:
        return frozenset(operations[node].operation for node in nodes)

    misread = {operations[misread.reader].operation for misread in found.misreads}
    assert misread == set(second.misread)
    for one in found.misreads:
        assert one.anomaly.value in second.misread[operations[one.reader].operation]
    circles = [cycle for cycle in found.cycles if cycle.anomaly in WITHOUT_ANTI_DEPENDENCIES]
    caught = frozenset[int]().union(*(names(cycle.knot) for cycle in circles))
    assert caught == second.depend_in_a_circle
    overwrote = [cycle for cycle in circles if cycle.anomaly is Anomaly.G0]
    assert bool(overwrote) == bool(second.overwrote_in_a_circle)
    assert all(names(cycle.nodes) <= second.overwrote_in_a_circle for cycle in overwrote)
    if not circles:
        assert bool(found.cycles) == bool(second.snapshots_in_a_circle)
    assert found.trials >= len(found.misreads) + len(found.cycles)


@SETTINGS
@given(schedules)
def test_a_database_that_kept_its_word_raises_no_alarm(history: tuple[list[Operation], Lists]) -> None:
    operations, lists = history
    found = examine(operations, lists)
    assert found.misreads == () and found.cycles == []
    agree(found, check(operations, lists))


Change = Callable[[random.Random, list[Operation], Lists], None]


def swap_elements(choose: random.Random, operations: list[Operation], lists: Lists) -> None:
    long = [elements for elements in lists.values() if len(elements) > 1]
    if long:
        elements = choose.choice(long)
        at = choose.randrange(len(elements) - 1)
        elements[at], elements[at + 1] = elements[at + 1], elements[at]


def lose_an_element(choose: random.Random, operations: list[Operation], lists: Lists) -> None:
    full = [elements for elements in lists.values() if elements]
    if full:
        elements = choose.choice(full)
        del elements[choose.randrange(len(elements))]


def double_an_element(choose: random.Random, operations: list[Operation], lists: Lists) -> None:
    full = [elements for elements in lists.values() if elements]
    if full:
        elements = choose.choice(full)
        elements.insert(choose.randrange(len(elements) + 1), choose.choice(elements))


def change_a_read(choose: random.Random, operations: list[Operation], lists: Lists) -> None:
    readers = [
        at
        for at, operation in enumerate(operations)
        if operation.read is not None and any(not isinstance(what, int) for _, what in operation.read)
    ]
    if not readers:
        return
    at = choose.choice(readers)
    read = [list(pair) for pair in operations[at].read]
    step = choose.choice([step for step, (_, what) in enumerate(read) if not isinstance(what, int)])
    key, what = read[step]
    appended = [element for op in operations for _, element in op.values["steps"] if element is not None]
    choices = [what[:-1], what[1:], list(lists.get(key, ())), what + choose.sample(appended, min(len(appended), 1))]
    read[step] = [key, choose.choice(choices)]
    operations[at] = replace(operations[at], read=read)


def let_a_failure_rise(choose: random.Random, operations: list[Operation], lists: Lists) -> None:
    failed = [operation for operation in operations if operation.outcome is not Outcome.OK]
    if failed:
        slots = len(lists)
        for slot, element in choose.choice(failed).values["steps"]:
            if element is not None:
                elements = lists.setdefault(slot % slots, [])
                elements.insert(choose.randrange(len(elements) + 1), element)


def ask_for_more(choose: random.Random, operations: list[Operation], lists: Lists) -> None:
    at = choose.randrange(len(operations))
    operations[at] = replace(operations[at], values={**operations[at].values, ISOLATION: REPEATABLE_READ})


def forget_an_operation(choose: random.Random, operations: list[Operation], lists: Lists) -> None:
    del operations[choose.randrange(len(operations))]


CHANGES: list[Change] = [
    swap_elements,
    lose_an_element,
    double_an_element,
    change_a_read,
    let_a_failure_rise,
    ask_for_more,
    forget_an_operation,
]


@settings(SETTINGS, max_examples=600)
@given(
    schedules,
    st.lists(st.sampled_from(CHANGES), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_two_checkers_agree_on_what_is_wrong(
    history: tuple[list[Operation], Lists], changes: list[Change], choose: random.Random
) -> None:
    operations, lists = list(history[0]), {key: list(elements) for key, elements in history[1].items()}
    for change in changes:
        assume(operations)
        change(choose, operations, lists)
    agree(examine(operations, lists), check(operations, lists))
