"""What a workload reached, counted from operations that are told by hand.

What could go wrong: an operation that is counted in no column or in two; a rollback on purpose that looks like a
server's failure, or a failure of the server's that looks like one; a rate that includes the time in which the server
was down, or the first operation after it; a worker that idles and still counts; rates of different numbers of workers
made one; a load that was over long before the blow, measured until the blow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from chaos.reached_load import LoadedCycle, reached_loads, sum_loads
from reports.verdict import FailureKind, Failures, ReachedLoad
from workloads.workload import REFUSED, Operation, Outcome, operation_id

MS = 1_000_000
OK, FAIL, UNKNOWN = Outcome.OK, Outcome.FAIL, Outcome.UNKNOWN


def told(
    outcome: Outcome,
    begun_ms: float,
    answered_ms: float | None,
    *,
    number: int = 0,
    cycle: int = 0,
    worker: int = 0,
    kind: str = "transfer",
    sqlstate: str | None = None,
    values: Mapping[str, Any] | None = None,
) -> Operation:
    """One operation; times are milliseconds."""
    return Operation(
        operation=operation_id(cycle, worker, number),
        worker=worker,
        kind=kind,
        values=values or {},
        outcome=outcome,
        pid=7,
        invoked_ns=round(begun_ms * MS),
        answered_ns=None if answered_ms is None else round(answered_ms * MS),
        sqlstate=sqlstate,
    )


def only(operations: list[Operation], blow_ms: float | None = 1000, workers: int = 2) -> ReachedLoad:
    """The load of a single cycle of the bank."""
    cycle = LoadedCycle("bank", workers, None if blow_ms is None else round(blow_ms * MS))
    (load,) = reached_loads({0: cycle}, operations)
    return load


def test_every_operation_is_in_one_column() -> None:
    load = only(
        [
            told(OK, 0, 1, number=0),
            told(OK, 1, 2, number=1, kind="read"),
            told(FAIL, 2, 3, number=2, sqlstate="40001"),
            told(UNKNOWN, 3, 4, number=3, sqlstate="57P01"),
            told(UNKNOWN, 4, None, number=4),
        ]
    )
    assert load.asked == {"read": 1, "transfer": 4}
    assert (load.operations, load.acknowledged, load.failed, load.unknown) == (5, 2, 1, 2)


@pytest.mark.parametrize(
    ("kind", "sqlstate", "values", "expected"),
    [
        ("rollback", "40000", {}, FailureKind.ROLLED_BACK),
        ("rollback", "40001", {}, FailureKind.RETRIABLE),
        ("rollback", "XX000", {}, FailureKind.UNFORESEEN),
        ("transfer", "40000", {}, FailureKind.UNFORESEEN),
        ("transfer", "40P01", {}, FailureKind.RETRIABLE),
        ("register", "23505", {REFUSED: "23505"}, FailureKind.REFUSED),
        ("register", "23503", {REFUSED: "23505"}, FailureKind.UNFORESEEN),
        ("register", "23505", {}, FailureKind.UNFORESEEN),
        ("transfer", None, {}, FailureKind.UNFORESEEN),
    ],
)
def test_a_failure_says_whether_it_was_meant(
    kind: str, sqlstate: str | None, values: dict[str, Any], expected: FailureKind
) -> None:
    load = only([told(FAIL, number, number + 1, number=number, kind=kind, sqlstate=sqlstate, values=values)
                 for number in range(3)])  # fmt: skip
    assert load.failures == (Failures(sqlstate=sqlstate or "", kind=expected, operations=3),)


@pytest.mark.parametrize(
    ("operations", "blow_ms", "acknowledged", "seconds"),
    [
        pytest.param([told(OK, 100, 150), told(UNKNOWN, 150, None, worker=1)], 600, 1, 0.5, id="under way at the blow"),
        pytest.param([told(OK, 100, 150), told(OK, 150, 700, worker=1)], 600, 1, 0.5, id="answered after the blow"),
        pytest.param([told(OK, 100, 150), told(OK, 150, 350, worker=1)], 600, 2, 0.25, id="over before the blow"),
        pytest.param([told(OK, 100, 150), told(OK, 150, 350, worker=1)], None, 2, 0.25, id="no blow"),
        pytest.param([told(OK, 100, 150), told(FAIL, 150, 300, number=1)], 600, 1, 0.2, id="failed last"),
        pytest.param([told(OK, 100, 600), told(OK, 700, 720, worker=3)], 600, 1, 0.5, id="the first commit afterwards"),
        pytest.param([told(OK, 100, 200), told(OK, 200, 600, worker=2)], 900, 2, 0.5, id="the client outside"),
    ],
)
def test_load_time_ends_with_the_blow_or_with_the_load(
    operations: list[Operation], blow_ms: float | None, acknowledged: int, seconds: float
) -> None:
    (rate,) = only(operations, blow_ms).rates
    assert (rate.workers, rate.cycles, rate.acknowledged) == (2, 1, acknowledged)
    assert rate.seconds == pytest.approx(seconds)
    assert rate.per_second == pytest.approx(acknowledged / seconds)


@pytest.mark.parametrize(
    ("operations", "blow_ms"),
    [([told(UNKNOWN, 100, None)], 600), ([told(UNKNOWN, 100, None)], None), ([told(OK, 100, 150)], 50)],
    ids=["nothing answered", "nothing answered, no blow", "a blow before the load"],
)
def test_a_cycle_without_load_time_has_no_rate(operations: list[Operation], blow_ms: float | None) -> None:
    load = only(operations, blow_ms)
    assert load.operations == 1
    assert load.rates == ()


def test_workloads_and_numbers_of_workers_are_told_apart_and_sums_are_of_alike() -> None:
    cycles = {
        0: LoadedCycle("bank", 2, None),
        1: LoadedCycle("append", 2, None),
        2: LoadedCycle("bank", 4, None),
        3: LoadedCycle("bank", 2, None),
        4: LoadedCycle("tpcb", 2, None),
    }
    operations = [
        told(OK, 0, 500, cycle=0),
        told(OK, 0, 100, cycle=1, kind="append"),
        told(OK, 0, 250, cycle=2),
        told(OK, 0, 500, cycle=3),
        told(FAIL, 500, 1500, cycle=3, number=1, kind="rollback", sqlstate="40000"),
        told(OK, 0, 100, cycle=9),
    ]
    loads = reached_loads(cycles, operations)
    assert [load.workload for load in loads] == ["append", "bank"], "tpcb was asked nothing, cycle 9 is nobody's"
    bank = loads[1]
    assert (bank.asked, bank.acknowledged, bank.failed) == ({"rollback": 1, "transfer": 3}, 3, 1)
    assert [(rate.workers, rate.cycles, rate.acknowledged, rate.seconds, rate.per_second) for rate in bank.rates] == [
        (2, 2, 2, 2.0, 1.0), (4, 1, 1, 0.25, 4.0),
    ]  # fmt: skip
    parts = [reached_loads({number: cycle}, operations) for number, cycle in cycles.items()]
    assert sum_loads(load for part in parts for load in part) == loads, "sittings add up as cycles do"
