"""pgbench's transaction: what a run leaves adds up, and each way to be wrong shows in the place meant for it.

What could go wrong: rows locked in two orders, so that branches deadlock; a lost update that leaves all sums right
because its row of history is lost with it; a teller that changes its branch; a check that a cycle of its own cuts off.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.support import calls
from tests.support.calls import Context, operations_of
from tests.support.memory_session import Database, MemorySession, OrderlyError
from workloads.session import WorkloadError
from workloads.tpcb import DELTA_MAX, OBSERVE_COLUMNS, PROCEDURES, TELLERS, TRANSACTION_KIND, Tpcb
from workloads.workload import EVERYTHING, Fate, Outcome, Rule, last_operation_of, operation_id

TPCB = Tpcb(branches=2, accounts=3)


def call(context: Context, name: str, **values: Any) -> list[tuple[Any, ...]]:
    return calls.call(PROCEDURES, context, name, **values)


@pytest.fixture
def database() -> Database:
    database = Database()
    TPCB.setup(MemorySession(database))
    return database


def observe(database: Database, after: int = EVERYTHING, previous: dict[str, Any] | None = None) -> dict[str, Any]:
    rows = call(Context(MemorySession(database)), "tpcb_observe", after=after)
    assert all(len(row) == len(OBSERVE_COLUMNS) for row in rows)
    return TPCB.observation(rows, after, previous)


def run(database: Database, directory: Path, cycle: int = 0) -> None:
    context = Context(MemorySession(database), directory)
    context.host.ns = cycle * 1_000_000
    call(context, "tpcb", worker=0, first=operation_id(cycle, 0, 0), transactions=60, seed=cycle)


def test_a_run_adds_up_and_tells_the_truth(database: Database, tmp_path: Path) -> None:
    run(database, tmp_path)
    operations, observation = operations_of(tmp_path), observe(database)
    assert TPCB.invariant(observation) == []
    total = sum(row[5] for row in observation["history"])
    assert {sum(balance for _, balance in part) for part in observation["now"].values()} == {total}
    fates = TPCB.fates(operations.values(), observation)
    for id_, operation in operations.items():
        assert fates[id_] is (Fate.COMMITTED if operation.outcome is Outcome.OK else Fate.ABSENT)
        assert (operation.kind == TRANSACTION_KIND) == (operation.outcome is Outcome.OK)
    assert 0 < sum(fate is Fate.ABSENT for fate in fates.values()) < 20, "one request in 16 is rolled back"


def test_requests_are_a_function_of_the_seed_and_reach_everybody() -> None:
    requests = list(TPCB.requests(1, 100, 2000, 99))
    assert requests == list(TPCB.requests(1, 100, 2000, 99)) != list(TPCB.requests(1, 100, 2000, 98))
    assert {request.values["account"] for request in requests} == set(range(1, 7))
    assert {request.values["teller"] for request in requests} == set(range(1, 2 * TELLERS + 1))
    assert {request.values["branch"] for request in requests} == {1, 2}
    deltas = [request.values["delta"] for request in requests]
    assert min(deltas) < -4900 and max(deltas) > 4900 and max(map(abs, deltas)) <= DELTA_MAX


def test_rows_are_locked_in_the_order_of_the_tables(database: Database, tmp_path: Path) -> None:
    session = MemorySession(database)
    call(Context(session, tmp_path), "tpcb", worker=0, first=0, transactions=50, seed=1)
    locked = [line.split()[1] for line in session.log if line.startswith("lock")]
    assert locked == ["tpcb_account", "tpcb_teller", "tpcb_branch"] * 50


def test_observations_continue_each_other(database: Database, tmp_path: Path) -> None:
    previous = None
    for cycle in range(3):
        run(database, tmp_path, cycle)
        observation = observe(database, last_operation_of(cycle - 1) if previous else EVERYTHING, previous)
        assert TPCB.invariant(observation) == []
        assert 0 < len(observation["history"]) <= 60
        previous = observation
    assert TPCB.invariant(observe(database)) == []
    for after, base in ((5, None), (EVERYTHING, previous)):
        with pytest.raises(ValueError, match="continues"):
            TPCB.observation([], after, base)


def _take(part: str) -> Any:
    def change(seen: dict[str, Any]) -> None:
        del seen["now"][part][0]

    return change


def _double(seen: dict[str, Any]) -> None:
    seen["now"]["tellers"].append(seen["now"]["tellers"][3])


def _invent(seen: dict[str, Any]) -> None:
    seen["now"]["branches"].append([3, 0])


def _enrich(seen: dict[str, Any]) -> None:
    seen["now"]["tellers"][4][1] += 7


def _overwrite(seen: dict[str, Any]) -> None:
    """Two transactions began from one balance: the second's update is there, the first's is lost, all sums hold."""
    account = next(row[2] for row in seen["history"] if sum(other[2] == row[2] for other in seen["history"]) > 1)
    first, second = [row for row in seen["history"] if row[2] == account][:2]
    second[6] -= first[5]


def _stray(seen: dict[str, Any]) -> None:
    seen["misplaced"].append(["tpcb_teller", 3, 2])


def _unknown(seen: dict[str, Any]) -> None:
    seen["history"].append([999, 0, 77, 1, 1, 0, 0])


@pytest.mark.parametrize(
    ("change", "rule", "text"),
    [
        (_take("accounts"), Rule.INTEGRITY, "accounts: 1 is gone"),
        (_take("branches"), Rule.INTEGRITY, "branches: 1 is gone"),
        (_double, Rule.INTEGRITY, "tellers: 4 is there 2 times"),
        (_invent, Rule.INTEGRITY, "branches: 3 was never made"),
        (_enrich, Rule.ATOMICITY, "tellers: 5 holds"),
        (_enrich, Rule.ATOMICITY, "the balances of tellers grew by"),
        (_overwrite, Rule.INTEGRITY, "do not follow from each other"),
        (_stray, Rule.INTEGRITY, "tpcb_teller 3 says branch 2"),
        (_unknown, Rule.INTEGRITY, "names 77 of accounts, which was never made"),
    ],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_each_way_to_be_wrong_shows(database: Database, tmp_path: Path, change: Any, rule: Rule, text: str) -> None:
    run(database, tmp_path)
    seen = deepcopy(observe(database))
    change(seen)
    assert any(violation.rule is rule and text in violation.text for violation in TPCB.invariant(seen)), change


def test_a_row_moved_to_another_branch_is_seen_in_the_rows(database: Database) -> None:
    database.tables["tpcb_account"][5] = (5, 1, 0)
    assert observe(database)["misplaced"] == [["tpcb_account", 5, 1]]


def test_wrong_calls_and_what_was_not_set_up_are_refused(database: Database) -> None:
    for wrong in ({"branches": 0}, {"branches": 1001}, {"accounts": 0}):
        with pytest.raises(WorkloadError):
            call(Context(MemorySession(Database())), "tpcb_setup", **wrong)
    with pytest.raises(OrderlyError, match="42P07"):
        call(Context(MemorySession(database)), "tpcb_setup")
    database.tables["tpcb"] = {}
    with pytest.raises(WorkloadError, match="tpcb_setup"):
        call(Context(MemorySession(database)), "tpcb_observe")


def test_rows_of_an_operation_in_words(database: Database, tmp_path: Path) -> None:
    run(database, tmp_path)
    observation = observe(database)
    id_ = observation["history"][0][0]
    assert TPCB.found(id_, observation).startswith(f"tpcb_history holds (op {id_}, worker 0, account ")
    assert TPCB.found(12345, observation) == "no row of operation 12345 in tpcb_history"
