"""The durability ledger: what clients were told, against what the recovered server held.

Owns the joining of a run's history with what was observed, observation by observation, and the life of each
operation over the observations of an epoch. The four oracles of data (durability, atomicity, resurrection,
invariant) are functions of it. Pure: it reads values, never a server or a file.

An operation is judged by every observation that covers it: the one of its cycle, and the one at the epoch's
end that covers all. So a loss that comes later than the first look is still seen, also of an operation whose
answer never came: once it was seen committed it must stay, once absent it must stay away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from chaos.oracles.loss_window import LossWindow
from chaos.oracles.oracle import DETAILED, Failure, OracleResult
from reports import verdict as report
from reports.verdict import OracleStatus
from workloads.history import History
from workloads.workload import (
    Fate,
    Observation,
    Operation,
    Outcome,
    Violation,
    Workload,
    last_operation_of,
)


@dataclass(frozen=True, slots=True)
class Count:
    """What one oracle came to: how many could have broken its rule, how many did, and the first of those told."""

    trials: int
    failures: int
    told: tuple[Failure, ...] = ()

    def result(self, name: str, title: str) -> OracleResult:
        """The answer: failed with any failure, held with trials and none, else not judged."""
        unbroken = OracleStatus.HELD if self.trials else OracleStatus.NOT_JUDGED
        status = OracleStatus.FAILED if self.failures else unbroken
        return OracleResult(
            name=name,
            title=title,
            status=status,
            trials=self.trials,
            failed=self.failures,
            failures=self.told,
            reason="" if self.trials else "nothing happened that could have broken the rule",
        )


Story = tuple[int, int, str, Callable[[], tuple[str, ...]]]
"""One failure on its way: the cycle it was seen in, when, what it is, and what finds the lines that show it."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One observation, made at `t` (CLOCK_MONOTONIC ns), joined with the history that it covers.

    `fates` holds each covered operation's fate; `strangers` those of operations found but never invoked.
    """

    cycle: int
    t: int
    observation: Observation
    operations: Mapping[int, Operation]
    fates: Mapping[int, Fate]
    strangers: Mapping[int, Fate]
    violations: tuple[Violation, ...]


def judge_observation(
    workload: Workload, history: History, *, first_cycle: int, cycle: int, t: int, observation: Observation
) -> Judgement:
    """Join what was observed after `cycle` with the history of what it covers.

    `first_cycle` is the first of the epoch: the cluster is younger than the operations before. Operations
    of later cycles are left out, so a run's whole history may be given. Operations whose records contradict
    each other are not judged; nor is what was found of them.
    """
    after = max(observation["after"], last_operation_of(first_cycle - 1))
    operations = {
        operation.operation: operation
        for operation in history.between(after, last_operation_of(cycle))
        if operation.operation not in history.contradicted
    }
    fates = {
        id_: fate
        for id_, fate in workload.fates(operations.values(), observation).items()
        if id_ not in history.contradicted
    }
    return Judgement(
        cycle=cycle,
        t=t,
        observation=observation,
        operations=operations,
        fates={id_: fate for id_, fate in fates.items() if id_ in operations},
        strangers={id_: fate for id_, fate in fates.items() if id_ not in operations},
        violations=tuple(workload.invariant(observation)),
    )


@dataclass(slots=True)
class Entry:
    """One operation's life: what was asked and told, and each fate it was seen with, oldest first."""

    operation: Operation
    seen: list[tuple[int, Fate, Judgement]] = field(default_factory=list)

    @property
    def fate(self) -> Fate:
        """The last one seen."""
        return self.seen[-1][1]

    def turned(self, before: Fate, now: Fate) -> Judgement | None:
        """The judgement that first saw `now` after an earlier one had seen `before`; None if none did."""
        was = False
        for _, fate, judgement in self.seen:
            if was and fate is now:
                return judgement
            was = was or fate is before
        return None

    def first(self, fate: Fate) -> Judgement | None:
        """The first judgement that saw this fate; None if none did."""
        return next((judgement for _, seen, judgement in self.seen if seen is fate), None)


class Ledger:
    """All operations judged in one epoch, from its judgements in the order of their observations.

    An operation that only reads leaves no trace, so it has no entry; see `isolation` for what it saw.
    """

    __slots__ = ("entries", "judgements", "losses", "workload")

    def __init__(self, workload: Workload, judgements: Sequence[Judgement], losses: LossWindow | None = None) -> None:
        self.workload = workload
        self.losses = losses or LossWindow()
        self.judgements = tuple(judgements)
        self.entries: dict[int, Entry] = {}
        for judgement in judgements:
            for id_, fate in judgement.fates.items():
                entry = self.entries.setdefault(id_, Entry(judgement.operations[id_]))
                entry.seen.append((judgement.cycle, fate, judgement))

    @property
    def covered(self) -> set[int]:
        """The operations that some observation covers, also those that leave no trace."""
        return {id_ for judgement in self.judgements for id_ in judgement.operations}

    def story(self, operation: Operation, judgement: Judgement, message: str) -> Story:
        """A failure of one operation; its evidence is what was asked, what was told, what was found, and when."""

        def evidence() -> tuple[str, ...]:
            found = self.workload.found(operation.operation, judgement.observation)
            return (_asked(operation), _told(operation), f"t={judgement.t} after cycle {judgement.cycle}: {found}")

        return judgement.cycle, judgement.t, message, evidence

    def unjudged(self, history: History, first_cycle: int, last_cycle: int) -> tuple[int, ...]:
        """The acknowledged operations of these cycles that no judgement covers, by id."""
        covered = self.covered
        return tuple(
            operation.operation
            for operation in history.between(last_operation_of(first_cycle - 1), last_operation_of(last_cycle))
            if operation.outcome is Outcome.OK and operation.operation not in covered
        )


def tell(failures: Iterable[Story], trials: int) -> Count:
    """Count failures, and keep the first with their evidence: it is only looked up for those."""
    told: list[Failure] = []
    number = 0
    for number, (cycle, t, message, evidence) in enumerate(failures, start=1):
        if number <= DETAILED:
            told.append(Failure(cycle, t, message, evidence()))
    return Count(trials=trials, failures=number, told=tuple(told))


def add(counts: Iterable[Count]) -> Count:
    """The counts of several epochs as one."""
    counts = tuple(counts)
    return Count(
        trials=sum(count.trials for count in counts),
        failures=sum(count.failures for count in counts),
        told=tuple(failure for count in counts for failure in count.told)[:DETAILED],
    )


def totals(ledgers: Iterable[Ledger]) -> report.Ledger:
    """The table of the report: what was told against the last fate seen.

    An operation that was to be rolled back counts as told so, even when its answer was lost: it never asked
    for COMMIT, so its being there is as wrong.
    """
    cells: dict[tuple[str, Fate], int] = {}
    for ledger in ledgers:
        for entry in ledger.entries.values():
            operation = entry.operation
            unanswered = "unknown" if operation.may_be_committed else "failed"
            promised = "ok" if ledger.losses.crash_of(operation) is None else "unflushed"
            row = promised if operation.must_be_committed else unanswered
            cells[row, entry.fate] = cells.get((row, entry.fate), 0) + 1
    rows = {
        row: report.Fate(
            committed=cells.get((row, Fate.COMMITTED), 0),
            absent=cells.get((row, Fate.ABSENT), 0),
            torn=cells.get((row, Fate.TORN), 0),
        )
        for row in ("ok", "unflushed", "failed", "unknown")
    }
    return report.Ledger(**rows)


def _asked(operation: Operation) -> str:
    values = ", ".join(f"{name} {value}" for name, value in operation.values.items())
    return (
        f"t={operation.invoked_ns} process {operation.pid}, worker {operation.worker}: "
        f"invoke {operation.kind} {operation.operation} ({values})"
    )


def _told(operation: Operation) -> str:
    if operation.answered_ns is None:
        return "no answer came"
    sqlstate = f" {operation.sqlstate}" if operation.sqlstate else ""
    return f"t={operation.answered_ns} process {operation.pid}: told {operation.outcome.value}{sqlstate}"
