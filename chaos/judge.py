"""Judging a run: every oracle over the run directory, the rule of the verified cycle, one verdict.

A stage of its own: a function of what was recorded, so that a run can be judged again with newer code and no
server. `python -m chaos.judge DIR` judges and writes verdict and reports in a process of its own, which loads the
statistics that the harness should not carry.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from chaos.command.plan import CommandPlan
from chaos.command.sitting import judge_command
from chaos.environment import describe
from chaos.machine import machine
from chaos.oracles import leak
from chaos.oracles.data import sum_ledgers
from chaos.oracles.oracle import OracleResult, merge
from chaos.oracles.registry import is_fed
from chaos.orphans import die_with
from chaos.phases import Cycle
from chaos.plan import EPOCH_CYCLES, loss_window_ns
from chaos.reached_load import sum_loads
from chaos.sitting import JudgedSitting, judge_sitting
from chaos.targets.choice import TargetChoice, TargetKind
from chaos.timelines import timelines
from chaos.trends import resources
from chaos.verdict import Decision, ExitCode, reach
from reports.details import Details, Machine, Resources
from reports.render import write_reports
from reports.rundir import RunDirectory, RunDirectoryError, RunInfo, Sitting
from reports.statistics import bound
from reports.verdict import Coverage, Finding, NotJudged, OracleRow, OracleStatus, PointHits, Verdict
from supervisor.points import Point, PointMap
from workloads.registry import WorkloadUnavailable

_CUT_SHORT = (ExitCode.INTERRUPTED, ExitCode.HARNESS_ERROR)
POWER_LOSS = NotJudged(
    what="power loss",
    reason="SIGKILL never loses the page cache, so a missing fsync cannot show in this run",
)
DATA_OF_A_COMMAND = NotJudged(
    what="data", reason="what the command does is not known: its processes are judged, and nothing that it stores"
)
WITNESS_REMEDY = "run as root with tracefs mounted, in the machine's own pid namespace"

EXACTNESS = "the plan is the same to the byte; when a kill lands is up to the machine, unless it is placed at a point"
RESUMED_EXACTNESS = (
    "; this run was resumed on a fresh cluster where it had been cut off, and will not be cut there again"
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What judging a run came to: the verdict, and what a report draws beside it."""

    verdict: Verdict
    details: Details

    def write(self, run: RunDirectory) -> None:
        """Replace verdict.json and details.json. Raises RunDirectoryError."""
        run.write_details(self.details)
        run.write_verdict(self.verdict)


def judge_run(run: RunDirectory, *, interrupted: bool = False) -> Verdict:
    """The verdict alone; see `judge_in_full`."""
    return judge_in_full(run, interrupted=interrupted).verdict


def judge_in_full(run: RunDirectory, *, interrupted: bool = False) -> Judgement:
    """Judge a run from its directory; raises RunDirectoryError.

    A run that its harness did not bring to the end (killed, or stopped by an error) was interrupted as well.
    """
    run.insist_on_whole()
    info = run.read_info()
    campaign = _campaign_of(info, run)
    interrupted = interrupted or info.finished is None or info.exit_code in _CUT_SHORT
    command = _command_of(info, campaign)
    # A command's supervision is all that there is to judge.
    insisted = command is not None or info.plan.get("require") == "supervision"
    judged = _judge_sittings(run.sittings(), campaign, command, interrupted=interrupted, insisted=insisted)
    results = _merged([part.data for part in judged])
    supervision = _merged([part.supervision for part in judged])
    used = resources(run.harness_records())
    growth = leak.judge(used.trends)
    every = [*results, *supervision, *([growth] if command is None else [])]
    results_by_name = {result.name: result for result in every}
    witnessed = any(part.witnessed for part in judged)
    faults = tuple(campaign["faults"])
    rows = [result.row(required=is_fed(result.name, faults)) for result in results]
    rows += [result.row(required=(witnessed or insisted) and is_fed(result.name, faults)) for result in supervision]
    cycles = [cycle for part in judged for cycle in part.cycles]
    reasons = [reason for part in judged for reason in part.reasons]
    if command is None:
        # Most plans give no postmaster the cycles that it takes.
        rows.append(growth.row(required=False))
    decision = reach(rows, reasons, interrupted=interrupted)
    findings = tuple(_findings(every, info, run))
    failed = {finding.cycle for finding in findings if finding.cycle is not None}
    epochs = {cycle.epoch for cycle in cycles}
    conclusive = [cycle for cycle, why in zip(cycles, reasons, strict=True) if not why or cycle.cycle in failed]
    rows = [_bounded(row, results_by_name[row.name], conclusive) for row in rows]
    recovered = tuple(recovery for part in judged for recovery in part.recoveries)
    verdict = Verdict(
        status=decision.status,
        exit_code=int(decision.exit_code),
        seed=info.seed,
        target=info.target,
        workload=",".join(campaign["workloads"]) if command is None else command.expect.policy,
        cycles=len(cycles),
        conclusive_cycles=decision.conclusive_cycles,
        epochs=len(epochs),
        oracles=tuple(rows),
        findings=findings,
        inconclusive=decision.inconclusive,
        not_judged=(
            *_not_judged(judged, every, decision, insisted=insisted),
            POWER_LOSS if command is None else DATA_OF_A_COMMAND,
        ),
        bounds=(
            bound("cycle", len(conclusive), len([c for c in conclusive if c.cycle in failed])),
            bound("epoch", len(epochs), len({cycle.epoch for cycle in cycles if cycle.cycle in failed})),
        ),
        stop_rule=info.stop_rule,
        ledger=sum_ledgers([part.ledger for part in judged]),
        loads=sum_loads(load for part in judged for load in part.loads),
        coverage=_coverage(run),
        recoveries=recovered,
        environment=describe(run.path, info.versions),
        reproduce=_reproduce(info, run),
        exactness=EXACTNESS + (RESUMED_EXACTNESS if len(judged) > 1 else ""),
        started=info.started,
        finished=info.finished or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        seconds=sum(_seconds(part.cycles) for part in judged),
    )
    return Judgement(verdict, _details(judged, failed, used, with_journal=command is None))


def _judge_sittings(
    sittings: Sequence[Sitting],
    campaign: Mapping[str, Any],
    command: CommandPlan | None,
    *,
    interrupted: bool,
    insisted: bool,
) -> list[JudgedSitting]:
    """Each sitting by itself. All but the last were cut short, or there would be none after them."""
    window_ns = loss_window_ns(synchronous_commit=campaign.get("synchronous_commit", True))
    # With one sitting that had no witness, the oracles' missing trials say it already.
    demanding = insisted and len(sittings) > 1
    judged = []
    for sitting in sittings:
        cut_short = interrupted or sitting is not sittings[-1]
        if command is not None:
            judged.append(judge_command(sitting, command, cut_short=cut_short))
        else:
            judged.append(judge_sitting(sitting, window_ns, cut_short=cut_short, demanding=demanding))
    return judged


def _details(judged: Sequence[JudgedSitting], failed: set[int], used: Resources, *, with_journal: bool) -> Details:
    """What the report draws. Processes are shown of the last sitting alone: pids of two may be the same."""
    shown = judged[-1]
    states = machine([record for part in judged for record in part.evidence.server]) if with_journal else Machine()
    return Details(
        timelines=timelines(shown.cycles, shown.recoveries, failed, shown.evidence), machine=states, resources=used
    )


def _merged(judged: Sequence[Sequence[OracleResult]]) -> list[OracleResult]:
    """The answers of several sittings as one for each oracle; one that a sitting has not is no part of it."""
    by_name: dict[str, list[OracleResult]] = {}
    for answers in judged:
        for answer in answers:
            by_name.setdefault(answer.name, []).append(answer)
    return [merge(answers) for answers in by_name.values()]


def _bounded(row: OracleRow, result: OracleResult, cycles: Sequence[Cycle]) -> OracleRow:
    """The row with what it proves per cycle: trials within one cycle are not independent of each other."""
    if row.status is OracleStatus.NOT_JUDGED:
        return row
    failing = {failure.cycle for failure in result.failures}
    return msgspec.structs.replace(row, bounds=(bound("cycle", len(cycles), sum(c.cycle in failing for c in cycles)),))


def _findings(results: Sequence[OracleResult], info: RunInfo, run: RunDirectory) -> Iterable[Finding]:
    for result in results:
        for finding in result.findings():
            reproduce = _reproduce(info, run) if finding.cycle is None else _replay(info, run, finding.cycle)
            yield Finding(
                oracle=finding.oracle,
                message=finding.message,
                cycle=finding.cycle,
                evidence=finding.evidence,
                reproduce=reproduce,
            )


def _not_judged(
    judged: Sequence[JudgedSitting], results: Sequence[OracleResult], decision: Decision, *, insisted: bool
) -> Iterable[NotJudged]:
    reason, remedy = decision.reason, decision.remedy
    unwitnessed = next((part for part in judged if not part.witnessed and (part.cycles or part is judged[-1])), None)
    if unwitnessed is not None:
        unavailable = unwitnessed.evidence.account.unavailable
        why = unavailable.reason if unavailable is not None else "the run has no account of the kernel"
        help_ = unavailable.remedy if unavailable is not None else WITNESS_REMEDY
        yield NotJudged(what="supervision", reason=f"no kernel witness: {why}", remedy=help_)
        if insisted and reason:
            reason, remedy = f"supervision was required, and there was no kernel witness: {why}", help_
    else:
        for result in results:
            if result.status is OracleStatus.NOT_JUDGED:
                yield NotJudged(what=result.title, reason=result.reason)
    if reason:
        yield NotJudged(what="the run as a whole", reason=reason, remedy=remedy)


def _coverage(run: RunDirectory) -> Coverage:
    if not run.points_map.exists():
        return Coverage()
    try:
        points = PointMap(run.points_map)
    except ValueError:
        return Coverage()  # its harness was killed while it made the map: no server had it yet
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


def _campaign_of(info: RunInfo, run: RunDirectory) -> Mapping[str, Any]:
    """The options that the run's plan follows from. Raises RunDirectoryError."""
    campaign: Mapping[str, Any] | None = info.plan.get("campaign")
    if campaign is None:
        raise RunDirectoryError(f"{run.run_json} holds no plan: the run ended before it had begun, run it again")
    return campaign


def _command_of(info: RunInfo, campaign: Mapping[str, Any]) -> CommandPlan | None:
    """The plan of a run against a command; None for any other target."""
    return msgspec.convert(campaign, CommandPlan) if info.target == TargetKind.COMMAND else None


def _program(info: RunInfo) -> str:
    """How the run was called, so that its reproducing command works when pasted."""
    return info.command[0] if info.command else "crashbed"


def _replay(info: RunInfo, run: RunDirectory, cycle: int) -> str:
    return shlex.join([_program(info), "replay", str(run.path.absolute()), "--cycle", str(cycle)])


def _reproduce(info: RunInfo, run: RunDirectory) -> str:
    """The command that repeats the run: its options as they were meant, the seed spelled out.

    A run that was a replay itself began with its epoch, which only a replay can.
    """
    campaign = _campaign_of(info, run)
    stop: Mapping[str, Any] = info.plan["stop"]
    if info.plan.get("first_cycle"):
        return _replay(info, run, info.plan["first_cycle"] + stop["cycles"] - 1)
    if info.target == TargetKind.COMMAND:
        words = [_program(info), "run", campaign["file"], *_until(stop)]
        return shlex.join([*words, "--seed", str(campaign["seed"])])
    words = [
        _program(info),
        "run",
        "--workload",
        ",".join(campaign["workloads"]),
        "--backends",
        str(campaign["backends"]),
    ]
    words += _until(stop)
    words += ["--fault", ",".join(campaign["faults"])]
    for selector in campaign["points"]:
        words += ["--point", selector]
    if campaign["point_one_in"] == 0:
        words += ["--no-points"]
    if campaign["epoch_cycles"] != EPOCH_CYCLES:
        words += ["--epoch", str(campaign["epoch_cycles"])]
    words += TargetChoice.read(info.plan.get("target")).words()
    if not campaign.get("synchronous_commit", True):
        words += ["--synchronous-commit", "off"]
    if info.plan["defect"]:
        words += ["--defect", info.plan["defect"]]
    if stop.get("on_finding"):
        words += ["--stop-on-finding"]
    if info.plan.get("require"):
        words += ["--require", info.plan["require"]]
    return shlex.join([*words, "--seed", str(campaign["seed"])])


def _until(stop: Mapping[str, Any]) -> list[str]:
    """The options of a stop rule."""
    words = []
    if stop["cycles"] is not None:
        words += ["--kills", str(stop["cycles"])]
    if stop["duration_s"] is not None:
        words += ["--duration", f"{stop['duration_s']:g}s"]
    return words


def _seconds(cycles: Sequence[Cycle]) -> float:
    ends = [cycle.end_ns for cycle in cycles if cycle.end_ns is not None]
    return (max(ends) - cycles[0].begin_ns) / 1e9 if ends else 0.0


def main(arguments: list[str] | None = None) -> int:
    """Judge the run in a directory, write verdict and reports; 0 whatever the verdict is, 3 when it cannot."""
    parser = argparse.ArgumentParser(prog="python -m chaos.judge", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--interrupted", action="store_true", help="the run was interrupted")
    parser.add_argument("--die-with", type=int, metavar="PID", help="end at once when this parent process dies")
    chosen = parser.parse_args(arguments)
    if chosen.die_with is not None:
        die_with(chosen.die_with)
    try:
        run = RunDirectory.open(chosen.directory)
        judge_in_full(run, interrupted=chosen.interrupted).write(run)
        write_reports(run)
    except (RunDirectoryError, WorkloadUnavailable) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
