"""One step of the state machine while it is being taken: the state so far and the actions so far.

Owns the elementary moves that more than one event needs: changing the state along the table, logging,
signalling a set of roles, and what a crash sets off (PostgreSQL's HandleChildCrash, HandleFatalError,
TerminateChildren; specification 4.2, 5.1). A draft lives within one call of `states.step`, which is what
keeps that function pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict, Unpack

from msgspec import structs

from supervisor.postmaster.actions import (
    Action,
    ArmStopwatch,
    DisarmStopwatch,
    ExitPostmaster,
    Log,
    LogChildExit,
    LogLevel,
    QuitReason,
    SetQuitReason,
    Signal,
    SignalName,
    StartAccepting,
    StopAccepting,
)
from supervisor.postmaster.child_types import CHILD_TYPES, StopSet
from supervisor.postmaster.transitions import TARGETS, Cause
from supervisor.postmaster.values import PMState, Rules, Shutdown, StartupStatus, State, Stopwatch
from supervisor.roles import CHILD_ROLES, Role


class _Changes(TypedDict, total=False):
    pm_state: PMState
    shutdown: Shutdown
    fatal_error: bool
    startup_status: StartupStatus
    conns_allowed: bool
    stopwatch: Stopwatch
    restart_after_crash: bool
    reached_consistency: bool
    accepting: bool
    reinitializing: bool
    exit_code: int | None
    children: tuple[int, ...]


class Draft:
    """A state being changed and the actions this asks for."""

    __slots__ = ("actions", "rules", "state")

    def __init__(self, state: State, rules: Rules) -> None:
        self.state = state
        self.rules = rules
        self.actions: list[Action] = []

    # --- elementary moves

    def set(self, **changes: Unpack[_Changes]) -> None:
        """Change fields of the state."""
        self.state = structs.replace(self.state, **changes)

    def act(self, action: Action) -> None:
        """Ask for an action."""
        self.actions.append(action)

    def log(self, message: str, level: LogLevel = "LOG") -> None:
        """Ask for a line in the server log."""
        self.act(Log(level=level, message=message))

    def ignore(self, what: str) -> None:
        """Consume something that has no meaning here."""
        self.log(f"ignoring {what} in state PM_{self.state.pm_state.name}", "DEBUG1")

    def move(self, cause: Cause) -> None:
        """Change pm_state as the table says; KeyError if it has no such row, which is a fault of this
        machine."""
        target = TARGETS[self.state.pm_state, cause]
        if target is None:
            raise KeyError(f"{cause} ends the postmaster")
        self.enter(target)

    def enter(self, target: PMState) -> None:
        """Change pm_state. Only the ways of PostgreSQL that are not ours call this without the table."""
        self.log(f"updating PMState from PM_{self.state.pm_state.name} to PM_{target.name}", "DEBUG1")
        self.set(pm_state=target)

    def end(self, cause: Cause, code: int) -> None:
        """End the postmaster as the table says."""
        if TARGETS[self.state.pm_state, cause] is not None:
            raise KeyError(f"{cause} does not end the postmaster")
        self.set(exit_code=code)
        self.act(ExitPostmaster(code))

    def count_child(self, role: Role, change: int) -> None:
        """One child more or less."""
        counts = list(self.state.children)
        counts[role] += change
        self.set(children=tuple(counts))

    def living(self, roles: Iterable[Role]) -> tuple[Role, ...]:
        """Those of the roles that have a living child."""
        children = self.state.children
        return tuple(role for role in roles if children[role])

    # --- the stopwatch and the sockets

    def arm(self) -> None:
        """Start the time, anew if it runs."""
        self.set(stopwatch=Stopwatch.ARMED)
        self.act(ArmStopwatch())

    def arm_if_off(self) -> None:
        """Start the time unless it runs: a second crash gives nobody more time."""
        if self.state.stopwatch is Stopwatch.OFF:
            self.arm()

    def disarm(self) -> None:
        """Stop the time."""
        if self.state.stopwatch is not Stopwatch.OFF:
            self.set(stopwatch=Stopwatch.OFF)
            self.act(DisarmStopwatch())

    def start_accepting(self) -> None:
        """Take new connections from now on."""
        if not self.state.accepting:
            self.set(accepting=True)
            self.act(StartAccepting())

    def stop_accepting(self) -> None:
        """Leave new connections in the kernel's backlog from now on."""
        if self.state.accepting:
            self.set(accepting=False)
            self.act(StopAccepting())

    # --- signals

    def signal(self, signal: SignalName, roles: Iterable[Role]) -> None:
        """Signal the living children of these roles."""
        living = self.living(roles)
        if not living:
            return
        self.act(Signal(signal, living))
        if signal in {"QUIT", "KILL"} and Role.STARTUP in living:
            self.set(startup_status=StartupStatus.SIGNALED)

    def terminate_children(self, signal: SignalName) -> None:
        """Signal everybody, dead-end children included."""
        self.signal(signal, CHILD_ROLES)

    def limit_drain_of_restart(self) -> None:
        """An orderly drain that begins while fatal_error is set gets a time limit, and those it waits for
        that are deaf to SIGTERM get SIGQUIT. Its exit is abnormal in any case: no shutdown checkpoint is lost
        by it."""
        if not (self.rules.drain_reaches_everyone and self.state.fatal_error):
            return
        outlast = [role for role in CHILD_ROLES if CHILD_TYPES[role].stop_set is StopSet.CRASH_OR_IMMEDIATE]
        if self.living(outlast):
            self.act(SetQuitReason(QuitReason.STOP))
            self.signal("QUIT", outlast)
        self.arm_if_off()

    # --- crash

    def child_crashed(self, role: Role | None) -> None:
        """Shared memory is suspect. Silent if a crash is being handled already or everybody was told to go at
        once.

        In STARTUP the old crash is over, whatever fatal_error says: see `Rules.crash_in_restart_counts`.
        """
        state = self.state
        restarting = self.rules.crash_in_restart_counts and state.pm_state is PMState.STARTUP
        if state.shutdown is Shutdown.IMMEDIATE or (state.fatal_error and not restarting):
            return
        name = "untracked child process" if role is None else CHILD_TYPES[role].log_name
        self.act(LogChildExit(level="LOG", role=role, name=name))
        self.log("terminating any other active server processes")
        self.fatal_error()

    def fatal_error(self) -> None:
        """Begin to handle a crash: everybody gets SIGQUIT, and the time they have for it begins."""
        self.act(SetQuitReason(QuitReason.CRASH))
        self.terminate_children("QUIT")
        self.set(fatal_error=True)
        if (self.state.pm_state, Cause.CRASH) in TARGETS:
            self.move(Cause.CRASH)
        if self.state.pm_state is PMState.WAIT_DEAD_END:
            self.stop_accepting()
        self.arm_if_off()
