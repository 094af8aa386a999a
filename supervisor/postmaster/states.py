"""The postmaster's state machine: `step(state, event) -> (state, actions)`, pure.

Owns every decision of the postmaster and no effect: no process id, no clock, no descriptor. The shell turns
the world into events (`events`) and the actions (`actions`) into system calls, and decides nothing. Behaviour
and texts are PostgreSQL 18's postmaster.c (specification 1.1, 1.2, 1.5-1.7, 2.3, 4.2, 5.1-5.4) but for the
places named in `Rules`.

The shell's side of the bargain, for each pass of its loop:

1. tell the facts in PostgreSQL's order: shutdown request, reload, every child that wait4 returns, raised
   flags, the stopwatch, the lock file; then tell `Advance`;
2. carry out the actions of each step, in order, before the next event. `Launch` is answered with
   `ChildForked` or `ForkFailed`, `Reinitialize` with `MemoryReset`, before any other event is told;
3. answer a connection as `connection_answer` says, fork a backend or a dead-end child, tell `ChildForked`;
   the same for the background workers that `worker_rules` says are due;
4. sleep, but not beyond the stopwatch if `wakes_for_stopwatch`.

The exits of children are only recorded; `Advance` acts on all of them at once, so that several deaths in one
pass cost one transition (specification 4.1). Every other event also lets the machine go as far as it can.
`Advance` is idempotent: told again at once it asks for nothing but the launches that failed.

Children and shared memory cannot be trusted: what they say at the wrong moment is consumed, logged at DEBUG1
and changes nothing. `ImpossibleEvent` is for what only a broken shell can say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from supervisor.postmaster.actions import (
    Action,
    Launch,
    LogChildExit,
    PidFileState,
    PidFileStatus,
    QuitReason,
    SetQuitReason,
)
from supervisor.postmaster.answers import (
    accepting,
    background_workers_start,
    connection_answer,
    impossible,
    reload_honoured,
    wakes_for_stopwatch,
)
from supervisor.postmaster.child_types import CHILD_TYPES, FIRST_START_ORDER, LAUNCH_ORDER, ExitMeaning
from supervisor.postmaster.draft import Draft
from supervisor.postmaster.events import (
    Advance,
    ChildExited,
    ChildForked,
    Event,
    ExitOutcome,
    ForkFailed,
    Initialised,
    LockFileInvalid,
    MemoryReset,
    PmSignal,
    PmSignalKind,
    RestartAfterCrashChanged,
    ShutdownRequested,
    StopwatchExpired,
    UntrackedChildExited,
    classify,
)
from supervisor.postmaster.settling import settle
from supervisor.postmaster.transitions import Cause
from supervisor.postmaster.values import (
    OURS,
    SIGKILL_CHILDREN_AFTER_S,
    CanAccept,
    PMState,
    Rules,
    Shutdown,
    StartupStatus,
    State,
    Stopwatch,
)
from supervisor.roles import CHILD_ROLES, Role

__all__ = [
    "SIGKILL_CHILDREN_AFTER_S",
    "Advance",
    "CanAccept",
    "ChildExited",
    "ChildForked",
    "Event",
    "ExitOutcome",
    "ForkFailed",
    "ImpossibleEvent",
    "Initialised",
    "LockFileInvalid",
    "MemoryReset",
    "Mismatch",
    "PMState",
    "PmSignal",
    "PmSignalKind",
    "RestartAfterCrashChanged",
    "Rules",
    "Shutdown",
    "ShutdownRequested",
    "StartupStatus",
    "State",
    "Stopwatch",
    "StopwatchExpired",
    "UntrackedChildExited",
    "accepting",
    "background_workers_start",
    "classify",
    "connection_answer",
    "initial_state",
    "reload_honoured",
    "replay",
    "step",
    "step_many",
    "wakes_for_stopwatch",
]

_UP: Final = frozenset({PMState.STARTUP, PMState.RECOVERY, PMState.HOT_STANDBY})
"""Where a startup process can be at work."""


class ImpossibleEvent(ValueError):
    """The shell told something it cannot have seen in this state: its own books are wrong."""


# --- the machine


def initial_state(restart_after_crash: bool = True) -> State:
    """The state before `Initialised`."""
    return State(restart_after_crash=restart_after_crash)


def step(state: State, event: Event, rules: Rules = OURS) -> tuple[State, tuple[Action, ...]]:
    """What this event makes of this state, and what the shell is to do about it.

    Raises ImpossibleEvent for an event that a sound shell cannot tell in this state.
    """
    reason = impossible(state, event)
    if reason is not None:
        raise ImpossibleEvent(f"{event!r} in state PM_{state.pm_state.name}: {reason}")
    draft = Draft(state, rules)
    _HANDLERS[type(event)](draft, event)
    if not isinstance(event, ChildExited | UntrackedChildExited):
        settle(draft)
    if isinstance(event, Advance) and draft.state.exit_code is None:
        _launch_missing(draft)
        _send_volley(draft)
    return draft.state, tuple(draft.actions)


def step_many(state: State, events: Iterable[Event], rules: Rules = OURS) -> tuple[State, tuple[Action, ...]]:
    """Several steps in a row, for a pass whose actions need no answer; the actions in their order."""
    actions: list[Action] = []
    for event in events:
        state, more = step(state, event, rules)
        actions.extend(more)
    return state, tuple(actions)


# --- replay


class Mismatch(NamedTuple):
    """A recorded step that this machine would not have made."""

    position: int
    """Of the record, from 0."""
    before: State
    event: Event
    recorded: State
    expected: State | None
    """None: the event is impossible in that state, or the record does not continue the one before it."""
    reason: str


def replay(records: Iterable[tuple[State, Event, State]], rules: Rules = OURS) -> list[Mismatch]:
    """Check the recorded steps (before, event, after) of one postmaster, in order, against this machine.

    The empty list: each step is the one `step` makes, and each begins where the one before ended.
    """
    mismatches: list[Mismatch] = []
    last: State | None = None
    for position, (before, event, recorded) in enumerate(records):
        if last is not None and before != last:
            mismatches.append(Mismatch(position, before, event, recorded, None, "does not continue the record before"))
        last = recorded
        try:
            expected, _ = step(before, event, rules)
        except ImpossibleEvent as error:
            mismatches.append(Mismatch(position, before, event, recorded, None, str(error)))
            continue
        if expected != recorded:
            mismatches.append(Mismatch(position, before, event, recorded, expected, "another state was to follow"))
    return mismatches


# --- events


def _initialised(draft: Draft, event: Initialised) -> None:
    draft.act(PidFileStatus(PidFileState.STARTING))
    draft.move(Cause.INITIALISED)
    for role in FIRST_START_ORDER:
        draft.act(Launch(role))
    draft.start_accepting()


def _memory_reset(draft: Draft, event: MemoryReset) -> None:
    draft.set(reinitializing=False, reached_consistency=False)
    draft.move(Cause.MEMORY_RESET)
    draft.act(Launch(Role.STARTUP))
    draft.disarm()
    draft.start_accepting()


def _shutdown_requested(draft: Draft, event: ShutdownRequested) -> None:
    if event.mode <= draft.state.shutdown:
        return
    draft.set(shutdown=event.mode)
    draft.log(f"received {event.mode.name.lower()} shutdown request")
    draft.act(PidFileStatus(PidFileState.STOPPING))
    if event.mode is Shutdown.IMMEDIATE:
        _shut_down_immediately(draft)
    elif draft.state.pm_state in {PMState.STARTUP, PMState.RECOVERY}:
        draft.move(Cause.STOP_REQUESTED)
    elif draft.state.pm_state in {PMState.HOT_STANDBY, PMState.RUN}:
        if event.mode is Shutdown.SMART:
            draft.set(conns_allowed=False)
        else:
            draft.log("aborting any active transactions")
            draft.move(Cause.FAST_REQUESTED)


def _shut_down_immediately(draft: Draft) -> None:
    draft.act(SetQuitReason(QuitReason.STOP))
    draft.terminate_children("QUIT")
    if draft.state.pm_state is not PMState.WAIT_BACKENDS:
        draft.move(Cause.IMMEDIATE_REQUESTED)
    draft.arm()


def _lock_file_invalid(draft: Draft, event: LockFileInvalid) -> None:
    draft.log("performing immediate shutdown because data directory lock file is invalid")
    _shutdown_requested(draft, ShutdownRequested(Shutdown.IMMEDIATE))


def _child_forked(draft: Draft, event: ChildForked) -> None:
    draft.count_child(event.role, +1)
    if event.role is Role.STARTUP:
        draft.set(startup_status=StartupStatus.RUNNING)


def _fork_failed(draft: Draft, event: ForkFailed) -> None:
    if event.role is Role.STARTUP:
        draft.end(Cause.EXIT_FORK_FAILED, 1)
    elif event.role is Role.CHECKPOINTER and draft.state.pm_state is PMState.WAIT_BACKENDS:
        # Nobody can write the shutdown checkpoint. Recovery at the next start makes up for it.
        draft.fatal_error()


def _child_exited(draft: Draft, event: ChildExited) -> None:
    draft.count_child(event.role, -1)
    if event.role is Role.STARTUP:
        _startup_exited(draft, event.outcome)
        return
    row = CHILD_TYPES[event.role]
    meaning = row.exit_meaning(event.outcome, slot_clean=event.slot_clean, pm_state=draft.state.pm_state)
    if meaning is ExitMeaning.CRASH:
        draft.child_crashed(event.role)
        return
    level = row.logged_1 if event.outcome is ExitOutcome.ORDERLY_1 else row.logged_0
    draft.act(LogChildExit(level=level, role=event.role, name=row.log_name))
    if event.role is Role.CHECKPOINTER and draft.state.pm_state is PMState.WAIT_CHECKPOINTER:
        draft.move(Cause.CHECKPOINTER_GONE)
        draft.stop_accepting()
        draft.terminate_children("TERM")


def _startup_exited(draft: Draft, outcome: ExitOutcome) -> None:
    state, rules = draft.state, draft.rules
    signaled = state.startup_status is StartupStatus.SIGNALED
    draft.set(startup_status=StartupStatus.NOT_RUNNING)
    if state.shutdown is not Shutdown.NONE and outcome in {ExitOutcome.ORDERLY_0, ExitOutcome.ORDERLY_1}:
        if not rules.drain_reaches_everyone:
            draft.enter(PMState.WAIT_BACKENDS)
    elif outcome is ExitOutcome.RECOVERY_TARGET_3:
        _recovery_target_reached(draft)
    elif outcome is not ExitOutcome.ORDERLY_0:
        if not signaled:
            draft.set(startup_status=StartupStatus.CRASHED)
        draft.child_crashed(Role.STARTUP)
    elif not signaled:
        _recovery_succeeded(draft, Cause.STARTUP_SUCCEEDED)
    elif not rules.signaled_startup_cannot_succeed:
        _recovery_succeeded(draft, None)


def _recovery_succeeded(draft: Draft, cause: Cause | None) -> None:
    if cause is None:
        draft.enter(PMState.RUN)
    else:
        draft.move(cause)
    draft.set(fatal_error=False, conns_allowed=True)
    draft.disarm()
    draft.log("database system is ready to accept connections")
    draft.act(PidFileStatus(PidFileState.READY))


def _recovery_target_reached(draft: Draft) -> None:
    draft.log("shutdown at recovery target")
    draft.set(shutdown=max(draft.state.shutdown, Shutdown.SMART))
    draft.terminate_children("TERM")
    draft.limit_drain_of_restart()
    if draft.state.pm_state in _UP:
        draft.move(Cause.RECOVERY_TARGET)


def _untracked_exited(draft: Draft, event: UntrackedChildExited) -> None:
    if event.outcome in {ExitOutcome.ORDERLY_0, ExitOutcome.ORDERLY_1}:
        draft.act(LogChildExit(level="LOG", role=None, name="untracked child process"))
    else:
        draft.child_crashed(None)


def _pm_signal(draft: Draft, event: PmSignal) -> None:
    state, kind = draft.state, event.kind
    recovering = state.pm_state if state.shutdown is Shutdown.NONE else None
    if kind is PmSignalKind.RECOVERY_STARTED and recovering is PMState.STARTUP:
        draft.set(fatal_error=False, reached_consistency=False)
        draft.disarm()
        draft.move(Cause.RECOVERY_STARTED)
    elif kind is PmSignalKind.RECOVERY_CONSISTENT and recovering is PMState.RECOVERY:
        draft.set(reached_consistency=True)
    elif kind is PmSignalKind.BEGIN_HOT_STANDBY and recovering is PMState.RECOVERY:
        draft.log("database system is ready to accept read-only connections")
        draft.act(PidFileStatus(PidFileState.READY))
        draft.set(conns_allowed=True)
        draft.move(Cause.BEGIN_HOT_STANDBY)
    elif kind is PmSignalKind.XLOG_IS_SHUTDOWN and state.pm_state is PMState.WAIT_XLOG_SHUTDOWN:
        draft.move(Cause.XLOG_IS_SHUTDOWN)
    elif kind is PmSignalKind.XLOG_IS_SHUTDOWN and not (state.fatal_error or state.shutdown is Shutdown.IMMEDIATE):
        # Nobody can write WAL any more, whoever said so: go on as after a crash.
        draft.log("WAL was shut down unexpectedly")
        draft.fatal_error()
    else:
        draft.ignore(f"postmaster signal {kind.value}")


def _stopwatch_expired(draft: Draft, event: StopwatchExpired) -> None:
    if draft.state.stopwatch is Stopwatch.ARMED:
        draft.set(stopwatch=Stopwatch.EXPIRED)
    else:
        draft.ignore(f"expiry of a stopwatch that is {draft.state.stopwatch.value}")


def _restart_after_crash_changed(draft: Draft, event: RestartAfterCrashChanged) -> None:
    draft.set(restart_after_crash=event.value)


def _advance(draft: Draft, event: Advance) -> None:
    """What `Advance` means is in `step`: settle, launch, escalate."""


_HANDLERS: Final[dict[type[Any], Callable[[Draft, Any], None]]] = {
    Initialised: _initialised,
    ShutdownRequested: _shutdown_requested,
    ChildForked: _child_forked,
    ForkFailed: _fork_failed,
    ChildExited: _child_exited,
    UntrackedChildExited: _untracked_exited,
    PmSignal: _pm_signal,
    StopwatchExpired: _stopwatch_expired,
    MemoryReset: _memory_reset,
    RestartAfterCrashChanged: _restart_after_crash_changed,
    LockFileInvalid: _lock_file_invalid,
    Advance: _advance,
}


# --- the rest of a pass


def _launch_missing(draft: Draft) -> None:
    for role in LAUNCH_ORDER:
        if draft.state.pm_state in CHILD_TYPES[role].launched_in and not draft.state.count(role):
            draft.act(Launch(role))


def _send_volley(draft: Draft) -> None:
    """SIGKILL to everybody, once for each time the stopwatch was armed."""
    if draft.state.stopwatch is Stopwatch.EXPIRED and draft.living(CHILD_ROLES):
        draft.log("issuing SIGKILL to recalcitrant children")
        draft.terminate_children("KILL")
        draft.set(stopwatch=Stopwatch.OFF)
