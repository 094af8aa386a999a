"""What the shell can tell the state machine. Facts only: an event never says what to do about it.

Every event is a frozen msgspec Struct, tagged with its class name in the field `type`; `Event` is their
union, so `msgspec.json.decode(line, type=Event)` reads one back from the journal.
"""

from __future__ import annotations

import os
from enum import StrEnum

from msgspec import Struct

from supervisor.postmaster.values import Shutdown
from supervisor.roles import Role


class ExitOutcome(StrEnum):
    """How a process ended, as far as the postmaster cares."""

    ORDERLY_0 = "exit_0"
    ORDERLY_1 = "exit_1"
    """A FATAL error, or told to stop."""
    RECOVERY_TARGET_3 = "exit_3"
    """Has a meaning for the startup process; a crash for any other."""
    CRASH = "crash"
    """Any other exit code, or a signal."""


_BY_EXIT_CODE = {0: ExitOutcome.ORDERLY_0, 1: ExitOutcome.ORDERLY_1, 3: ExitOutcome.RECOVERY_TARGET_3}


def classify(wait_status: int) -> ExitOutcome:
    """The outcome behind a raw wait status, as os.wait4 returns it."""
    if os.WIFEXITED(wait_status):
        return _BY_EXIT_CODE.get(os.WEXITSTATUS(wait_status), ExitOutcome.CRASH)
    return ExitOutcome.CRASH


class PmSignalKind(StrEnum):
    """The flags a child can raise in shared memory for the postmaster (PostgreSQL's PMSignalReason)."""

    RECOVERY_STARTED = "recovery_started"
    RECOVERY_CONSISTENT = "recovery_consistent"
    BEGIN_HOT_STANDBY = "begin_hot_standby"
    XLOG_IS_SHUTDOWN = "xlog_is_shutdown"


class _Event(Struct, frozen=True, tag=True, tag_field="type"):
    pass


class Initialised(_Event, frozen=True):
    """The memory is made, the sockets listen, the lock file is written: the server loop begins."""


class ShutdownRequested(_Event, frozen=True):
    """SIGTERM (smart), SIGINT (fast) or SIGQUIT (immediate). Of several in one pass report the most
    immediate."""

    mode: Shutdown


class ChildForked(_Event, frozen=True):
    """The answer to `Launch(role)`, or a client's connection was given a process (BACKEND or DEAD_END), or a
    background worker was due."""

    role: Role


class ForkFailed(_Event, frozen=True):
    """fork() failed. The shell has logged it, with errno, before it says so."""

    role: Role


class ChildExited(_Event, frozen=True):
    """A tracked child was reaped. `slot_clean`: its slot's flag said that it had cleaned up (True if it has
    no slot)."""

    role: Role
    outcome: ExitOutcome
    slot_clean: bool = True


class UntrackedChildExited(_Event, frozen=True):
    """wait4 returned a pid that is in no table."""

    outcome: ExitOutcome


class PmSignal(_Event, frozen=True):
    """A child raised this flag in shared memory; perhaps a dying one, perhaps by scribbling over it."""

    kind: PmSignalKind


class StopwatchExpired(_Event, frozen=True):
    """SIGKILL_CHILDREN_AFTER_S have passed since `ArmStopwatch`."""


class MemoryReset(_Event, frozen=True):
    """The answer to `Reinitialize`: the old memory is gone and a new one is made."""


class RestartAfterCrashChanged(_Event, frozen=True):
    """A reload changed restart_after_crash."""

    value: bool


class LockFileInvalid(_Event, frozen=True):
    """The postmaster's lock file is gone or names another process."""


class Advance(_Event, frozen=True):
    """The facts of this pass of the server loop are all told: act on them, launch what is missing."""


Event = (
    Initialised
    | ShutdownRequested
    | ChildForked
    | ForkFailed
    | ChildExited
    | UntrackedChildExited
    | PmSignal
    | StopwatchExpired
    | MemoryReset
    | RestartAfterCrashChanged
    | LockFileInvalid
    | Advance
)
