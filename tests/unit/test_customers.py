"""People, orders and e-mails: what a run leaves is consistent, and duplicates are refused without ending anybody's work.

What could go wrong: a refused registration leaves its person or its log behind; an expected refusal hides an unexpected
one; people whose e-mails are not unique, so that the set-up itself is refused; checks that a cycle of its own cuts off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos.people import people, setup_arguments
from tests.support import calls
from tests.support.calls import Context, operations_of
from tests.support.memory_session import Database, MemorySession, OrderlyError
from workloads.customers import CUSTOMERS_MAX, DUPLICATE, OBSERVE_COLUMNS, PROCEDURES, WORKLOAD, Customers
from workloads.session import UNIQUE_VIOLATION, WorkloadError
from workloads.workload import EVERYTHING, ROLLBACK_KIND, Fate, Outcome, last_operation_of, operation_id

CUSTOMERS = Customers(4)


def call(context: Context, name: str, **values: Any) -> list[tuple[Any, ...]]:
    return calls.call(PROCEDURES, context, name, **values)


@pytest.fixture
def database() -> Database:
    database = Database()
    made = msgspec.json.encode(people(7, 4)).decode()
    call(Context(MemorySession(database)), "customers_setup", people=made)
    return database


def run(database: Database, directory: Path, cycle: int = 0) -> None:
    context = Context(MemorySession(database), directory)
    context.host.ns = cycle * 1_000_000
    call(context, "customers", worker=0, first=operation_id(cycle, 0, 0), transactions=100, seed=cycle)


def observe(database: Database, after: int = EVERYTHING, previous: dict[str, Any] | None = None) -> dict[str, Any]:
    rows = call(Context(MemorySession(database)), "customers_observe", after=after)
    assert all(len(row) == len(OBSERVE_COLUMNS) for row in rows)
    return CUSTOMERS.observation(rows, after, previous)


def test_a_run_is_consistent_and_tells_the_truth(database: Database, tmp_path: Path) -> None:
    run(database, tmp_path)
    operations, observation = operations_of(tmp_path), observe(database)
    assert CUSTOMERS.invariant(observation) == []
    fates = CUSTOMERS.fates(operations.values(), observation)
    assert len(fates) == len(operations) == 100
    for id_, operation in operations.items():
        assert fates[id_] is (Fate.COMMITTED if operation.outcome is Outcome.OK else Fate.ABSENT)
        assert (operation.kind in (ROLLBACK_KIND, DUPLICATE)) == (operation.outcome is Outcome.FAIL)
    refused = {operation.sqlstate for operation in operations.values() if operation.kind == DUPLICATE}
    assert refused == {UNIQUE_VIOLATION}
    assert {operation.kind for operation in operations.values()} == {
        "place", "change", "move", "register", DUPLICATE, ROLLBACK_KIND
    }  # fmt: skip


def test_requests_are_a_function_of_the_seed() -> None:
    requests = list(CUSTOMERS.requests(1, 100, 500, 99))
    assert requests == list(CUSTOMERS.requests(1, 100, 500, 99)) != list(CUSTOMERS.requests(1, 100, 500, 98))


def test_observations_continue_each_other(database: Database, tmp_path: Path) -> None:
    previous = None
    for cycle in range(3):
        run(database, tmp_path, cycle)
        previous = observe(database, EVERYTHING if previous is None else last_operation_of(cycle - 1), previous)
        assert CUSTOMERS.invariant(previous) == []
        assert min(row[0] for row in previous["log"]) >= operation_id(cycle, 0, 0)
        assert min(row[0] for row in previous["orders"] if row[0] >= 0) >= operation_id(cycle, 0, 0)
    assert CUSTOMERS.invariant(observe(database)) == []
    with pytest.raises(ValueError, match="continues another"):
        observe(database, 5)


def test_a_refusal_that_was_not_asked_for_ends_the_work(database: Database, tmp_path: Path) -> None:
    """A registration that finds its own new e-mail taken has met somebody else's, or a broken index."""
    register = next(r for r in CUSTOMERS.requests(0, 0, 100, 0) if r.kind == "register")
    database.tables["customers_email"][f"{register.operation}@new.example"] = (f"{register.operation}@new.example", -1)
    with pytest.raises(OrderlyError, match=UNIQUE_VIOLATION):
        run(database, tmp_path)


def test_an_accepted_duplicate_breaks_the_invariant(database: Database) -> None:
    observation = observe(database)
    _, email, _, _ = observation["people"][0]
    observation["people"].append([77, email, 0, 0])
    observation["log"].append([77, DUPLICATE, 77, 0])
    texts = [violation.text for violation in CUSTOMERS.invariant(observation)]
    assert any("have the e-mail" in text for text in texts)
    assert "operation 77 registered an e-mail that was taken" in texts


def test_the_people_are_those_of_the_seed_and_their_e_mails_differ() -> None:
    made = people(1)
    assert made == people(1) != people(2)
    assert len({person.email for person in made}) == len(made) == WORKLOAD.customers
    assert setup_arguments("customers", 1) == {"people": made}
    assert setup_arguments("bank", 1) == {}


@pytest.mark.parametrize("given", ["", "[]", '[["a", "b"]]', "7"])
def test_people_that_are_none_are_refused(given: str) -> None:
    with pytest.raises(WorkloadError) as refused:
        call(Context(MemorySession(Database())), "customers_setup", people=given)
    assert refused.value.sqlstate == "22023"


def test_customers_must_be_set_up() -> None:
    with pytest.raises(WorkloadError, match="outside the valid range"):
        Customers(CUSTOMERS_MAX + 1)
    database = Database()
    database.tables["customers"] = {}
    with pytest.raises(WorkloadError, match="CALL customers_setup"):
        call(Context(MemorySession(database)), "customers_observe")
