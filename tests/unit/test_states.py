"""The postmaster's state machine, told stories.

The exploration (tests/property) proves what holds everywhere; it does not read what is logged, and it would
not notice a machine that does the right things in words nobody searches for, or in an order that the
specification forbids. Here the stories of the specification are told one by one and the actions are compared
literally: the first start, the crash cycle, the three shutdowns, and the odd corners of sections 1.5, 1.6 and
2.3. A client of the log, of postmaster.pid or of the journal breaks when one of these tests has to be
changed.
"""

from __future__ import annotations

import os

import msgspec
import pytest
from msgspec import structs

from supervisor.config import Settings
from supervisor.postmaster import diagram
from supervisor.postmaster.actions import (
    Action,
    ArmStopwatch,
    DisarmStopwatch,
    ExitPostmaster,
    Launch,
    Log,
    LogChildExit,
    PidFileState,
    PidFileStatus,
    QuitReason,
    Reinitialize,
    SetQuitReason,
    Signal,
    StartAccepting,
    StopAccepting,
)
from supervisor.postmaster.child_types import CHILD_TYPES, ExitMeaning, child_type, stop_targets
from supervisor.postmaster.states import (
    Advance,
    CanAccept,
    ChildExited,
    ChildForked,
    Event,
    ExitOutcome,
    ForkFailed,
    ImpossibleEvent,
    Initialised,
    LockFileInvalid,
    MemoryReset,
    PmSignal,
    PmSignalKind,
    PMState,
    RestartAfterCrashChanged,
    Shutdown,
    ShutdownRequested,
    StartupStatus,
    State,
    Stopwatch,
    StopwatchExpired,
    UntrackedChildExited,
    accepting,
    background_workers_start,
    classify,
    connection_answer,
    initial_state,
    reload_honoured,
    replay,
    step,
    step_many,
    wakes_for_stopwatch,
)
from supervisor.postmaster.values import POSTGRESQL_18
from supervisor.roles import CHILD_ROLES, Role

CRASH = ExitOutcome.CRASH
ZERO = ExitOutcome.ORDERLY_0
ONE = ExitOutcome.ORDERLY_1


class Told:
    """A machine, and a shell that forks whatever it is asked for."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or initial_state()
        self.records: list[tuple[State, Event, State]] = []

    def tell(self, event: Event) -> list[Action]:
        """All actions that come of it, those of the answers included, without the lines at DEBUG."""
        before = self.state
        self.state, actions = step(before, event)
        self.records.append((before, event, self.state))
        seen: list[Action] = []
        for action in actions:
            if isinstance(action, Log | LogChildExit) and action.level != "LOG":
                continue
            seen.append(action)
            if isinstance(action, Launch):
                seen += self.tell(ChildForked(action.role))
            elif isinstance(action, Reinitialize):
                seen += self.tell(MemoryReset())
        return seen

    def exits(self, role: Role, outcome: ExitOutcome, *, slot_clean: bool = True) -> list[Action]:
        """A child is reaped and the pass ends."""
        return self.tell(ChildExited(role, outcome, slot_clean)) + self.tell(Advance())


def starting() -> Told:
    told = Told()
    told.tell(Initialised())
    return told


def running(backends: int = 0) -> Told:
    told = starting()
    told.tell(PmSignal(PmSignalKind.RECOVERY_STARTED))
    told.exits(Role.STARTUP, ZERO)
    for _ in range(backends):
        told.tell(ChildForked(Role.BACKEND))
    return told


def restarting() -> Told:
    """In STARTUP after a crash: the memory is new, redo has not begun."""
    told = running()
    told.exits(Role.BGWRITER, CRASH)
    told.exits(Role.CHECKPOINTER, CRASH)
    told.exits(Role.WALWRITER, CRASH)
    assert where(told) is PMState.STARTUP and told.state.fatal_error
    told.tell(Advance())
    return told


def where(told: Told) -> PMState:
    return told.state.pm_state


def startup_status(told: Told) -> StartupStatus:
    return told.state.startup_status


def logged(actions: list[Action]) -> list[str]:
    return [action.message for action in actions if isinstance(action, Log)]


# --- starting


def test_the_first_start_forks_the_startup_process_last() -> None:
    assert Told().tell(Initialised()) == [
        PidFileStatus(PidFileState.STARTING),
        Launch(Role.CHECKPOINTER),
        Launch(Role.BGWRITER),
        Launch(Role.STARTUP),
        StartAccepting(),
    ]


def test_recovery_ends_in_run_and_the_next_pass_launches_the_wal_writer() -> None:
    told = starting()
    assert told.tell(PmSignal(PmSignalKind.RECOVERY_STARTED)) == []
    assert where(told) is PMState.RECOVERY
    assert told.tell(ChildExited(Role.STARTUP, ZERO)) == [
        Log("LOG", "database system is ready to accept connections"),
        PidFileStatus(PidFileState.READY),
    ]
    assert where(told) is PMState.RUN
    assert told.tell(Advance()) == [Launch(Role.WALWRITER)]
    assert told.tell(Advance()) == []


def test_recovery_so_short_that_its_signal_comes_after_its_exit() -> None:
    told = starting()
    told.tell(ChildExited(Role.STARTUP, ZERO))
    told.tell(PmSignal(PmSignalKind.RECOVERY_STARTED))
    assert where(told) is PMState.RUN


def test_a_startup_process_that_cannot_be_forked_ends_the_postmaster() -> None:
    state, _ = step(initial_state(), Initialised())
    state, actions = step(state, ForkFailed(Role.STARTUP))
    assert actions == (ExitPostmaster(1),)
    assert state.exit_code == 1


def test_any_other_failed_fork_is_tried_again_in_the_next_pass() -> None:
    told = running()
    told.tell(ChildExited(Role.BGWRITER, ZERO))
    state, actions = step(told.state, Advance())
    assert actions == (Launch(Role.BGWRITER),)
    state, actions = step(state, ForkFailed(Role.BGWRITER))
    assert actions == ()
    assert step(state, Advance())[1] == (Launch(Role.BGWRITER),)


@pytest.mark.parametrize("outcome", [ONE, CRASH])
def test_a_startup_failure_at_the_first_start_ends_the_server(outcome: ExitOutcome) -> None:
    """Specification 1.6 no. 11, 12: also the exit 1 of a startup process that somebody sent SIGTERM by
    hand."""
    told = starting()
    assert told.exits(Role.STARTUP, outcome) == [
        LogChildExit("LOG", Role.STARTUP, "startup process"),
        Log("LOG", "terminating any other active server processes"),
        SetQuitReason(QuitReason.CRASH),
        Signal("QUIT", (Role.CHECKPOINTER, Role.BGWRITER)),
        ArmStopwatch(),
    ]
    told.exits(Role.BGWRITER, CRASH)
    actions = told.exits(Role.CHECKPOINTER, CRASH)
    assert actions == [
        StopAccepting(),
        Log("LOG", "shutting down due to startup process failure"),
        ExitPostmaster(1),
    ]


# --- the crash cycle


def test_the_crash_cycle_from_the_first_line_to_the_last() -> None:
    told = running(backends=2)
    told.tell(ChildForked(Role.DEAD_END))
    assert told.exits(Role.BACKEND, CRASH) == [
        LogChildExit("LOG", Role.BACKEND, "client backend"),
        Log("LOG", "terminating any other active server processes"),
        SetQuitReason(QuitReason.CRASH),
        Signal("QUIT", (Role.CHECKPOINTER, Role.BGWRITER, Role.WALWRITER, Role.BACKEND, Role.DEAD_END)),
        ArmStopwatch(),
    ]
    assert where(told) is PMState.WAIT_BACKENDS
    for role in (Role.BACKEND, Role.WALWRITER, Role.BGWRITER):
        assert told.exits(role, CRASH) == []
    assert told.exits(Role.CHECKPOINTER, CRASH) == [StopAccepting(), Signal("QUIT", (Role.DEAD_END,))]
    assert told.exits(Role.DEAD_END, CRASH) == [
        Log("LOG", "all server processes terminated; reinitializing"),
        Reinitialize(),
        Launch(Role.STARTUP),
        DisarmStopwatch(),
        StartAccepting(),
    ]
    assert where(told) is PMState.STARTUP
    assert told.tell(Advance()) == [Launch(Role.CHECKPOINTER), Launch(Role.BGWRITER)]
    told.tell(PmSignal(PmSignalKind.RECOVERY_STARTED))
    assert not told.state.fatal_error
    assert logged(told.exits(Role.STARTUP, ZERO)) == ["database system is ready to accept connections"]
    assert replay(told.records) == []


def test_several_deaths_in_one_pass_cost_one_crash() -> None:
    told = running(backends=2)
    first = told.tell(ChildExited(Role.BACKEND, CRASH))
    second = told.tell(ChildExited(Role.CHECKPOINTER, CRASH))
    assert LogChildExit("LOG", Role.BACKEND, "client backend") in first
    assert second == []
    assert told.tell(Advance()) == []


def test_the_last_child_dies_in_the_pass_of_the_crash() -> None:
    told = running()
    for role in (Role.WALWRITER, Role.BGWRITER, Role.CHECKPOINTER):
        told.tell(ChildExited(role, CRASH))
    assert Reinitialize() in told.tell(Advance())
    assert told.state.stopwatch is Stopwatch.OFF


def test_sigkill_is_sent_once_when_the_time_is_over() -> None:
    told = running(backends=1)
    told.exits(Role.WALWRITER, CRASH)
    assert wakes_for_stopwatch(told.state)
    assert not wakes_for_stopwatch(told.state, POSTGRESQL_18)
    assert told.tell(StopwatchExpired()) == []
    assert told.tell(Advance()) == [
        Log("LOG", "issuing SIGKILL to recalcitrant children"),
        Signal("KILL", (Role.CHECKPOINTER, Role.BGWRITER, Role.BACKEND)),
    ]
    assert told.tell(Advance()) == []
    told.tell(StopwatchExpired())
    assert told.tell(Advance()) == [], "a stale timer kills nobody"


def test_everybody_dies_just_before_the_time_is_over() -> None:
    told = running()
    told.tell(ChildExited(Role.WALWRITER, CRASH))
    told.tell(StopwatchExpired())
    told.tell(ChildExited(Role.BGWRITER, CRASH))
    told.tell(ChildExited(Role.CHECKPOINTER, CRASH))
    assert "issuing SIGKILL to recalcitrant children" not in logged(told.tell(Advance()))


def test_a_crash_in_recovery_starts_recovery_again() -> None:
    """Specification 1.6 no. 7: the startup process was told to go, so its end is no failure."""
    told = starting()
    told.tell(PmSignal(PmSignalKind.RECOVERY_STARTED))
    told.exits(Role.BGWRITER, CRASH)
    assert startup_status(told) is StartupStatus.SIGNALED
    told.exits(Role.STARTUP, CRASH)
    assert Launch(Role.STARTUP) in told.exits(Role.CHECKPOINTER, CRASH)
    assert startup_status(told) is StartupStatus.RUNNING


def test_a_startup_process_that_finished_too_late_has_not_succeeded() -> None:
    """Specification 1.6 no. 8, not copied."""
    told = starting()
    told.tell(PmSignal(PmSignalKind.RECOVERY_STARTED))
    told.exits(Role.BGWRITER, CRASH)
    assert told.exits(Role.STARTUP, ZERO) == []
    assert told.state.fatal_error
    assert where(told) is PMState.WAIT_BACKENDS
    assert Reinitialize() in told.exits(Role.CHECKPOINTER, CRASH)


def test_a_startup_process_that_fails_in_a_crash_restart_ends_the_server() -> None:
    """Specification 1.6 no. 10, where PostgreSQL 18 hangs."""
    told = restarting()
    assert logged(told.exits(Role.STARTUP, CRASH)) == ["terminating any other active server processes"]
    told.exits(Role.BGWRITER, CRASH)
    actions = told.exits(Role.CHECKPOINTER, CRASH)
    assert logged(actions) == ["shutting down due to startup process failure"]
    assert actions[-1] == ExitPostmaster(1)


def test_a_crash_between_reset_and_redo_starts_another_cycle() -> None:
    """Specification 1.6 no. 9: the dead one may hold a lock of the new memory."""
    told = restarting()
    assert logged(told.exits(Role.CHECKPOINTER, CRASH)) == ["terminating any other active server processes"]
    told.exits(Role.BGWRITER, CRASH)
    assert Reinitialize() in told.exits(Role.STARTUP, CRASH)


def test_restart_after_crash_is_read_at_the_end_of_the_drain() -> None:
    told = running()
    told.exits(Role.BGWRITER, CRASH)
    told.exits(Role.WALWRITER, CRASH)
    told.tell(RestartAfterCrashChanged(False))
    actions = told.exits(Role.CHECKPOINTER, CRASH)
    assert logged(actions) == ['shutting down because "restart_after_crash" is off']
    assert actions[-1] == ExitPostmaster(1)


# --- shutdown


def test_a_smart_shutdown_waits_for_clients_and_relaunches_others() -> None:
    told = running(backends=1)
    assert told.tell(ShutdownRequested(Shutdown.SMART)) == [
        Log("LOG", "received smart shutdown request"),
        PidFileStatus(PidFileState.STOPPING),
    ]
    assert where(told) is PMState.RUN
    assert connection_answer(told.state) is CanAccept.SHUTDOWN
    assert told.exits(Role.BGWRITER, ZERO) == [Launch(Role.BGWRITER)]
    told.tell(ChildForked(Role.DEAD_END))
    actions = told.exits(Role.BACKEND, ZERO)
    assert actions == [Signal("TERM", (Role.BGWRITER, Role.WALWRITER))], "a dead-end child does not hold it up"


def test_the_fast_shutdown_from_the_first_line_to_the_last() -> None:
    told = running(backends=1)
    told.tell(ChildForked(Role.DEAD_END))
    assert told.tell(ShutdownRequested(Shutdown.FAST)) == [
        Log("LOG", "received fast shutdown request"),
        PidFileStatus(PidFileState.STOPPING),
        Log("LOG", "aborting any active transactions"),
        Signal("TERM", (Role.BGWRITER, Role.WALWRITER, Role.BACKEND)),
    ]
    told.exits(Role.BACKEND, ONE)
    told.exits(Role.BGWRITER, ZERO)
    assert told.exits(Role.WALWRITER, ZERO) == [Signal("INT", (Role.CHECKPOINTER,))]
    assert where(told) is PMState.WAIT_XLOG_SHUTDOWN
    assert told.tell(PmSignal(PmSignalKind.XLOG_IS_SHUTDOWN)) == [Signal("USR2", (Role.CHECKPOINTER,))]
    assert where(told) is PMState.WAIT_CHECKPOINTER
    assert told.exits(Role.CHECKPOINTER, ZERO) == [StopAccepting(), Signal("TERM", (Role.DEAD_END,))]
    assert told.exits(Role.DEAD_END, ONE) == [ExitPostmaster(0)]
    assert replay(told.records) == []


def test_the_chain_after_the_shutdown_checkpoint_is_in_the_log() -> None:
    told = running()
    told.tell(ShutdownRequested(Shutdown.FAST))
    told.exits(Role.BGWRITER, ZERO)
    told.exits(Role.WALWRITER, ZERO)
    _, actions = step(told.state, PmSignal(PmSignalKind.XLOG_IS_SHUTDOWN))
    assert [action for action in actions if isinstance(action, Log)] == [
        Log("DEBUG1", "updating PMState from PM_WAIT_XLOG_SHUTDOWN to PM_WAIT_XLOG_ARCHIVAL"),
        Log("DEBUG1", "updating PMState from PM_WAIT_XLOG_ARCHIVAL to PM_WAIT_IO_WORKERS"),
        Log("DEBUG1", "updating PMState from PM_WAIT_IO_WORKERS to PM_WAIT_CHECKPOINTER"),
    ]


def test_an_immediate_shutdown_quits_everybody_and_exits_0() -> None:
    told = running(backends=1)
    assert told.tell(ShutdownRequested(Shutdown.IMMEDIATE)) == [
        Log("LOG", "received immediate shutdown request"),
        PidFileStatus(PidFileState.STOPPING),
        SetQuitReason(QuitReason.STOP),
        Signal("QUIT", (Role.CHECKPOINTER, Role.BGWRITER, Role.WALWRITER, Role.BACKEND)),
        ArmStopwatch(),
    ]
    for role in (Role.BACKEND, Role.WALWRITER, Role.BGWRITER):
        assert told.exits(role, CRASH) == []
    assert told.exits(Role.CHECKPOINTER, CRASH) == [StopAccepting(), ExitPostmaster(0)]


def test_a_stronger_request_overrides_and_a_weaker_one_is_ignored() -> None:
    told = running(backends=1)
    told.tell(ShutdownRequested(Shutdown.SMART))
    assert "received fast shutdown request" in logged(told.tell(ShutdownRequested(Shutdown.FAST)))
    assert told.tell(ShutdownRequested(Shutdown.SMART)) == []
    assert "received immediate shutdown request" in logged(told.tell(ShutdownRequested(Shutdown.IMMEDIATE)))
    assert told.tell(ShutdownRequested(Shutdown.FAST)) == []


def test_a_lost_lock_file_is_an_immediate_shutdown() -> None:
    assert logged(running().tell(LockFileInvalid())) == [
        "performing immediate shutdown because data directory lock file is invalid",
        "received immediate shutdown request",
    ]


@pytest.mark.parametrize("mode", [Shutdown.SMART, Shutdown.FAST])
def test_a_crash_during_a_shutdown_is_never_recovered_from(mode: Shutdown) -> None:
    told = running(backends=1)
    told.tell(ShutdownRequested(mode))
    told.exits(Role.BACKEND, CRASH)
    for role in (Role.BGWRITER, Role.WALWRITER):
        told.exits(role, CRASH)
    actions = told.exits(Role.CHECKPOINTER, CRASH)
    assert logged(actions) == ["abnormal database system shutdown"]
    assert actions[-1] == ExitPostmaster(1)


def test_a_shutdown_during_a_crash_drains_and_exits_1() -> None:
    told = running()
    told.exits(Role.BGWRITER, CRASH)
    assert logged(told.tell(ShutdownRequested(Shutdown.FAST))) == ["received fast shutdown request"]
    told.exits(Role.WALWRITER, CRASH)
    assert logged(told.exits(Role.CHECKPOINTER, CRASH)) == ["abnormal database system shutdown"]


@pytest.mark.parametrize("mode", [Shutdown.SMART, Shutdown.FAST])
def test_a_shutdown_in_a_crash_restart_reaches_the_checkpointer(mode: Shutdown) -> None:
    """PostgreSQL 18 sends it a SIGTERM, which it ignores, and waits without a time limit."""
    told = restarting()
    assert told.tell(ShutdownRequested(mode))[2:] == [
        Signal("TERM", (Role.STARTUP, Role.CHECKPOINTER, Role.BGWRITER)),
        SetQuitReason(QuitReason.STOP),
        Signal("QUIT", (Role.CHECKPOINTER,)),
        ArmStopwatch(),
    ]
    told.exits(Role.STARTUP, ONE)
    told.exits(Role.BGWRITER, ZERO)
    assert told.exits(Role.CHECKPOINTER, CRASH)[-1] == ExitPostmaster(1)


def test_a_missing_checkpointer_is_started_for_the_shutdown_checkpoint() -> None:
    told = running()
    told.tell(ShutdownRequested(Shutdown.FAST))
    told.exits(Role.BGWRITER, ZERO)
    state = structs.replace(told.state, children=(0, 0, 0, 1, 0, 0, 0))
    state, _ = step(state, ChildExited(Role.WALWRITER, ZERO))
    state, actions = step(state, Advance())
    assert actions == (Launch(Role.CHECKPOINTER),)
    forked, actions = step(state, ChildForked(Role.CHECKPOINTER))
    assert Signal("INT", (Role.CHECKPOINTER,)) in actions
    assert forked.pm_state is PMState.WAIT_XLOG_SHUTDOWN
    failed, actions = step(state, ForkFailed(Role.CHECKPOINTER))
    assert Log("LOG", "abnormal database system shutdown") in actions
    assert failed.exit_code == 1


def test_a_recovery_target_is_an_orderly_shutdown() -> None:
    told = starting()
    told.tell(PmSignal(PmSignalKind.RECOVERY_STARTED))
    actions = told.exits(Role.STARTUP, ExitOutcome.RECOVERY_TARGET_3)
    assert logged(actions) == ["shutdown at recovery target"]
    assert Signal("INT", (Role.CHECKPOINTER,)) in told.exits(Role.BGWRITER, ZERO)


def test_a_startup_process_that_ends_in_the_smart_wait_of_a_hot_standby_leaves_the_clients_alone() -> None:
    """PostgreSQL 18 waits in WAIT_BACKENDS for children that it never told to go."""
    told = starting()
    told.tell(PmSignal(PmSignalKind.RECOVERY_STARTED))
    told.tell(PmSignal(PmSignalKind.BEGIN_HOT_STANDBY))
    told.tell(ChildForked(Role.BACKEND))
    told.tell(ShutdownRequested(Shutdown.SMART))
    assert told.exits(Role.STARTUP, ZERO) == []
    assert where(told) is PMState.HOT_STANDBY
    assert Signal("TERM", (Role.BGWRITER,)) in told.exits(Role.BACKEND, ZERO)


# --- what an exit means


@pytest.mark.parametrize(
    ("role", "outcome", "slot_clean", "crash"),
    [
        (Role.BGWRITER, ZERO, True, False),
        (Role.BGWRITER, ONE, True, True),
        (Role.BGWRITER, CRASH, True, True),
        (Role.WALWRITER, ZERO, False, False),
        (Role.WALWRITER, ONE, True, True),
        (Role.CHECKPOINTER, ZERO, True, True),
        (Role.CHECKPOINTER, ONE, True, True),
        (Role.BACKEND, ZERO, True, False),
        (Role.BACKEND, ONE, True, False),
        (Role.BACKEND, ZERO, False, True),
        (Role.BACKEND, ONE, False, True),
        (Role.BACKEND, ExitOutcome.RECOVERY_TARGET_3, True, True),
        (Role.BACKEND, CRASH, True, True),
        (Role.DEAD_END, ZERO, True, False),
        (Role.DEAD_END, ONE, False, False),
        (Role.DEAD_END, CRASH, True, True),
        (Role.BGWORKER, ZERO, True, False),
        (Role.BGWORKER, ONE, True, False),
        (Role.BGWORKER, ZERO, False, True),
        (Role.BGWORKER, ONE, False, True),
        (Role.BGWORKER, CRASH, True, True),
    ],
)
def test_every_exit_in_run(role: Role, outcome: ExitOutcome, slot_clean: bool, crash: bool) -> None:
    """Specification 2.3."""
    told = running(backends=1)
    told.tell(ChildForked(Role.DEAD_END))
    told.tell(ChildForked(Role.BGWORKER))
    told.exits(role, outcome, slot_clean=slot_clean)
    assert told.state.fatal_error is crash
    expected = ExitMeaning.CRASH if crash else ExitMeaning.ORDINARY
    assert child_type(role).exit_meaning(outcome, slot_clean=slot_clean, pm_state=PMState.RUN) is expected


def test_the_log_tells_the_failure_of_a_background_worker_and_hardly_its_success() -> None:
    """`CleanupBackend`: LOG for exit 1, DEBUG1 for exit 0."""
    told = running()
    told.tell(ChildForked(Role.BGWORKER))
    for outcome, level in ((ZERO, "DEBUG1"), (ONE, "LOG")):
        _, actions = step(told.state, ChildExited(Role.BGWORKER, outcome))
        assert actions == (LogChildExit(level, Role.BGWORKER, "background worker"),)


def test_no_background_worker_starts_in_a_crash_cycle_until_redo_has_begun() -> None:
    told = running(backends=1)
    told.tell(ChildExited(Role.BACKEND, CRASH))
    with pytest.raises(ImpossibleEvent, match="no background worker starts in this state"):
        step(told.state, ChildForked(Role.BGWORKER))
    restarting = State(pm_state=PMState.STARTUP, fatal_error=True)
    recovering = State(pm_state=PMState.RECOVERY)
    assert [background_workers_start(state) for state in (restarting, recovering)] == [False, True]


def test_an_untracked_child_is_logged_or_a_crash() -> None:
    told = running()
    assert told.tell(UntrackedChildExited(ONE)) == [LogChildExit("LOG", None, "untracked child process")]
    told.tell(UntrackedChildExited(CRASH))
    assert told.state.fatal_error


def test_wait_statuses_are_classified() -> None:
    def wait_status(code: int) -> int:
        return code << 8

    assert [classify(wait_status(code)) for code in (0, 1, 2, 3, 255)] == [
        *(ZERO, ONE, CRASH),
        *(ExitOutcome.RECOVERY_TARGET_3, CRASH),
    ]
    assert all(classify(signal) is CRASH for signal in (3, 6, 9, 15, 11 | 0x80))
    assert os.WIFSIGNALED(9), "the numbers above are raw wait statuses"


# --- what cannot be trusted, and what cannot be


@pytest.mark.parametrize("kind", [PmSignalKind.RECOVERY_STARTED, PmSignalKind.BEGIN_HOT_STANDBY])
def test_a_flag_at_the_wrong_time_is_consumed(kind: PmSignalKind) -> None:
    told = running()
    state, actions = step(told.state, PmSignal(kind))
    assert state == told.state
    assert actions == (Log("DEBUG1", f"ignoring postmaster signal {kind.value} in state PM_RUN"),)


def test_wal_shut_down_at_the_wrong_time_is_a_crash() -> None:
    told = running()
    assert logged(told.tell(PmSignal(PmSignalKind.XLOG_IS_SHUTDOWN))) == ["WAL was shut down unexpectedly"]
    assert told.state.fatal_error
    assert told.tell(PmSignal(PmSignalKind.XLOG_IS_SHUTDOWN)) == []


@pytest.mark.parametrize(
    "event",
    [
        ChildExited(Role.STARTUP, ZERO),
        ChildExited(Role.POSTMASTER, ZERO),
        ChildForked(Role.BGWRITER),
        ChildForked(Role.STARTUP),
        ChildForked(Role.POSTMASTER),
        ShutdownRequested(Shutdown.NONE),
        Initialised(),
        MemoryReset(),
    ],
    ids=repr,
)
def test_what_a_sound_shell_cannot_tell_is_refused(event: Event) -> None:
    with pytest.raises(ImpossibleEvent):
        step(running().state, event)


def test_nothing_is_told_before_the_first_event_nor_after_the_last() -> None:
    with pytest.raises(ImpossibleEvent):
        step(initial_state(), Advance())
    with pytest.raises(ImpossibleEvent):
        step(structs.replace(running().state, exit_code=0), Advance())


def test_a_client_is_not_served_where_it_is_to_be_refused() -> None:
    with pytest.raises(ImpossibleEvent):
        step(starting().state, ChildForked(Role.BACKEND))


def test_a_question_is_answered_before_anything_else() -> None:
    told = running()
    for role in (Role.WALWRITER, Role.BGWRITER, Role.CHECKPOINTER):
        told.tell(ChildExited(role, CRASH))
    state, actions = step(told.state, Advance())
    assert actions[-1] == Reinitialize()
    with pytest.raises(ImpossibleEvent):
        step(state, Advance())


# --- what the shell asks


def test_what_a_connection_is_told() -> None:
    """Specification 4.6."""
    told = starting()
    assert connection_answer(told.state) is CanAccept.STARTUP
    told.tell(PmSignal(PmSignalKind.RECOVERY_STARTED))
    assert connection_answer(told.state) is CanAccept.NOTHOTSTANDBY
    assert not told.state.reached_consistency
    told.tell(PmSignal(PmSignalKind.RECOVERY_CONSISTENT))
    assert told.state.reached_consistency
    assert connection_answer(running().state) is CanAccept.OK
    assert connection_answer(restarting().state) is CanAccept.RECOVERY
    told = running()
    told.exits(Role.BGWRITER, CRASH)
    assert connection_answer(told.state) is CanAccept.RECOVERY
    told.tell(ShutdownRequested(Shutdown.FAST))
    assert connection_answer(told.state) is CanAccept.SHUTDOWN
    assert accepting(told.state)
    assert not accepting(initial_state())


def test_a_reload_is_honoured_until_a_fast_shutdown() -> None:
    state = running().state
    assert reload_honoured(structs.replace(state, shutdown=Shutdown.SMART))
    assert not reload_honoured(structs.replace(state, shutdown=Shutdown.FAST))


# --- journal and replay


def test_states_events_and_actions_survive_the_journal() -> None:
    told = running(backends=1)
    told.exits(Role.BACKEND, CRASH)
    for before, event, after in told.records:
        _, actions = step(before, event)
        assert msgspec.json.decode(msgspec.json.encode(before), type=State) == before
        assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event
        assert msgspec.json.decode(msgspec.json.encode(actions), type=tuple[Action, ...]) == actions
        assert hash(after) == hash(structs.replace(after))


def test_replay_finds_a_step_the_machine_would_not_have_made() -> None:
    told = running(backends=1)
    told.exits(Role.BACKEND, CRASH)
    assert replay(told.records) == []
    before, event, after = told.records[-2]
    forged = [*told.records[:-2], (before, event, structs.replace(after, fatal_error=False))]
    (mismatch,) = replay(forged)
    assert mismatch.position == len(forged) - 1
    assert mismatch.expected == after


def test_replay_finds_a_gap_and_an_impossible_event() -> None:
    told = running()
    (gap,) = replay([told.records[0], told.records[-1]])
    assert gap.position == 1 and gap.expected is None
    (impossible,) = replay([(initial_state(), Advance(), initial_state())])
    assert "Initialised" in impossible.reason


def test_several_events_in_a_row() -> None:
    told = running(backends=1)
    events: list[Event] = [ChildExited(Role.BACKEND, CRASH), StopwatchExpired()]
    state, actions = step_many(told.state, events)
    assert state.stopwatch is Stopwatch.EXPIRED
    assert actions[0] == LogChildExit("LOG", Role.BACKEND, "client backend")


# --- the policy table and the page


def test_the_policy_table_has_a_row_for_every_child() -> None:
    assert [row.role for row in CHILD_TYPES] == list(CHILD_ROLES)
    with pytest.raises(ValueError, match="not a child"):
        child_type(Role.POSTMASTER)


def test_slot_pools_leave_room_for_those_that_still_authenticate() -> None:
    sizes = {row.role: row.pool_size(Settings(max_connections=100, max_worker_processes=7)) for row in CHILD_TYPES}
    assert sizes.pop(Role.BACKEND) == 200
    assert sizes.pop(Role.BGWORKER) == 7
    assert sizes.pop(Role.DEAD_END) == 0
    assert set(sizes.values()) == {1}


def test_the_checkpointer_outlives_the_others_unless_there_was_a_crash() -> None:
    assert Role.CHECKPOINTER not in stop_targets(crash_or_immediate=False)
    assert Role.CHECKPOINTER in stop_targets(crash_or_immediate=True)
    assert Role.DEAD_END not in stop_targets(crash_or_immediate=True)


def test_process_names_fit_the_kernel() -> None:
    """prctl(PR_SET_NAME) cuts after 15 bytes."""
    assert all(len(f"cb:{role.short_name}") <= 15 for role in Role)


def test_the_page_of_the_state_machine_is_not_stale() -> None:
    page = diagram.PAGE.read_text()
    assert page == diagram.drawn(page), "run: python -m supervisor.postmaster.diagram --write"


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no place marked"):
        diagram.drawn("# nothing here\n")
