"""What the state machine does by itself once the facts are told (PostgreSQL's PostmasterStateMachine).

Owns the passages: for a state, what must be true of the living children for the next one, and what is done on
the way. `settle` follows them as far as they lead and is idempotent. Never: events (that is `states`).
Source: specification 1.5, rows "PSM".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from supervisor.postmaster.actions import Launch, Reinitialize
from supervisor.postmaster.child_types import stop_targets
from supervisor.postmaster.draft import Draft
from supervisor.postmaster.transitions import Cause
from supervisor.postmaster.values import PMState, Shutdown, StartupStatus
from supervisor.roles import CHILD_ROLES, Role


def settle(draft: Draft) -> None:
    """Go from passage to passage until one does not open, or the postmaster ends."""
    while draft.state.exit_code is None and not draft.state.reinitializing:
        passage = _PASSAGES.get(draft.state.pm_state)
        if passage is None or not passage(draft):
            return


def _abnormal(draft: Draft) -> bool:
    return draft.state.fatal_error or draft.state.shutdown is Shutdown.IMMEDIATE


def _wait_for_clients(draft: Draft) -> bool:
    if draft.state.conns_allowed or draft.state.count(Role.BACKEND):
        return False
    draft.move(Cause.LAST_CLIENT_GONE)
    return True


def _tell_targets(draft: Draft) -> bool:
    draft.signal("TERM", stop_targets(crash_or_immediate=_abnormal(draft)))
    draft.limit_drain_of_restart()
    draft.move(Cause.TARGETS_TOLD)
    return True


def _wait_for_targets(draft: Draft) -> bool:
    if draft.living(stop_targets(crash_or_immediate=_abnormal(draft))):
        return False
    if _abnormal(draft):
        draft.move(Cause.TARGETS_GONE_IN_CRASH)
        draft.stop_accepting()
        draft.signal("QUIT", (Role.DEAD_END,))
        return True
    if not draft.state.count(Role.CHECKPOINTER):
        # The answer leads back here: to the checkpoint, or into `fatal_error` if there can be none.
        draft.act(Launch(Role.CHECKPOINTER))
        return False
    draft.signal("INT", (Role.CHECKPOINTER,))
    draft.move(Cause.TARGETS_GONE)
    return True


def _wait_for_archiver(draft: Draft) -> bool:
    others = (role for role in CHILD_ROLES if role not in {Role.CHECKPOINTER, Role.DEAD_END})
    if draft.living(others):
        return False
    draft.move(Cause.ARCHIVED)
    return True


def _wait_for_io_workers(draft: Draft) -> bool:
    # There are none: the state exists because it is PostgreSQL's, and is passed at once.
    draft.signal("USR2", (Role.CHECKPOINTER,))
    draft.move(Cause.IO_WORKERS_GONE)
    return True


def _wait_for_everybody(draft: Draft) -> bool:
    if draft.living(CHILD_ROLES):
        return False
    draft.move(Cause.NOBODY_LEFT)
    return True


def _nobody_left(draft: Draft) -> bool:
    state = draft.state
    if state.shutdown is not Shutdown.NONE:
        if state.fatal_error:
            draft.log("abnormal database system shutdown")
        draft.end(Cause.EXIT_SHUTDOWN, 1 if state.fatal_error else 0)
    elif state.startup_status is StartupStatus.CRASHED:
        draft.log("shutting down due to startup process failure")
        draft.end(Cause.EXIT_STARTUP_FAILED, 1)
    elif not state.restart_after_crash:
        draft.log('shutting down because "restart_after_crash" is off')
        draft.end(Cause.EXIT_NO_RESTART, 1)
    elif state.fatal_error:
        draft.log("all server processes terminated; reinitializing")
        draft.set(reinitializing=True)
        draft.act(Reinitialize())
    return False


_PASSAGES: Final[dict[PMState, Callable[[Draft], bool]]] = {
    PMState.HOT_STANDBY: _wait_for_clients,
    PMState.RUN: _wait_for_clients,
    PMState.STOP_BACKENDS: _tell_targets,
    PMState.WAIT_BACKENDS: _wait_for_targets,
    PMState.WAIT_XLOG_ARCHIVAL: _wait_for_archiver,
    PMState.WAIT_IO_WORKERS: _wait_for_io_workers,
    PMState.WAIT_DEAD_END: _wait_for_everybody,
    PMState.NO_CHILDREN: _nobody_left,
}
"""True from a passage: it was taken, look again. A state that is not here is left by an event only."""
