"""The bank: a transfer is whole, its history tells the truth, and an observation shows each way to be wrong.

What could go wrong: a failed transfer told as done, an error from COMMIT told as a failure although the commit
record may be on disk, a retry that hides a finding, accounts locked in two orders, a client's own operation
told as acknowledged when the procedure swallowed its error, an invariant that a lost transfer leaves intact.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import calls
from tests.support.calls import Context, operations_of
from tests.support.memory_session import Clock, Database, MemorySession, OrderlyError
from workloads import bank as bank_module
from workloads.bank import OBSERVE_COLUMNS, PROCEDURES, TRANSFER_KIND, Bank
from workloads.history import HistoryWriter
from workloads.session import WorkloadError, ends_session, sqlstate_of, surely_aborted
from workloads.worker import record_answer
from workloads.workload import EVERYTHING, ROLLBACK_KIND, Fate, Operation, Outcome, Request, Rule, operation_id

BANK = Bank(10, 1000)


def call(context: Context, name: str, **values: Any) -> list[tuple[Any, ...]]:
    return calls.call(PROCEDURES, context, name, **values)


@pytest.fixture
def database() -> Database:
    database = Database()
    BANK.setup(MemorySession(database))
    return database


def observe(database: Database, after: int = EVERYTHING, previous: dict[str, Any] | None = None) -> dict[str, Any]:
    rows = call(Context(MemorySession(database), None), "bank_observe", after=after)
    assert all(len(row) == len(OBSERVE_COLUMNS) for row in rows)
    return BANK.observation(rows, after, previous)


def test_a_run_moves_money_and_tells_the_truth(database: Database, tmp_path: Path) -> None:
    context = Context(MemorySession(database), tmp_path)
    ((committed, failed),) = call(context, "bank", worker=2, first=operation_id(0, 2, 0), transactions=100, seed=7)
    operations = operations_of(tmp_path)
    assert len(operations) == 100 == committed + failed
    observation = observe(database)
    assert BANK.invariant(observation) == []
    assert sum(balance for _, balance in observation["accounts"]) == 10 * 1000
    fates = BANK.fates(operations.values(), observation)
    assert set(fates) == set(operations)
    for id_, operation in operations.items():
        expected = Fate.COMMITTED if operation.outcome is Outcome.OK else Fate.ABSENT
        assert fates[id_] is expected
        assert (operation.kind == ROLLBACK_KIND) == (operation.sqlstate == "40000")
    assert sum(fate is Fate.COMMITTED for fate in fates.values()) == committed
    assert 0 < failed < 20, "one request in 16 is rolled back on purpose"


def test_requests_are_a_function_of_the_seed() -> None:
    first = list(BANK.requests(1, 100, 50, 99))
    assert first == list(BANK.requests(1, 100, 50, 99))
    assert first != list(BANK.requests(1, 100, 50, 98))
    assert [request.operation for request in first] == list(range(100, 150))
    for request in Bank(2).requests(0, 0, 500, 3):
        assert {request.values["source"], request.values["target"]} == {1, 2}
        assert 1 <= request.values["amount"] <= 100


def test_accounts_are_locked_in_key_order(database: Database, tmp_path: Path) -> None:
    session = MemorySession(database)
    call(Context(session, tmp_path), "bank", worker=0, first=0, transactions=200, seed=1)
    locks = [int(line.split()[-1]) for line in session.log if line.startswith("lock")]
    pairs = list(zip(locks[::2], locks[1::2], strict=True))
    assert len(pairs) == 200
    assert all(low < high for low, high in pairs)


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03"])
def test_a_retriable_error_fails_one_operation_and_the_next_follows(
    database: Database, tmp_path: Path, sqlstate: str
) -> None:
    session = MemorySession(database, {("update", 3): OrderlyError(sqlstate)})
    call(Context(session, tmp_path), "bank", worker=0, first=0, transactions=10, seed=4)
    operations = operations_of(tmp_path)
    assert len(operations) == 10
    assert [op.sqlstate for op in operations.values() if op.kind == TRANSFER_KIND and op.sqlstate] == [sqlstate]
    assert BANK.invariant(observe(database)) == []


def test_another_error_before_commit_is_a_failure_and_is_raised(database: Database, tmp_path: Path) -> None:
    session = MemorySession(database, {("insert", 2): OrderlyError("XX001")})
    with pytest.raises(OrderlyError):
        call(Context(session, tmp_path), "bank", worker=0, first=0, transactions=10, seed=4)
    *_, last = operations_of(tmp_path).values()
    assert (last.outcome, last.sqlstate) == (Outcome.FAIL, "XX001")
    assert not session.in_transaction


@pytest.mark.parametrize("after", [False, True], ids=["record-not-written", "record-written"])
def test_an_error_from_commit_that_proves_nothing_is_unknown(database: Database, tmp_path: Path, after: bool) -> None:
    session = MemorySession(database, {("commit", 2): OrderlyError("XX000")}, errors_after=after)
    with pytest.raises(OrderlyError):
        call(Context(session, tmp_path), "bank", worker=0, first=0, transactions=10, seed=4)
    *_, last = operations_of(tmp_path).values()
    assert (last.outcome, last.sqlstate) == (Outcome.UNKNOWN, "XX000")
    assert BANK.fates([last], observe(database))[last.operation] is (Fate.COMMITTED if after else Fate.ABSENT)


def test_a_commit_that_rolled_back_is_a_failure(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = MemorySession(database)
    monkeypatch.setattr(session, "commit", lambda: False)
    with pytest.raises(WorkloadError):
        call(Context(session, tmp_path), "bank", worker=0, first=0, transactions=1, seed=4)
    (operation,) = operations_of(tmp_path).values()
    assert (operation.outcome, operation.sqlstate) == (Outcome.FAIL, "25P02")


@pytest.mark.parametrize("error", [OrderlyError("57P01"), RuntimeError("not orderly")], ids=["fatal", "disorderly"])
def test_what_ends_the_session_leaves_no_answer(database: Database, tmp_path: Path, error: Exception) -> None:
    session = MemorySession(database, {("update", 1): error})
    with pytest.raises(type(error)):
        call(Context(session, tmp_path), "bank", worker=0, first=0, transactions=10, seed=4)
    (operation,) = operations_of(tmp_path).values()
    assert (operation.outcome, operation.answered_ns) == (Outcome.UNKNOWN, None)
    assert "rollback" not in session.log, "the session is not ours to use any more"


def test_an_outside_operation_is_acknowledged_by_its_end_alone(database: Database, tmp_path: Path) -> None:
    requests = list(BANK.requests(5, 0, 400, 11))
    kept = next(i for i, request in enumerate(requests) if request.kind == TRANSFER_KIND)
    seeds = range(400)
    kinds = {next(BANK.requests(5, 0, 1, seed)).kind: seed for seed in seeds}
    context = Context(MemorySession(database), None)
    values = {"worker": 5, "first": kept, "transactions": 1, "history": False}
    assert call(context, "bank", seed=kinds[TRANSFER_KIND], **values) == [(1, 0)]
    with pytest.raises(WorkloadError) as raised:
        call(context, "bank", seed=kinds[ROLLBACK_KIND], **values | {"first": 500})
    assert raised.value.sqlstate == "40000"
    failing = Context(MemorySession(database, {("get", 2): OrderlyError("40001")}), None)
    with pytest.raises(OrderlyError):
        call(failing, "bank", seed=kinds[TRANSFER_KIND], **values | {"first": 501})
    assert not failing.session.in_transaction
    assert [row[0] for row in observe(database)["transfers"]] == [kept]
    assert list(tmp_path.iterdir()) == []


def test_what_a_client_was_told_is_recorded(tmp_path: Path) -> None:
    writer = HistoryWriter(str(tmp_path), 1, Clock(Database()).now_ns)
    answers: list[BaseException | None] = [
        None,
        OrderlyError("40001"),
        OrderlyError("57P01"),
        OrderlyError("XX000"),
        ConnectionResetError(),
    ]
    for number, error in enumerate(answers):
        request = Request(number, 0, TRANSFER_KIND, {})
        writer.invoke(request)
        record_answer(writer, request, error)
    writer.close()
    outcomes = [operation.outcome for operation in operations_of(tmp_path).values()]
    assert outcomes == [Outcome.OK, Outcome.FAIL, Outcome.UNKNOWN, Outcome.UNKNOWN, Outcome.UNKNOWN]


def test_wrong_calls_are_refused(database: Database, tmp_path: Path) -> None:
    context = Context(MemorySession(database), tmp_path)
    good = {"worker": 0, "first": 0, "transactions": 1, "seed": 1}
    for wrong in (
        {"worker": -1},
        {"worker": 4096},
        {"first": -1},
        {"transactions": 0},
        {"transactions": (1 << 20) + 1},
        {"first": (1 << 63) - 1},
        {"transactions": 2, "history": False},
    ):
        with pytest.raises(WorkloadError) as raised:
            call(context, "bank", **{**good, **wrong})
        assert raised.value.sqlstate == "22023"
    with pytest.raises(WorkloadError, match="history_directory"):
        call(Context(context.session, None), "bank", **good)
    for accounts in (1, 0, 100_001):
        with pytest.raises(WorkloadError):
            call(Context(MemorySession(Database()), None), "bank_setup", accounts=accounts)
    with pytest.raises(OrderlyError, match="42P07"):
        call(context, "bank_setup")
    assert list(tmp_path.iterdir()) == []


def test_a_bank_that_was_not_set_up_says_so() -> None:
    database = Database()
    database.tables["bank"] = {}
    with pytest.raises(WorkloadError, match="bank_setup"):
        call(Context(MemorySession(database), None), "bank_observe")


def test_requests_are_those_of_the_bank_that_was_set_up(database: Database, tmp_path: Path) -> None:
    """The outside client computes what it asks for: an account lost by the server must not change it."""
    del database.tables["bank_account"][10]
    seed = next(seed for seed in range(400) if 10 in next(BANK.requests(0, 0, 1, seed)).values.values())
    with pytest.raises(WorkloadError) as raised:
        call(Context(MemorySession(database), tmp_path), "bank", worker=0, first=0, transactions=1, seed=seed)
    assert raised.value.sqlstate == "P0002"


def test_observations_continue_each_other(database: Database, tmp_path: Path) -> None:
    previous = None
    for cycle in range(3):
        context = Context(MemorySession(database), tmp_path)
        context.host.ns = cycle * 1_000_000
        call(context, "bank", worker=0, first=operation_id(cycle, 0, 0), transactions=30, seed=cycle)
        after = operation_id(cycle, 0, 0) - 1 if previous else EVERYTHING
        observation = observe(database, after, previous)
        assert BANK.invariant(observation) == []
        assert len(observation["transfers"]) <= 30
        previous = observation
    assert BANK.invariant(observe(database)) == []
    for after, base in ((5, None), (EVERYTHING, previous)):
        with pytest.raises(ValueError, match="continues"):
            BANK.observation([], after, base)


def committed(database: Database, tmp_path: Path) -> tuple[dict[str, Any], list[Operation]]:
    call(Context(MemorySession(database), tmp_path), "bank", worker=0, first=0, transactions=40, seed=3)
    operations = [op for op in operations_of(tmp_path).values() if op.outcome is Outcome.OK]
    return observe(database), operations


def test_each_way_to_be_wrong_shows(database: Database, tmp_path: Path) -> None:
    good, operations = committed(database, tmp_path)

    def changed(**parts: Any) -> dict[str, Any]:
        return {**good, **parts}

    rows, accounts = good["transfers"], good["accounts"]
    id_ = rows[4][0]
    by_id = {operation.operation: operation for operation in operations}
    # The row goes, its money stays: absent, and the balances say so too.
    gone = changed(transfers=[row for row in rows if row[0] != id_])
    assert BANK.fates([by_id[id_]], gone)[id_] is Fate.ABSENT
    assert {violation.rule for violation in BANK.invariant(gone)} == {Rule.ATOMICITY}
    # The row is there with another amount.
    torn = changed(transfers=[[*row[:4], row[4] + 1] if row[0] == id_ else row for row in rows])
    assert BANK.fates([by_id[id_]], torn)[id_] is Fate.TORN
    # The row is there twice.
    assert BANK.fates([by_id[id_]], changed(transfers=[*rows, rows[4]]))[id_] is Fate.TORN
    # A row that nobody asked for.
    invented = [999, 0, 1, 2, 5]
    assert BANK.fates(operations, changed(transfers=[*rows, invented]))[999] is Fate.COMMITTED
    # The row is there, its money did not move.
    _, _, source, target, amount = rows[4]
    money = dict(accounts)
    money[source] += amount
    money[target] -= amount
    unmoved = changed(accounts=[list(item) for item in money.items()])
    violations = BANK.invariant(unmoved)
    assert [violation.rule for violation in violations] == [Rule.ATOMICITY] * 2
    assert f"operation {id_} were there" in violations[0].text
    assert sum(money.values()) == 10 * 1000, "a constant sum alone sees none of this"


def test_accounts_are_all_there_once(database: Database, tmp_path: Path) -> None:
    good, _ = committed(database, tmp_path)
    accounts = good["accounts"]
    for wrong, text in (
        (accounts[1:], "account 1 is gone"),
        ([*accounts, accounts[0]], "account 1 is there 2 times"),
        ([*accounts, [11, 0]], "account 11 was never opened"),
    ):
        texts = [v.text for v in BANK.invariant({**good, "accounts": wrong}) if v.rule is Rule.INTEGRITY]
        assert texts == [text]
    stranger = {**good, "transfers": [*good["transfers"], [999, 0, 1, 77, 5]]}
    assert any("names account 77" in violation.text for violation in BANK.invariant(stranger))
    assert any("starts from" in v.text for v in BANK.invariant({**good, "base": [[1, 5]]}))


def test_sqlstates_are_read_for_what_they_prove() -> None:
    assert sqlstate_of(OrderlyError("40001")) == "40001"
    assert sqlstate_of(RuntimeError()) is None
    assert sqlstate_of(OrderlyError("")) is None
    assert [s for s in ("40001", "40P01", "40003", "23505", "57P01", "XX000", "25P02") if surely_aborted(s)] == [
        "40001",
        "40P01",
        "23505",
        "25P02",
    ]
    assert [s for s in ("08006", "57P01", "57014", "40001") if ends_session(s)] == ["08006", "57P01"]


def test_a_server_process_that_preloads_it_loads_nothing_heavy() -> None:
    def loaded_by(module: str) -> set[str]:
        program = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
        root = Path(bank_module.__file__).parents[1]
        run = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
        return set(run.stdout.split())

    mine = (loaded_by("workloads.bank") | loaded_by("workloads.append")) - loaded_by("msgspec")
    assert mine - sys.stdlib_module_names == {"workloads"}
    assert not mine & {"asyncio", "subprocess", "multiprocessing", "concurrent"}
