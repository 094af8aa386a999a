"""The policy table of the postmaster's children: one row per role.

Owns everything the postmaster knows about a kind of child as data: its slot pool, when it is launched, what
its exit means, what each signal does to it, how the log calls it. Never: how a child is forked or what it
runs. A new kind of process is a role, a row here, and its module. Source: PostgreSQL 18's postmaster.c and
pmchild.c; specification 2, 3.1.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct

from supervisor.config import Settings
from supervisor.postmaster.actions import LogLevel, SignalName
from supervisor.postmaster.events import ExitOutcome
from supervisor.postmaster.values import PMState
from supervisor.roles import CHILD_ROLES, Role

PoolSetting = Literal["max_connections", "max_worker_processes"]


class ExitMeaning(StrEnum):
    """What the postmaster makes of an exit."""

    ORDINARY = "ordinary"
    """Nothing happens; the loop launches another if one is missing."""
    CRASH = "crash"
    """Shared memory is suspect: everybody goes, the memory is thrown away."""
    RECOVERY = "recovery"
    """The startup process: decided by the state machine."""


class StopSet(StrEnum):
    """Whether STOP_BACKENDS and WAIT_BACKENDS wait for this kind."""

    ALWAYS = "always"
    CRASH_OR_IMMEDIATE = "crash_or_immediate"
    """Outlives the others in an orderly shutdown."""
    NEVER = "never"


class Obeys(StrEnum):
    """What a healthy child of this kind does on a signal (specification 2.2)."""

    IGNORES = "ignores"
    EXITS_0 = "exits_0"
    EXITS_1 = "exits_1"
    EXITS_2 = "exits_2"
    """At once, without its exit callbacks: a crash to whoever reaps it."""
    CANCELS = "cancels"
    """Gives up the statement, not the session."""
    CHECKPOINTS = "checkpoints"
    """Writes the shutdown checkpoint, says XLOG_IS_SHUTDOWN, and waits to be dismissed."""
    DIES = "dies"


class ChildType(Struct, frozen=True):
    """One row of the policy table."""

    role: Role
    description: str
    """As pg_stat_activity would call it (GetBackendTypeDesc); also for `could not fork "..." process`."""
    log_name: str
    """How an exit line begins."""
    pool: str | None
    """Name of its slot pool; None: it owns no slot and their number is not limited."""
    pool_setting: PoolSetting | None
    """The setting that the pool's size follows; None: its size is fixed."""
    slots_each: int
    """Slots of the pool for each of `pool_setting`, or in all when that is None."""
    has_pgproc: bool
    counts_as_connection: bool
    """Whether it takes one of max_connections."""
    launched_in: frozenset[PMState]
    """The states in which a loop pass launches a missing one, or one of those that are registered
    (`worker_rules`). The startup process and the processes of clients are not launched by the loop."""
    serves_in: frozenset[PMState]
    """The states in which the answer to a connection can be such a process."""
    stop_set: StopSet
    on_exit_0: ExitMeaning
    on_exit_1: ExitMeaning
    on_exit_other: ExitMeaning
    dismissed_in: frozenset[PMState]
    """States in which exit 0 is ordinary although `on_exit_0` is a crash: it was told to go."""
    unclean_slot_is_crash: bool
    """Whether exit 0 or 1 counts as a crash if the slot's flag says that it had not cleaned up (specification
    3.3)."""
    on_int: Obeys
    on_term: Obeys
    on_quit: Obeys
    on_usr2: Obeys
    logged_0: LogLevel = "DEBUG2"
    """The level of the exit line of an ordinary exit 0 (`CleanupBackend`)."""
    logged_1: LogLevel = "DEBUG2"

    def pool_size(self, settings: Settings) -> int:
        """Number of slots of its pool (0 without a pool). A backend still authenticating has a slot but no
        PGPROC, hence more slots than connections (specification 3.1)."""
        if self.pool is None:
            return 0
        each: int = getattr(settings, self.pool_setting) if self.pool_setting else 1
        return self.slots_each * each

    def obeys(self, signal: SignalName) -> Obeys:
        """What a healthy child does when it gets this signal."""
        match signal:
            case "INT":
                return self.on_int
            case "TERM":
                return self.on_term
            case "QUIT":
                return self.on_quit
            case "USR2":
                return self.on_usr2
            case "KILL":
                return Obeys.DIES

    def exit_meaning(self, outcome: ExitOutcome, *, slot_clean: bool, pm_state: PMState) -> ExitMeaning:
        """What this exit means to the postmaster in this state."""
        meaning = {ExitOutcome.ORDERLY_0: self.on_exit_0, ExitOutcome.ORDERLY_1: self.on_exit_1}.get(
            outcome, self.on_exit_other
        )
        if outcome is ExitOutcome.ORDERLY_0 and pm_state in self.dismissed_in:
            meaning = ExitMeaning.ORDINARY
        if meaning is ExitMeaning.ORDINARY and self.unclean_slot_is_crash and not slot_clean:
            return ExitMeaning.CRASH
        return meaning


_NEVER: Final[frozenset[PMState]] = frozenset()
_UP: Final = frozenset({PMState.STARTUP, PMState.RECOVERY, PMState.HOT_STANDBY, PMState.RUN})
_OPEN: Final = frozenset({PMState.HOT_STANDBY, PMState.RUN})
_REFUSING: Final = frozenset(PMState) - {PMState.INIT, PMState.WAIT_DEAD_END, PMState.NO_CHILDREN}

CHILD_TYPES: Final[tuple[ChildType, ...]] = (
    ChildType(
        role=Role.STARTUP,
        description="startup",
        log_name="startup process",
        pool="startup",
        pool_setting=None,
        slots_each=1,
        has_pgproc=True,
        counts_as_connection=False,
        launched_in=_NEVER,
        serves_in=_NEVER,
        stop_set=StopSet.ALWAYS,
        on_exit_0=ExitMeaning.RECOVERY,
        on_exit_1=ExitMeaning.RECOVERY,
        on_exit_other=ExitMeaning.RECOVERY,
        dismissed_in=_NEVER,
        unclean_slot_is_crash=False,
        on_int=Obeys.IGNORES,
        on_term=Obeys.EXITS_1,
        on_quit=Obeys.EXITS_2,
        on_usr2=Obeys.IGNORES,
    ),
    ChildType(
        role=Role.CHECKPOINTER,
        description="checkpointer",
        log_name="checkpointer process",
        pool="checkpointer",
        pool_setting=None,
        slots_each=1,
        has_pgproc=True,
        counts_as_connection=False,
        launched_in=_UP,
        serves_in=_NEVER,
        stop_set=StopSet.CRASH_OR_IMMEDIATE,
        on_exit_0=ExitMeaning.CRASH,
        on_exit_1=ExitMeaning.CRASH,
        on_exit_other=ExitMeaning.CRASH,
        dismissed_in=frozenset({PMState.WAIT_CHECKPOINTER}),
        unclean_slot_is_crash=False,
        on_int=Obeys.CHECKPOINTS,
        on_term=Obeys.IGNORES,
        on_quit=Obeys.EXITS_2,
        on_usr2=Obeys.EXITS_0,
    ),
    ChildType(
        role=Role.BGWRITER,
        description="background writer",
        log_name="background writer process",
        pool="bgwriter",
        pool_setting=None,
        slots_each=1,
        has_pgproc=True,
        counts_as_connection=False,
        launched_in=_UP,
        serves_in=_NEVER,
        stop_set=StopSet.ALWAYS,
        on_exit_0=ExitMeaning.ORDINARY,
        on_exit_1=ExitMeaning.CRASH,
        on_exit_other=ExitMeaning.CRASH,
        dismissed_in=_NEVER,
        unclean_slot_is_crash=False,
        on_int=Obeys.IGNORES,
        on_term=Obeys.EXITS_0,
        on_quit=Obeys.EXITS_2,
        on_usr2=Obeys.IGNORES,
    ),
    ChildType(
        role=Role.WALWRITER,
        description="walwriter",
        log_name="WAL writer process",
        pool="walwriter",
        pool_setting=None,
        slots_each=1,
        has_pgproc=True,
        counts_as_connection=False,
        launched_in=frozenset({PMState.RUN}),
        serves_in=_NEVER,
        stop_set=StopSet.ALWAYS,
        on_exit_0=ExitMeaning.ORDINARY,
        on_exit_1=ExitMeaning.CRASH,
        on_exit_other=ExitMeaning.CRASH,
        dismissed_in=_NEVER,
        unclean_slot_is_crash=False,
        on_int=Obeys.IGNORES,
        on_term=Obeys.EXITS_0,
        on_quit=Obeys.EXITS_2,
        on_usr2=Obeys.IGNORES,
    ),
    ChildType(
        role=Role.BACKEND,
        description="client backend",
        log_name="client backend",
        pool="backend",
        pool_setting="max_connections",
        slots_each=2,
        has_pgproc=True,
        counts_as_connection=True,
        launched_in=_NEVER,
        serves_in=_OPEN,
        stop_set=StopSet.ALWAYS,
        on_exit_0=ExitMeaning.ORDINARY,
        on_exit_1=ExitMeaning.ORDINARY,
        on_exit_other=ExitMeaning.CRASH,
        dismissed_in=_NEVER,
        unclean_slot_is_crash=True,
        on_int=Obeys.CANCELS,
        on_term=Obeys.EXITS_1,
        on_quit=Obeys.EXITS_2,
        on_usr2=Obeys.IGNORES,
    ),
    ChildType(
        role=Role.DEAD_END,
        description="dead-end client backend",
        log_name="dead-end client backend",
        pool=None,
        pool_setting=None,
        slots_each=0,
        has_pgproc=False,
        counts_as_connection=False,
        launched_in=_NEVER,
        serves_in=_REFUSING,
        stop_set=StopSet.NEVER,
        on_exit_0=ExitMeaning.ORDINARY,
        on_exit_1=ExitMeaning.ORDINARY,
        on_exit_other=ExitMeaning.CRASH,
        dismissed_in=_NEVER,
        unclean_slot_is_crash=False,
        on_int=Obeys.IGNORES,
        on_term=Obeys.EXITS_1,
        on_quit=Obeys.EXITS_2,
        on_usr2=Obeys.IGNORES,
    ),
    ChildType(
        role=Role.BGWORKER,
        description="background worker",
        log_name="background worker",
        pool="bgworker",
        pool_setting="max_worker_processes",
        slots_each=1,
        has_pgproc=True,
        counts_as_connection=False,
        launched_in=_UP,
        serves_in=_NEVER,
        stop_set=StopSet.ALWAYS,
        on_exit_0=ExitMeaning.ORDINARY,
        on_exit_1=ExitMeaning.ORDINARY,
        on_exit_other=ExitMeaning.CRASH,
        dismissed_in=_NEVER,
        unclean_slot_is_crash=True,
        on_int=Obeys.CANCELS,
        on_term=Obeys.EXITS_1,
        on_quit=Obeys.EXITS_2,
        on_usr2=Obeys.IGNORES,
        logged_0="DEBUG1",
        logged_1="LOG",
    ),
)
"""Indexed by `Role`."""

LAUNCH_ORDER: Final[tuple[Role, ...]] = (Role.CHECKPOINTER, Role.BGWRITER, Role.WALWRITER)
"""The order in which a loop pass launches what is missing (specification 1.7)."""

FIRST_START_ORDER: Final[tuple[Role, ...]] = (Role.CHECKPOINTER, Role.BGWRITER, Role.STARTUP)
"""At first start the startup process comes last; in a crash restart it comes first (specification 1.3,
5.4)."""


def child_type(role: Role) -> ChildType:
    """The row of this role. The postmaster is not its own child: ValueError."""
    if role is Role.POSTMASTER:
        raise ValueError("the postmaster is not a child")
    return CHILD_TYPES[role]


def stop_targets(*, crash_or_immediate: bool) -> tuple[Role, ...]:
    """The roles that STOP_BACKENDS tells to go and WAIT_BACKENDS waits for."""
    wanted = {StopSet.ALWAYS, StopSet.CRASH_OR_IMMEDIATE} if crash_or_immediate else {StopSet.ALWAYS}
    return tuple(role for role in CHILD_ROLES if CHILD_TYPES[role].stop_set in wanted)
