"""The cycles that a report shows in full, and the states and edges of the postmaster.

What could go wrong: the cycle that a reader needs (with the finding, without a recovery, the slowest) is not among those
shown; a lane runs past its process's end or starts before its cycle; a signal is put on a later process of the same pid;
a run without a witness shows nothing; an edge that the machine passed in no time is not counted.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from chaos.machine import EXIT, changes, machine, spans
from chaos.oracles.evidence import Evidence, server_records
from chaos.phases import Cycle, cycles_of
from chaos.timelines import FINDING, MOST_MARKS, MOST_OF_A_KIND, NOT_RECOVERED, SAMPLE, SLOWEST, chosen, timelines
from chaos.witness.account import Account
from chaos.witness.records import Signal
from reports.verdict import Recovery
from supervisor.postmaster.events import (
    Advance,
    ChildExited,
    ChildForked,
    Event,
    ExitOutcome,
    Initialised,
    PmSignal,
    PmSignalKind,
)
from supervisor.postmaster.states import initial_state, step
from supervisor.postmaster.values import State
from supervisor.roles import Role
from tests.support.two_crashes import (
    CHECKPOINTER,
    FIRST_STARTUP,
    HARNESS,
    JOURNAL,
    MS,
    POSTMASTER,
    STARTUP,
    SURVIVOR,
    VICTIM,
    two_crashes,
)

ZERO_MS = 99 - 0.01
RECOVERY = Recovery(cycle=0, fault="sigkill-role", victim="backend", first_commit=160 - ZERO_MS)


def a_cycle(number: int) -> Cycle:
    begin = number * 1000
    return Cycle(number, 0, "kill", begin, begin + 900, (), True, begin + 500, begin + 600)


def test_the_cycles_that_need_a_look_come_first_and_none_comes_twice() -> None:
    cycles = [a_cycle(number) for number in range(200)]
    recoveries = {n: Recovery(cycle=n, first_commit=float(n % 97)) for n in range(200) if n not in (7, 9)}
    shown = [(cycle.cycle, why) for cycle, why in chosen(cycles, recoveries, {7, 150})]
    assert shown[:3] == [(7, FINDING), (150, FINDING), (9, NOT_RECOVERED)]
    assert [n for n, why in shown if why == SLOWEST] == [96, 193, 95, 192, 94, 191, 93, 190]
    assert len([n for n, why in shown if why == SAMPLE]) == MOST_OF_A_KIND
    assert len({n for n, _ in shown}) == len(shown)


def test_a_short_run_is_shown_whole() -> None:
    cycles = [a_cycle(number) for number in range(11)]
    recoveries = {n: Recovery(cycle=n, first_commit=float(n)) for n in range(11)}
    assert sorted(cycle.cycle for cycle, _ in chosen(cycles, recoveries, ())) == list(range(11))
    assert chosen([], {}, ()) == []


def test_lanes_are_the_kernels_account_of_the_cycle() -> None:
    evidence = Evidence(Account(two_crashes()), server_records(JOURNAL))
    found = timelines(cycles_of(HARNESS), [RECOVERY], (), evidence)
    assert (found.cycles, found.source) == (1, "kernel")
    (shown,) = found.shown
    assert (shown.begin, shown.end) == (pytest.approx(10 - ZERO_MS), pytest.approx(170 - ZERO_MS))
    lanes = {lane.pid: lane for lane in shown.lanes}
    assert shown.lanes[0].role == "postmaster"
    assert set(lanes) == {POSTMASTER, VICTIM, SURVIVOR, CHECKPOINTER, FIRST_STARTUP, STARTUP}
    victim = lanes[VICTIM]
    assert (victim.forked, victim.end, victim.reaped) == tuple(pytest.approx(t - ZERO_MS) for t in (20, 99, 100))
    assert victim.ended == "was terminated by signal 9"
    assert [(mark.signal, mark.sender) for mark in victim.marks] == [("SIGKILL", "itself")]
    assert [(mark.signal, mark.sender) for mark in lanes[SURVIVOR].marks] == [("SIGQUIT", "postmaster")]
    assert (lanes[POSTMASTER].ended, lanes[POSTMASTER].end) == ("", shown.end), "it lives on"
    assert {mark.signal for mark in lanes[POSTMASTER].marks} == {"SIGCHLD"}
    roles = {row.role: row for row in found.roles}
    assert (roles["backend"].processes, roles["backend"].signaled, roles["backend"].exited_other) == (2, 1, 1)
    assert (roles["startup"].exited_0, roles["startup"].exited_other) == (1, 1)
    assert roles["postmaster"].living == 1


def test_what_is_not_listed_of_a_busy_lane_is_counted() -> None:
    busy = [Signal(50 * MS + n, 0, 10, SURVIVOR, POSTMASTER, 0, 0) for n in range(MOST_MARKS + 7)]
    evidence = Evidence(Account([*two_crashes(), *busy]))
    (shown,) = timelines(cycles_of(HARNESS), [RECOVERY], (), evidence).shown
    (lane,) = [lane for lane in shown.lanes if lane.pid == SURVIVOR]
    assert (len(lane.marks), lane.marks_left_out) == (MOST_MARKS, 8)


def test_without_a_witness_the_journal_tells_and_the_outcome_says_so() -> None:
    journal = [
        {"t": 11 * MS, "pid": 9, "ev": "postmaster_start"},
        {"t": 20 * MS, "pid": 9, "ev": "fork", "child": VICTIM, "role": "backend"},
        {"t": 30 * MS, "pid": 9, "ev": "signal", "child": VICTIM, "sig": 3},
        {"t": 40 * MS, "pid": 9, "ev": "reap", "child": VICTIM, "status": 9},
        {"t": 50 * MS, "pid": 9, "ev": "fork", "child": VICTIM, "role": "startup"},
        {"t": 60 * MS, "pid": 9, "ev": "reap", "child": VICTIM, "status": 512},
    ]
    found = timelines(cycles_of(HARNESS), [], (), Evidence(Account([]), server_records(journal)))
    assert found.source == "journal"
    lanes = [(lane.pid, lane.role, lane.ended, len(lane.marks)) for lane in found.shown[0].lanes]
    assert lanes == [
        (9, "postmaster", "", 0),
        (VICTIM, "backend", "was terminated by signal 9", 1),
        (VICTIM, "startup", "exited with exit code 2", 0),
    ]


def journal_of(*events: Event) -> list[dict[str, Any]]:
    """The journal of a postmaster that is told these events, one a millisecond."""
    state: State = initial_state()
    records: list[dict[str, Any]] = [{"t": 0, "pid": 9, "ev": "postmaster_start"}]
    for t, event in enumerate(events, start=1):
        after, _ = step(state, event)
        records.append({
            "t": t * MS, "pid": 9, "ev": "step", "event": msgspec.to_builtins(event),
            "before": msgspec.to_builtins(state), "after": msgspec.to_builtins(after),
        })  # fmt: skip
        state = after
    return records


LIFE = (
    Initialised(),
    ChildForked(Role.STARTUP),
    PmSignal(PmSignalKind.RECOVERY_STARTED),
    ChildExited(Role.STARTUP, ExitOutcome.ORDERLY_0),
    ChildForked(Role.BACKEND),
    ChildExited(Role.BACKEND, ExitOutcome.CRASH),
    Advance(),
)


def test_states_are_those_of_the_journal() -> None:
    found = changes(list(server_records(journal_of(*LIFE))))
    shown = [(span.state, span.kind, span.begin, span.end) for span in spans(found, 2 * MS, 5 * MS, 4 * MS)]
    assert shown == [
        ("STARTUP", "starting", -2.0, -1.0),
        ("RECOVERY", "starting", -1.0, 0.0),
        ("RUN", "serving", 0.0, 1.0),
    ]


def test_every_edge_is_counted_also_those_passed_in_no_time_and_those_never_taken() -> None:
    found = machine(list(server_records(journal_of(*LIFE))))
    taken = {(edge.source, edge.target): edge.taken for edge in found.edges}
    assert {way: count for way, count in taken.items() if count} == {
        ("INIT", "STARTUP"): 1,
        ("STARTUP", "RECOVERY"): 1,
        ("RECOVERY", "RUN"): 1,
        ("RUN", "WAIT_BACKENDS"): 1,
        ("WAIT_BACKENDS", "WAIT_DEAD_END"): 1,
        ("WAIT_DEAD_END", "NO_CHILDREN"): 1,
    }
    assert taken["NO_CHILDREN", EXIT] == 0
    assert found.states[-1] == EXIT
    assert {state for way in taken for state in way} == set(found.states)


def test_a_step_that_is_none_of_the_machines_is_left_out() -> None:
    records = journal_of(*LIFE)
    records[1]["event"] = {"type": "Nonsense"}
    records[3]["before"] = {"pm_state": 99}
    taken = {(edge.source, edge.target): edge.taken for edge in machine(list(server_records(records))).edges}
    assert (taken["INIT", "STARTUP"], taken["STARTUP", "RECOVERY"], taken["RECOVERY", "RUN"]) == (0, 0, 1)
