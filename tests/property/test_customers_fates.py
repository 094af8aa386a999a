"""Judging customers: no false alarm on a database that kept its word, no planted fault unseen, and a second opinion.

What could go wrong: a refused duplicate that counts as lost; an order that lost a line and is held because its row is
there; an e-mail that two people have. So the workload's own loop runs over a database in memory, with a SIGKILL at any
step, and must accuse nobody. Then what was observed is taken apart: each fault must fail the oracle meant for it, and a
second checker, written in SQL from the rules alone, must find the same operations, people, orders, lines and e-mails.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from chaos.oracles.ledger import Ledger, judge_observation
from tests.support.bank_history import ORACLES, failing
from tests.support.memory_session import Clock, Database, Killed, MemorySession, OrderlyError
from tests.support.second_customers_checker import check
from workloads.customers import Customers, Person
from workloads.history import HistoryWriter, parse_records, read_history
from workloads.worker import run_requests
from workloads.workload import EVERYTHING, Fate, Rule, operation_id

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CUSTOMERS = Customers(3)
PEOPLE = [Person(f"person {n}", "a town", f"{n}@old.example") for n in range(3)]
OF_OPERATIONS = {"lost", "torn", "risen", "invented"}
WORDS: dict[Rule, dict[str, str]] = {
    Rule.ATOMICITY: {
        "unlogged": r"(?:order|person) (-?\d+) (?:\(customer|is there and|was logged)",
        "moved": r"person (-?\d+) (?:has moved|lives in)",
        "quantities": r"order line (-?\d+) has quantity",
        "totals": r"order (-?\d+) (?:has total|is gone, and its lines)",
    },
    Rule.INTEGRITY: {
        "emails": r"(?:people .* have the )?e-mail (\S+)",
        "strangers": r"((?:person|order|order line|row|operation)(?: of the log of operation)? -?\d+) "
        r"(?:is gone|is there \d+ times|was never made|registered)",
    },
}
"""How the first checker says what the second one finds, by rule and the second's question."""

Records = list[dict[str, Any]]
Rows = list[list[Any]]


@st.composite
def runs(draw: st.DrawFn) -> tuple[Records, Rows]:
    """What two workers were told, the second of them perhaps killed, and what the database then holds."""
    database = Database()
    CUSTOMERS.setup(MemorySession(database), PEOPLE)
    with tempfile.TemporaryDirectory() as directory:
        for worker, life in enumerate((None, draw(st.integers(0, 120)))):
            clock = Clock(database)
            writer = HistoryWriter(directory, worker, clock.now_ns)
            database.steps_to_live = life
            error = {("commit", draw(st.integers(1, 12))): OrderlyError("XX000")} if worker else {}
            session = MemorySession(database, error, errors_after=draw(st.booleans()))
            try:
                requests = CUSTOMERS.requests(worker, operation_id(0, worker, 0), 12, draw(st.integers(0, 1 << 32)))
                run_requests(CUSTOMERS.perform, session, requests, writer, clock.check_interrupts)
            except (Killed, OrderlyError):
                assert worker, "a refusal that a request was made for ends nobody's work"
            finally:
                database.steps_to_live = None
                writer.close()
        parts = [parse_records(path.read_bytes())[0] for path in sorted(Path(directory).iterdir())]
    rows = [list(row) for row in CUSTOMERS.observe(MemorySession(database), EVERYTHING)]
    return [record for part in parts for record in part], rows


def ledger(records: Records, rows: Rows) -> Ledger:
    observation = CUSTOMERS.observation([tuple(row) for row in rows], EVERYTHING, None)
    history = read_history([records])
    return Ledger(
        CUSTOMERS, [judge_observation(CUSTOMERS, history, first_cycle=0, cycle=0, t=0, observation=observation)]
    )


def counted(records: Records, rows: Rows) -> set[str]:
    judged = ledger(records, rows)
    return failing({name: oracle(judged) for name, oracle in ORACLES.items()})


def agree(records: Records, rows: Rows) -> None:
    (judgement,) = ledger(records, rows).judgements
    operations, fates = judgement.operations.values(), judgement.fates
    second = check(records, rows, CUSTOMERS.customers)
    assert {o.operation for o in operations if fates[o.operation] is Fate.ABSENT and o.must_be_committed} == second.get(
        "lost", set()
    )
    assert {id_ for id_, fate in fates.items() if fate is Fate.TORN} - set(judgement.strangers) == second.get(
        "torn", set()
    )
    assert {
        o.operation for o in operations if fates[o.operation] is Fate.COMMITTED and not o.may_be_committed
    } == second.get("risen", set())
    assert set(judgement.strangers) == second.get("invented", set())
    told: dict[str, set[str]] = {}
    for violation in judgement.violations:
        ((name, match),) = (
            (n, m) for n, words in WORDS[violation.rule].items() if (m := re.fullmatch(f"{words}.*", violation.text))
        )
        told.setdefault(name, set()).add(match[1].replace(" of the log of operation", ""))
    assert told == {name: {str(id_) for id_ in ids} for name, ids in second.items() if name not in OF_OPERATIONS}


@SETTINGS
@given(runs())
def test_a_right_database_raises_no_alarm(run: tuple[Records, Rows]) -> None:
    records, rows = run
    assert counted(records, rows) == set()
    assert check(records, rows, CUSTOMERS.customers) == {}


TABLES = {
    "log row gone": ("customers_log", "durability"),
    "log row twice": ("customers_log", "atomicity"),
    "another amount logged": ("customers_log", "atomicity"),
    "order gone": ("customers_order", "atomicity"),
    "another total": ("customers_order", "atomicity"),
    "line gone": ("customers_line", "atomicity"),
    "another price": ("customers_line", "atomicity"),
    "person gone": ("customers_person", "invariant"),
    "one move more": ("customers_person", "atomicity"),
    "e-mail gone": ("customers_email", "invariant"),
    "e-mail twice": ("customers_email", "invariant"),
    "another's e-mail": ("customers_email", "invariant"),
}


def damage(rows: Rows, fault: str, victim: list[Any]) -> None:
    what = fault.rpartition(" ")[2] if fault.endswith(("gone", "twice")) else fault
    match what:
        case "gone":
            rows.remove(victim)
        case "twice":
            rows.append(list(victim))
        case "one move more" | "another amount logged" | "another price" | "another total":
            victim[3] += 1
        case "another's e-mail":
            victim[1] += 1000


@SETTINGS
@given(runs(), st.sampled_from(sorted(TABLES)), st.integers(0, 100))
def test_each_planted_fault_is_caught_by_the_oracle_meant_for_it(
    run: tuple[Records, Rows], fault: str, which: int
) -> None:
    records, rows = run
    table, oracle = TABLES[fault]
    told = {record["op"] for record in records if record["ev"] == "ok"}
    victims = [row for row in rows if row[0] == table and (table != "customers_log" or row[1] in told)]
    assume(victims)
    damage(rows, fault, victims[which % len(victims)])
    assert oracle in counted(records, rows)


@SETTINGS
@given(runs(), st.lists(st.tuples(st.sampled_from(sorted(TABLES)), st.integers(0, 100)), max_size=4))
def test_two_checkers_agree_on_any_mess(run: tuple[Records, Rows], faults: list[tuple[str, int]]) -> None:
    records, rows = run
    for fault, which in faults:
        victims = [row for row in rows if row[0] == TABLES[fault][0]]
        if victims:
            damage(rows, fault, victims[which % len(victims)])
    agree(records, rows)
