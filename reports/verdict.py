"""The model of verdict.json: what judging a run came to, in values that a report only has to lay out.

The judge writes it and every report is made from it. It holds no judgement of its own except `decide`, the
rule by which rows and counts become one word and one exit code. Times are milliseconds unless the name says
otherwise; ratios are fractions of 1. Fields may be added; a field that changes its meaning raises `SCHEMA`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

SCHEMA = 1

CONCLUSIVE_SHARE = 0.95
"""The share of cycles that must be conclusive for a run to count as held."""


class Status(StrEnum):
    """The verdict on a run."""

    FINDING = "finding"
    HELD = "held"
    INCONCLUSIVE = "inconclusive"
    INTERRUPTED = "interrupted"


EXIT_CODES = {Status.HELD: 0, Status.FINDING: 1, Status.INTERRUPTED: 2, Status.INCONCLUSIVE: 5}


class OracleStatus(StrEnum):
    """The verdict of one oracle. What it could not see is not judged, and never held."""

    HELD = "held"
    FAILED = "failed"
    NOT_JUDGED = "not judged"


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of failures prove about the chance of one, by Clopper and Pearson.

    `unit` is what one trial is ("cycle", "epoch"). With no failure it is one-sided: `lower` is 0 and `upper`
    holds with the whole confidence. `statement` says it as a sentence, with the condition it stands under.
    `reports.statistics.bound` makes one.
    """

    unit: str
    trials: int
    failures: int
    lower: float
    upper: float
    statement: str
    confidence: float = 0.95


class OracleRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one oracle came to over the whole run.

    A trial is one situation in which the rule could have been broken. `worst_slack_ms` is how close the
    tightest trial came to breaking it, in the sense that `slack` says (negative is too late), None for rules
    without such a measure; `longest_ms` is a duration without a deadline, which `longest` names. `unjudged`
    situations were left out. `reason` says why it was not judged. `required` tells whether the plan asked for it: only those can
    make a run inconclusive.
    """

    name: str
    title: str
    status: OracleStatus
    trials: int = 0
    failures: int = 0
    worst_slack_ms: float | None = None
    slack: str = ""
    longest_ms: float | None = None
    longest: str = ""
    unjudged: int = 0
    reason: str = ""
    bounds: tuple[Bound, ...] = ()
    required: bool = True


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One failure: what broke, the lines of evidence that show it, and the command that repeats it."""

    oracle: str
    message: str
    cycle: int | None = None
    evidence: tuple[str, ...] = ()
    reproduce: str = ""


class Inconclusive(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why cycles proved nothing, how many it was, and what would help."""

    reason: str
    cycles: int
    remedy: str = ""


class NotJudged(msgspec.Struct, frozen=True, kw_only=True):
    """Something that this run says nothing about, why, and what would let it."""

    what: str
    reason: str
    remedy: str = ""


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """How many operations that were told the same were found in the recovered server how."""

    committed: int = 0
    absent: int = 0
    torn: int = 0

    @property
    def total(self) -> int:
        return self.committed + self.absent + self.torn


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """The durability ledger: what clients were told, against what the recovered server held.

    Told ok and not found is lost; told failed and found is risen; torn, in any row, is half of a
    transaction. An operation that was told nothing may be found committed or absent, never torn. So may one of
    `unflushed`: told ok by a server that does not wait for its flushes, so shortly before a crash that it may be lost.
    """

    ok: Fate = Fate()
    unflushed: Fate = Fate()
    failed: Fate = Fate()
    unknown: Fate = Fate()

    @property
    def total(self) -> int:
        return self.ok.total + self.unflushed.total + self.failed.total + self.unknown.total

    @property
    def wrong(self) -> int:
        """Operations whose fate breaks a promise."""
        torn = self.ok.torn + self.unflushed.torn + self.failed.torn + self.unknown.torn
        return self.ok.absent + self.failed.committed + torn


class FailureKind(StrEnum):
    """What an operation that certainly did not commit says about the server."""

    ROLLED_BACK = "rolled back on purpose"
    REFUSED = "refused as it must be"
    RETRIABLE = "retriable"
    UNFORESEEN = "unforeseen"


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """How many operations of a workload failed with one SQLSTATE."""

    sqlstate: str
    kind: FailureKind
    operations: int


class LoadRate(msgspec.Struct, frozen=True, kw_only=True):
    """How fast so many workers, and the client outside, had operations acknowledged.

    `seconds` is the load time of all `cycles` together: in each, from its first invoke to the blow, or to the last
    answer when the load was over before the blow. `acknowledged` counts the answers within it.
    """

    workers: int
    cycles: int
    acknowledged: int
    seconds: float
    per_second: float


class ReachedLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a workload asked of the server and was told: `asked`, by kind, is the sum of the other counts.

    `unknown` operations had no answer, or one that settles nothing.
    """

    workload: str
    asked: dict[str, int] = {}
    acknowledged: int = 0
    failures: tuple[Failures, ...] = ()
    unknown: int = 0
    rates: tuple[LoadRate, ...] = ()

    @property
    def operations(self) -> int:
        return sum(self.asked.values())

    @property
    def failed(self) -> int:
        return sum(failure.operations for failure in self.failures)


class PointHits(msgspec.Struct, frozen=True, kw_only=True):
    """How often processes of one role passed one named point."""

    point: str
    role: str
    hits: int


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """Which named points of the server the run passed, and which it never did."""

    hits: tuple[PointHits, ...] = ()
    never_hit: tuple[str, ...] = ()


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """One cycle's way from the kill to the first new commit: milliseconds since the kill.

    None where it was not seen or did not happen (no redo after a crash of a server that had nothing to do). Of a
    command, which has no transactions, `first_commit` is the first answer to its probe when it was whole again.
    `fault` and `victim` name what was done to whom, for the reader; `redo_bytes` is how much WAL was replayed.
    """

    cycle: int
    epoch: int = 0
    fault: str = ""
    victim: str = ""
    noticed: float | None = None
    fan_out_done: float | None = None
    last_child_reaped: float | None = None
    memory_reset: float | None = None
    replaced: float | None = None
    redo_start: float | None = None
    redo_end: float | None = None
    ready: float | None = None
    first_commit: float | None = None
    redo_bytes: int | None = None


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What the figures were measured on."""

    kernel: str = ""
    python: str = ""
    python_build: str = ""
    cpu: str = ""
    cpu_count: int = 0
    disk: str = ""
    filesystem: str = ""
    versions: dict[str, str] = {}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """verdict.json. `cycles` counts those that ran; `seconds` is how long the run took.

    `reproduce` is the command that repeats the run and `exactness` how exact that repetition is.
    """

    status: Status
    exit_code: int
    seed: int
    target: str
    workload: str
    cycles: int
    conclusive_cycles: int
    epochs: int = 0
    oracles: tuple[OracleRow, ...] = ()
    findings: tuple[Finding, ...] = ()
    inconclusive: tuple[Inconclusive, ...] = ()
    not_judged: tuple[NotJudged, ...] = ()
    bounds: tuple[Bound, ...] = ()
    stop_rule: str = ""
    ledger: Ledger = Ledger()
    loads: tuple[ReachedLoad, ...] = ()
    coverage: Coverage = Coverage()
    recoveries: tuple[Recovery, ...] = ()
    environment: Environment = Environment()
    reproduce: str = ""
    exactness: str = ""
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    schema: int = SCHEMA


def decide(
    oracles: Sequence[OracleRow], *, cycles: int, conclusive_cycles: int, interrupted: bool = False
) -> tuple[Status, int]:
    """The verdict on a run and the exit code of the command that ends with it.

    Any failure is a finding, whatever else is true. Without one, an interrupted run is called interrupted;
    otherwise it held if every oracle that the plan asks for has trials and was judged, and at least 95 % of
    the cycles (and at least one) were conclusive.
    """
    required = [row for row in oracles if row.required]
    if any(row.failures or row.status is OracleStatus.FAILED for row in oracles):
        status = Status.FINDING
    elif interrupted:
        status = Status.INTERRUPTED
    elif (
        required
        and all(row.trials and row.status is OracleStatus.HELD for row in required)
        and cycles > 0
        and conclusive_cycles >= CONCLUSIVE_SHARE * cycles
    ):
        status = Status.HELD
    else:
        status = Status.INCONCLUSIVE
    return status, EXIT_CODES[status]
