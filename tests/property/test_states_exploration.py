"""The postmaster's state machine, explored to the last state.

What could go wrong: a crash is handled in most states and forgotten in one; a child is waited for that nobody
told to go, so the server neither serves nor stops; a memory in which a process died is worked on; SIGKILL
comes early, twice, or never; a shutdown that was asked for is lost on the way through a crash. Each is a path
of a dozen steps that no example test thinks of. So every state is visited, with every event that a shell can
tell there, and two kinds of claim are held: named safety invariants in each state and each step, and liveness
without help (see `supervisor.postmaster.exploration`). PostgreSQL 18's own ways and planted faults must be
found out by the same checks.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest
from msgspec import structs

from supervisor.postmaster import draft
from supervisor.postmaster.actions import (
    Action,
    ArmStopwatch,
    Launch,
    Log,
    SetQuitReason,
    Signal,
)
from supervisor.postmaster.exploration import (
    TODAY,
    WHOLE,
    Exploration,
    Step,
    Surroundings,
    Taken,
    World,
    explore,
)
from supervisor.postmaster.invariants import (
    PASSED_THROUGH,
    STATE_INVARIANTS,
    STEP_INVARIANTS,
    living,
    nobody_is_launched_in_a_drain,
)
from supervisor.postmaster.states import (
    Advance,
    Event,
    PMState,
    State,
    Stopwatch,
    step,
)
from supervisor.postmaster.transitions import TRANSITIONS, Cause, Transition
from supervisor.postmaster.values import OURS, POSTGRESQL_18, Rules
from supervisor.roles import Role

STATES_OF_THE_WHOLE_MACHINE = 23723
STATES_WITHIN_REACH_TODAY = 7517
"""Pinned: a change of the machine or of the policy table that changes them is looked at, then written
here."""

SMALL = TODAY._replace(backends=1, workers=0, reloads=False)
"""Enough to find every planted fault, in a fraction of the time."""


def broken_invariants(found: Exploration, taken: list[Taken]) -> Counter[str]:
    """How often each invariant is broken; the empty counter is what we want."""
    broken: Counter[str] = Counter()
    for holds in STATE_INVARIANTS:
        broken[holds.__name__] += sum(not holds(world) for world in found.worlds)
    for keeps in STEP_INVARIANTS:
        broken[keeps.__name__] += sum(not keeps(one) for one in taken)
    return +broken


class Found(NamedTuple):
    """An exploration, the steps it took, and the rows of the table these took."""

    exploration: Exploration
    taken: list[Taken]
    rows: frozenset[tuple[PMState, Cause]]


def explored(surroundings: Surroundings) -> Found:
    rows: set[tuple[PMState, Cause]] = set()
    taken: list[Taken] = []

    class Recording(draft.Draft):
        def move(self, cause: Cause) -> None:
            rows.add((self.state.pm_state, cause))
            super().move(cause)

        def end(self, cause: Cause, code: int) -> None:
            rows.add((self.state.pm_state, cause))
            super().end(cause, code)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supervisor.postmaster.states.Draft", Recording)
        return Found(explore(surroundings, on_step=taken.append), taken, frozenset(rows))


@pytest.fixture(scope="module", autouse=True)
def _no_garbage_collection() -> Iterator[None]:
    """A million small tuples, all alive: walking them again and again would take half of the time."""
    gc.disable()
    yield
    gc.enable()
    whole.cache_clear()
    today.cache_clear()


@cache
def whole() -> Found:
    """The whole machine, explored once for all tests."""
    return explored(WHOLE)


@cache
def today() -> Found:
    """What today's child types reach."""
    return explored(TODAY)


def story(worlds: list[World]) -> str:
    return "\n".join(f"  {world}" for world in worlds[:5])


def explored_failures(machine: Step | None, rules: Rules) -> set[str]:
    """What the checks say of another machine: broken invariants, and runs that do not end."""
    taken: list[Taken] = []
    try:
        found = explore(SMALL, rules=rules, machine=machine, on_step=taken.append)
    except KeyError as error:
        return {f"left the table: {error}"}
    failures = set(broken_invariants(found, taken))
    if found.unfinished():
        failures.add("liveness")
    if found.unfinished(stubborn=True):
        failures.add("liveness with stubborn children")
    return failures


# --- ours


def test_exploration_finds_no_broken_invariant(capsys: pytest.CaptureFixture[str]) -> None:
    found, taken, _ = whole()
    invariants = len(STATE_INVARIANTS) + len(STEP_INVARIANTS)
    with capsys.disabled():
        print(f"\npostmaster state machine: {len(found.states)} states, {len(taken)} steps, {invariants} invariants")
    broken = broken_invariants(found, taken)
    assert not broken, f"broken (how often): {dict(broken)}"
    assert invariants >= 15


def test_exploration_finds_as_many_states_as_are_pinned() -> None:
    assert len(whole().exploration.states) == STATES_OF_THE_WHOLE_MACHINE
    assert len(today().exploration.states) == STATES_WITHIN_REACH_TODAY
    assert today().exploration.states <= whole().exploration.states


@pytest.mark.parametrize("stubborn", [False, True], ids=["healthy", "stubborn"])
def test_exploration_every_run_ends_without_help(stubborn: bool) -> None:
    """In RUN or in an exit; with stubborn children it is the volley of SIGKILL that sees to it."""
    for found in (whole(), today()):
        stuck = found.exploration.unfinished(stubborn=stubborn)
        assert not stuck, f"{len(stuck)} worlds without an end, for instance:\n{story(stuck)}"


NO_ARCHIVE_RECOVERY = "the startup process does crash recovery only: it never says BEGIN_HOT_STANDBY and never exits 3"
NOBODY_TO_WAIT_FOR = "there is no archiver, walsender or I/O worker: the state is left in the step that enters it"

OUT_OF_REACH: dict[Transition, str] = {
    **{t: NO_ARCHIVE_RECOVERY for t in TRANSITIONS if PMState.HOT_STANDBY in {t.source, t.target}},
    **{t: NO_ARCHIVE_RECOVERY for t in TRANSITIONS if t.cause is Cause.RECOVERY_TARGET},
    **{
        t: NOBODY_TO_WAIT_FOR
        for t in TRANSITIONS
        if t.source in {PMState.WAIT_XLOG_ARCHIVAL, PMState.WAIT_IO_WORKERS}
        and t.cause in {Cause.CRASH, Cause.IMMEDIATE_REQUESTED}
    },
}


def test_exploration_takes_every_row_of_the_table_but_those_out_of_reach_today() -> None:
    """A row nobody takes is a dead letter, or a kind of child that is still to come; the list says which."""
    untaken = {t for t in TRANSITIONS if (t.source, t.cause) not in today().rows}
    assert untaken == set(OUT_OF_REACH), "the list of what is out of reach is out of date"
    nobody_yet = {t for t, reason in OUT_OF_REACH.items() if reason == NOBODY_TO_WAIT_FOR}
    assert {t for t in TRANSITIONS if (t.source, t.cause) not in whole().rows} == nobody_yet


STATES_OUT_OF_REACH = {PMState.HOT_STANDBY: NO_ARCHIVE_RECOVERY}
WHY_NEVER_RESTED_IN = {
    PMState.STOP_BACKENDS: "PostgreSQL's too is left in the call that enters it",
    PMState.WAIT_XLOG_ARCHIVAL: NOBODY_TO_WAIT_FOR,
    PMState.WAIT_IO_WORKERS: NOBODY_TO_WAIT_FOR,
}


def test_exploration_reaches_every_state_but_those_out_of_reach_today() -> None:
    """Rested in, or passed through: the log shows those too."""
    assert set(WHY_NEVER_RESTED_IN) == PASSED_THROUGH
    rested_in = set(PMState) - PASSED_THROUGH
    assert {state.pm_state for state in whole().exploration.states} == rested_in
    assert {state.pm_state for state in today().exploration.states} == rested_in - set(STATES_OUT_OF_REACH)
    entered = {
        action.message.split(" to PM_")[1]
        for one in whole().taken
        for action in one.actions
        if isinstance(action, Log) and action.message.startswith("updating PMState")
    }
    assert entered == {state.name for state in PMState} - {"INIT"}


# --- PostgreSQL 18's ways, planted


@pytest.mark.parametrize(
    ("rule", "noticed_by"),
    [
        ("escalate_on_time", {"liveness with stubborn children"}),
        (
            "signaled_startup_cannot_succeed",
            {"a_memory_someone_crashed_in_is_being_abandoned", "whoever_was_told_to_go_is_awaited"},
        ),
        ("crash_in_restart_counts", {"liveness", "a_crashed_startup_ends_the_server"}),
        ("drain_reaches_everyone", {"liveness", "a_drain_awaits_only_whom_it_told"}),
    ],
)
def test_exploration_notices_each_way_of_postgresql_18(rule: str, noticed_by: set[str]) -> None:
    failures = explored_failures(None, structs.replace(OURS, **{rule: False}))
    assert noticed_by <= failures


def test_exploration_notices_postgresql_18_as_a_whole() -> None:
    assert {"liveness", "liveness with stubborn children"} <= explored_failures(None, POSTGRESQL_18)


# --- planted faults: the checks can fail


def _without(kind: type[Action], **changes: object) -> Step:
    """The machine, but an action is left out; the state follows if it says so."""

    def machine(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
        after, actions = step(state, event)
        kept = tuple(action for action in actions if not isinstance(action, kind))
        if len(kept) < len(actions) and changes:
            after = structs.replace(after, **changes)
        return after, kept

    return machine


def _forgets_checkpointer(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    after, actions = step(state, event)
    quit_others = tuple(
        Signal(a.signal, tuple(role for role in a.roles if role is not Role.CHECKPOINTER))
        if isinstance(a, Signal) and a.signal == "QUIT"
        else a
        for a in actions
    )
    return after, quit_others


def _kills_early(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    after, actions = step(state, event)
    if isinstance(event, Advance) and after.fatal_error and any(after.children):
        actions = (*actions, Signal("KILL", tuple(sorted(living(after)))))
    return after, actions


def _relaunches_in_a_drain(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    after, actions = step(state, event)
    if isinstance(event, Advance) and after.pm_state is PMState.WAIT_BACKENDS and after.count(Role.BGWRITER):
        actions = (*actions, Launch(Role.BGWRITER))
    return after, actions


@pytest.mark.parametrize(
    ("machine", "noticed_by"),
    [
        pytest.param(
            _without(ArmStopwatch, stopwatch=Stopwatch.OFF),
            {"a_crash_starts_the_time", "liveness with stubborn children"},
            id="the stopwatch is not armed",
        ),
        pytest.param(
            _forgets_checkpointer,
            {"an_abnormal_drain_has_told_everybody", "a_crash_is_told_to_everybody"},
            id="the checkpointer is left out of the fan-out",
        ),
        pytest.param(_without(SetQuitReason), {"the_reason_is_stored_before_sigquit"}, id="no quit reason"),
        pytest.param(_kills_early, {"the_volley_comes_once_per_arming"}, id="SIGKILL before its time"),
    ],
)
def test_exploration_notices_a_planted_fault(machine: Step, noticed_by: set[str]) -> None:
    assert noticed_by <= explored_failures(machine, OURS)


def test_exploration_notices_a_launch_in_a_drain() -> None:
    """Checked step by step: the world around it would have two of them."""
    drains = [
        one for one in whole().taken if isinstance(one.event, Advance) and one.after.pm_state is PMState.WAIT_BACKENDS
    ]
    planted = [Taken(one.before, one.event, *_relaunches_in_a_drain(one.before, one.event)) for one in drains]
    assert any(not nobody_is_launched_in_a_drain(one) for one in planted)
