"""Every state the postmaster's machine can get into, and what is owed in each.

Owns a small model of the world around `states.step`: children that exit as they like, flags that say
anything, an operator, clients, a fork that fails; and the shell's side of the bargain (a question is answered
before anything else is told). Breadth first from the first state, with a bounded number of children: backends
0 to 2, others 0 or 1. It is used by the property tests, which hold invariants against every step, and by
anyone who adds a row to the policy table and wants to see what it does: `python -m
supervisor.postmaster.exploration` prints the numbers. Nothing of it runs in a server.

*Owed* is what happens without help: no operator, no client, no further crash. A child that was told to go
goes, a startup process that nobody told anything finishes, a fork succeeds, the time of the stopwatch passes.
`unfinished` gives the places where what is owed does not lead to RUN or to an exit.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from supervisor.postmaster.actions import Action, Launch, Reinitialize, Signal
from supervisor.postmaster.child_types import CHILD_TYPES, ExitMeaning, Obeys
from supervisor.postmaster.states import (
    Advance,
    CanAccept,
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
    PMState,
    RestartAfterCrashChanged,
    Shutdown,
    ShutdownRequested,
    State,
    Stopwatch,
    StopwatchExpired,
    UntrackedChildExited,
    background_workers_start,
    connection_answer,
    initial_state,
    step,
    wakes_for_stopwatch,
)
from supervisor.postmaster.values import OURS, Rules
from supervisor.roles import CHILD_ROLES, Role

Step = Callable[[State, Event], tuple[State, tuple[Action, ...]]]


class Told(IntEnum):
    """The strongest thing the living children of one role were told and will obey."""

    NOTHING = 0
    ASKED = 1
    """To go, in good order: needs a sound memory."""
    QUIT = 2
    """To go at once: needs a process that still runs its handlers."""
    KILLED = 3


class World(NamedTuple):
    """A state of the postmaster and what it does not know, or need not know, about its surroundings."""

    state: State
    told: tuple[Told, ...]
    """Indexed by role."""
    questions: tuple[Launch | Reinitialize, ...]
    """Asked of the shell and not yet answered."""
    tainted: bool
    """A child crashed while it was attached to the present memory: locks may be held for ever."""
    checkpoint: str
    """"", "asked" or "done": the shutdown checkpoint."""


class Taken(NamedTuple):
    """One step of the machine: what was, what was told, what came of it."""

    before: State
    event: Event
    after: State
    actions: tuple[Action, ...]


class Surroundings(NamedTuple):
    """What the children may do, and how many there can be."""

    pm_signals: tuple[PmSignalKind, ...] = tuple(PmSignalKind)
    startup_outcomes: tuple[ExitOutcome, ...] = tuple(ExitOutcome)
    backends: int = 2
    workers: int = 1
    reloads: bool = True


WHOLE: Final = Surroundings()
"""Everything the machine understands, whenever it likes: flags may have been scribbled on."""

TODAY: Final = Surroundings(
    pm_signals=(PmSignalKind.RECOVERY_STARTED, PmSignalKind.XLOG_IS_SHUTDOWN),
    startup_outcomes=(ExitOutcome.ORDERLY_0, ExitOutcome.ORDERLY_1, ExitOutcome.CRASH),
)
"""What the processes that exist now say: there is no archive recovery, hence no hot standby and no recovery
target."""

_HEALTHY: Final = 1
_STUBBORN: Final = 2

_FIRST: Final = World(initial_state(), (Told.NOTHING,) * len(CHILD_ROLES), (), False, "")


class Exploration(NamedTuple):
    """What was found. Worlds are named by their position."""

    worlds: list[World]
    states: frozenset[State]
    owed: list[list[tuple[int, int]]]
    """For each world the owed steps that change something: (where to, in which of the two senses of owed)."""
    steps: int

    def unfinished(self, *, stubborn: bool = False) -> list[World]:
        """Worlds that are no end (RUN, or an exit) but where nothing more is owed, or that owed steps run
        round for ever. Empty: every run ends without help. `stubborn`: children that hang do not obey SIGQUIT
        either, only SIGKILL, so that it is the stopwatch which is put to the test.
        """
        sense = _STUBBORN if stubborn else _HEALTHY
        onward = [[target for target, senses in edges if senses & sense] for edges in self.owed]
        backward: list[list[int]] = [[] for _ in onward]
        for source, targets in enumerate(onward):
            for target in targets:
                backward[target].append(source)
        left = [len(targets) for targets in onward]
        finished = deque(node for node, count in enumerate(left) if not count)
        seen = len(finished)
        stuck = [self.worlds[node] for node in finished if not _is_end(self.worlds[node].state)]
        while finished:
            for source in backward[finished.popleft()]:
                left[source] -= 1
                if not left[source]:
                    finished.append(source)
                    seen += 1
        if seen < len(onward):
            stuck += [self.worlds[node] for node, count in enumerate(left) if count]
        return stuck


def explore(
    surroundings: Surroundings = WHOLE,
    rules: Rules = OURS,
    machine: Step | None = None,
    on_step: Callable[[Taken], None] | None = None,
) -> Exploration:
    """Take every step from every world that can be reached; call `on_step` once for each step of the machine.

    `machine` replaces `states.step`: the tests plant broken ones.
    """
    take = machine or (lambda state, event: step(state, event, rules))
    steps: dict[tuple[State, tuple[Launch | Reinitialize, ...]], list[Taken]] = {}
    index = {_FIRST: 0}
    worlds = [_FIRST]
    owed: list[list[tuple[int, int]]] = []
    for world in worlds:  # grows while it is walked
        edges: list[tuple[int, int]] = []
        owed.append(edges)
        key = (world.state, world.questions[:1])
        if key not in steps:
            before = world.state
            steps[key] = [Taken(before, event, *take(before, event)) for event in _possible(world, surroundings)]
            if on_step is not None:
                for taken in steps[key]:
                    on_step(taken)
        for taken in steps[key]:
            after = _world_after(world, taken)
            if after == world:
                continue
            number = index.setdefault(after, len(worlds))
            if number == len(worlds):
                worlds.append(after)
            senses = _owed_senses(world, taken.event, rules)
            if senses:
                edges.append((number, senses))
    states = frozenset(world.state for world in worlds)
    return Exploration(worlds, states, owed, sum(map(len, steps.values())))


def _is_end(state: State) -> bool:
    """RUN and the exit; and the smart wait of a hot standby whose startup process is gone, which is, like
    that of RUN, a wait for clients and so for help."""
    waits_for_clients = state.pm_state is PMState.HOT_STANDBY and not state.conns_allowed
    if waits_for_clients and not state.count(Role.STARTUP):
        return True
    return state.exit_code is not None or state.pm_state is PMState.RUN


# --- what can happen


_SHUTDOWNS: Final = tuple(ShutdownRequested(mode) for mode in Shutdown if mode is not Shutdown.NONE)
_EXITS: Final[dict[Role, tuple[ChildExited, ...]]] = {
    role: tuple(
        ChildExited(role, outcome, slot_clean)
        for outcome in ExitOutcome
        for slot_clean in ((True, False) if CHILD_TYPES[role].unclean_slot_is_crash else (True,))
    )
    for role in CHILD_ROLES
}


def _possible(world: World, surroundings: Surroundings) -> Iterator[Event]:
    state = world.state
    if state.exit_code is not None:
        return
    if world.questions:
        yield from _answers(world.questions[0])
        return
    if state.pm_state is PMState.INIT:
        yield Initialised()
        return
    yield Advance()
    yield from _SHUTDOWNS
    yield LockFileInvalid()
    if surroundings.reloads:
        yield RestartAfterCrashChanged(not state.restart_after_crash)
    for role in CHILD_ROLES:
        if state.count(role):
            for exited in _EXITS[role]:
                if role is not Role.STARTUP or exited.outcome in surroundings.startup_outcomes:
                    yield exited
    yield UntrackedChildExited(ExitOutcome.ORDERLY_0)
    yield UntrackedChildExited(ExitOutcome.CRASH)
    for kind in surroundings.pm_signals:
        yield PmSignal(kind)
    if state.stopwatch is not Stopwatch.OFF:
        yield StopwatchExpired()
    yield from _connections(state, surroundings)
    if state.count(Role.BGWORKER) < surroundings.workers and background_workers_start(state):
        yield ChildForked(Role.BGWORKER)


def _answers(question: Launch | Reinitialize) -> Iterable[Event]:
    if isinstance(question, Reinitialize):
        return (MemoryReset(),)
    return (ChildForked(question.role), ForkFailed(question.role))


def _connections(state: State, surroundings: Surroundings) -> Iterator[Event]:
    if not state.accepting:
        return
    if connection_answer(state) is CanAccept.OK:
        yield ForkFailed(Role.BACKEND)
        if state.count(Role.BACKEND) < surroundings.backends:
            yield ChildForked(Role.BACKEND)
    if not state.count(Role.DEAD_END):
        yield ChildForked(Role.DEAD_END)


# --- what comes of it


def _world_after(world: World, taken: Taken) -> World:
    before, event, state, actions = taken
    told, questions, tainted, checkpoint = list(world.told), world.questions, world.tainted, world.checkpoint
    if questions:
        questions = questions[1:]
    match event:
        case ChildExited(role=role):
            tainted |= _taints(event, before.pm_state)
            if not state.count(role):
                told[role] = Told.NOTHING
        case ChildForked(role=role):
            told[role] = Told.NOTHING
        case UntrackedChildExited(outcome=ExitOutcome.CRASH):
            tainted = True
        case MemoryReset():
            tainted = False
        case PmSignal(kind=PmSignalKind.XLOG_IS_SHUTDOWN) if before.pm_state is PMState.WAIT_XLOG_SHUTDOWN:
            checkpoint = "done"
    for action in actions:
        if isinstance(action, Signal):
            for role in action.roles:
                obeyed = _OBEYED[CHILD_TYPES[role].obeys(action.signal)]
                told[role] = max(told[role], obeyed)
                if CHILD_TYPES[role].obeys(action.signal) is Obeys.CHECKPOINTS:
                    checkpoint = "asked"
        elif isinstance(action, Launch | Reinitialize):
            questions = (*questions, action)
    return World(state, tuple(told), questions, tainted, checkpoint)


_OBEYED: Final[dict[Obeys, Told]] = {
    Obeys.IGNORES: Told.NOTHING,
    Obeys.CANCELS: Told.NOTHING,
    Obeys.CHECKPOINTS: Told.NOTHING,
    Obeys.EXITS_0: Told.ASKED,
    Obeys.EXITS_1: Told.ASKED,
    Obeys.EXITS_2: Told.QUIT,
    Obeys.DIES: Told.KILLED,
}


def _taints(event: ChildExited, pm_state: PMState) -> bool:
    if event.role is Role.STARTUP:
        return event.outcome is ExitOutcome.CRASH
    row = CHILD_TYPES[event.role]
    meaning = row.exit_meaning(event.outcome, slot_clean=event.slot_clean, pm_state=pm_state)
    return meaning is ExitMeaning.CRASH


# --- what is owed


def _owed_senses(world: World, event: Event, rules: Rules) -> int:
    """Whether this event comes by itself, with healthy children and with stubborn ones (bits)."""
    both = _HEALTHY | _STUBBORN
    match event:
        case Initialised() | Advance() | ChildForked() | MemoryReset():
            # ChildForked only as an answer: a client is help, and a background worker's start owes nobody anything.
            asked = bool(world.questions) or not isinstance(event, ChildForked)
            return both if asked else 0
        case StopwatchExpired():
            return both if wakes_for_stopwatch(world.state, rules) else 0
        case PmSignal(kind=PmSignalKind.RECOVERY_STARTED):
            return both if _startup_at_work(world) else 0
        case PmSignal(kind=PmSignalKind.XLOG_IS_SHUTDOWN):
            asked = world.checkpoint == "asked" and bool(world.state.count(Role.CHECKPOINTER))
            return both if asked and not world.tainted else 0
        case ChildExited(role=Role.STARTUP, outcome=ExitOutcome.ORDERLY_0) if _startup_done(world):
            return both if world.told[Role.STARTUP] is Told.NOTHING else _HEALTHY
        case ChildExited():
            return _exit_owed(world, event)
    return 0


def _startup_at_work(world: World) -> bool:
    untold = world.told[Role.STARTUP] is Told.NOTHING
    return bool(world.state.count(Role.STARTUP)) and untold and not world.tainted


def _startup_done(world: World) -> bool:
    """Recovery ends with a checkpoint. If it had ended just before it was told to go, it may still exit 0."""
    if world.told[Role.STARTUP] is Told.NOTHING:
        return _startup_at_work(world) and bool(world.state.count(Role.CHECKPOINTER))
    return world.told[Role.STARTUP] is not Told.KILLED


def _exit_owed(world: World, event: ChildExited) -> int:
    row, told, both = CHILD_TYPES[event.role], world.told[event.role], _HEALTHY | _STUBBORN
    if told is Told.NOTHING or not event.slot_clean:
        return 0
    if told is Told.KILLED:
        return both if event.outcome is ExitOutcome.CRASH else 0
    if event.role is Role.DEAD_END and event.outcome is ExitOutcome.ORDERLY_1:
        return both  # authentication_timeout ends it, whatever else it does not hear
    if told is Told.QUIT:
        return _HEALTHY if event.outcome is ExitOutcome.CRASH else 0
    if world.tainted:
        return 0
    goes_with = {ExitOutcome.ORDERLY_0: Obeys.EXITS_0, ExitOutcome.ORDERLY_1: Obeys.EXITS_1}.get(event.outcome)
    return both if goes_with in {row.on_term, row.on_usr2} else 0


def main() -> int:
    """Print how much there is to explore, and what does not end."""
    for name, surroundings in (("whole", WHOLE), ("today", TODAY)):
        found = explore(surroundings)
        stuck = len(found.unfinished()) + len(found.unfinished(stubborn=True))
        sys.stdout.write(
            f"{name}: {len(found.states)} states, {len(found.worlds)} worlds, {found.steps} steps, {stuck} unfinished\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
