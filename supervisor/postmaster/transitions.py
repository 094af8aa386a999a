"""Every change of PMState the machine can make, as data.

Owns the table; `states` cannot leave it, because it moves only by looking a cause up here. The diagram in
docs/state-machine.md is drawn from it, and the exploration shows that each row is taken or is listed, with
the reason, as out of reach of today's child types. Source: PostgreSQL's postmaster.c; specification 1.5.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from supervisor.postmaster.values import PMState


class Cause(StrEnum):
    """Why the state changes, in the words of the diagram."""

    INITIALISED = "initialised"
    RECOVERY_STARTED = "startup says redo begins"
    BEGIN_HOT_STANDBY = "startup says consistent, hot standby"
    STARTUP_SUCCEEDED = "startup exits 0"
    RECOVERY_TARGET = "startup exits 3"
    STOP_REQUESTED = "smart or fast shutdown"
    FAST_REQUESTED = "fast shutdown"
    LAST_CLIENT_GONE = "smart shutdown, last client gone"
    TARGETS_TOLD = "target set told to go"
    IMMEDIATE_REQUESTED = "immediate shutdown"
    CRASH = "a child crashes"
    TARGETS_GONE = "target set gone"
    TARGETS_GONE_IN_CRASH = "target set gone, crash or immediate"
    XLOG_IS_SHUTDOWN = "shutdown checkpoint written"
    ARCHIVED = "archiver and walsenders gone"
    IO_WORKERS_GONE = "no I/O worker left"
    CHECKPOINTER_GONE = "checkpointer exits 0"
    NOBODY_LEFT = "no child left"
    MEMORY_RESET = "crash over, new memory made"
    EXIT_SHUTDOWN = "shutdown, exit 0 or after a crash 1"
    EXIT_STARTUP_FAILED = "startup failed, exit 1"
    EXIT_NO_RESTART = "restart_after_crash off, exit 1"
    EXIT_FORK_FAILED = "startup cannot be forked, exit 1"


class Transition(NamedTuple):
    """From `source`, for `cause`, to `target`; None is the end of the postmaster."""

    source: PMState
    cause: Cause
    target: PMState | None


def _each(sources: tuple[PMState, ...], cause: Cause, target: PMState) -> tuple[Transition, ...]:
    return tuple(Transition(source, cause, target) for source in sources)


_S = PMState
_C = Cause

TRANSITIONS: Final[tuple[Transition, ...]] = (
    Transition(_S.INIT, _C.INITIALISED, _S.STARTUP),
    Transition(_S.STARTUP, _C.RECOVERY_STARTED, _S.RECOVERY),
    Transition(_S.RECOVERY, _C.BEGIN_HOT_STANDBY, _S.HOT_STANDBY),
    *_each((_S.STARTUP, _S.RECOVERY, _S.HOT_STANDBY), _C.STARTUP_SUCCEEDED, _S.RUN),
    *_each((_S.STARTUP, _S.RECOVERY, _S.HOT_STANDBY), _C.RECOVERY_TARGET, _S.WAIT_BACKENDS),
    *_each((_S.STARTUP, _S.RECOVERY), _C.STOP_REQUESTED, _S.STOP_BACKENDS),
    *_each((_S.HOT_STANDBY, _S.RUN), _C.FAST_REQUESTED, _S.STOP_BACKENDS),
    *_each((_S.HOT_STANDBY, _S.RUN), _C.LAST_CLIENT_GONE, _S.STOP_BACKENDS),
    Transition(_S.STOP_BACKENDS, _C.TARGETS_TOLD, _S.WAIT_BACKENDS),
    *_each(
        (
            *(_S.STARTUP, _S.RECOVERY, _S.HOT_STANDBY, _S.RUN),
            *(_S.WAIT_XLOG_SHUTDOWN, _S.WAIT_XLOG_ARCHIVAL, _S.WAIT_IO_WORKERS, _S.WAIT_CHECKPOINTER),
            _S.WAIT_DEAD_END,
        ),
        _C.IMMEDIATE_REQUESTED,
        _S.WAIT_BACKENDS,
    ),
    *_each((_S.STARTUP, _S.RECOVERY, _S.HOT_STANDBY, _S.RUN), _C.CRASH, _S.WAIT_BACKENDS),
    *_each(
        (_S.WAIT_XLOG_SHUTDOWN, _S.WAIT_XLOG_ARCHIVAL, _S.WAIT_IO_WORKERS, _S.WAIT_CHECKPOINTER),
        _C.CRASH,
        _S.WAIT_DEAD_END,
    ),
    Transition(_S.WAIT_BACKENDS, _C.TARGETS_GONE, _S.WAIT_XLOG_SHUTDOWN),
    Transition(_S.WAIT_BACKENDS, _C.TARGETS_GONE_IN_CRASH, _S.WAIT_DEAD_END),
    Transition(_S.WAIT_XLOG_SHUTDOWN, _C.XLOG_IS_SHUTDOWN, _S.WAIT_XLOG_ARCHIVAL),
    Transition(_S.WAIT_XLOG_ARCHIVAL, _C.ARCHIVED, _S.WAIT_IO_WORKERS),
    Transition(_S.WAIT_IO_WORKERS, _C.IO_WORKERS_GONE, _S.WAIT_CHECKPOINTER),
    Transition(_S.WAIT_CHECKPOINTER, _C.CHECKPOINTER_GONE, _S.WAIT_DEAD_END),
    Transition(_S.WAIT_DEAD_END, _C.NOBODY_LEFT, _S.NO_CHILDREN),
    Transition(_S.NO_CHILDREN, _C.MEMORY_RESET, _S.STARTUP),
    Transition(_S.NO_CHILDREN, _C.EXIT_SHUTDOWN, None),
    Transition(_S.NO_CHILDREN, _C.EXIT_STARTUP_FAILED, None),
    Transition(_S.NO_CHILDREN, _C.EXIT_NO_RESTART, None),
    Transition(_S.STARTUP, _C.EXIT_FORK_FAILED, None),
)

TARGETS: Final[dict[tuple[PMState, Cause], PMState | None]] = {(t.source, t.cause): t.target for t in TRANSITIONS}
"""The same table, for looking a move up."""
