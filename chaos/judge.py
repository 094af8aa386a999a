"""Judging a run: every oracle over the run directory, the rule of the verified cycle, one verdict.

A stage of its own: a function of what was recorded, so that a run can be judged again with newer code and no
server. `python -m chaos.judge DIR` judges and writes verdict and reports in a process of its own, which loads the
statistics that the harness should not carry.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from chaos.environment import describe
from chaos.oracles import observable
from chaos.oracles.data import CycleCounts
from chaos.oracles.data import judge_run as judge_data
from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult
from chaos.oracles.registry import SUPERVISION
from chaos.phases import Cycle, cycles_of, recoveries
from chaos.verdict import CycleFacts, Reason, conclude, reach
from chaos.witness.account import Account, surely_after
from reports.render import write_reports
from reports.rundir import RunDirectory, RunDirectoryError, RunInfo
from reports.statistics import bound
from reports.verdict import Coverage, Finding, NotJudged, OracleRow, OracleStatus, PointHits, Verdict
from supervisor.points import Point, PointMap
from workloads.registry import WORKLOADS

WITNESS_REMEDY = "run as root with tracefs mounted, in the machine's own pid namespace"


def judge_run(run: RunDirectory, *, interrupted: bool = False) -> Verdict:
    """Judge a run from its directory; raises RunDirectoryError."""
    info = run.read_info()
    evidence = Evidence.of(run)
    data = judge_data(run, WORKLOADS)
    observed = observable.judge(run.harness_records(), sum(1 for _ in run.observed_records()))
    results = [*data.results, observed]
    supervision = [oracle.judge(evidence) for oracle in SUPERVISION]
    results_by_name = {result.name: result for result in [*results, *supervision]}
    witnessed = evidence.account.opened is not None
    insisted = info.plan.get("require") == "supervision"
    rows = [result.row() for result in results]
    rows += [result.row(required=witnessed or insisted) for result in supervision]
    cycles = cycles_of(run.harness_records())
    reasons = [_conclude(cycle, data.cycles.get(cycle.cycle), evidence.account, witnessed) for cycle in cycles]
    interrupted = interrupted or info.exit_code == 2
    decision = reach(rows, reasons, interrupted=interrupted)
    failed = {finding.cycle for finding in _findings([*results, *supervision], info, run) if finding.cycle is not None}
    epochs = {cycle.epoch for cycle in cycles}
    conclusive = [cycle for cycle, why in zip(cycles, reasons, strict=True) if not why or cycle.cycle in failed]
    rows = [_bounded(row, results_by_name[row.name], conclusive) for row in rows]
    return Verdict(
        status=decision.status,
        exit_code=int(decision.exit_code),
        seed=info.seed,
        target=info.target,
        workload=",".join(info.plan["campaign"]["workloads"]),
        cycles=len(cycles),
        conclusive_cycles=decision.conclusive_cycles,
        epochs=len(epochs),
        oracles=tuple(rows),
        findings=tuple(_findings([*results, *supervision], info, run)),
        inconclusive=decision.inconclusive,
        not_judged=tuple(_not_judged(evidence, [*results, *supervision], decision.reason, decision.remedy)),
        bounds=(
            bound("cycle", len(conclusive), len([c for c in conclusive if c.cycle in failed])),
            bound("epoch", len(epochs), len({cycle.epoch for cycle in cycles if cycle.cycle in failed})),
        ),
        stop_rule=info.stop_rule,
        ledger=data.ledger,
        coverage=_coverage(run),
        recoveries=tuple(recoveries(cycles, evidence, run)),
        environment=describe(run.path, info.versions),
        reproduce=_reproduce(info),
        exactness="the plan is the same to the byte; when a kill lands is up to the machine, unless it is placed at a point",
        started=info.started,
        finished=info.finished or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        seconds=_seconds(cycles),
    )


def _bounded(row: OracleRow, result: OracleResult, cycles: Sequence[Cycle]) -> OracleRow:
    """The row with what it proves per cycle: trials within one cycle are not independent of each other."""
    if row.status is OracleStatus.NOT_JUDGED:
        return row
    failing = {failure.cycle for failure in result.failures}
    return msgspec.structs.replace(row, bounds=(bound("cycle", len(cycles), sum(c.cycle in failing for c in cycles)),))


def _conclude(cycle: Cycle, counts: CycleCounts | None, account: Account, witnessed: bool) -> tuple[Reason, ...]:
    landed = [blow for blow in cycle.blows if blow.landed]
    seen = [blow for blow in landed if not witnessed or _was_seen(account, blow.pid, blow.signal, cycle)]
    return conclude(
        CycleFacts(
            cycle=cycle.cycle,
            fault_landed=bool(landed),
            acknowledged=counts.acknowledged if counts else 0,
            in_flight=counts.in_flight if counts else 0,
            kill_witnessed=len(seen) == len(landed),
            ready=_became_ready(account, cycle) if witnessed else cycle.ready_ns is not None,
            unjudged=counts.unjudged if counts else 0,
            contradictions=counts.contradictions if counts else 0,
        )
    )


def _was_seen(account: Account, pid: int, signal: int, cycle: Cycle) -> bool:
    """Whether the kernel's account has the signal generated for this process within the cycle."""
    process = account.at(pid, cycle.struck_ns or cycle.begin_ns)
    return process is not None and any(
        received.sig == signal and received.t >= cycle.begin_ns for received in process.received
    )


def _became_ready(account: Account, cycle: Cycle) -> bool:
    """Whether a startup process forked after the blow exited with 0: ready by generation, not by word."""
    if cycle.struck_ns is None or cycle.end_ns is None:
        return False
    return any(
        process.role == "startup"
        and process.code == 0
        and process.exit_t is not None
        and surely_after(process.born, cycle.struck_ns)
        and process.exit_t < cycle.end_ns
        for process in account.processes
    )


def _findings(results: Sequence[OracleResult], info: RunInfo, run: RunDirectory) -> Iterable[Finding]:
    for result in results:
        for finding in result.findings():
            reproduce = (
                f"crashbed replay {run.path} --cycle {finding.cycle}" if finding.cycle is not None else _reproduce(info)
            )
            yield Finding(
                oracle=finding.oracle,
                message=finding.message,
                cycle=finding.cycle,
                evidence=finding.evidence,
                reproduce=reproduce,
            )


def _not_judged(evidence: Evidence, results: Sequence[OracleResult], reason: str, remedy: str) -> Iterable[NotJudged]:
    missing = evidence.missing("kernel")
    if missing is not None:
        yield NotJudged(what="supervision", reason=missing, remedy=WITNESS_REMEDY)
    else:
        for result in results:
            if result.status is OracleStatus.NOT_JUDGED:
                yield NotJudged(what=result.title, reason=result.reason)
    if reason:
        yield NotJudged(what="the run as a whole", reason=reason, remedy=remedy)
    yield NotJudged(
        what="power loss",
        reason="SIGKILL never loses the page cache, so a missing fsync cannot show in this run",
    )


def _coverage(run: RunDirectory) -> Coverage:
    if not run.points_map.exists():
        return Coverage()
    points = PointMap(run.points_map)
    try:
        counts = points.counts()
    finally:
        points.close()
    hit = {point for _, point in counts}
    return Coverage(
        hits=tuple(
            PointHits(point=point.name, role=role.short_name, hits=hits)
            for (role, point), hits in sorted(counts.items())
        ),
        never_hit=tuple(point.name for point in Point if point not in hit),
    )


def _reproduce(info: RunInfo) -> str:
    """The command that repeats the run: its options as they were meant, the seed spelled out."""
    campaign: Mapping[str, Any] = info.plan["campaign"]
    stop: Mapping[str, Any] = info.plan["stop"]
    words = ["crashbed", "run", "--workload", ",".join(campaign["workloads"]), "--backends", str(campaign["backends"])]
    if stop["cycles"] is not None:
        words += ["--kills", str(stop["cycles"])]
    if stop["duration_s"] is not None:
        words += ["--duration", f"{stop['duration_s']:g}s"]
    words += ["--fault", ",".join(campaign["faults"])]
    for selector in campaign["points"]:
        words += ["--point", selector]
    if campaign["point_one_in"] == 0:
        words += ["--no-points"]
    if info.plan["defect"]:
        words += ["--defect", info.plan["defect"]]
    return " ".join([*words, "--seed", str(campaign["seed"])])


def _seconds(cycles: Sequence[Cycle]) -> float:
    ends = [cycle.end_ns for cycle in cycles if cycle.end_ns is not None]
    return (max(ends) - cycles[0].begin_ns) / 1e9 if ends else 0.0


@dataclass(frozen=True, slots=True)
class _Arguments:
    directory: Path
    interrupted: bool


def main(arguments: list[str] | None = None) -> int:
    """Judge the run in a directory, write verdict and reports; 0 whatever the verdict is, 3 when it cannot."""
    parser = argparse.ArgumentParser(prog="python -m chaos.judge", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--interrupted", action="store_true", help="the run was interrupted")
    chosen = parser.parse_args(arguments)
    try:
        run = RunDirectory.open(chosen.directory)
        run.write_verdict(judge_run(run, interrupted=chosen.interrupted))
        write_reports(run)
    except RunDirectoryError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
