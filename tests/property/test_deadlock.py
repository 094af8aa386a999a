"""Every deadlock is resolved, by a member of it, and nobody is aborted who is in none.

What could go wrong: a cycle that the walk does not close, so that its members wait for ever; a walk that takes a cycle
further on for its own, and makes a bystander the victim; a walk that never ends; two victims where one would do; a
wait that is over and is still counted. The walk is compared with a search over all paths, and then played to its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.engine.transam.deadlock import Wait, deadlock_error, find_cycle
from supervisor.errors import ServerError
from tests.support.engine_rig import SMALL, Rig

PROCESSES = 6
FIRST_XID = 100

# Which process runs a transaction (some do not), and whose transaction each waits for: a process may wait for one that
# is over, for nobody, and only never for itself.
GRAPHS = st.tuples(
    st.lists(st.booleans(), min_size=PROCESSES, max_size=PROCESSES),
    st.lists(st.none() | st.integers(0, PROCESSES - 1), min_size=PROCESSES, max_size=PROCESSES),
)


def words(graph: tuple[list[bool], list[int | None]]) -> tuple[list[int], list[int]]:
    """The xid and wait_xid words of the processes."""
    runs, waits_for = graph
    xids = [FIRST_XID + number if running else 0 for number, running in enumerate(runs)]
    waits = [
        FIRST_XID + waited if waited is not None and waited != number and runs[number] else 0
        for number, waited in enumerate(waits_for)
    ]
    return xids, waits


def on_a_cycle(xids: list[int], waits: list[int]) -> set[int]:
    """By brute force: every process for which some sequence of processes leads from it back to itself."""

    def waits_on(a: int, b: int) -> bool:
        return xids[b] != 0 and waits[a] == xids[b]

    return {
        ring[0]
        for length in range(2, PROCESSES + 1)
        for ring in permutations(range(PROCESSES), length)
        if all(waits_on(a, b) for a, b in zip(ring, (*ring[1:], ring[0]), strict=True))
    }


@given(GRAPHS)
def test_the_walk_finds_the_cycle_if_and_only_if_the_process_is_on_one(
    graph: tuple[list[bool], list[int | None]],
) -> None:
    xids, waits = words(graph)
    guilty = on_a_cycle(xids, waits)
    for process in range(PROCESSES):
        cycle = find_cycle(process, xids, waits)
        assert bool(cycle) == (process in guilty)
        if cycle:
            assert cycle[0] == process and len(set(cycle)) == len(cycle)
            for a, b in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
                assert waits[a] == xids[b]


@pytest.fixture(scope="module")
def rig_of_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Six engines over one region, whose words the test sets as it likes."""
    rig = Rig(tmp_path_factory.mktemp("deadlock"), SMALL.replace(max_connections=PROCESSES))
    rig.start()
    for _ in range(PROCESSES):
        rig.engine()
    yield rig
    rig.crash()


@given(GRAPHS, st.permutations(range(PROCESSES)))
def test_looking_in_any_order_resolves_every_deadlock_once(
    rig_of_processes: Rig, graph: tuple[list[bool], list[int | None]], order: list[int]
) -> None:
    """All look, each in turn, as they do when their time is up at once; the victims are aborted afterwards."""
    xids, waits = words(graph)
    engines = rig_of_processes.engines
    procs, q = engines[0].attachment.procs, engines[0].attachment.region.q
    for number in range(PROCESSES):
        q[procs.xid + number] = xids[number]
    for number, engine in enumerate(engines):
        if waits[number]:
            engine.running.begin_wait(waits[number])
    waits = [q[procs.wait_xid + number] for number in range(PROCESSES)]
    cycles = on_a_cycle(xids, waits)
    victims = []
    for number in order:
        found = engines[number].running.break_deadlock()
        if found:
            victims.append(number)
            assert found[0] == Wait(number, engines[number].attachment.pid, waits[number])
    assert set(victims) <= cycles
    # One victim a cycle: each member's walk leads to exactly one of them.
    for member in cycles:
        assert len(set(find_cycle(member, xids, waits)) & set(victims)) == 1
    left = [q[procs.wait_xid + number] for number in range(PROCESSES)]
    assert on_a_cycle(xids, left) == set(), "a deadlock was left"
    for engine in engines:
        engine.running.end_wait()
    assert q[engines[0].running._row_waiters] == 0, "the count of waiters does not fit the waits"


def test_the_report_names_who_waits_for_whom_and_keeps_statements_for_the_log() -> None:
    cycle = (Wait(3, 1003, 50), Wait(0, 1000, 51))
    error = deadlock_error(cycle, {3: "CALL mine()", 0: "CALL theirs()"}.__getitem__)
    assert isinstance(error, ServerError) and error.sqlstate == "40P01" and error.message == "deadlock detected"
    assert error.detail == (
        "Process 1003 waits for ShareLock on transaction 50; blocked by process 1000.\n"
        "Process 1000 waits for ShareLock on transaction 51; blocked by process 1003."
    )
    assert error.detail_log == f"{error.detail}\nProcess 1003: CALL mine()\nProcess 1000: CALL theirs()"
    assert error.hint == "See server log for query details."
