"""From what cycles and oracles came to, to one word and one exit code.

Owns the rule of the verified cycle (was this cycle able to prove anything?), its reasons with their remedies,
and the exit codes of the commands. The rule by which rows and counts become a status is `reports.verdict.decide`,
which the report shares. Pure: facts in, values out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

from reports.verdict import Inconclusive, OracleRow, OracleStatus, Status, decide

LEAST_ACKNOWLEDGED = 20
"""Acknowledged commits before the kill from which on a cycle can prove that they survive."""


class ExitCode(IntEnum):
    """How a command ends. 2 is also what click would use for a usage error: that one is mapped to 4."""

    HELD = 0
    FINDING = 1
    INTERRUPTED = 2
    HARNESS_ERROR = 3
    USAGE = 4
    INCONCLUSIVE = 5


class Reason(Enum):
    """Why a cycle proved nothing, and what would help. The value is what harness.jsonl holds."""

    FAULT_MISSED = "the fault did not land"
    FEW_ACKNOWLEDGED = f"fewer than {LEAST_ACKNOWLEDGED} commits were acknowledged before the kill"
    NOTHING_IN_FLIGHT = "no transaction was under way at the kill"
    NOT_WITNESSED = "the witness did not see the kill"
    NOT_READY = "the server did not become ready again"
    NOT_JUDGED = "acknowledged operations were not judged"
    CONTRADICTION = "the history contradicts itself"

    @property
    def remedy(self) -> str:
        """What the person who runs the campaign can do about it."""
        return _REMEDIES[self]


_REMEDIES = {
    Reason.FAULT_MISSED: "the victim had gone, or the point was never reached: choose another role or point",
    Reason.FEW_ACKNOWLEDGED: "let the kill come later, or use more --backends; a slow disk needs more time",
    Reason.NOTHING_IN_FLIGHT: "use more --backends, or let the kill come earlier than the last operation",
    Reason.NOT_WITNESSED: "run as root with tracefs mounted, or see what the witness said it lost",
    Reason.NOT_READY: "read the end of server.log: recovery failed, or took longer than the harness waits",
    Reason.NOT_JUDGED: "judge the run again with `crashbed judge`; if it stays, observed.jsonl is incomplete",
    Reason.CONTRADICTION: "an operation id was used twice: this is an error of the harness, please report it",
}


@dataclass(frozen=True, slots=True)
class CycleFacts:
    """What is known of one cycle when it is over.

    `unjudged` counts acknowledged operations that no judgement covers; `contradictions` operations whose
    records contradict each other.
    """

    cycle: int
    fault_landed: bool
    acknowledged: int
    in_flight: int
    kill_witnessed: bool
    ready: bool
    unjudged: int
    contradictions: int = 0


def conclude(facts: CycleFacts) -> tuple[Reason, ...]:
    """Why this cycle proves nothing, the cause before its consequences; empty for a verified cycle."""
    checks = (
        (Reason.FAULT_MISSED, not facts.fault_landed),
        (Reason.NOT_WITNESSED, facts.fault_landed and not facts.kill_witnessed),
        (Reason.NOT_READY, not facts.ready),
        (Reason.FEW_ACKNOWLEDGED, facts.acknowledged < LEAST_ACKNOWLEDGED),
        (Reason.NOTHING_IN_FLIGHT, facts.in_flight < 1),
        (Reason.CONTRADICTION, facts.contradictions > 0),
        (Reason.NOT_JUDGED, facts.unjudged > 0),
    )
    return tuple(reason for reason, holds in checks if holds)


def inconclusive(cycles: Iterable[Sequence[Reason]]) -> tuple[Inconclusive, ...]:
    """The reasons of a run's cycles, each cycle under its first, the commonest first."""
    first = Counter(reasons[0] for reasons in cycles if reasons)
    order = list(Reason)
    return tuple(
        Inconclusive(reason=reason.value, cycles=number, remedy=reason.remedy)
        for reason, number in sorted(first.items(), key=lambda item: (-item[1], order.index(item[0])))
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on a run. `reason` and `remedy` are of the verdict inconclusive, and empty otherwise."""

    status: Status
    exit_code: ExitCode
    conclusive_cycles: int
    inconclusive: tuple[Inconclusive, ...]
    reason: str = ""
    remedy: str = ""


def reach(oracles: Sequence[OracleRow], cycles: Sequence[Sequence[Reason]], *, interrupted: bool = False) -> Decision:
    """The verdict on a run from its oracles and, per cycle, why it proved nothing (empty: it did)."""
    conclusive_cycles = sum(not reasons for reasons in cycles)
    status, code = decide(oracles, cycles=len(cycles), conclusive_cycles=conclusive_cycles, interrupted=interrupted)
    listed = inconclusive(cycles)
    reason, remedy = _why(oracles, len(cycles), listed) if status is Status.INCONCLUSIVE else ("", "")
    return Decision(status, ExitCode(code), conclusive_cycles, listed, reason, remedy)


def _why(oracles: Sequence[OracleRow], cycles: int, listed: tuple[Inconclusive, ...]) -> tuple[str, str]:
    """The commonest reason of all: a cycle's, unless an oracle was fed by none."""
    if not cycles:
        return "no cycle was run", "ask for at least one with --kills or a longer --duration"
    if listed and listed[0].cycles == cycles:
        return listed[0].reason, listed[0].remedy
    for row in oracles:
        if row.required and (not row.trials or row.status is not OracleStatus.HELD):
            reason = f"{row.name} was not judged: {row.reason or 'nothing happened that could have broken its rule'}"
            return reason, "run more cycles, or see the oracle's needs in the report"
    if listed:
        return f"{listed[0].reason} ({listed[0].cycles} of {cycles} cycles)", listed[0].remedy
    return "the plan asks for no oracle", "ask for at least one"
