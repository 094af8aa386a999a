"""What a supervision oracle is and what it answers.

An oracle is a pure function of the evidence: same evidence, same answer, with no server and no clock. It counts
as a trial only a situation in which its rule could have been broken *and* would have been seen; a situation
that lies in a gap of the evidence is `unjudged`, with the reason, and never held. What lies within the
resolution of the evidence counts for the server: a failure is certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from chaos.oracles.evidence import Evidence
from reports.verdict import Finding, OracleRow, OracleStatus

Source = Literal["kernel", "server", "harness", "history"]

DETAILED = 20
"""How many failures of one oracle are told in full; the others are counted."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One broken rule: the cycle it belongs to (None outside any), when, what, and the lines that show it."""

    cycle: int | None
    t: int
    message: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OracleResult:
    """What one oracle came to.

    `failed` counts all failures, `failures` tells the first of them. `worst_slack_ms` is how close the
    tightest trial came to breaking the rule, in the sense that `slack` says (None without such a measure);
    `longest_ms` and `longest` are a duration worth knowing that has no deadline. `unjudged` situations were
    left out for `reason`. `applies` is False when the run had nothing that the rule is about, so that no plan can
    have asked for it.
    """

    name: str
    title: str
    status: OracleStatus
    trials: int
    failed: int
    failures: tuple[Failure, ...] = ()
    unjudged: int = 0
    reason: str = ""
    worst_slack_ms: float | None = None
    slack: str = ""
    longest_ms: float | None = None
    longest: str = ""
    applies: bool = True

    def row(self, *, required: bool = True) -> OracleRow:
        """The row of the verdict."""
        return OracleRow(
            name=self.name,
            title=self.title,
            status=self.status,
            trials=self.trials,
            failures=self.failed,
            worst_slack_ms=self.worst_slack_ms,
            slack=self.slack,
            longest_ms=self.longest_ms,
            longest=self.longest,
            unjudged=self.unjudged,
            reason=self.reason,
            required=required and self.applies,
        )

    def findings(self) -> tuple[Finding, ...]:
        """The failures as the verdict lists them; the command that repeats them is the caller's to add."""
        return tuple(
            Finding(oracle=self.name, message=failure.message, cycle=failure.cycle, evidence=failure.evidence)
            for failure in self.failures
        )


def merge(results: Sequence[OracleResult]) -> OracleResult:
    """One oracle's answers about several sittings of a run as one."""
    first = results[0]
    if len(results) == 1:
        return first
    trials, failed = sum(result.trials for result in results), sum(result.failed for result in results)
    slacks = [result.worst_slack_ms for result in results if result.worst_slack_ms is not None]
    durations = [result.longest_ms for result in results if result.longest_ms is not None]
    return replace(
        first,
        status=OracleStatus.FAILED if failed else OracleStatus.HELD if trials else OracleStatus.NOT_JUDGED,
        trials=trials,
        failed=failed,
        failures=tuple(failure for result in results for failure in result.failures)[:DETAILED],
        unjudged=sum(result.unjudged for result in results),
        reason="; ".join(dict.fromkeys(result.reason for result in results if result.reason)),
        worst_slack_ms=min(slacks, default=None),
        slack=next((result.slack for result in results if result.slack), ""),
        longest_ms=max(durations, default=None),
        longest=next((result.longest for result in results if result.longest), ""),
        applies=any(result.applies for result in results),
    )


class Oracle(Protocol):
    """One rule. `title` says it in words; `needs` names the sources without which it cannot judge."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def needs(self) -> tuple[Source, ...]: ...
    def judge(self, evidence: Evidence) -> OracleResult: ...


@dataclass(slots=True)
class Tally:
    """The counting of one judgement while it is being made."""

    evidence: Evidence
    trials: int = 0
    unjudged: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    slack_ns: int | None = None
    longest_ns: int | None = None

    def trial(self, *, slack_ns: int | None = None, longest_ns: int | None = None) -> None:
        """One more situation judged; a smaller slack and a longer duration are remembered."""
        self.trials += 1
        if slack_ns is not None and (self.slack_ns is None or slack_ns < self.slack_ns):
            self.slack_ns = slack_ns
        if longest_ns is not None and (self.longest_ns is None or longest_ns > self.longest_ns):
            self.longest_ns = longest_ns

    def fail(self, t: int, message: str, *lines: str) -> None:
        """One more failure, at time `t`. The trial is counted apart."""
        self.failed += 1
        if len(self.failures) < DETAILED:
            self.failures.append(Failure(self.evidence.cycle_at(t), t, message, lines))

    def leave(self, reason: str) -> None:
        """One more situation that could not be judged."""
        self.unjudged += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def whole(self, since_ns: int, until_ns: int) -> bool:
        """Whether the kernel's account is whole over a span; if not, the situation is left out."""
        gap = self.evidence.account.gap(since_ns, until_ns)
        if gap is not None:
            self.leave(gap.reason)
        return gap is None

    def result(self, oracle: Oracle, *, slack: str = "", longest: str = "", applies: bool = True) -> OracleResult:
        """The answer: failed with any failure, held with trials and none, else not judged."""
        if self.failed:
            status = OracleStatus.FAILED
        elif self.trials:
            status = OracleStatus.HELD
        else:
            status = OracleStatus.NOT_JUDGED
        reason = "; ".join(
            f"{count} not judged: {why}" for why, count in sorted(self.reasons.items(), key=lambda item: -item[1])[:3]
        )
        if status is OracleStatus.NOT_JUDGED and not reason:
            reason = "nothing happened that could have broken the rule"
        return OracleResult(
            name=oracle.name,
            title=oracle.title,
            status=status,
            trials=self.trials,
            failed=self.failed,
            failures=tuple(self.failures),
            unjudged=self.unjudged,
            reason=reason,
            worst_slack_ms=None if self.slack_ns is None else self.slack_ns / 1e6,
            slack=slack if self.slack_ns is not None else "",
            longest_ms=None if self.longest_ns is None else self.longest_ns / 1e6,
            longest=longest if self.longest_ns is not None else "",
            applies=applies,
        )


def unfed(oracle: Oracle, evidence: Evidence) -> OracleResult | None:
    """The answer "not judged" when a source that the oracle needs is missing altogether; None if none is.

    The journal is not missed of a server that keeps none: the oracle then judges what it can without.
    """
    reason = evidence.kind.not_judged.get(oracle.name)
    if reason is not None:
        return unexpected(oracle.name, oracle.title, reason)
    for source in oracle.needs:
        if source == "server" and not evidence.kind.journal:
            continue
        why = evidence.missing(source)
        if why is not None:
            return OracleResult(
                name=oracle.name,
                title=oracle.title,
                status=OracleStatus.NOT_JUDGED,
                trials=0,
                failed=0,
                reason=why,
            )
    return None


def unexpected(name: str, title: str, reason: str) -> OracleResult:
    """The answer of an oracle that a run of this kind of server cannot feed."""
    return OracleResult(
        name=name, title=title, status=OracleStatus.NOT_JUDGED, trials=0, failed=0, reason=reason, applies=False
    )
