"""What the state machine asks of the shell, in the order in which it is to be done.

Every action is a frozen msgspec Struct, tagged with its class name in the field `type`. Two actions are
questions and are answered *before any other event is told*: `Launch(role)` by `ChildForked(role)` or
`ForkFailed(role)`, and `Reinitialize` by `MemoryReset`. Several `Launch` of one step are answered one by one
in their order.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from msgspec import Struct

from supervisor.roles import Role

SignalName = Literal["QUIT", "TERM", "INT", "KILL", "USR2"]
LogLevel = Literal["LOG", "DEBUG1", "DEBUG2"]


class QuitReason(StrEnum):
    """Why SIGQUIT is being sent; children read it from shared memory to choose their last words."""

    CRASH = "crash"
    STOP = "stop"


class PidFileState(StrEnum):
    """Line 8 of postmaster.pid, in the eight characters PostgreSQL's tools compare with."""

    STARTING = "starting"
    STOPPING = "stopping"
    READY = "ready   "


class _Action(Struct, frozen=True, tag=True, tag_field="type"):
    pass


class Signal(_Action, frozen=True):
    """Signal every living child of these roles, newest child first over all roles together.

    QUIT, TERM, INT and KILL go to the child and to its process group, USR2 to the child alone (specification
    5.1). Only roles with a living child are named, and an empty set is not sent.
    """

    signal: SignalName
    roles: tuple[Role, ...]


class SetQuitReason(_Action, frozen=True):
    """Store the reason in shared memory; always before the SIGQUIT it explains."""

    reason: QuitReason


class Launch(_Action, frozen=True):
    """Fork a child of this role. Answer: `ChildForked` or `ForkFailed`."""

    role: Role


class Log(_Action, frozen=True):
    """One line of the server log."""

    level: LogLevel
    message: str


class LogChildExit(_Action, frozen=True):
    """The exit line of the child whose exit is being told; the shell knows its pid, wait status and activity.

    `name` as the log calls it; `role` is None for an untracked child.
    """

    level: LogLevel
    role: Role | None
    name: str


class PidFileStatus(_Action, frozen=True):
    """Write this status into the lock file."""

    status: PidFileState


class ArmStopwatch(_Action, frozen=True):
    """Start, or start again, the time of SIGKILL_CHILDREN_AFTER_S."""


class DisarmStopwatch(_Action, frozen=True):
    """Forget the time."""


class StopAccepting(_Action, frozen=True):
    """Take the listening sockets out of the wait set; they go on listening."""


class StartAccepting(_Action, frozen=True):
    """Put the listening sockets into the wait set."""


class Reinitialize(_Action, frozen=True):
    """Throw the memory away and make a new one (specification 5.4). Answer: `MemoryReset`."""


class ExitPostmaster(_Action, frozen=True):
    """Always the last action: remove the lock file, log `database system is shut down`, exit with this
    code."""

    code: int


Action = (
    Signal
    | SetQuitReason
    | Launch
    | Log
    | LogChildExit
    | PidFileStatus
    | ArmStopwatch
    | DisarmStopwatch
    | StopAccepting
    | StartAccepting
    | Reinitialize
    | ExitPostmaster
)
