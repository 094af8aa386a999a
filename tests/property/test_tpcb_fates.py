"""Judging tpcb: no false alarm on a database that kept its word, no planted fault unseen, and a second opinion.

What could go wrong: a checker that cries wolf is turned off, one that cannot see is worse than none. So the workload's
own loop runs over a database in memory, with errors planted and a SIGKILL at any step, and its history must accuse
nobody. Then what was observed is taken apart: each fault must fail the oracle meant for it, and a second checker,
written in SQL from the rules alone, must find the same operations, balances and accounts.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from chaos.oracles.ledger import Ledger, judge_observation
from tests.support.bank_history import ORACLES, failing
from tests.support.memory_session import Clock, Database, Killed, MemorySession, OrderlyError
from tests.support.second_tpcb_checker import Findings, check
from workloads.history import HistoryWriter, parse_records, read_history
from workloads.tpcb import ACCOUNT, BRANCH, HISTORY, TELLER, Tpcb
from workloads.worker import run_requests
from workloads.workload import EVERYTHING, Fate, operation_id

SETTINGS = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TPCB = Tpcb(branches=2, accounts=2)
TABLES = {"accounts": ACCOUNT, "tellers": TELLER, "branches": BRANCH}

Records = list[dict[str, Any]]
Rows = list[list[Any]]


@st.composite
def runs(draw: st.DrawFn) -> tuple[Records, Rows]:
    """What two workers were told, the second of them perhaps killed, and what the database then holds."""
    database = Database()
    TPCB.setup(MemorySession(database))
    sqlstate = draw(st.sampled_from(["40001", "57P01", "XX000"]))
    at = draw(st.tuples(st.sampled_from(["update", "insert", "commit"]), st.integers(1, 12)))
    parts = []
    with tempfile.TemporaryDirectory() as directory:
        for worker, life in enumerate((None, draw(st.integers(0, 90)))):
            session = MemorySession(database, {at: OrderlyError(sqlstate)}, errors_after=sqlstate != "40001")
            clock = Clock(database)
            writer = HistoryWriter(directory, worker, clock.now_ns)
            database.steps_to_live = life
            try:
                requests = TPCB.requests(worker, operation_id(0, worker, 0), 6, draw(st.integers(0, 1 << 32)))
                run_requests(TPCB.perform, session, requests, writer, clock.check_interrupts)
            except (Killed, OrderlyError):
                pass
            finally:
                database.steps_to_live = None
                writer.close()
        parts = [parse_records(path.read_bytes())[0] for path in sorted(Path(directory).iterdir())]
    rows = [list(row) for row in TPCB.observe(MemorySession(database), EVERYTHING)]
    return [record for part in parts for record in part], rows


def ledger(records: Records, rows: Rows) -> Ledger:
    observation = TPCB.observation([tuple(row) for row in rows], EVERYTHING, None)
    history = read_history([records])
    return Ledger(TPCB, [judge_observation(TPCB, history, first_cycle=0, cycle=0, t=0, observation=observation)])


def counted(records: Records, rows: Rows) -> set[str]:
    judged = ledger(records, rows)
    return failing({name: oracle(judged) for name, oracle in ORACLES.items()})


def first(records: Records, rows: Rows) -> Findings:
    """What the first checker found, in the words of the second."""
    (judgement,) = ledger(records, rows).judgements
    operations, fates = judgement.operations.values(), judgement.fates
    texts = [violation.text for violation in judgement.violations]
    return Findings(
        lost=frozenset(o.operation for o in operations if fates[o.operation] is Fate.ABSENT and o.must_be_committed),
        torn=frozenset(id_ for id_, fate in fates.items() if fate is Fate.TORN),
        risen=frozenset(
            o.operation for o in operations if fates[o.operation] is Fate.COMMITTED and not o.may_be_committed
        ),
        invented=frozenset(judgement.strangers),
        wrong=frozenset((TABLES[text.split(":")[0]], int(text.split()[1])) for text in texts if " holds " in text),
        sums=frozenset(TABLES[text.split()[3]] for text in texts if text.startswith("the balances of")),
        overwritten=frozenset(int(text.split()[1][:-1]) for text in texts if "follow from each other" in text),
    )


@SETTINGS
@given(runs())
def test_a_right_database_raises_no_alarm(run: tuple[Records, Rows]) -> None:
    records, rows = run
    assert counted(records, rows) == set()
    assert first(records, rows) == check(records, rows)


def row_of(rows: Rows, table: str, id_: int) -> list[Any]:
    return next(row for row in rows if row[:2] == [table, id_])


def move(rows: Rows, victim: list[Any], times: int) -> None:
    """Take a transaction's money back, or put it there again."""
    _, _, _, account, teller, delta, branch, _ = victim
    for table, id_ in ((ACCOUNT, account), (TELLER, teller), (BRANCH, branch)):
        row_of(rows, table, id_)[-1] += times * delta


def damage(rows: Rows, fault: str, victim: list[Any], by: int) -> None:
    match fault:
        case "row gone":
            rows.remove(victim)
        case "whole gone":
            move(rows, victim, -1)
            rows.remove(victim)
        case "money gone":
            move(rows, victim, -1)
        case "account alone":
            row_of(rows, ACCOUNT, victim[3])[-1] += 1 + by
        case "teller alone":
            row_of(rows, TELLER, victim[4])[-1] -= 1 + by
        case "another delta":
            victim[5] += 1 + by
        case "twice":
            rows.append(list(victim))
        case "another balance read":
            victim[7] += 1 + by


CAUGHT_BY = {
    "row gone": "durability",
    "whole gone": "durability",
    "money gone": "atomicity",
    "account alone": "atomicity",
    "teller alone": "atomicity",
    "another delta": "atomicity",
    "twice": "atomicity",
    "another balance read": "invariant",
}


@SETTINGS
@given(runs(), st.sampled_from(sorted(CAUGHT_BY)), st.integers(0, 20), st.integers(0, 11))
def test_each_planted_fault_is_caught_by_the_oracle_meant_for_it(
    run: tuple[Records, Rows], fault: str, by: int, which: int
) -> None:
    records, rows = run
    told = {record["op"] for record in records if record["ev"] == "ok"}
    victims = [row for row in rows if row[0] == HISTORY and row[1] in told and row[5]]
    assume(victims)
    damage(rows, fault, victims[which % len(victims)], by)
    assert CAUGHT_BY[fault] in counted(records, rows)


@SETTINGS
@given(
    runs(), st.lists(st.tuples(st.sampled_from(sorted(CAUGHT_BY)), st.integers(0, 11), st.integers(0, 20)), max_size=4)
)
def test_two_checkers_agree_on_any_mess(run: tuple[Records, Rows], faults: list[tuple[str, int, int]]) -> None:
    records, rows = run
    for fault, which, by in faults:
        victims = [row for row in rows if row[0] == HISTORY]
        if victims:
            damage(rows, fault, victims[which % len(victims)], by)
    assert first(records, rows) == check(records, rows)
