"""Judging a bank: no false alarm on a database that kept its word, and no planted fault that goes unseen.

The checker itself is what this is about. A checker that cries wolf is turned off, and one that cannot see is
worse than none. So histories are generated together with what a right database would hold, unknown outcomes
going both ways; each planted fault must fail the oracle meant for it; and a second checker, written in SQL
from the rules alone, must find the same operations and accounts. Last, the workload's own loop runs against a
database in memory and is SIGKILLed at any step: whatever the moment, its history accuses nobody.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from chaos.oracles.ledger import Ledger, judge_observation
from tests.support.bank_history import ACCOUNTS, BANK, INITIAL, ORACLES, Asked, World, failing, judge
from tests.support.memory_session import Clock, Database, Killed, MemorySession, OrderlyError
from tests.support.second_checker import Findings, check
from workloads.history import HistoryWriter, parse_records, read_history
from workloads.worker import run_requests
from workloads.workload import EVERYTHING, Fate, Outcome, last_operation_of, operation_id

SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def histories(draw: st.DrawFn) -> list[Asked]:
    asked = []
    for number in range(draw(st.integers(0, 12))):
        source = draw(st.integers(1, ACCOUNTS))
        target = draw(st.integers(1, ACCOUNTS).filter(lambda account, source=source: account != source))
        rollback = draw(st.integers(0, 5)) == 0
        told = draw(st.sampled_from(["fail", "nothing"] if rollback else ["ok", "ok", "fail", "unknown", "nothing"]))
        kept = told == "ok" or (told in ("unknown", "nothing") and not rollback and draw(st.booleans()))
        asked.append(Asked(number, source, target, draw(st.integers(1, 100)), told, kept, rollback))
    return asked


def second(asked: list[Asked], observation: dict[str, Any]) -> Findings:
    records = [record for operation in asked for record in operation.records()]
    return check(records, observation["transfers"], dict(observation["base"]), dict(observation["accounts"]))


def first(asked: list[Asked], observation: dict[str, Any]) -> Findings:
    """What the first checker found, in the words of the second."""
    history = read_history([[record for operation in asked for record in operation.records()]])
    judgement = judge_observation(BANK, history, first_cycle=0, cycle=0, t=0, observation=observation)
    operations = judgement.operations.values()
    fates = judgement.fates

    def having(fate: Fate, *, told: bool) -> frozenset[int]:
        return frozenset(
            o.operation
            for o in operations
            if fates[o.operation] is fate and (o.must_be_committed if told else not o.may_be_committed)
        )

    accounts = frozenset(int(violation.text.split("account ")[1].split()[0]) for violation in judgement.violations)
    return Findings(
        lost=having(Fate.ABSENT, told=True),
        torn=frozenset(id_ for id_, fate in fates.items() if fate is Fate.TORN),
        risen=having(Fate.COMMITTED, told=False),
        invented=frozenset(judgement.strangers),
        wrong_accounts=accounts,
    )


@SETTINGS
@given(histories())
def test_a_right_database_raises_no_alarm(asked: list[Asked]) -> None:
    observation = World(asked).observe()
    counts = judge(asked, (0, observation))
    assert failing(counts) == set()
    assert counts["atomicity"].trials == len(asked)
    assert counts["durability"].trials == sum(operation.told == "ok" for operation in asked)
    assert first(asked, observation) == second(asked, observation)


@SETTINGS
@given(histories(), st.integers(0, 12))
def test_cutting_a_history_into_observations_changes_nothing(asked: list[Asked], cut: int) -> None:
    """Judged in two cycles that continue each other, and once more at the end: the same answer."""
    early = asked[:cut]
    late = [Asked(o.number, o.source, o.target, o.amount, o.told, o.kept, o.rollback, cycle=1) for o in asked[cut:]]
    world = World(early)
    observed = world.observe()
    for operation in late:
        if operation.kept:
            world.apply(operation)
    later = world.observe(last_operation_of(0), observed)
    counts = judge([*early, *late], (0, observed), (1, later), (1, world.observe()))
    assert failing(counts) == set()
    assert counts["atomicity"].trials == len(asked)


FAULTS = ("lose", "lose row", "lose money", "tear", "double", "raise", "invent", "lose account", "move money")
CAUGHT_BY = {
    "lose": "durability",
    "lose row": "durability",
    "lose money": "atomicity",
    "tear": "atomicity",
    "double": "atomicity",
    "raise": "resurrection",
    "invent": "resurrection",
    "lose account": "invariant",
    "move money": "atomicity",
}


def plant(world: World, fault: str, victim: Asked, by: int) -> None:
    """Break what the world holds of the victim."""
    match fault:
        case "lose":
            world.lose(victim)
        case "lose row":
            world.rows.remove(victim.row)
        case "lose money":
            world.move(victim, -1)
        case "tear":
            row = world.rows[world.rows.index(victim.row)]
            row[1 + by % 4] += 1 + by
        case "double":
            world.rows.append(victim.row)
        case "raise":
            world.apply(victim)
        case "invent":
            world.apply(Asked(900 + by, victim.source, victim.target, victim.amount, "ok", True))
        case "lose account":
            del world.money[victim.source]
        case "move money":
            world.money[victim.source] += 1 + by
            world.money[victim.target] -= 1 + by


def can_be(fault: str, operation: Asked) -> bool:
    if fault in ("lose", "lose row"):
        return operation.told == "ok"
    if fault in ("lose money", "tear", "double"):
        return operation.kept
    return fault != "raise" or operation.told == "fail" or operation.rollback


@SETTINGS
@given(histories(), st.sampled_from(FAULTS), st.data())
def test_each_planted_fault_is_caught_by_the_oracle_meant_for_it(
    asked: list[Asked], fault: str, data: st.DataObject
) -> None:
    victims = [operation for operation in asked if can_be(fault, operation)]
    assume(victims)
    world = World(asked)
    plant(world, fault, data.draw(st.sampled_from(victims)), data.draw(st.integers(0, 20)))
    observation = world.observe()
    assert CAUGHT_BY[fault] in failing(judge(asked, (0, observation)))


@SETTINGS
@given(
    histories(),
    st.lists(st.tuples(st.sampled_from(FAULTS[:7]), st.integers(0, 11), st.integers(0, 20)), max_size=4),
)
def test_two_checkers_agree_on_any_mess(asked: list[Asked], faults: list[tuple[str, int, int]]) -> None:
    world = World(asked)
    for fault, which, by in faults:
        if which < len(asked) and (fault in ("invent", "raise") or asked[which].row in world.rows):
            plant(world, fault, asked[which], by)
    observation = world.observe()
    # An account that a torn row names and nobody opened is the first checker's to tell: it has no balance.
    assume(all(1 <= account <= ACCOUNTS for row in world.rows for account in row[2:4]))
    assert first(asked, observation) == second(asked, observation)


@SETTINGS
@given(
    seeds=st.lists(st.integers(0, 1 << 32), min_size=1, max_size=3),
    steps=st.lists(st.integers(0, 120), min_size=3, max_size=3),
    errors=st.lists(
        st.tuples(st.sampled_from(["begin", "get", "update", "insert", "commit"]), st.integers(1, 10)), max_size=2
    ),
    sqlstate=st.sampled_from(["40001", "40P01", "55P03", "57014", "57P01", "XX000", "23505"]),
    after=st.booleans(),
    torn=st.integers(0, 60),
)
def test_a_sigkill_at_any_step_accuses_nobody(
    seeds: list[int],
    steps: list[int],
    errors: list[tuple[str, int]],
    sqlstate: str,
    after: bool,
    torn: int,
) -> None:
    database = Database()
    BANK.setup(MemorySession(database))
    # Only an error that proves nothing may come from a COMMIT that took effect.
    after = after and sqlstate in ("57014", "57P01", "XX000")
    with tempfile.TemporaryDirectory() as directory:
        for worker, (seed, life) in enumerate(zip(seeds, steps, strict=False)):
            planted: dict[tuple[str, int], Exception] = {at: OrderlyError(sqlstate) for at in errors}
            session = MemorySession(database, planted, errors_after=after)
            clock = Clock(database)
            writer = HistoryWriter(directory, worker, clock.now_ns)
            database.steps_to_live = life
            try:
                requests = BANK.requests(worker, operation_id(0, worker, 0), 12, seed)
                run_requests(BANK.perform, session, requests, writer, clock.check_interrupts)
            except (Killed, OrderlyError):
                pass
            finally:
                database.steps_to_live = None
                writer.close()
        files = sorted(Path(directory).iterdir())
        data = [path.read_bytes() for path in files]
    # The kernel may have been in the middle of the last write: an answer torn off leaves its operation unknown.
    last = data[-1].rfind(b"\n")
    if torn and b'"invoke"' not in data[-1][last:]:
        data[-1] = data[-1][: max(last, len(data[-1]) - torn)]
    history = read_history(parse_records(part)[0] for part in data)
    rows = list(BANK.observe(MemorySession(database), EVERYTHING))
    observation = BANK.observation(rows, EVERYTHING, None)
    judgement = judge_observation(BANK, history, first_cycle=0, cycle=0, t=0, observation=observation)
    ledger = Ledger(BANK, [judgement])
    counts = {name: oracle(ledger) for name, oracle in ORACLES.items()}
    assert failing(counts) == set()
    assert history.contradictions == ()
    assert sum(balance for _, balance in observation["accounts"]) == ACCOUNTS * INITIAL
    told_ok = sum(operation.outcome is Outcome.OK for operation in history.operations.values())
    assert len(observation["transfers"]) >= told_ok
