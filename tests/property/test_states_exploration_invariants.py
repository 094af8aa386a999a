"""The invariants of the exploration can fail.

An invariant that holds of everything says nothing, and one that was broken by a careless edit would go on
passing for ever: the machine obeys it, so nobody would see. Each therefore has a state, or a step, that it
must refuse.
"""

from __future__ import annotations

from msgspec import structs

from supervisor.postmaster.actions import (
    Action,
    ExitPostmaster,
    Launch,
    Log,
    PidFileState,
    PidFileStatus,
    QuitReason,
    Reinitialize,
    SetQuitReason,
    Signal,
)
from supervisor.postmaster.exploration import (
    Taken,
    Told,
    World,
)
from supervisor.postmaster.invariants import (
    STATE_INVARIANTS,
    STEP_INVARIANTS,
    living,
)
from supervisor.postmaster.states import (
    Advance,
    ChildExited,
    ChildForked,
    Event,
    ExitOutcome,
    ForkFailed,
    PMState,
    Shutdown,
    StartupStatus,
    State,
    Stopwatch,
)
from supervisor.postmaster.values import NO_CHILDREN_COUNTS
from supervisor.roles import CHILD_ROLES, Role

NOTHING_TOLD = (Told.NOTHING,) * len(CHILD_ROLES)
ALL_OF_THEM = (0, 1, 1, 1, 2, 1, 1)
RUNNING = State(pm_state=PMState.RUN, accepting=True, children=ALL_OF_THEM)
RECOVERING = State(
    pm_state=PMState.RECOVERY,
    accepting=True,
    children=(1, 1, 1, 0, 0, 0, 0),
    startup_status=StartupStatus.RUNNING,
)
DRAINING = structs.replace(RUNNING, pm_state=PMState.WAIT_BACKENDS, fatal_error=True, stopwatch=Stopwatch.ARMED)
NOBODY = State(pm_state=PMState.NO_CHILDREN, fatal_error=True, reinitializing=True)
QUITTING = (Signal("QUIT", tuple(sorted(living(RUNNING)))),)


def world(state: State, *, told: tuple[Told, ...] = NOTHING_TOLD, tainted: bool = False, **changes: object) -> World:
    return World(structs.replace(state, **changes), told, (), tainted, "")


def taken(before: State, event: Event, *actions: Action, changed: dict[str, object] | None = None) -> Taken:
    return Taken(before, event, structs.replace(before, **(changed or {})), actions)


STATE_COUNTEREXAMPLES: dict[str, World] = {
    "fatal_error_is_never_set_where_clients_or_redo_work": world(RUNNING, fatal_error=True),
    "a_memory_someone_crashed_in_is_being_abandoned": world(RUNNING, tainted=True),
    "states_passed_through_are_never_rested_in": world(RUNNING, pm_state=PMState.STOP_BACKENDS),
    "no_shutdown_lingers_in_recovery": world(RECOVERING, shutdown=Shutdown.SMART),
    "only_smart_shutdown_leaves_clients_alone": world(RUNNING, shutdown=Shutdown.FAST),
    "immediate_shutdown_is_a_drain": world(RUNNING, shutdown=Shutdown.IMMEDIATE),
    "connections_are_allowed_unless_smart": world(RUNNING, conns_allowed=False),
    "startup_status_agrees_with_the_count": world(RUNNING, startup_status=StartupStatus.RUNNING),
    "a_crashed_startup_ends_the_server": world(RUNNING, startup_status=StartupStatus.CRASHED),
    "run_has_no_startup_process": world(RECOVERING, pm_state=PMState.RUN),
    "backends_live_only_where_they_are_served_or_awaited": world(RUNNING, pm_state=PMState.RECOVERY),
    "background_workers_live_only_where_they_are_started_or_awaited": world(RUNNING, pm_state=PMState.WAIT_DEAD_END),
    "the_checkpoint_waits_for_the_target_set": world(RUNNING, pm_state=PMState.WAIT_XLOG_SHUTDOWN),
    "the_checkpointer_lives_while_it_is_waited_for": world(NOBODY, pm_state=PMState.WAIT_CHECKPOINTER),
    "no_children_means_none": world(RUNNING, pm_state=PMState.NO_CHILDREN),
    "no_children_is_an_end_or_a_reset": world(NOBODY, reinitializing=False),
    "nobody_connects_to_the_last_phase": world(RUNNING, pm_state=PMState.WAIT_DEAD_END),
    "a_working_server_answers": world(RUNNING, accepting=False),
    "only_an_open_server_serves": world(RUNNING, shutdown=Shutdown.SMART),
    "the_stopwatch_runs_only_for_a_reason": world(RUNNING, stopwatch=Stopwatch.ARMED),
    "whoever_was_told_to_go_is_awaited": world(RUNNING, told=(Told.ASKED,) * len(CHILD_ROLES)),
    "a_drain_awaits_only_whom_it_told": world(DRAINING),
    "an_abnormal_drain_has_told_everybody": world(DRAINING),
    "exit_0_after_smart_or_fast_means_a_checkpoint": world(NOBODY, shutdown=Shutdown.FAST, exit_code=0),
    "exit_0_means_a_shutdown_without_a_crash": world(NOBODY, exit_code=0),
    "nobody_is_left_behind": world(DRAINING, exit_code=1),
}

STEP_COUNTEREXAMPLES: dict[str, Taken] = {
    "shutdown_level_never_decreases": taken(
        structs.replace(DRAINING, shutdown=Shutdown.FAST), Advance(), changed={"shutdown": Shutdown.SMART}
    ),
    "a_crash_is_over_only_when_recovery_says_so": taken(DRAINING, Advance(), changed={"fatal_error": False}),
    "the_volley_comes_once_per_arming": taken(DRAINING, Advance(), Signal("KILL", tuple(living(DRAINING)))),
    "the_volley_reaches_everybody": taken(DRAINING, Advance(), Signal("KILL", (Role.BACKEND,))),
    "time_that_is_over_is_acted_upon": taken(DRAINING, Advance(), changed={"stopwatch": Stopwatch.EXPIRED}),
    "a_crash_starts_the_time": taken(RUNNING, Advance(), changed={"fatal_error": True}),
    "nobody_is_launched_in_a_drain": taken(
        structs.replace(DRAINING, children=(0, 1, 0, 0, 1, 0, 0)), Advance(), Launch(Role.BGWRITER)
    ),
    "nobody_is_launched_twice": taken(RUNNING, Advance(), Launch(Role.BGWRITER)),
    "startup_first_after_a_crash_and_last_at_the_start": taken(
        NOBODY, Advance(), Launch(Role.STARTUP), Launch(Role.CHECKPOINTER)
    ),
    "the_reason_is_stored_before_sigquit": taken(RUNNING, Advance(), *QUITTING, SetQuitReason(QuitReason.CRASH)),
    "a_crash_is_told_to_everybody": taken(
        RUNNING, Advance(), SetQuitReason(QuitReason.CRASH), Signal("QUIT", (Role.BACKEND,))
    ),
    "a_second_crash_is_silent": taken(
        DRAINING, ChildExited(Role.BACKEND, ExitOutcome.CRASH), SetQuitReason(QuitReason.CRASH), *QUITTING
    ),
    "the_checkpointer_is_asked_last": taken(RUNNING, Advance(), Signal("INT", (Role.CHECKPOINTER,))),
    "the_checkpointer_is_dismissed_after_the_checkpoint": taken(
        RUNNING, Advance(), Signal("USR2", (Role.CHECKPOINTER,))
    ),
    "memory_is_reset_only_when_it_is_due": taken(
        structs.replace(NOBODY, restart_after_crash=False), Advance(), Reinitialize()
    ),
    "states_go_back_only_by_reset_or_immediate": taken(DRAINING, Advance(), changed={"pm_state": PMState.RUN}),
    "exits_are_acted_upon_together": taken(
        RUNNING, ChildExited(Role.BGWRITER, ExitOutcome.ORDERLY_0), Launch(Role.BGWRITER)
    ),
    "a_crash_cycle_does_not_touch_the_pid_file": taken(
        DRAINING, ChildForked(Role.DEAD_END), PidFileStatus(PidFileState.STOPPING)
    ),
    "the_log_says_so_when_clients_are_let_in": taken(RECOVERING, Advance(), changed={"pm_state": PMState.RUN}),
    "the_exit_is_the_last_action": taken(
        NOBODY,
        ForkFailed(Role.STARTUP),
        ExitPostmaster(1),
        Log("LOG", "one more thing"),
        changed={"exit_code": 1},
    ),
    "only_the_living_are_signalled": taken(RUNNING, Advance(), Signal("TERM", (Role.STARTUP,))),
    "a_loop_pass_is_idempotent": taken(structs.replace(DRAINING, children=NO_CHILDREN_COUNTS), Advance()),
}


def test_each_invariant_of_the_exploration_can_fail() -> None:
    """An invariant that holds of everything says nothing: each has a state, or a step, that it refuses."""
    for holds in STATE_INVARIANTS:
        assert not holds(STATE_COUNTEREXAMPLES[holds.__name__]), holds.__name__
        assert holds.__doc__, holds.__name__
    for keeps in STEP_INVARIANTS:
        assert not keeps(STEP_COUNTEREXAMPLES[keeps.__name__]), keeps.__name__
        assert keeps.__doc__, keeps.__name__
