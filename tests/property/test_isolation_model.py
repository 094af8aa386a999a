"""Three sessions on four rows against a model of what each may see: snapshots are never too new, nor too old.

What could go wrong: a statement that sees what committed after its snapshot, or misses what committed before it; a
version that is pruned, moved or locked under an old snapshot's feet; a change that is refused without reason, or goes
on where it would undo what its transaction has not seen. The model keeps every committed state and knows of no page;
the engine's pages are filled with rows so wide that updates move them and pruning never rests.

All sessions are in one process, so a wait can only end by its `lock_timeout`, on a virtual clock: the model says when.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from supervisor.errors import ServerError
from tests.support.engine_rig import SMALL, Rig

SESSIONS = st.integers(0, 2)
KEY_RANGE = range(1, 5)
KEYS = st.sampled_from(KEY_RANGE)
LEVELS = st.sampled_from(["read committed", "repeatable read"])
WIDTHS = st.sampled_from([0, 700, 2500])

State = dict[int, int]


@dataclass
class Model:
    """One open transaction: its level, the state it began to see, and what it has done."""

    level: str
    snapshot: int | None = None
    """Which of the committed states it keeps; None before its first statement, and always in READ COMMITTED."""
    changes: dict[int, int | None] = field(default_factory=dict)
    first_change: dict[int, str] = field(default_factory=dict)
    """By key: whether the first thing done to the committed version was an update or a delete."""


class Isolation(RuleBasedStateMachine):
    """The engine and the model, asked the same."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.rig = Rig(self.directory, SMALL.replace(lock_timeout=50))
        self.rig.start()
        self.sessions = [self.rig.session() for _ in range(3)]
        self.sessions[0].create_table("t", [("id", "integer"), ("n", "integer"), ("pad", "text")], "id")
        for key in KEY_RANGE:
            self.sessions[0].insert("t", (key, 0, ""))
        self.open: dict[int, Model] = {}
        self.states: list[State] = [dict.fromkeys(KEY_RANGE, 0)]
        self.events: list[dict[int, str]] = [{}]
        """With each committed state: what its transaction did to the versions of the state before."""
        self.holders: dict[int, tuple[int, bool]] = {}
        """By key: the session that has locked the row, and whether it has changed it."""
        self.number = 0

    def teardown(self) -> None:
        self.rig.crash()
        shutil.rmtree(self.directory)

    # What the model says.

    def view(self, who: int) -> State:
        """What a statement of a session sees that begins now."""
        model = self.open[who]
        if model.level == "repeatable read" and model.snapshot is None:
            model.snapshot = len(self.states) - 1
        state = dict(self.states[-1 if model.snapshot is None else model.snapshot])
        for key, value in model.changes.items():
            state.pop(key, None)
            if value is not None:
                state[key] = value
        return state

    def refusal_of_change(self, who: int, key: int) -> str | None:
        """Why a session may not change or lock a row that it sees."""
        model = self.open[who]
        if key not in model.changes and model.snapshot is not None:
            since = [event[key] for event in self.events[model.snapshot + 1 :] if key in event]
            if since:
                return f"40001 could not serialize access due to concurrent {since[0]}"
        if self.holders.get(key, (who, False))[0] != who:
            return "55P03 canceling statement due to lock timeout"
        return None

    def check(self, who: int, refusal: str | None, call: object, *arguments: object) -> object:
        """Make a call that must be refused, or must not be."""
        try:
            answer = call(*arguments)  # type: ignore[operator]
        except ServerError as error:
            assert refusal is not None and f"{error.sqlstate} {error.message}".startswith(refusal), error
            self.sessions[who].rollback()
            self.end(who)
            return None
        assert refusal is None, f"not refused with {refusal}"
        return answer

    def end(self, who: int) -> Model:
        self.holders = {key: holder for key, holder in self.holders.items() if holder[0] != who}
        return self.open.pop(who)

    def hold(self, who: int, key: int, *, changed: bool) -> None:
        self.holders[key] = (who, changed or self.holders.get(key, (who, False))[1])

    # What is done.

    def begin(self, who: int, level: str) -> None:
        """Every statement begins a transaction if none is open, so that few steps are idle."""
        if who not in self.open:
            self.sessions[who].begin(level)
            self.open[who] = Model(level)

    @rule(who=SESSIONS, commits=st.booleans())
    def finish(self, who: int, commits: bool) -> None:
        if who not in self.open:
            return
        if not commits:
            self.sessions[who].rollback()
            self.end(who)
            return
        assert self.sessions[who].commit()
        model = self.end(who)
        state = dict(self.states[-1])
        for key, value in model.changes.items():
            state.pop(key, None)
            if value is not None:
                state[key] = value
        self.states.append(state)
        self.events.append(model.first_change)

    @rule(who=SESSIONS, level=LEVELS)
    def scan(self, who: int, level: str) -> None:
        self.begin(who, level)
        assert {row[0]: row[1] for row in self.sessions[who].scan("t")} == self.view(who)

    @rule(who=SESSIONS, level=LEVELS, key=KEYS)
    def get(self, who: int, level: str, key: int) -> None:
        self.begin(who, level)
        row = self.sessions[who].get("t", key)
        assert (None if row is None else row[1]) == self.view(who).get(key)

    @rule(who=SESSIONS, level=LEVELS, key=KEYS)
    def lock(self, who: int, level: str, key: int) -> None:
        self.begin(who, level)
        seen = self.view(who).get(key)
        refusal = None if seen is None else self.refusal_of_change(who, key)
        if refusal is not None and refusal.startswith("40001"):
            refusal = "40001 could not serialize access due to concurrent update"
        row = self.check(who, refusal, self.sessions[who].get, "t", key, True)
        if seen is not None and refusal is None:
            assert isinstance(row, tuple) and row[1] == seen
            self.hold(who, key, changed=False)

    @rule(who=SESSIONS, level=LEVELS, key=KEYS, width=WIDTHS)
    def update(self, who: int, level: str, key: int, width: int) -> None:
        self.begin(who, level)
        self.number += 1
        seen = self.view(who).get(key)
        refusal = None if seen is None else self.refusal_of_change(who, key)
        row = (key, self.number, "x" * width)
        answer = self.check(who, refusal, self.sessions[who].update, "t", key, row)
        if refusal is None:
            assert answer is (seen is not None)
            if seen is not None:
                self.change(who, key, self.number, "update")

    @rule(who=SESSIONS, level=LEVELS, key=KEYS)
    def delete(self, who: int, level: str, key: int) -> None:
        self.begin(who, level)
        seen = self.view(who).get(key)
        refusal = None if seen is None else self.refusal_of_change(who, key)
        answer = self.check(who, refusal, self.sessions[who].delete, "t", key)
        if refusal is None:
            assert answer is (seen is not None)
            if seen is not None:
                self.change(who, key, None, "delete")

    @rule(who=SESSIONS, level=LEVELS, key=KEYS, width=WIDTHS)
    def insert(self, who: int, level: str, key: int, width: int) -> None:
        self.begin(who, level)
        self.number += 1
        seen = self.view(who).get(key)
        holder, changed = self.holders.get(key, (who, False))
        own = self.open[who].changes
        # A key is unique among all rows, seen or not; only a change under way must be waited for.
        refusal = None
        if holder != who and changed:
            refusal = "55P03"
        elif own[key] is not None if key in own else key in self.states[-1]:
            refusal = "23505"
        elif seen is not None:
            refusal = "40001 could not serialize access due to concurrent delete"
        self.check(who, refusal, self.sessions[who].insert, "t", (key, self.number, "x" * width))
        if refusal is None:
            self.change(who, key, self.number, "insert")

    def change(self, who: int, key: int, value: int | None, kind: str) -> None:
        model = self.open[who]
        if key not in model.changes and kind != "insert":
            model.first_change[key] = kind
        model.changes[key] = value
        self.hold(who, key, changed=True)

    @invariant()
    def snapshots_hold_pruning_back(self) -> None:
        """Nobody's horizon is newer than a snapshot that is kept."""
        horizon = self.rig.engines[0].running.horizon()
        for who, model in self.open.items():
            if model.snapshot is not None:
                kept = self.rig.engines[who].snapshots.statement()
                assert not kept.sees_as_running(horizon - 1), "what this snapshot sees as running may be pruned"


TestIsolation = Isolation.TestCase
TestIsolation.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
