"""The oracle of transitions: the postmaster moved only as the pure state machine moves.

Each step in the server's journal (state before, event, state after) is taken again by the machine; and the
events are facts, so the children that the journal says were forked and reaped are those of the kernel's account
(`slots` and `exit_status` judge the pairs, this oracle the counts).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from chaos.oracles.evidence import Evidence, ServerRecord
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from supervisor.postmaster.events import Event
from supervisor.postmaster.states import Mismatch, initial_state, replay
from supervisor.postmaster.values import NO_CHILDREN_COUNTS, State


class Transitions:
    name = "transitions"
    title = "the postmaster changes its state only as the state machine allows"
    needs: tuple[Source, ...] = ("server",)

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for steps in _lives(evidence.server):
            _judge_life(steps, tally)
        return tally.result(self)


def _lives(records: Sequence[ServerRecord]) -> list[list[ServerRecord]]:
    """The steps of each postmaster, apart: a new life begins with each postmaster_start of a pid."""
    lives: list[list[ServerRecord]] = []
    current: dict[int, list[ServerRecord]] = {}
    for record in records:
        if record.ev == "postmaster_start" or (record.ev == "step" and record.pid not in current):
            current[record.pid] = []
            lives.append(current[record.pid])
        if record.ev == "step":
            current[record.pid].append(record)
    return lives


def _judge_life(records: Sequence[ServerRecord], tally: Tally) -> None:
    steps: list[tuple[State, Event, State]] = []
    for record in records:
        try:
            steps.append(
                (
                    _state(record.before),
                    msgspec.convert(record.event, Event),
                    _state(record.after),
                )
            )
        except msgspec.ValidationError as error:
            tally.trial()
            tally.fail(record.t, f"a step of the journal is none of the state machine's: {error}", _line(record))
            return
        tally.trial()
    if steps and steps[0][0] != initial_state(steps[0][0].restart_after_crash):
        tally.fail(records[0].t, "the postmaster did not begin in its initial state", _line(records[0]))
    for mismatch in replay(steps):
        _tell(records[mismatch.position], mismatch, tally)


def _state(value: object) -> State:
    """A recorded state; kinds of child that its server did not know yet had no child."""
    state = msgspec.convert(value, State)
    unknown = len(NO_CHILDREN_COUNTS) - len(state.children)
    return msgspec.structs.replace(state, children=state.children + (0,) * unknown)


def _tell(record: ServerRecord, mismatch: Mismatch, tally: Tally) -> None:
    before, after = mismatch.before.pm_state.name, mismatch.recorded.pm_state.name
    lines = [_line(record)]
    if mismatch.expected is not None:
        lines.append(f"the machine makes of it: {mismatch.expected}")
    tally.fail(
        record.t,
        f"{type(mismatch.event).__name__} in PM_{before} led to PM_{after}: {mismatch.reason}",
        *lines,
    )


def _line(record: ServerRecord) -> str:
    return f"server: step {record.event} before {record.before} after {record.after} t={record.t}"
