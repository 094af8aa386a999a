"""The load that a run reached: what its workloads asked of the server, what they were told, and how fast.

Owns how operations are counted and what the load time of a cycle is. A figure of the run and no judgement: no oracle
reads it, and a run that reached little is told so by the rule of the verified cycle (`chaos.verdict`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reports.verdict import FailureKind, Failures, LoadRate, ReachedLoad
from workloads.session import RETRIABLE, TRANSACTION_ROLLBACK
from workloads.workload import REFUSED, ROLLBACK_KIND, Operation, Outcome, cycle_of

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LoadedCycle:
    """What a cycle's plan says of its load, and when its first blow landed (CLOCK_MONOTONIC ns), if one did.

    `workers` does not count the client outside, whose worker number it is.
    """

    workload: str
    workers: int
    blow_ns: int | None


def reached_loads(cycles: Mapping[int, LoadedCycle], operations: Iterable[Operation]) -> tuple[ReachedLoad, ...]:
    """What each workload reached in these cycles; operations of other cycles are left out."""
    by_cycle: dict[int, list[Operation]] = {}
    for operation in operations:
        by_cycle.setdefault(cycle_of(operation.operation), []).append(operation)
    return sum_loads(
        _reached(cycle, asked) for number, cycle in sorted(cycles.items()) if (asked := by_cycle.get(number))
    )


def sum_loads(loads: Iterable[ReachedLoad]) -> tuple[ReachedLoad, ...]:
    """The loads of several cycles or sittings as one for each workload, by its name."""
    by_workload: dict[str, list[ReachedLoad]] = {}
    for load in loads:
        by_workload.setdefault(load.workload, []).append(load)
    return tuple(_sum(name, parts) for name, parts in sorted(by_workload.items()))


def _reached(cycle: LoadedCycle, asked: Sequence[Operation]) -> ReachedLoad:
    failed = Counter(
        (operation.sqlstate or "", _kind(operation)) for operation in asked if operation.outcome is Outcome.FAIL
    )
    return ReachedLoad(
        workload=cycle.workload,
        asked=dict(Counter(operation.kind for operation in asked)),
        acknowledged=sum(operation.outcome is Outcome.OK for operation in asked),
        failures=tuple(
            Failures(sqlstate=sqlstate, kind=kind, operations=count) for (sqlstate, kind), count in failed.items()
        ),
        unknown=sum(operation.outcome is Outcome.UNKNOWN for operation in asked),
        rates=_rates(cycle, asked),
    )


def _kind(failed: Operation) -> FailureKind:
    if failed.sqlstate in RETRIABLE:
        return FailureKind.RETRIABLE
    if failed.sqlstate is not None and failed.sqlstate == failed.values.get(REFUSED):
        return FailureKind.REFUSED
    # A rollback that failed for a reason of its own has another SQLSTATE.
    if failed.kind == ROLLBACK_KIND and failed.sqlstate == TRANSACTION_ROLLBACK:
        return FailureKind.ROLLED_BACK
    return FailureKind.UNFORESEEN


def _rates(cycle: LoadedCycle, asked: Sequence[Operation]) -> tuple[LoadRate, ...]:
    """The rate of one cycle; none when nothing was asked before the blow, or nothing answered."""
    # The first operation after a recovery has the worker number behind the client outside: it is no load.
    load = [operation for operation in asked if operation.worker <= cycle.workers]
    answers = [operation.answered_ns for operation in load if operation.answered_ns is not None]
    if not answers:
        return ()
    begun, ended = min(operation.invoked_ns for operation in load), max(answers)
    if cycle.blow_ns is not None and (len(answers) < len(load) or cycle.blow_ns < ended):
        ended = cycle.blow_ns
    if ended <= begun:
        return ()
    acknowledged = sum(
        operation.outcome is Outcome.OK and operation.answered_ns is not None and operation.answered_ns <= ended
        for operation in load
    )
    return (_rate(cycle.workers, 1, acknowledged, (ended - begun) / _NS),)


def _rate(workers: int, cycles: int, acknowledged: int, seconds: float) -> LoadRate:
    return LoadRate(
        workers=workers, cycles=cycles, acknowledged=acknowledged, seconds=seconds, per_second=acknowledged / seconds
    )


def _sum(workload: str, loads: Sequence[ReachedLoad]) -> ReachedLoad:
    asked: Counter[str] = Counter()
    failed: Counter[tuple[str, FailureKind]] = Counter()
    rates: dict[int, list[LoadRate]] = {}
    for load in loads:
        asked.update(load.asked)
        for failure in load.failures:
            failed[failure.sqlstate, failure.kind] += failure.operations
        for rate in load.rates:
            rates.setdefault(rate.workers, []).append(rate)
    return ReachedLoad(
        workload=workload,
        asked=dict(sorted(asked.items())),
        acknowledged=sum(load.acknowledged for load in loads),
        failures=tuple(
            Failures(sqlstate=sqlstate, kind=kind, operations=count)
            for (sqlstate, kind), count in sorted(failed.items())
        ),
        unknown=sum(load.unknown for load in loads),
        rates=tuple(
            _rate(
                workers,
                sum(rate.cycles for rate in parts),
                sum(rate.acknowledged for rate in parts),
                sum(rate.seconds for rate in parts),
            )
            for workers, parts in sorted(rates.items())
        ),
    )
