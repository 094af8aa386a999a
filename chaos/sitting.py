"""Judging one sitting of a run: every oracle over what one harness recorded, and which of its cycles prove something.

A run that was resumed has several sittings, each with a cluster, a witness and processes of its own; `chaos.judge`
makes one verdict of what they came to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chaos.oracles import internal_error, observable, storage
from chaos.oracles.data import CycleCounts
from chaos.oracles.data import judge_run as judge_data
from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, unexpected
from chaos.oracles.registry import SUPERVISION
from chaos.oracles.supervision import Reign, reigns
from chaos.phases import Cycle, became_ready_ns, cycles_of, fell_ns, recoveries, replaced_ns, replaces_only
from chaos.verdict import CycleFacts, Reason, conclude
from chaos.witness.account import Account
from reports.rundir import Sitting
from reports.verdict import Ledger, ReachedLoad, Recovery
from workloads.registry import WORKLOADS


@dataclass(frozen=True, slots=True)
class JudgedSitting:
    """What one sitting came to: the oracles' answers, and for each cycle why it proved nothing."""

    evidence: Evidence
    data: list[OracleResult]
    supervision: list[OracleResult]
    ledger: Ledger
    loads: tuple[ReachedLoad, ...]
    cycles: list[Cycle]
    reasons: list[tuple[Reason, ...]]
    recoveries: list[Recovery]

    @property
    def witnessed(self) -> bool:
        """Whether there was a witness."""
        return self.evidence.account.opened is not None


def judge_sitting(run: Sitting, window_ns: int, *, cut_short: bool, demanding: bool) -> JudgedSitting:
    """Every oracle over one sitting; `window_ns` is how long before a crash an acknowledgement was no promise yet.

    `cut_short` leaves the cycle out that was under way. `demanding` makes every kill count as unseen that no witness
    saw, also where there was none. Raises RunDirectoryError.
    """
    evidence = Evidence.of(run)
    data = judge_data(run, WORKLOADS, loss_window_ns=window_ns)
    observed = observable.judge(run.harness_records(), sum(1 for _ in run.observed_records()))
    refused = internal_error.judge(run.harness_records())
    stored = storage.judge(run.harness_records())
    cycles = cycles_of(run.harness_records())
    if cut_short:
        # The one that was under way proves nothing and is no fault of anybody's.
        cycles = [cycle for cycle in cycles if cycle.end_ns is not None]
    witnessed = evidence.account.opened is not None
    lives = reigns(evidence)
    return JudgedSitting(
        evidence=evidence,
        data=[*(_expected(result, evidence) for result in (*data.results, stored)), observed, refused],
        supervision=[oracle.judge(evidence) for oracle in SUPERVISION],
        ledger=data.ledger,
        loads=data.loads,
        cycles=cycles,
        reasons=[
            _conclude(cycle, data.cycles.get(cycle.cycle), evidence.account, lives, witnessed, demanding)
            for cycle in cycles
        ],
        recoveries=list(recoveries(cycles, evidence, run)),
    )


def _expected(result: OracleResult, evidence: Evidence) -> OracleResult:
    reason = evidence.kind.not_judged.get(result.name)
    return result if reason is None else unexpected(result.name, result.title, reason)


def _conclude(
    cycle: Cycle, counts: CycleCounts | None, account: Account, lives: Sequence[Reign], witnessed: bool, demanding: bool
) -> tuple[Reason, ...]:
    landed = [blow for blow in cycle.blows if blow.landed]
    fell = [fell_ns(cycle, blow, account) if witnessed else blow.t for blow in landed]
    last = max((t for t in fell if t is not None), default=cycle.struck_ns)
    replaces = replaces_only(cycle.fault)
    if not witnessed:
        ready = (cycle.first_commit_ns if replaces else cycle.ready_ns) is not None
    elif last is None or cycle.end_ns is None:
        ready = False
    elif replaces:
        ready = all(replaced_ns(cycle, lives, blow, last) is not None for blow in landed)
    else:
        ready = became_ready_ns(cycle, lives, last) is not None
    return conclude(
        CycleFacts(
            cycle=cycle.cycle,
            fault_landed=cycle.landed,
            acknowledged=counts.acknowledged if counts else 0,
            in_flight=counts.in_flight if counts else 0,
            kill_witnessed=None not in fell and (witnessed or not demanding),
            ready=ready,
            unjudged=counts.unjudged if counts else 0,
            contradictions=counts.contradictions if counts else 0,
        )
    )
