"""What a report shows, worked out of a run directory and not yet laid out.

Owns every figure of a report that is not in verdict.json itself: percentiles of the times to recover, the
phases of the median and of the worst cycle, the coverage matrix, what the evidence files hold. HTML,
Markdown and JUnit XML are made from this and add nothing of their own, so that they cannot disagree.

A pure function of the directory: equal files give equal values, in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from reports.details import Details, Resources, Timeline, Trend
from reports.groups import Group, groups
from reports.records import RecordReader
from reports.rundir import RunDirectory, RunInfo
from reports.statistics import Percentile, percentile
from reports.verdict import Coverage, Recovery, Verdict

PHASES = (
    ("noticed", "Notice", "the victim's exit was collected by the postmaster"),
    ("fan_out_done", "Fan-out", "the last child was sent SIGQUIT"),
    ("last_child_reaped", "Children leave", "the last old child was reaped"),
    ("memory_reset", "Memory reset", "the new generation of shared memory stood"),
    ("replaced", "Replacement", "the last process that replaces an ended one was forked"),
    ("redo_start", "Startup", "the startup process began to replay WAL"),
    ("redo_end", "Redo", "the last record was replayed"),
    ("ready", "Ready", "the server said that it accepts connections"),
    ("first_commit", "Sign of life", "the first new transaction was acknowledged; of a command, its probe answered"),
)
"""(field of Recovery, name of the phase that ends there, what had happened by then), in order."""

COMMAND = "command"
"""The target that has no transactions: any command."""

SHARES = (0.50, 0.90, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Times:
    """How long recovery took, to one milestone: milliseconds since the kill."""

    key: str
    title: str
    ordered: tuple[float, ...]
    percentiles: tuple[Percentile, ...]

    @property
    def worst(self) -> float:
        return self.ordered[-1]


@dataclass(frozen=True, slots=True)
class Span:
    """One phase of one cycle: from and to, in milliseconds since the kill."""

    phase: str
    start: float
    end: float

    @property
    def length(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """One phase over all timed cycles, with its length in the median and in the worst of them."""

    title: str
    meaning: str
    median: float
    p99: float
    in_median: float | None
    in_worst: float | None


@dataclass(frozen=True, slots=True)
class EvidenceFile:
    """What one kind of evidence amounts to. `torn` lines are what SIGKILLs cut off, and are legal."""

    name: str
    meaning: str
    records: int
    torn: int


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """One named point: how often each role passed it (in the order of the model's `roles`), and all together."""

    point: str
    hits: tuple[int, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A cycle that is shown in full, with its way to the first commit if it was timed."""

    timeline: Timeline
    recovery: Recovery | None

    @property
    def name(self) -> str:
        """What to choose it by."""
        timed = "not recovered"
        if self.recovery is not None and self.recovery.first_commit is not None:
            timed = f"{self.recovery.first_commit:,.1f} ms"
        done = " of ".join(filter(None, (self.recovery.fault, self.recovery.victim))) if self.recovery else ""
        return f"cycle {self.timeline.cycle}: {timed}" + (f", {done}" if done else "") + f" ({self.timeline.reason})"


@dataclass(frozen=True, slots=True)
class UsedRow:
    """One quantity over a run, and how it grew; `lives` are all that there were, `trend` has those that were fitted."""

    owner: str
    quantity: str
    least: float
    most: float
    unit: str
    lives: int
    trend: Trend | None


@dataclass(frozen=True, slots=True)
class Report:
    """All that the pages show."""

    name: str
    verdict: Verdict
    info: RunInfo
    times: tuple[Times, ...]
    recoveries: tuple[Recovery, ...]
    median: Recovery | None
    worst: Recovery | None
    phases: tuple[PhaseRow, ...]
    roles: tuple[str, ...]
    coverage: tuple[CoverageRow, ...]
    never_hit: tuple[str, ...]
    evidence: tuple[EvidenceFile, ...]
    witness: str
    details: Details
    timelines: tuple[Shown, ...]
    groups: tuple[Group, ...]
    used: tuple[UsedRow, ...]
    faults: tuple[tuple[str, int], ...] = field(default=())

    @property
    def sign_of_life(self) -> str:
        """What the time to recover ends with, in words."""
        return sign_of_life(self.verdict)

    @property
    def to_first_commit(self) -> Times | None:
        """The time to recover as the project defines it, if any cycle was timed."""
        return next((times for times in self.times if times.key == "first_commit"), None)


def build(run: RunDirectory) -> Report:
    """Read a judged run directory. Raises RunDirectoryError when it is not judged or cannot be read."""
    verdict = run.read_verdict()
    harness = list(run.harness_records())
    recoveries = _with_faults(verdict.recoveries, harness)
    timed = sorted(
        (recovery for recovery in recoveries if recovery.first_commit is not None),
        key=lambda recovery: (recovery.first_commit or 0.0, recovery.cycle),
    )
    median = timed[(len(timed) - 1) // 2] if timed else None
    worst = timed[-1] if timed else None
    roles, coverage = _coverage(verdict.coverage)
    evidence, witness = _evidence(run)
    details = run.read_details()
    by_cycle = {recovery.cycle: recovery for recovery in recoveries}
    return Report(
        name=run.path.resolve().name,
        verdict=verdict,
        info=run.read_info(),
        times=_times(recoveries, sign_of_life(verdict)),
        recoveries=recoveries,
        median=median,
        worst=worst,
        phases=_phases(timed, median, worst),
        roles=roles,
        coverage=coverage,
        never_hit=tuple(sorted(verdict.coverage.never_hit)),
        evidence=evidence,
        witness=witness,
        details=details,
        timelines=tuple(Shown(one, by_cycle.get(one.cycle)) for one in details.timelines.shown),
        groups=groups(recoveries),
        used=tuple(_used(details.resources)),
        faults=_fault_counts(harness),
    )


def sign_of_life(verdict: Verdict) -> str:
    """What the time to recover ends with."""
    return "first answer" if verdict.target == COMMAND else "first new commit"


def spans(recovery: Recovery) -> list[Span]:
    """The phases of one cycle that were seen, each from where the one before it ended.

    The milestones come from different observers, so that one may appear to lie before the one before it by
    the little that their moments of looking differ; such a phase has length 0 and the next starts there.
    """
    found: list[Span] = []
    reached = 0.0
    for key, title, _ in PHASES:
        at: float | None = getattr(recovery, key)
        if at is None:
            continue
        end = max(reached, at)
        found.append(Span(title, reached, end))
        reached = end
    return found


def _times(recoveries: Sequence[Recovery], sign_of_life: str) -> tuple[Times, ...]:
    kept: list[Times] = []
    for key, title in (("ready", "Kill to ready"), ("first_commit", f"Kill to {sign_of_life}")):
        read = attrgetter(key)
        ordered = tuple(sorted(value for value in map(read, recoveries) if value is not None))
        if ordered:
            shares = tuple(percentile(ordered, share) for share in SHARES)
            kept.append(Times(key, title, ordered, shares))
    return tuple(kept)


def _phases(timed: Sequence[Recovery], median: Recovery | None, worst: Recovery | None) -> tuple[PhaseRow, ...]:
    lengths: dict[str, list[float]] = {}
    for recovery in timed:
        for span in spans(recovery):
            lengths.setdefault(span.phase, []).append(span.length)
    of_median = {span.phase: span.length for span in spans(median)} if median else {}
    of_worst = {span.phase: span.length for span in spans(worst)} if worst else {}
    rows: list[PhaseRow] = []
    for _, title, meaning in PHASES:
        ordered = sorted(lengths.get(title, ()))
        if not ordered:
            continue
        rows.append(
            PhaseRow(
                title=title,
                meaning=meaning,
                median=percentile(ordered, 0.5).value,
                p99=percentile(ordered, 0.99).value,
                in_median=of_median.get(title),
                in_worst=of_worst.get(title),
            )
        )
    return tuple(rows)


def _coverage(coverage: Coverage) -> tuple[tuple[str, ...], tuple[CoverageRow, ...]]:
    roles = tuple(sorted({hit.role for hit in coverage.hits}))
    table: dict[str, Counter[str]] = {}
    for hit in coverage.hits:
        table.setdefault(hit.point, Counter())[hit.role] += hit.hits
    rows = tuple(
        CoverageRow(point, tuple(table[point][role] for role in roles), table[point].total()) for point in sorted(table)
    )
    return roles, rows


def _with_faults(recoveries: Sequence[Recovery], harness: Sequence[dict[str, Any]]) -> tuple[Recovery, ...]:
    """Recoveries by cycle, told what was done to whom by the harness' records where they do not say."""
    done: dict[int, tuple[list[str], list[str]]] = {}
    for record in harness:
        if record.get("ev") == "fault" and isinstance(record.get("cycle"), int):
            faults, victims = done.setdefault(record["cycle"], ([], []))
            faults.append(str(record.get("fault") or ""))
            victims.append(str(record.get("role") or ""))
    told: list[Recovery] = []
    for recovery in sorted(recoveries, key=lambda recovery: recovery.cycle):
        faults, victims = done.get(recovery.cycle, ([], []))
        told.append(
            msgspec.structs.replace(
                recovery,
                fault=recovery.fault or ", ".join(dict.fromkeys(filter(None, faults))),
                victim=recovery.victim or ", ".join(dict.fromkeys(filter(None, victims))),
            )
        )
    return tuple(told)


def _fault_counts(harness: Sequence[dict[str, Any]]) -> tuple[tuple[str, int], ...]:
    counts = Counter(str(record.get("fault") or "?") for record in harness if record.get("ev") == "fault")
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _used(resources: Resources) -> Iterator[UsedRow]:
    for series in resources.series:
        mine = (t for t in resources.trends if (t.owner, t.quantity) == (series.owner, series.quantity))
        yield UsedRow(
            owner=series.owner,
            quantity=series.quantity,
            least=min(series.values),
            most=max(series.values),
            unit=series.unit,
            lives=len(set(series.lives)),
            trend=next(mine, None),
        )


class _Event(msgspec.Struct):
    """As much of any record as is needed to count it and to know the witness."""

    ev: str = ""
    kind: str = ""
    selftest: str = ""
    dropped: int = 0
    overrun: int = 0
    commit_overrun: int = 0


class _Anything(msgspec.Struct):
    """Any record, to be counted only."""


def _evidence(run: RunDirectory) -> tuple[tuple[EvidenceFile, ...], str]:
    kernel = RecordReader(run.kernel_events, _Event)
    witness, lost = "", 0
    for event in kernel:
        if event.ev == "witness":
            witness = event.kind + (f", self-test {event.selftest}" if event.selftest else "")
        elif event.ev == "loss":
            lost += event.dropped + event.overrun + event.commit_overrun
    if witness:
        witness += f", {lost:,} events lost" if lost else ", no event lost"
    return (
        EvidenceFile("events/kernel.jsonl", "the kernel's account", kernel.count, kernel.torn),
        _counted("events/server.jsonl", "the server's own account", [run.server_events]),
        _counted("events/harness.jsonl", "what the harness did", [run.harness_events]),
        _counted("history/*.jsonl", "what workers asked and were told", run.history_files()),
        _counted("history/observed.jsonl", "what the recovered server held", [run.observed]),
    ), witness or "none"


def _counted(name: str, meaning: str, paths: Sequence[Path]) -> EvidenceFile:
    records = torn = 0
    for path in paths:
        reader = RecordReader(path, _Anything)
        for _ in reader:
            pass
        records += reader.count
        torn += reader.torn
    return EvidenceFile(name, meaning, records, torn)
