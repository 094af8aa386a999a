"""The postmaster's states over a run, as its journal tells them: when it was where, and which ways it went.

Pure functions of the journal's steps. One step may lead through several states in no time, and the journal holds only
its ends: the state machine, given the same step, says which way it went. What is read here is a claim and is judged
elsewhere (`chaos.oracles.transitions`); a step that is none of the machine's is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from chaos.oracles.evidence import ServerRecord
from reports.details import Edge, Machine, StateSpan
from supervisor.postmaster.actions import ExitPostmaster, Log
from supervisor.postmaster.events import Event
from supervisor.postmaster.states import ImpossibleEvent, step
from supervisor.postmaster.transitions import TRANSITIONS
from supervisor.postmaster.values import PMState, State

EXIT = "exit"
"""The end of the postmaster, as a state among the others."""

_MOVED = "updating PMState from PM_"
_SERVING = frozenset({PMState.RUN, PMState.HOT_STANDBY})


class Change(NamedTuple):
    """From this time on the postmaster was in this state; None is no postmaster."""

    t: int
    state: PMState | None


def changes(records: Sequence[ServerRecord]) -> list[Change]:
    """The states of every postmaster of a run, in order of time."""
    found: list[Change] = []
    for record in records:
        if record.ev == "postmaster_start":
            found.append(Change(record.t, PMState.INIT))
        elif record.ev == "postmaster_exit":
            found.append(Change(record.t, None))
        elif record.ev == "step":
            ends = _ends(record)
            if ends is not None and ends[0] is not ends[1]:
                found.append(Change(record.t, ends[1]))
    return found


def spans(found: Sequence[Change], since_ns: int, until_ns: int, zero_ns: int) -> Iterator[StateSpan]:
    """The states of a span of time, in ms from `zero_ns`."""
    first = max(0, bisect_right(found, since_ns, key=_time) - 1)
    last = bisect_right(found, until_ns, key=_time)
    for index in range(first, last):
        change = found[index]
        end = found[index + 1].t if index + 1 < len(found) else until_ns
        if change.state is None or end <= since_ns:
            continue
        yield StateSpan(
            state=change.state.name,
            kind=_kind(change.state),
            begin=round((max(change.t, since_ns) - zero_ns) / 1e6, 3),
            end=round((min(end, until_ns) - zero_ns) / 1e6, 3),
        )


def machine(records: Sequence[ServerRecord]) -> Machine:
    """Every edge of the state machine with how often this run took it; nothing of a run whose server told of no step."""
    if not any(record.ev == "step" for record in records):
        return Machine()
    taken: Counter[tuple[str, str]] = Counter()
    for record in records:
        ends = _ends(record) if record.ev == "step" else None
        if ends is not None and (ends[0] is not ends[1] or record.after.get("exit_code") is not None):
            taken.update(_ways(record))
    causes: dict[tuple[str, str], list[str]] = {}
    for row in TRANSITIONS:
        target = EXIT if row.target is None else row.target.name
        causes.setdefault((row.source.name, target), []).append(row.cause.value)
    return Machine(
        states=(*(state.name for state in PMState), EXIT),
        edges=tuple(
            Edge(source=source, target=target, causes=tuple(why), taken=taken[source, target])
            for (source, target), why in causes.items()
        ),
    )


def _ends(record: ServerRecord) -> tuple[PMState, PMState] | None:
    try:
        return PMState(record.before["pm_state"]), PMState(record.after["pm_state"])
    except (TypeError, KeyError, ValueError):
        return None  # no step of the machine: the oracle of transitions says so


def _ways(record: ServerRecord) -> Iterator[tuple[str, str]]:
    """The edges that one step took, by what the machine logs when it takes the step."""
    try:
        _, actions = step(msgspec.convert(record.before, State), msgspec.convert(record.event, Event))
    except (msgspec.ValidationError, ImpossibleEvent):
        return
    state = PMState(record.before["pm_state"]).name
    for action in actions:
        if isinstance(action, Log) and action.message.startswith(_MOVED):
            source, _, state = action.message.removeprefix(_MOVED).partition(" to PM_")
            yield source, state
        elif isinstance(action, ExitPostmaster):
            yield state, EXIT


def _kind(state: PMState) -> str:
    if state in _SERVING:
        return "serving"
    return "starting" if state < PMState.STOP_BACKENDS else "stopping"


def _time(change: Change) -> int:
    return change.t
