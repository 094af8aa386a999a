"""The state of the postmaster as one immutable value, and the words it is made of.

Owns: `State` and its enumerations, and `Rules`, the places where this machine is not PostgreSQL's. Never:
behaviour (that is `states`), file descriptors, process ids, times. A `State` is hashable, so it can be
explored exhaustively, and encodable with msgspec, so the journal can record it and a live run can be replayed
against the machine.

Where the server is (`PMState`) is kept apart from why it is there (`Shutdown`, `fatal_error`), as in
PostgreSQL's postmaster.c; the texts and the order of the states are PostgreSQL 18's.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final

from msgspec import Struct

from supervisor.roles import CHILD_ROLES, Role


class PMState(IntEnum):
    """Where the postmaster is in its life. Ordered: everything from STOP_BACKENDS on is a drain."""

    INIT = 0
    """Before the server loop."""
    STARTUP = 1
    """The startup process runs but has not begun redo."""
    RECOVERY = 2
    """Redo has begun."""
    HOT_STANDBY = 3
    """Redo goes on, the data is consistent, clients may read."""
    RUN = 4
    """Normal work."""
    STOP_BACKENDS = 5
    """Only passed through: the target set is to be told to go."""
    WAIT_BACKENDS = 6
    """Waiting for the target set to be gone."""
    WAIT_XLOG_SHUTDOWN = 7
    """The checkpointer writes the shutdown checkpoint."""
    WAIT_XLOG_ARCHIVAL = 8
    """The shutdown checkpoint is written; archiver and walsenders finish."""
    WAIT_IO_WORKERS = 9
    """Only I/O workers and the checkpointer are left."""
    WAIT_CHECKPOINTER = 10
    """The checkpointer was told to exit."""
    WAIT_DEAD_END = 11
    """Waiting for dead-end children; after a crash or in immediate shutdown, for whoever is left."""
    NO_CHILDREN = 12
    """Nobody is left: the postmaster exits or makes a new memory."""


class Shutdown(IntEnum):
    """What the operator asked for. It only ever increases."""

    NONE = 0
    SMART = 1
    """Wait for clients to leave by themselves."""
    FAST = 2
    """Abort transactions, write the shutdown checkpoint."""
    IMMEDIATE = 3
    """SIGQUIT to everybody; recovery at the next start."""


class StartupStatus(StrEnum):
    """What the postmaster knows of the startup process."""

    NOT_RUNNING = "not_running"
    RUNNING = "running"
    SIGNALED = "signaled"
    """Sent SIGQUIT or SIGKILL by the postmaster, so its abnormal end says nothing about recovery."""
    CRASHED = "crashed"
    """Failed by itself: recovery is not tried again in this postmaster's life."""


class Stopwatch(StrEnum):
    """The time limit on SIGQUIT (PostgreSQL's AbortStartTime), after which the volley of SIGKILL is due."""

    OFF = "off"
    ARMED = "armed"
    EXPIRED = "expired"
    """The time is over and the volley has not yet been sent."""


class CanAccept(StrEnum):
    """What a new connection is to be told (PostgreSQL's CAC_state)."""

    OK = "ok"
    STARTUP = "startup"
    SHUTDOWN = "shutdown"
    RECOVERY = "recovery"
    NOTHOTSTANDBY = "nothotstandby"


SIGKILL_CHILDREN_AFTER_S: Final = 5
"""Seconds from arming the stopwatch to its expiry; the shell measures them (PostgreSQL:
SIGKILL_CHILDREN_AFTER_SECS)."""

NO_CHILDREN_COUNTS: Final[tuple[int, ...]] = (0,) * len(CHILD_ROLES)


class State(Struct, frozen=True):
    """All that the postmaster's decisions depend on."""

    pm_state: PMState = PMState.INIT
    shutdown: Shutdown = Shutdown.NONE
    fatal_error: bool = False
    """A crash is being handled. Never true in RUN."""
    startup_status: StartupStatus = StartupStatus.NOT_RUNNING
    conns_allowed: bool = True
    """False while a smart shutdown waits for its clients; meaningful in HOT_STANDBY and RUN only."""
    stopwatch: Stopwatch = Stopwatch.OFF
    restart_after_crash: bool = True
    """The setting of that name, as last read."""
    reached_consistency: bool = False
    """The startup process said so; picks the text of a refusal, decides nothing."""
    accepting: bool = False
    """Whether the listening sockets are in the wait set. They listen all the time."""
    reinitializing: bool = False
    """`Reinitialize` was asked for and `MemoryReset` has not come back."""
    exit_code: int | None = None
    """Set by `ExitPostmaster`; no event may follow."""
    children: tuple[int, ...] = NO_CHILDREN_COUNTS
    """Living (not yet reaped) children, indexed by `Role`."""

    def count(self, role: Role) -> int:
        """How many children of this role are alive."""
        return self.children[role]


class Rules(Struct, frozen=True):
    """Where this machine is deliberately not PostgreSQL 18's. True is ours; `POSTGRESQL_18` is what it
    departs from.

    Only tests build other values than the default, to show that the checks notice the difference.
    """

    escalate_on_time: bool = True
    """The loop wakes up for the stopwatch also after a plain crash, not only in an immediate shutdown.
    (Specification 1.4, trap: otherwise SIGKILL comes whenever something else happens to wake the loop.)"""

    signaled_startup_cannot_succeed: bool = True
    """Exit 0 of a startup process that was sent SIGQUIT or SIGKILL is an ordinary exit in a drain (1.6 no.
    8)."""

    crash_in_restart_counts: bool = True
    """In STARTUP, a fatal_error left over from the crash before hides no new crash. The memory is new, so a
    failing startup process ends the server (1.6 no. 10; PostgreSQL hangs) and any other crash starts another
    cycle (1.6 no. 9; PostgreSQL relaunches the process on a memory in which the dead one may hold a lock)."""

    drain_reaches_everyone: bool = True
    """A drain tells everyone it waits for, in words they obey, and ends. Two hangs that exploring the machine
    found: (a) a smart or fast shutdown in STARTUP while fatal_error is set waits, without a time limit, for
    the checkpointer, which ignores the SIGTERM it gets; (b) a startup process that ends during the smart wait
    of a hot standby moves PostgreSQL to WAIT_BACKENDS without anyone having been told to go."""


OURS: Final = Rules()
POSTGRESQL_18: Final = Rules(
    escalate_on_time=False,
    signaled_startup_cannot_succeed=False,
    crash_in_restart_counts=False,
    drain_reaches_everyone=False,
)
