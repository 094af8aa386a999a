"""Judging append: no false alarm on a database that kept its word, no planted fault unseen, and a second opinion.

The workload's own loop runs against a database in memory that keeps its word, with errors planted in its way, and is
ended at any step, worker after worker. Whatever the moment, no oracle of data and no oracle of isolation may find
anything: what is there without an answer is allowed, and what is gone without one too.

What could go wrong besides: a list that is lost, or shown in an old version, while each element that is left looks
right. So what was observed is taken apart: each fault must fail the oracle meant for it, and a second checker, written in
SQL from the rules alone, must find the same operations, lists and slots. The observation is one that continues another,
as all but an epoch's first and last are.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from chaos.oracles import isolation
from chaos.oracles.ledger import Judgement, Ledger, judge_observation
from tests.support.bank_history import ORACLES, failing
from tests.support.memory_session import Clock, Database, Killed, MemorySession, OrderlyError
from tests.support.second_append_checker import check, elements_of
from workloads.append import Append
from workloads.history import HistoryWriter, parse_records, read_history
from workloads.worker import run_requests
from workloads.workload import EVERYTHING, ROLLBACK_KIND, Fate, last_operation_of, operation_id

LISTS = Append(slots=2, capacity=5)
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(
    seeds=st.lists(st.integers(0, 1 << 32), min_size=1, max_size=4),
    steps=st.lists(st.integers(0, 200), min_size=4, max_size=4),
    errors=st.lists(st.tuples(st.sampled_from(["get", "update", "insert", "commit"]), st.integers(1, 10)), max_size=2),
    sqlstate=st.sampled_from(["40001", "40P01", "55P03", "57P01", "XX000"]),
    after=st.booleans(),
)
def test_a_sigkill_at_any_step_accuses_nobody(
    seeds: list[int], steps: list[int], errors: list[tuple[str, int]], sqlstate: str, after: bool
) -> None:
    database = Database()
    LISTS.setup(MemorySession(database))
    # Only an error that proves nothing may come from a COMMIT that took effect.
    after = after and sqlstate in ("57P01", "XX000")
    with tempfile.TemporaryDirectory() as directory:
        for worker, (seed, life) in enumerate(zip(seeds, steps, strict=False)):
            session = MemorySession(database, {at: OrderlyError(sqlstate) for at in errors}, errors_after=after)
            clock = Clock(database)
            writer = HistoryWriter(directory, worker, clock.now_ns)
            database.steps_to_live = life
            try:
                requests = LISTS.requests(worker, operation_id(0, worker, 0), 12, seed)
                run_requests(LISTS.perform, session, requests, writer, clock.check_interrupts)
            except (Killed, OrderlyError):
                pass
            finally:
                database.steps_to_live = None
                writer.close()
        history = read_history(parse_records(path.read_bytes())[0] for path in sorted(Path(directory).iterdir()))
    rows = list(LISTS.observe(MemorySession(database), EVERYTHING))
    observation = LISTS.observation(rows, EVERYTHING, None)
    judgement = judge_observation(LISTS, history, first_cycle=0, cycle=0, t=0, observation=observation)
    ledger = Ledger(LISTS, [judgement])
    assert failing({name: oracle(ledger) for name, oracle in ORACLES.items()}) == set()
    isolated = isolation.judge(ledger)
    assert isolated is not None and isolated.failures == 0
    assert history.contradictions == ()


@dataclass(frozen=True)
class Run:
    """Two cycles: the lists that were open after the first, what was told in the second, and the lists after it."""

    before: list[tuple[str, int, bytes]]
    records: list[dict[str, Any]]
    rows: list[list[Any]]  # kind, key, elements as numbers

    def stored(self) -> list[tuple[str, int, bytes]]:
        return [(kind, key, b"".join(n.to_bytes(8, "big") for n in elements)) for kind, key, elements in self.rows]

    def judgement(self) -> Judgement:
        before = LISTS.observation(self.before, EVERYTHING, None)
        return judge_observation(
            LISTS,
            read_history([self.records]),
            first_cycle=0,
            cycle=1,
            t=0,
            observation=LISTS.observation(self.stored(), AFTER, before),
        )

    def first(self) -> dict[str, set[int]]:
        """What the first checker found, in the words of the second."""
        judged = self.judgement()
        operations, fates = judged.operations.values(), {**judged.fates}
        found = {
            "lost": {o.operation for o in operations if fates.get(o.operation) is Fate.ABSENT and o.must_be_committed},
            "torn": {id_ for id_, fate in fates.items() if fate is Fate.TORN},
            "risen": {
                o.operation for o in operations if fates.get(o.operation) is Fate.COMMITTED and not o.may_be_committed
            },
            "invented": set(judged.strangers),
        }
        for violation in judged.violations:
            ((name, match),) = ((n, m) for n, p in WORDS.items() if (m := re.match(p, violation.text)))
            found.setdefault(name, set()).add(int(match[1]))
        return {name: wrong for name, wrong in found.items() if wrong}

    def second(self) -> dict[str, set[int]]:
        before = [(key, elements) for kind, key, elements in self.before if kind == "open"]
        return check(self.records, before, self.stored(), AFTER, LISTS.capacity)

    def failing(self) -> set[str]:
        judged = Ledger(LISTS, [self.judgement()])
        return failing({name: oracle(judged) for name, oracle in ORACLES.items()})


AFTER = last_operation_of(0)
WORDS = {
    "there twice": r"list (\d+) is there \d+ times",
    "open twice": r"slot (\d+) has \d+ open lists",
    "none open": r"the open list of slot (\d+) is gone",
    "set back": r"list (\d+) of slot",
    "gone": r"list (\d+) is gone",
    "never opened": r"list (\d+) was never opened",
    "wrong length": r"(?:open|closed) list (\d+) has",
    "changed": r"list (\d+) held",
}


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Two cycles of two workers each, the last of them perhaps killed."""
    database = Database()
    LISTS.setup(MemorySession(database))
    before: list[tuple[str, int, bytes]] = []
    with tempfile.TemporaryDirectory() as directory:
        for worker, life in enumerate((None, None, None, draw(st.integers(0, 200)))):
            if worker == 2:
                before = list(LISTS.observe(MemorySession(database), EVERYTHING))
            errors = {("commit", draw(st.integers(1, 12))): OrderlyError("40001")}
            clock = Clock(database)
            writer = HistoryWriter(directory, worker, clock.now_ns)
            database.steps_to_live = life
            try:
                first, count = operation_id(worker // 2, worker, 0), draw(st.integers(0, 12))
                requests = LISTS.requests(worker, first, count, draw(st.integers(0, 1 << 32)))
                run_requests(LISTS.perform, MemorySession(database, errors), requests, writer, clock.check_interrupts)
            except Killed:
                pass
            finally:
                database.steps_to_live = None
                writer.close()
        parts = [parse_records(path.read_bytes())[0] for path in sorted(Path(directory).iterdir())]
    rows = [[kind, key, elements_of(elements)] for kind, key, elements in LISTS.observe(MemorySession(database), AFTER)]
    return Run(before, [record for part in parts for record in part], rows)


@SETTINGS
@given(runs())
def test_a_right_database_raises_no_alarm(run: Run) -> None:
    assert run.failing() == set()
    assert run.first() == run.second() == {}


def drop(run: Run, elements: Iterable[int]) -> None:
    gone = set(elements)
    for row in run.rows:
        row[2] = [element for element in row[2] if element not in gone]


def victims(run: Run, fault: str) -> list[Any]:
    """What a fault can be done to: rows, requests or lists of elements."""
    told = {record["op"] for record in run.records if record["ev"] == "ok" and record["op"] > AFTER}
    asked = [record for record in run.records if record["ev"] == "invoke" and record["op"] > AFTER]
    elements = [[element for _, element in r["steps"] if element is not None] for r in asked if r["op"] in told]
    base = {key: len(stored) for _, key, stored in run.before}
    match fault:
        case "operation gone" | "element in another list" | "element twice":
            return [found for found in elements if found]
        case "element gone":
            return [found for found in elements if len(found) > 1]
        case "rolled back and there":
            return [record for record in asked if record["kind"] == ROLLBACK_KIND]
        case "closed gone" | "closed short" | "closed still open":
            return [row for row in run.rows if row[0] == "closed" and row[2]]
        case "older element changed" | "older element gone":
            return [row for row in run.rows if base.get(row[1]) and row[2]]
        case _:
            return [row for row in run.rows if row[0] == "open"]


def damage(run: Run, fault: str, victim: Any) -> None:
    match fault:
        case "operation gone":
            drop(run, victim)
        case "element gone":
            drop(run, victim[:1])
        case "element in another list":
            there = next((row for row in run.rows if victim[0] in row[2]), None)
            drop(run, victim[:1])
            others = [row for row in run.rows if there is None or row[1] % LISTS.slots != there[1] % LISTS.slots]
            if others:
                others[0][2].append(victim[0])
        case "element twice":
            for row in run.rows:
                row[2] += victim[:1] * (victim[0] in row[2])
        case "element of nobody":
            victim[2].append(operation_id(1, 9, 9) * 4)
        case "rolled back and there":
            for slot, element in victim["steps"]:
                for row in run.rows:
                    if row[0] == "open" and row[1] % LISTS.slots == slot and element is not None:
                        row[2].append(element)
        case "open gone" | "closed gone":
            run.rows.remove(victim)
        case "open doubled":
            run.rows.append([*victim[:2], list(victim[2])])
        case "a generation skipped":
            victim[1] += 2 * LISTS.slots
        case "open closed too early":
            run.rows.append(["open", victim[1] + LISTS.slots, []])
            victim[0], victim[2] = "closed", victim[2][: LISTS.capacity - 1]
        case "closed short":
            victim[2].pop()
        case "closed still open":
            # A scan may meet a slot's old row before the new one, and the first is then the one that must not be there.
            run.rows.remove(victim)
            run.rows.insert(0, ["open", *victim[1:]])
        case "older element changed":
            victim[2][0] += 4
        case "older element gone":
            del victim[2][0]


CAUGHT_BY = {
    "operation gone": "durability",
    "element gone": "atomicity",
    "element in another list": "atomicity",
    "element twice": "atomicity",
    "element of nobody": "resurrection",
    "rolled back and there": "resurrection",
    "open gone": "invariant",
    "open doubled": "invariant",
    "a generation skipped": "invariant",
    "open closed too early": "invariant",
    "closed gone": "invariant",
    "closed short": "invariant",
    "closed still open": "invariant",
    "older element changed": "invariant",
    "older element gone": "invariant",
}


@SETTINGS
@given(runs(), st.sampled_from(sorted(CAUGHT_BY)), st.integers(0, 20))
def test_each_planted_fault_is_caught_by_the_oracle_meant_for_it(run: Run, fault: str, which: int) -> None:
    chosen = victims(run, fault)
    assume(chosen)
    damage(run, fault, chosen[which % len(chosen)])
    assert CAUGHT_BY[fault] in run.failing()


@SETTINGS
@given(runs(), st.lists(st.tuples(st.sampled_from(sorted(CAUGHT_BY)), st.integers(0, 20)), max_size=4))
def test_two_checkers_agree_on_any_mess(run: Run, faults: list[tuple[str, int]]) -> None:
    for fault, which in faults:
        chosen = victims(run, fault)
        if chosen:
            damage(run, fault, chosen[which % len(chosen)])
    assert run.first() == run.second()
