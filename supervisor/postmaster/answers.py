"""What can be read off a state: what a connection is told, whether to sleep on, which events cannot be.

Owns the questions about a state that change nothing. `states` offers them to the shell; the last one guards
`step`.
"""

from __future__ import annotations

from supervisor.postmaster.child_types import CHILD_TYPES
from supervisor.postmaster.events import (
    ChildExited,
    ChildForked,
    Event,
    ForkFailed,
    Initialised,
    MemoryReset,
    ShutdownRequested,
)
from supervisor.postmaster.values import OURS, CanAccept, PMState, Rules, Shutdown, State, Stopwatch
from supervisor.roles import Role


def connection_answer(state: State) -> CanAccept:
    """What a connection accepted now is to get (PostgreSQL's canAcceptConnections; specification 4.6)."""
    if state.pm_state in {PMState.RUN, PMState.HOT_STANDBY}:
        return CanAccept.OK if state.conns_allowed else CanAccept.SHUTDOWN
    if state.shutdown is not Shutdown.NONE:
        return CanAccept.SHUTDOWN
    if not state.fatal_error and state.pm_state is PMState.STARTUP:
        return CanAccept.STARTUP
    if not state.fatal_error and state.pm_state is PMState.RECOVERY:
        return CanAccept.NOTHOTSTANDBY
    return CanAccept.RECOVERY


def accepting(state: State) -> bool:
    """Whether the listening sockets belong into the wait set."""
    return state.accepting


def wakes_for_stopwatch(state: State, rules: Rules = OURS) -> bool:
    """Whether the shell may not sleep beyond the end of the stopwatch."""
    if state.stopwatch is not Stopwatch.ARMED:
        return False
    return rules.escalate_on_time or state.shutdown is Shutdown.IMMEDIATE


def reload_honoured(state: State) -> bool:
    """Whether SIGHUP is obeyed; in a fast or immediate shutdown it is ignored without a word (specification
    1.8)."""
    return state.shutdown <= Shutdown.SMART


def background_workers_start(state: State) -> bool:
    """Whether one may be started at all; in a crash cycle none is until redo has begun (`maybe_start_bgworkers`,
    specification 9.3)."""
    return not state.fatal_error and state.pm_state in CHILD_TYPES[Role.BGWORKER].launched_in


def impossible(state: State, event: Event) -> str | None:
    """Why a sound shell cannot tell this event in this state; None if it can."""
    if state.exit_code is not None:
        return "the postmaster has exited"
    if state.reinitializing is not isinstance(event, MemoryReset):
        return "Reinitialize is answered by MemoryReset, and nothing else is"
    if (state.pm_state is PMState.INIT) is not isinstance(event, Initialised):
        return "Initialised is the first event, and only the first"
    match event:
        case ShutdownRequested(mode=Shutdown.NONE):
            return "that is not a request"
        case ChildExited(role=role) if role is Role.POSTMASTER or not state.count(role):
            return "no such child is alive"
        case ChildForked(role=role) | ForkFailed(role=role):
            return _impossible_fork(state, role)
    return None


def _impossible_fork(state: State, role: Role) -> str | None:
    if role is Role.POSTMASTER:
        return "the postmaster is not a child"
    row = CHILD_TYPES[role]
    if role is Role.BGWORKER:
        return None if background_workers_start(state) else "no background worker starts in this state"
    if row.serves_in:
        if not state.accepting or state.pm_state not in row.serves_in:
            return "no connection is taken in this state"
        if role is Role.BACKEND and connection_answer(state) is not CanAccept.OK:
            return "the connection is to be refused"
        return None
    if state.count(role):
        return "there is one already"
    asked = state.pm_state in row.launched_in
    asked |= role is Role.STARTUP and state.pm_state is PMState.STARTUP
    asked |= role is Role.CHECKPOINTER and state.pm_state is PMState.WAIT_BACKENDS
    return None if asked else "nobody asked for it"
