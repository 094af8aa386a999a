"""What must hold of the postmaster's machine, in each state and in each step, whatever happens.

Owns the named safety invariants. Each is a function of a `World` or of a step `Taken` (see `exploration`)
with one line that says it; True means that it holds. The property tests hold them against everything that can
be reached, and show for each a case that it refuses. Nothing of it runs in a server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from supervisor.postmaster.actions import (
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
from supervisor.postmaster.child_types import CHILD_TYPES, stop_targets
from supervisor.postmaster.exploration import (
    Taken,
    World,
)
from supervisor.postmaster.states import (
    Advance,
    CanAccept,
    ChildExited,
    LockFileInvalid,
    PmSignal,
    PmSignalKind,
    PMState,
    Shutdown,
    ShutdownRequested,
    StartupStatus,
    State,
    Stopwatch,
    UntrackedChildExited,
    connection_answer,
    step,
)
from supervisor.roles import CHILD_ROLES, Role

_WORKING: Final = frozenset({PMState.STARTUP, PMState.RECOVERY, PMState.HOT_STANDBY, PMState.RUN})
_OPEN: Final = frozenset({PMState.HOT_STANDBY, PMState.RUN})
_CLOSING: Final = frozenset(
    {
        PMState.WAIT_XLOG_SHUTDOWN,
        PMState.WAIT_XLOG_ARCHIVAL,
        PMState.WAIT_IO_WORKERS,
        PMState.WAIT_CHECKPOINTER,
    }
)
_STARTUP_ALIVE: Final = frozenset({StartupStatus.RUNNING, StartupStatus.SIGNALED})

PASSED_THROUGH: Final = frozenset({PMState.STOP_BACKENDS, PMState.WAIT_XLOG_ARCHIVAL, PMState.WAIT_IO_WORKERS})
"""States that the step which enters them leaves: the first is "tell them now", the others wait for nobody
yet."""


# --- what holds in each state


def fatal_error_is_never_set_where_clients_or_redo_work(w: World) -> bool:
    """RECOVERY, HOT_STANDBY, RUN and the states of an orderly shutdown know no crash being handled."""
    working = {PMState.RECOVERY, *_OPEN, *_CLOSING}
    return not (w.state.fatal_error and w.state.pm_state in working)


def a_memory_someone_crashed_in_is_being_abandoned(w: World) -> bool:
    """Once a child has crashed, fatal_error or an immediate shutdown is set until the memory is gone."""
    return not w.tainted or w.state.fatal_error or w.state.shutdown is Shutdown.IMMEDIATE


def states_passed_through_are_never_rested_in(w: World) -> bool:
    """STOP_BACKENDS and the two states without their processes are left in the step that enters them."""
    return w.state.pm_state not in PASSED_THROUGH


def no_shutdown_lingers_in_recovery(w: World) -> bool:
    """A request in STARTUP or RECOVERY begins the drain at once."""
    return w.state.shutdown is Shutdown.NONE or w.state.pm_state not in {PMState.STARTUP, PMState.RECOVERY}


def only_smart_shutdown_leaves_clients_alone(w: World) -> bool:
    """In HOT_STANDBY and RUN nothing stronger than a smart request is pending."""
    return w.state.pm_state not in _OPEN or w.state.shutdown <= Shutdown.SMART


def immediate_shutdown_is_a_drain(w: World) -> bool:
    """After an immediate request the state is WAIT_BACKENDS or later."""
    return w.state.shutdown is not Shutdown.IMMEDIATE or w.state.pm_state >= PMState.WAIT_BACKENDS


def connections_are_allowed_unless_smart(w: World) -> bool:
    """connsAllowed is false only after a smart request; normal running always allows."""
    return w.state.conns_allowed or w.state.shutdown >= Shutdown.SMART


def startup_status_agrees_with_the_count(w: World) -> bool:
    """RUNNING and SIGNALED mean one startup process, NOT_RUNNING and CRASHED none."""
    return (w.state.startup_status in _STARTUP_ALIVE) == bool(w.state.count(Role.STARTUP))


def a_crashed_startup_ends_the_server(w: World) -> bool:
    """StartupStatus CRASHED is never left behind in a state that serves or recovers."""
    return w.state.startup_status is not StartupStatus.CRASHED or w.state.pm_state >= PMState.WAIT_BACKENDS


def run_has_no_startup_process(w: World) -> bool:
    """RUN begins when the startup process is reaped."""
    return w.state.pm_state is not PMState.RUN or not w.state.count(Role.STARTUP)


def backends_live_only_where_they_are_served_or_awaited(w: World) -> bool:
    """No client backend in INIT, STARTUP, RECOVERY, nor after WAIT_BACKENDS."""
    return w.state.pm_state in {*_OPEN, PMState.WAIT_BACKENDS} or not w.state.count(Role.BACKEND)


def background_workers_live_only_where_they_are_started_or_awaited(w: World) -> bool:
    """No background worker in INIT nor after WAIT_BACKENDS."""
    return w.state.pm_state in {*_WORKING, PMState.WAIT_BACKENDS} or not w.state.count(Role.BGWORKER)


def the_checkpoint_waits_for_the_target_set(w: World) -> bool:
    """From WAIT_XLOG_SHUTDOWN on nobody of the target set is alive."""
    targets = stop_targets(crash_or_immediate=False)
    return w.state.pm_state < PMState.WAIT_XLOG_SHUTDOWN or not any(map(w.state.count, targets))


def the_checkpointer_lives_while_it_is_waited_for(w: World) -> bool:
    """WAIT_XLOG_SHUTDOWN and WAIT_CHECKPOINTER have a checkpointer."""
    return w.state.pm_state not in _CLOSING or w.state.count(Role.CHECKPOINTER) == 1


def no_children_means_none(w: World) -> bool:
    """NO_CHILDREN and INIT have no child."""
    return w.state.pm_state not in {PMState.INIT, PMState.NO_CHILDREN} or not any(w.state.children)


def no_children_is_an_end_or_a_reset(w: World) -> bool:
    """NO_CHILDREN is rested in only for the new memory, or for ever."""
    return w.state.pm_state is not PMState.NO_CHILDREN or w.state.reinitializing or w.state.exit_code is not None


def nobody_connects_to_the_last_phase(w: World) -> bool:
    """In INIT, WAIT_DEAD_END and NO_CHILDREN connections stay in the backlog."""
    closed = {PMState.INIT, PMState.WAIT_DEAD_END, PMState.NO_CHILDREN}
    return not (w.state.accepting and w.state.pm_state in closed)


def a_working_server_answers(w: World) -> bool:
    """From STARTUP to RUN connections are taken, if only to be refused."""
    answered = w.state.accepting or bool(w.questions) or w.state.exit_code is not None
    return w.state.pm_state not in _WORKING or answered


def only_an_open_server_serves(w: World) -> bool:
    """The answer OK is given in HOT_STANDBY and RUN alone, and never during a shutdown."""
    ok = connection_answer(w.state) is CanAccept.OK
    return not ok or (w.state.pm_state in _OPEN and w.state.shutdown is Shutdown.NONE)


def the_stopwatch_runs_only_for_a_reason(w: World) -> bool:
    """Nobody is SIGKILLed in a smart or fast shutdown: the stopwatch needs fatal_error or immediate."""
    reason = w.state.fatal_error or w.state.shutdown is Shutdown.IMMEDIATE
    return w.state.stopwatch is Stopwatch.OFF or reason


def whoever_was_told_to_go_is_awaited(w: World) -> bool:
    """No child that was told to go lives in a state that serves or recovers."""
    return w.state.pm_state not in _WORKING or not any(w.told)


def a_drain_awaits_only_whom_it_told(w: World) -> bool:
    """Everybody that WAIT_BACKENDS waits for has been told to go."""
    if w.state.pm_state is not PMState.WAIT_BACKENDS:
        return True
    abnormal = w.state.fatal_error or w.state.shutdown is Shutdown.IMMEDIATE
    awaited = stop_targets(crash_or_immediate=abnormal)
    return all(w.told[role] for role in awaited if w.state.count(role))


def an_abnormal_drain_has_told_everybody(w: World) -> bool:
    """In WAIT_BACKENDS and later, with fatal_error or immediate, only a dead-end child that came later is
    untold."""
    abnormal = w.state.fatal_error or w.state.shutdown is Shutdown.IMMEDIATE
    if not abnormal or w.state.pm_state in _WORKING:
        return True
    return all(w.told[role] for role in CHILD_ROLES if role is not Role.DEAD_END and w.state.count(role))


def exit_0_after_smart_or_fast_means_a_checkpoint(w: World) -> bool:
    """An orderly shutdown exits 0 only when the shutdown checkpoint is written."""
    orderly = w.state.exit_code == 0 and w.state.shutdown is not Shutdown.IMMEDIATE
    return not orderly or w.checkpoint == "done"


def exit_0_means_a_shutdown_without_a_crash(w: World) -> bool:
    """Exit 0 is asked for and abnormal for no reason."""
    return w.state.exit_code != 0 or (w.state.shutdown is not Shutdown.NONE and not w.state.fatal_error)


def nobody_is_left_behind(w: World) -> bool:
    """The postmaster exits without children; only a startup process that cannot be forked ends it at once."""
    return w.state.exit_code is None or not any(w.state.children) or w.state.pm_state is PMState.STARTUP


STATE_INVARIANTS: Final[tuple[Callable[[World], bool], ...]] = (
    fatal_error_is_never_set_where_clients_or_redo_work,
    a_memory_someone_crashed_in_is_being_abandoned,
    states_passed_through_are_never_rested_in,
    no_shutdown_lingers_in_recovery,
    only_smart_shutdown_leaves_clients_alone,
    immediate_shutdown_is_a_drain,
    connections_are_allowed_unless_smart,
    startup_status_agrees_with_the_count,
    a_crashed_startup_ends_the_server,
    run_has_no_startup_process,
    backends_live_only_where_they_are_served_or_awaited,
    background_workers_live_only_where_they_are_started_or_awaited,
    the_checkpoint_waits_for_the_target_set,
    the_checkpointer_lives_while_it_is_waited_for,
    no_children_means_none,
    no_children_is_an_end_or_a_reset,
    nobody_connects_to_the_last_phase,
    a_working_server_answers,
    only_an_open_server_serves,
    the_stopwatch_runs_only_for_a_reason,
    whoever_was_told_to_go_is_awaited,
    a_drain_awaits_only_whom_it_told,
    an_abnormal_drain_has_told_everybody,
    exit_0_after_smart_or_fast_means_a_checkpoint,
    exit_0_means_a_shutdown_without_a_crash,
    nobody_is_left_behind,
)


# --- what holds in each step


def _signals(t: Taken, name: str) -> list[Signal]:
    return [action for action in t.actions if isinstance(action, Signal) and action.signal == name]


def shutdown_level_never_decreases(t: Taken) -> bool:
    """A weaker request after a stronger one is ignored."""
    return t.after.shutdown >= t.before.shutdown


def a_crash_is_over_only_when_recovery_says_so(t: Taken) -> bool:
    """fatal_error is cleared by RECOVERY_STARTED or by the startup process's success, and by nothing else."""
    if not t.before.fatal_error or t.after.fatal_error:
        return True
    return t.after.pm_state in {PMState.RECOVERY, PMState.RUN} and t.before.pm_state is PMState.STARTUP


def the_volley_comes_once_per_arming(t: Taken) -> bool:
    """SIGKILL is sent only when the time was over, and the stopwatch is off after it."""
    if not _signals(t, "KILL"):
        return True
    return t.before.stopwatch is Stopwatch.EXPIRED and t.after.stopwatch is Stopwatch.OFF


def the_volley_reaches_everybody(t: Taken) -> bool:
    """SIGKILL goes to every living child, dead-end children included."""
    return all(set(volley.roles) == living(t.before) for volley in _signals(t, "KILL"))


def time_that_is_over_is_acted_upon(t: Taken) -> bool:
    """No pass of the loop ends with an expired stopwatch, unless nobody is left to be killed."""
    return not isinstance(t.event, Advance) or t.after.stopwatch is not Stopwatch.EXPIRED or not any(t.after.children)


def a_crash_starts_the_time(t: Taken) -> bool:
    """fatal_error comes with a running stopwatch."""
    began = t.after.fatal_error and not t.before.fatal_error
    return not began or t.after.stopwatch is not Stopwatch.OFF


def nobody_is_launched_in_a_drain(t: Taken) -> bool:
    """A child is launched only in its states; the one exception is a checkpointer for the shutdown
    checkpoint."""
    for action in t.actions:
        if isinstance(action, Launch):
            state, role = t.after, action.role
            starting = role is Role.STARTUP and state.pm_state is PMState.STARTUP
            last = role is Role.CHECKPOINTER and state.pm_state is PMState.WAIT_BACKENDS
            orderly = not state.fatal_error and state.shutdown in {Shutdown.SMART, Shutdown.FAST}
            if not (starting or (last and orderly) or state.pm_state in CHILD_TYPES[role].launched_in):
                return False
    return True


def nobody_is_launched_twice(t: Taken) -> bool:
    """What is launched is missing."""
    return not any(isinstance(action, Launch) and t.after.count(action.role) for action in t.actions)


def startup_first_after_a_crash_and_last_at_the_start(t: Taken) -> bool:
    """A crash restart forks the startup process alone; the first start forks it after the others."""
    launched = [action.role for action in t.actions if isinstance(action, Launch)]
    if Role.STARTUP not in launched:
        return True
    return len(launched) == 1 if t.before.reinitializing else launched[-1] is Role.STARTUP and len(launched) > 1


def the_reason_is_stored_before_sigquit(t: Taken) -> bool:
    """SetQuitReason comes before a SIGQUIT; only the last one, to dead-end children, explains nothing new."""
    known = False
    for action in t.actions:
        known |= isinstance(action, SetQuitReason)
        if isinstance(action, Signal) and action.signal == "QUIT" and not known and action.roles != (Role.DEAD_END,):
            return False
    return True


def a_crash_is_told_to_everybody(t: Taken) -> bool:
    """After SetQuitReason(CRASH) every living child gets SIGQUIT, or nobody is alive."""
    if SetQuitReason(QuitReason.CRASH) not in t.actions:
        return True
    # Those who are left when the signal goes out: the dead one is no longer counted.
    told = {role for signal in _signals(t, "QUIT") for role in signal.roles}
    return told == living(t.after)


def a_second_crash_is_silent(t: Taken) -> bool:
    """While a crash is handled, or an immediate shutdown, another one is not logged and nobody is
    signalled."""
    handled = t.before.shutdown is Shutdown.IMMEDIATE or (
        t.before.fatal_error and t.before.pm_state is not PMState.STARTUP
    )
    if not handled or not isinstance(t.event, ChildExited | UntrackedChildExited):
        return True
    return SetQuitReason(QuitReason.CRASH) not in t.actions and not any(
        isinstance(action, Log) and action.message.startswith("terminating any other") for action in t.actions
    )


def the_checkpointer_is_asked_last(t: Taken) -> bool:
    """SIGINT, for the shutdown checkpoint, goes out when only dead-end children are left beside it."""
    return not _signals(t, "INT") or living(t.after) <= {Role.CHECKPOINTER, Role.DEAD_END}


def the_checkpointer_is_dismissed_after_the_checkpoint(t: Taken) -> bool:
    """SIGUSR2 follows XLOG_IS_SHUTDOWN in WAIT_XLOG_SHUTDOWN and nothing else."""
    written = t.before.pm_state is PMState.WAIT_XLOG_SHUTDOWN and t.event == PmSignal(PmSignalKind.XLOG_IS_SHUTDOWN)
    return not _signals(t, "USR2") or written


def memory_is_reset_only_when_it_is_due(t: Taken) -> bool:
    """Reinitialize needs a crash, no child, no shutdown, restart_after_crash, and a startup process that did
    not fail."""
    if Reinitialize() not in t.actions:
        return True
    state = t.after
    wanted = state.restart_after_crash and state.shutdown is Shutdown.NONE
    failed = state.startup_status is StartupStatus.CRASHED
    return wanted and state.fatal_error and not any(state.children) and not failed


def states_go_back_only_by_reset_or_immediate(t: Taken) -> bool:
    """The order of the states is left only by the new memory and by an immediate request in a later state."""
    if t.after.pm_state >= t.before.pm_state:
        return True
    immediate = ShutdownRequested(Shutdown.IMMEDIATE) == t.event or isinstance(t.event, LockFileInvalid)
    return t.before.reinitializing or (immediate and t.after.pm_state is PMState.WAIT_BACKENDS)


def exits_are_acted_upon_together(t: Taken) -> bool:
    """Told of an exit, the machine settles nothing: several deaths in a pass cost one transition."""
    asked = (Launch, Reinitialize, ExitPostmaster)
    return not isinstance(t.event, ChildExited | UntrackedChildExited) or not any(
        isinstance(action, asked) for action in t.actions
    )


def a_crash_cycle_does_not_touch_the_pid_file(t: Taken) -> bool:
    """The status line changes at start, on a request, and when clients are let in."""
    written = [action.status for action in t.actions if isinstance(action, PidFileStatus)]
    if PidFileState.STOPPING in written:
        return t.after.shutdown > t.before.shutdown
    if PidFileState.READY in written:
        return t.after.pm_state in _OPEN and t.before.pm_state is not t.after.pm_state
    return not written or t.before.pm_state is PMState.INIT


def the_log_says_so_when_clients_are_let_in(t: Taken) -> bool:
    """RUN is entered with its line, and the line is written at no other time."""
    entered = t.after.pm_state is PMState.RUN and t.before.pm_state is not PMState.RUN
    return (Log("LOG", "database system is ready to accept connections") in t.actions) == entered


def the_exit_is_the_last_action(t: Taken) -> bool:
    """Nothing is asked of the shell after ExitPostmaster, which comes once and carries the state's code."""
    places = [place for place, action in enumerate(t.actions) if isinstance(action, ExitPostmaster)]
    if t.after.exit_code is None:
        return not places
    return places == [len(t.actions) - 1] and t.actions[-1] == ExitPostmaster(t.after.exit_code)


def only_the_living_are_signalled(t: Taken) -> bool:
    """A signal names roles that have a living child, and at least one."""
    present = living(t.before) | living(t.after)
    return all(a.roles and set(a.roles) <= present for a in t.actions if isinstance(a, Signal))


def a_loop_pass_is_idempotent(t: Taken) -> bool:
    """Advance, told again at once, changes nothing and asks only for the launches that are not answered."""
    if not isinstance(t.event, Advance) or t.after.exit_code is not None or t.after.reinitializing:
        return True
    again, actions = step(t.after, Advance())
    return again == t.after and all(isinstance(action, Launch) for action in actions)


def living(state: State) -> set[Role]:
    """The roles that have a living child."""
    return {role for role in CHILD_ROLES if state.count(role)}


STEP_INVARIANTS: Final[tuple[Callable[[Taken], bool], ...]] = (
    shutdown_level_never_decreases,
    a_crash_is_over_only_when_recovery_says_so,
    the_volley_comes_once_per_arming,
    the_volley_reaches_everybody,
    time_that_is_over_is_acted_upon,
    a_crash_starts_the_time,
    nobody_is_launched_in_a_drain,
    nobody_is_launched_twice,
    startup_first_after_a_crash_and_last_at_the_start,
    the_reason_is_stored_before_sigquit,
    a_crash_is_told_to_everybody,
    a_second_crash_is_silent,
    the_checkpointer_is_asked_last,
    the_checkpointer_is_dismissed_after_the_checkpoint,
    memory_is_reset_only_when_it_is_due,
    states_go_back_only_by_reset_or_immediate,
    exits_are_acted_upon_together,
    a_crash_cycle_does_not_touch_the_pid_file,
    the_log_says_so_when_clients_are_let_in,
    the_exit_is_the_last_action,
    only_the_living_are_signalled,
    a_loop_pass_is_idempotent,
)
