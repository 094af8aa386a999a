"""Lists that transactions append to and read: what they do is whole, and told, and each way to be wrong shows.

What could go wrong: an element that does not name its writer, a read that its record leaves out, a list that is closed
half-way, a transaction called lost because it only read, one that is torn and called whole, an older element that is
lost when the observation of a cycle looks at new ones only, a cycle of the bank judged as one of the lists. Observations
are those of a database in memory that keeps its word, taken apart by hand.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos.oracles import isolation
from chaos.oracles.data import NAMES, judge_latest, judge_run
from chaos.oracles.ledger import Ledger, judge_observation
from chaos.oracles.loss_window import loss_window
from chaos.oracles.wal_replay import Redo, recoveries
from reports.rundir import RunDirectory
from reports.verdict import OracleStatus
from tests.support import calls
from tests.support.bank_history import BANK, World
from tests.support.calls import Context
from tests.support.list_history import parse
from tests.support.memory_session import Clock, Database, MemorySession, OrderlyError
from workloads.append import OBSERVE_COLUMNS, PROCEDURES, STEPS, Append, element_of, writer_of
from workloads.history import History, HistoryWriter, parse_records, read_history
from workloads.session import READ_COMMITTED, REPEATABLE_READ, WorkloadError
from workloads.worker import run_requests
from workloads.workload import (
    EVERYTHING,
    ISOLATION,
    READ_KIND,
    ROLLBACK_KIND,
    Fate,
    Operation,
    Outcome,
    Request,
    operation_id,
)

LISTS = Append(slots=3, capacity=4)


def call(context: Context, name: str, **values: Any) -> list[tuple[Any, ...]]:
    return calls.call(PROCEDURES, context, name, **values)


@pytest.fixture
def database() -> Database:
    database = Database()
    LISTS.setup(MemorySession(database))
    return database


def run(database: Database, directory: Path, cycle: int = 0, count: int = 60, worker: int = 2) -> list[Operation]:
    """Run some requests of one worker; the operations as their history tells them."""
    directory.mkdir(exist_ok=True)
    context = Context(MemorySession(database), directory)
    context.host.ns = operation_id(cycle, worker, 0)
    call(context, "append", worker=worker, first=operation_id(cycle, worker, 0), transactions=count, seed=cycle + 1)
    history = read_history(parse_records(path.read_bytes())[0] for path in sorted(directory.glob("4711-*")))
    assert history.contradictions == ()
    return list(history.operations.values())


def observe(database: Database, after: int = EVERYTHING, previous: dict[str, Any] | None = None) -> dict[str, Any]:
    rows = call(Context(MemorySession(database)), "append_observe", after=after)
    assert all(len(row) == len(OBSERVE_COLUMNS) for row in rows)
    return LISTS.observation(rows, after, previous)


def texts(observation: dict[str, Any]) -> list[str]:
    return [violation.text for violation in LISTS.invariant(observation)]


def test_a_run_tells_what_it_did_and_what_it_read(database: Database, tmp_path: Path) -> None:
    operations = run(database, tmp_path)
    observation = observe(database)
    assert texts(observation) == []
    fates = LISTS.fates(operations, observation)
    kinds = Counter(operation.kind for operation in operations)
    assert set(kinds) == {"append", READ_KIND, ROLLBACK_KIND}
    grown: dict[int, list[int]] = {}
    for operation in operations:
        if operation.kind == READ_KIND:
            assert operation.operation not in fates, "it leaves no trace"
        else:
            committed = operation.outcome is Outcome.OK
            assert fates[operation.operation] is (Fate.COMMITTED if committed else Fate.ABSENT)
        assert (operation.read is not None) == (operation.outcome is Outcome.OK)
        for (slot, element), (key, what) in zip(operation.values[STEPS], operation.read or (), strict=False):
            assert key % LISTS.slots == slot
            if element is None:
                assert what == grown.get(key, [])
            else:
                assert what == element and writer_of(element) == operation.operation
                grown.setdefault(key, []).append(element)
    assert grown == {key: elements for key, elements in LISTS.lists(observation).items() if elements}
    assert len(observation["closed"]) > 3, "lists were full, and others were begun"


def test_requests_are_a_function_of_the_seed() -> None:
    first = list(LISTS.requests(1, 100, 500, 99))
    assert first == list(LISTS.requests(1, 100, 500, 99))
    assert first != list(LISTS.requests(1, 100, 500, 98))
    assert [request.operation for request in first] == list(range(100, 600))
    assert Counter(len(request.values[STEPS]) for request in first).keys() == {1, 2, 3, 4}
    assert {request.values[ISOLATION] for request in first} == {READ_COMMITTED, REPEATABLE_READ}
    for request in first:
        appends = [(slot, element) for slot, element in request.values[STEPS] if element is not None]
        assert appends == sorted(appends), "in slot order, so that no two transactions wait for each other"
        assert [element for _, element in appends] == [
            element_of(request.operation, step) for step, (_, e) in enumerate(request.values[STEPS]) if e is not None
        ]
        assert bool(appends) == (request.kind != READ_KIND), "what is rolled back has done something"


def test_a_transaction_begins_at_the_level_that_its_request_asks_for(database: Database, tmp_path: Path) -> None:
    session = MemorySession(database)
    call(Context(session, tmp_path), "append", worker=0, first=0, transactions=40, seed=1)
    begun = [line.removeprefix("begin ") for line in session.log if line.startswith("begin")]
    assert begun == [request.values[ISOLATION] for request in LISTS.requests(0, 0, 40, 1)]


def test_an_append_locks_its_list_and_a_read_does_not(database: Database) -> None:
    session = MemorySession(database)
    session.begin()
    read = LISTS.perform(session, Request(5, 0, "append", {STEPS: [[1, None], [2, element_of(5, 1)]]}))
    assert read == [(1, ()), (2, 21)]
    assert [line for line in session.log if line.startswith("lock")] == ["lock append_open 2"]


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_a_retriable_error_fails_one_operation_and_the_next_follows(
    database: Database, tmp_path: Path, sqlstate: str
) -> None:
    session = MemorySession(database, {("update", 3): OrderlyError(sqlstate)})
    writer = HistoryWriter(str(tmp_path), 1, Clock(database).now_ns)
    requests = list(LISTS.requests(0, 0, 30, 5))
    run_requests(LISTS.perform, session, requests, writer, lambda: None)
    (path,) = tmp_path.iterdir()
    operations = read_history([parse_records(path.read_bytes())[0]]).operations
    assert [o.sqlstate for o in operations.values() if o.sqlstate not in (None, "40000")] == [sqlstate]
    assert texts(observe(database)) == []


def test_a_client_outside_is_told_what_its_request_read(database: Database) -> None:
    context = Context(MemorySession(database))
    seed, request = next(
        (seed, request)
        for seed in range(100)
        if len((request := next(LISTS.requests(3, 7, 1, seed))).values[STEPS]) > 1 and request.kind == "append"
    )
    ((committed, failed, read),) = call(context, "append", worker=3, first=7, transactions=1, seed=seed, history=False)
    assert (committed, failed) == (1, 0)
    told = msgspec.json.decode(read)
    assert [what for _, what in told if isinstance(what, int)] == [e for _, e in request.values[STEPS] if e is not None]


def test_elements_come_over_a_connection_as_text(database: Database, tmp_path: Path) -> None:
    run(database, tmp_path)
    rows = call(Context(MemorySession(database)), "append_observe")
    as_text = [(kind, key, f"\\x{elements.hex()}") for kind, key, elements in rows]
    assert LISTS.observation(as_text, EVERYTHING, None) == observe(database)


def test_observations_continue_each_other(database: Database, tmp_path: Path) -> None:
    previous: dict[str, Any] | None = None
    for cycle in range(4):
        operations = run(database, tmp_path / str(cycle), cycle, count=20)
        after = EVERYTHING if previous is None else operation_id(cycle, 0, 0) - 1
        observation = observe(database, after, previous)
        assert texts(observation) == []
        changing = {o.operation for o in operations if o.kind != READ_KIND}
        assert set(LISTS.fates(operations, observation)) == changing, "no strangers: older elements are not new"
        previous = observation
    assert len(previous["closed"] if previous else ()) < len(observe(database)["closed"])
    assert texts(observe(database)) == []
    for wrong, base in ((5, None), (EVERYTHING, previous)):
        with pytest.raises(ValueError, match="continues"):
            LISTS.observation([], wrong, base)


def test_a_list_that_was_full_and_is_closed_since_is_not_missed(database: Database) -> None:
    def append(operation: int) -> None:
        session = MemorySession(database)
        session.begin()
        LISTS.perform(session, Request(operation, 0, "append", {STEPS: [[0, element_of(operation, 0)]]}))
        session.commit()

    for operation in range(4):
        append(operation)
    before = observe(database)
    append(operation_id(1, 0, 0))
    observation = observe(database, operation_id(1, 0, 0) - 1, before)
    assert texts(observation) == []
    assert LISTS.lists(observation)[0] == [0, 4, 8, 12], "what was read of it this cycle is known"


@pytest.fixture
def good(database: Database, tmp_path: Path) -> tuple[list[Operation], dict[str, Any]]:
    operations = run(database, tmp_path, count=40)
    return operations, observe(database)


def all_lists(observation: dict[str, Any]) -> list[list[int]]:
    return [elements for _, elements in (*observation["open"], *observation["closed"])]


def fate_of(operation: Operation, observation: dict[str, Any]) -> Fate:
    return LISTS.fates([operation], observation)[operation.operation]


def test_each_way_to_be_wrong_shows(good: tuple[list[Operation], dict[str, Any]]) -> None:
    operations, observation = good
    two = next(o for o in operations if o.outcome is Outcome.OK and sum(e is not None for _, e in o.values[STEPS]) == 2)
    slot, element = next((slot, e) for slot, e in two.values[STEPS] if e is not None)
    assert fate_of(two, observation) is Fate.COMMITTED
    half, none, moved, doubled = (deepcopy(observation) for _ in range(4))
    for elements in all_lists(half):
        if element in elements:
            elements.remove(element)
    assert fate_of(two, half) is Fate.TORN
    for elements in all_lists(none):
        elements[:] = [e for e in elements if writer_of(e) != two.operation]
    assert fate_of(two, none) is Fate.ABSENT
    assert LISTS.found(two.operation, none) == f"no element of operation {two.operation} in any list"
    moved["open"][(slot + 1) % LISTS.slots][1].append(element)
    for key, elements in (*moved["open"], *moved["closed"]):
        if key % LISTS.slots == slot and element in elements:
            elements.remove(element)
    assert fate_of(two, moved) is Fate.TORN
    doubled["open"][slot][1].append(element)
    assert fate_of(two, doubled) is Fate.TORN
    assert LISTS.found(two.operation, doubled).count(f"element {element} at place") == 2
    # Nobody asked for these.
    observation["open"][0][1].append(element_of(999, 0))
    assert LISTS.fates(operations, observation)[999] is Fate.COMMITTED
    reader = next(o for o in operations if o.kind == READ_KIND)
    observation["open"][0][1].append(element_of(reader.operation, 0))
    assert fate_of(reader, observation) is Fate.TORN, "it was to append nothing"


def test_lists_are_all_there_once_and_closed_when_full(good: tuple[list[Operation], dict[str, Any]]) -> None:
    _, observation = good
    closed, opened = observation["closed"], observation["open"]
    key, elements = closed[1]
    for wrong, expected in (
        ({"closed": [closed[0], *closed[2:]]}, [f"list {key} is gone"]),
        ({"closed": [*closed, closed[1]]}, [f"list {key} is there 2 times"]),
        ({"closed": [*closed, [300, elements]]}, ["list 300 was never opened"]),
        ({"closed": [closed[0], [key, elements[:3]], *closed[2:]]}, [f"closed list {key} has 3 elements instead of 4"]),
        ({"open": [[opened[0][0], [1] * 5], *opened[1:]]}, [f"open list {opened[0][0]} has 5 elements, more than 4"]),
        ({"open": opened[1:]}, ["the open list of slot 0 is gone"]),
        # A slot's old row beside its new one, and each element there once.
        (
            {"open": [closed[1], *opened], "closed": [closed[0], *closed[2:]]},
            [f"slot {key % LISTS.slots} has 2 open lists"],
        ),
    ):
        assert texts({**observation, **wrong}) == expected


def test_a_list_that_does_not_continue_what_was_there_breaks_the_invariant(database: Database, tmp_path: Path) -> None:
    run(database, tmp_path / "0", 0, count=12)
    before = observe(database)
    run(database, tmp_path / "1", 1, count=12)
    observation = observe(database, operation_id(1, 0, 0) - 1, before)
    key, elements = next((key, elements) for key, elements in observation["base"] if elements)
    (found,) = (now for k, now in (*observation["open"], *observation["closed"]) if k == key)
    lost = found.pop(0)
    lines = texts(observation)
    assert any(f"list {key} held {len(elements)} elements" in t and f"element 1 was {lost}" in t for t in lines)
    back = {**observation, "open": [[slot, []] for slot in range(3)], "closed": []}
    assert any("was open after the recovery before" in line for line in texts(back))


def test_wrong_calls_are_refused(database: Database) -> None:
    for wrong in ({"slots": 0}, {"slots": 1001}, {"capacity": 0}, {"capacity": 501}):
        with pytest.raises(WorkloadError) as raised:
            call(Context(MemorySession(Database())), "append_setup", **wrong)
        assert raised.value.sqlstate == "22023"
    with pytest.raises(OrderlyError, match="42P07"):
        call(Context(MemorySession(database)), "append_setup")
    empty = Database()
    empty.tables["append"] = {}
    with pytest.raises(WorkloadError, match="append_setup"):
        call(Context(MemorySession(empty)), "append_observe")
    del database.tables["append_open"][1]
    for step in ([1, None], [1, 3]):
        with pytest.raises(WorkloadError) as raised:
            LISTS.perform(MemorySession(database), Request(0, 0, "append", {STEPS: [step]}))
        assert raised.value.sqlstate == "P0002"


# In the judge.


def test_transactions_that_only_read_are_covered_and_have_no_entry(
    good: tuple[list[Operation], dict[str, Any]],
) -> None:
    operations, observation = good
    history = History({operation.operation: operation for operation in operations})
    judgement = judge_observation(LISTS, history, first_cycle=0, cycle=0, t=9, observation=observation)
    ledger = Ledger(LISTS, [judgement])
    assert ledger.covered == set(history.operations)
    assert set(ledger.entries) == {o.operation for o in operations if o.kind != READ_KIND}
    assert ledger.unjudged(history, 0, 0) == ()
    count = isolation.judge(ledger)
    assert count is not None and count.failures == 0 and count.trials > 10


def test_what_was_read_just_before_an_asynchronous_crash_may_be_gone_and_not_before_that() -> None:
    """T1 got no answer and is gone. T2, which read its element and was told ok, may have been taken back with it, but
    only if it was told so within the window."""
    operations, lists = parse("""
        x: 0
        T1 rc unknown: append x
        T2 rc ok: read x = 0 1""")
    observation = {"after": EVERYTHING, "base": [], "open": list(lists.items()), "closed": []}
    history = History({operation.operation: operation for operation in operations})
    judgement = judge_observation(LISTS, history, first_cycle=0, cycle=0, t=9, observation=observation)

    def failures(window_ns: int) -> int | None:
        count = isolation.judge(Ledger(LISTS, [judgement], loss_window([(6, 7)], window_ns)))
        return None if count is None else count.failures

    assert [operation.answered_ns for operation in operations] == [None, 5]
    assert [failures(window_ns) for window_ns in (0, 1, 3)] == [1, 0, 0]
    assert isolation.judge(Ledger(LISTS, [judgement], loss_window([(20, 21)], 3))) == isolation.judge(
        Ledger(LISTS, [judgement])
    )


def test_a_transaction_that_only_read_is_no_commit_that_redo_must_bring_back() -> None:
    read = Operation(1, 0, READ_KIND, {}, Outcome.OK, 7, 5, 6)
    harness = [
        {"ev": "cycle_begin", "cycle": 0, "t": 1},
        {"ev": "ready", "cycle": 0, "t": 20},
        {"ev": "cycle_end", "cycle": 0, "t": 21},
    ]
    journal = [
        {"ev": "redo_begin", "t": 10, "lsn": 1},
        {"ev": "redo_end", "t": 11, "lsn": 1, "records": 0, "pages_changed": 0},
        {"ev": "ready", "t": 12},
    ]
    (recovery,) = recoveries(harness, journal, History({1: read}))
    assert recovery.commits == 0
    assert recovery.redo == (Redo(begin_lsn=1, end_lsn=1, records=0, pages_changed=0, end_reason=""),)


def write_mixed_run(base: Path, database: Database) -> RunDirectory:
    """A run of three cycles of one epoch: one of the lists, one of the bank without operations, one of the lists."""
    directory = RunDirectory.create(base, 1)
    harness, observed = directory.harness_writer(), directory.observed_writer()
    previous: dict[str, Any] | None = None
    for cycle, name in enumerate(("append", "bank", "append")):
        t = operation_id(cycle, 0, 0)
        harness.append({"t": t, "ev": "cycle_begin", "cycle": cycle, "epoch": 0, "plan": {"workload": name}})
        if name == "append":
            run(database, directory.history, cycle, count=30)
            after = EVERYTHING if previous is None else operation_id(1, 0, 0) - 1
            observation = previous = observe(database, after, previous)
        else:
            observation = World([]).observe()
        observed.append(
            {"t": t + 2_000_000_000, "cycle": cycle, "workload": name, "everything": False, "observation": observation}
        )
        harness.append({"t": t + 3_000_000_000, "ev": "cycle_end", "cycle": cycle})
    for workload, observation in (("append", observe(database)), ("bank", World([]).observe())):
        observed.append({"t": 0, "cycle": 2, "workload": workload, "everything": True, "observation": observation})
    harness.close()
    observed.close()
    return directory


def test_each_workload_is_judged_by_its_own_cycles(database: Database, tmp_path: Path) -> None:
    directory = write_mixed_run(tmp_path, database)
    workloads = {"append": LISTS, "bank": BANK}
    judged = judge_run(directory, workloads)
    assert [result.name for result in judged.results] == list(NAMES)
    rows = {result.name: result for result in judged.results}
    assert [name for name, row in rows.items() if row.failed] == []
    assert rows["isolation"].status is OracleStatus.HELD and rows["isolation"].trials > 10
    assert {cycle: counts.unjudged for cycle, counts in judged.cycles.items()} == {0: 0, 1: 0, 2: 0}
    # The newest observation is the bank's: it is judged by the bank's cycle alone.
    latest = judge_latest(directory, workloads)
    assert list(latest.cycles) == [1] and latest.ledger.total == 0
    assert "isolation" not in {result.name for result in latest.results}, "the bank has no lists"
