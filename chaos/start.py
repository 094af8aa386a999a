"""From a plan to a judged run directory: witness, target, campaign, judge, reports, in that order.

Owns the harness process itself: that it adopts orphans, that whatever it made is gone when it ends, and that
each stage's failure becomes one sentence. Judging runs in a process of its own, which loads what the harness
should not carry.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

import supervisor
from chaos.campaign import Campaign, CycleResult
from chaos.defects import DEFECTS
from chaos.errors import CampaignError, Unobservable
from chaos.interruption import Interruption
from chaos.orphans import adopt_orphans, reap_orphans
from chaos.plan import CampaignPlan
from chaos.targets.builtin import CODE_ROOT, BuiltinTarget
from chaos.verdict import ExitCode
from chaos.watch import Seen, Watch
from chaos.witness.witness import KernelWitness, Unavailable, WitnessStopped, open_witness
from reports.records import unusable
from reports.rundir import RunDirectory, RunDirectoryError, sweep, utc_text
from reports.verdict import Status, Verdict
from supervisor.points import PointMap
from workloads.registry import MODULES

JUDGE = [sys.executable, "-m", "chaos.judge"]
SEGMENT_NOTE = "1 MiB WAL segments, so that campaigns switch and recycle many"


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a campaign is over: after so many cycles, or so long, or with the first finding, whichever comes first."""

    cycles: int | None = None
    duration_s: float | None = None
    on_finding: bool = False

    def __str__(self) -> str:
        parts = [f"after {self.cycles} cycles"] if self.cycles is not None else []
        parts += [f"after {self.duration_s:g} s"] if self.duration_s is not None else []
        parts += ["with the first finding"] if self.on_finding else []
        return " or ".join(parts)


@dataclass(frozen=True, slots=True)
class RecordedPlan:
    """What run.json holds of how a run came about."""

    plan: CampaignPlan
    defect: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A judged run."""

    verdict: Verdict
    report: Path


class Viewer(Protocol):
    """Who watches a campaign."""

    def say(self, text: str) -> None: ...
    def begin(self) -> None: ...
    def cycle(self, result: CycleResult) -> None: ...


def run_campaign(
    plan: CampaignPlan,
    stop: StopRule,
    out: Path,
    *,
    view: Viewer,
    defect: str | None = None,
    require: str | None = None,
    keep: bool = False,
    first_cycle: int = 0,
) -> Outcome:
    """Run a campaign to its end or to Ctrl-C (SIGTERM is taken for it), judge it and write its reports.

    Raises CampaignError, TargetError, RunDirectoryError, StaleDefectError; the run directory holds what was
    recorded so far. KeyboardInterrupt comes out of it when there was a second Ctrl-C, while it was judging.
    """
    adopt_orphans()
    _raise_file_limit()
    run = RunDirectory.create(out, plan.seed)
    with Interruption() as interruption, run.lock():
        view.say(f"run directory: {run.path}")
        sweep(out)
        _describe(run, plan, stop, defect=defect, require=require, first_cycle=first_cycle)
        try:
            interrupted = _crash(run, plan, stop, first_cycle, view, defect, interruption)
            _note_end(run)
            verdict = judge_in_a_process(run, interruption, interrupted=interrupted)
            if verdict.status is not Status.FINDING and not keep:
                shutil.rmtree(run.pgdata, ignore_errors=True)
            _note_exit(run, verdict.exit_code)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            try:
                _note_exit(run, ExitCode.INTERRUPTED if stopped else ExitCode.HARNESS_ERROR)
            except RunDirectoryError as another:
                view.say(str(another))
            view.say(f"what was recorded can be judged: crashbed judge {run.path}")
            if isinstance(error, OSError):
                raise _unusable(error, run) from error
            raise
    return Outcome(verdict, run.report_html)


def _crash(
    run: RunDirectory,
    plan: CampaignPlan,
    stop: StopRule,
    first_cycle: int,
    view: Viewer,
    defect: str | None,
    interruption: Interruption,
) -> bool:
    """The campaign under its witness; returns whether it was interrupted.

    Whatever it makes beside the run directory is taken down whole, however often Ctrl-C is pressed.
    """
    with ExitStack() as made:
        made.callback(interruption.release)
        made.callback(shutil.rmtree, run.template, ignore_errors=True)
        made.callback(reap_orphans)
        kernel = made.enter_context(run.kernel_writer())
        with interruption.held():
            witness = open_witness(run.path.name)
            if isinstance(witness, KernelWitness):
                made.callback(witness.close)
                witness.start(kernel.append_encoded)
        if not isinstance(witness, KernelWitness):
            kernel.append_encoded(witness.record())
            view.say(f"no kernel witness: {witness.reason}; supervision is not judged ({witness.remedy})")
        code = None
        if defect:
            # Kept beside the evidence: it is what was tested.
            code = DEFECTS[defect].plant(CODE_ROOT, run.code.absolute())
            view.say(f"planted defect: {DEFECTS[defect].title}")
        watch = Watch(run, CODE_ROOT) if stop.on_finding else None
        if watch is not None:
            made.callback(watch.close)
        ended = _cycle_ended(view, witness, watch, interruption)
        campaign = _campaign(run, plan, witness, code, made, interruption, ended)
        made.callback(interruption.hold)
        view.begin()
        try:
            campaign.run(first_cycle, _until(stop, first_cycle, view, watch))
        except Unobservable as error:
            view.say(str(error))
        except KeyboardInterrupt:
            view.say("interrupted: judging what there is")
            return True
    return False


def judge_in_a_process(run: RunDirectory, interruption: Interruption, *, interrupted: bool = False) -> Verdict:
    """Judge a run and write its reports in a process of its own; returns the verdict it wrote."""
    command = [
        *JUDGE,
        str(run.path.absolute()),
        "--die-with",
        str(os.getpid()),
        *(["--interrupted"] if interrupted else []),
    ]
    environment = {**os.environ, "PYTHONPATH": str(CODE_ROOT)}
    process = None
    try:
        with interruption.held():
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        said, _ = process.communicate()
    except BaseException:
        if process is not None:
            process.kill()
            process.communicate()
        raise
    if process.returncode != 0:
        raise CampaignError(
            f"the judge failed with status {process.returncode}; run it again with: crashbed judge {run.path}\n{said}"
        )
    return run.read_verdict()


def read_plan(run: RunDirectory) -> RecordedPlan:
    """The plan of an earlier run. Raises RunDirectoryError when run.json holds none of this version."""
    recorded = run.read_info().plan
    try:
        return RecordedPlan(msgspec.convert(recorded["campaign"], CampaignPlan), recorded.get("defect"))
    except (KeyError, msgspec.ValidationError) as error:
        raise RunDirectoryError(f"{run.run_json} holds no plan that can be run again: {error}") from error


def _campaign(
    run: RunDirectory,
    plan: CampaignPlan,
    witness: KernelWitness | Unavailable,
    code: Path | None,
    made: ExitStack,
    interruption: Interruption,
    ended: Callable[[CycleResult], None],
) -> Campaign:
    """The campaign, ready to run; what it needs is taken down by `made`."""
    options = {
        "max_connections": str(plan.backends + 8),
        "shared_preload_libraries": ",".join(MODULES[name] for name in plan.workloads),
        "crashbed.run_name": run.path.name,
        "crashbed.history_directory": str(run.history.absolute()),
        "crashbed.points_map": str(run.points_map.absolute()),
    }
    points = PointMap(run.points_map, create=True)
    made.callback(points.close)
    target = BuiltinTarget(
        run.pgdata.absolute(), options=options, log=run.server_log.absolute(), journal=run.server_events.absolute(),
        code=code,
    )  # fmt: skip
    made.callback(target.close)

    def started(pid: int) -> None:
        if isinstance(witness, KernelWitness):
            with interruption.held():
                witness.follow(pid, "postmaster")

    campaign = Campaign(run, plan, target, points, on_cycle=ended, on_start=started)
    made.callback(campaign.close)
    return campaign


def _cycle_ended(
    view: Viewer, witness: KernelWitness | Unavailable, watch: Watch | None, interruption: Interruption
) -> Callable[[CycleResult], None]:
    """What is done when a cycle has ended."""

    def ended(result: CycleResult) -> None:
        view.cycle(result)
        if isinstance(witness, KernelWitness):
            # If this harness is killed, the account is whole up to here.
            with interruption.held(), suppress(WitnessStopped):  # which the account tells itself
                witness.drain()
        if watch is not None:
            watch.tell()

    return ended


def _until(stop: StopRule, first_cycle: int, view: Viewer, watch: Watch | None) -> Callable[[int], bool]:
    deadline = None if stop.duration_s is None else time.monotonic() + stop.duration_s
    found: list[Seen] = []

    def more(cycle: int) -> bool:
        if watch is not None and not found:
            found.extend(watch.seen())
            if found:
                view.say(f"found in cycle {found[0].cycle}: {found[0].message}")
        if found:
            return False
        if stop.cycles is not None and cycle - first_cycle >= stop.cycles:
            return False
        return deadline is None or time.monotonic() < deadline

    return more


def _describe(
    run: RunDirectory,
    plan: CampaignPlan,
    stop: StopRule,
    *,
    defect: str | None,
    require: str | None,
    first_cycle: int,
) -> None:
    info = run.read_info()
    info.command = [_program(), *sys.argv[1:]]
    info.target = BuiltinTarget.name
    info.plan = {
        "campaign": msgspec.to_builtins(plan),
        "defect": defect,
        "require": require,
        "first_cycle": first_cycle,
        "stop": {"cycles": stop.cycles, "duration_s": stop.duration_s, "on_finding": stop.on_finding},
    }
    info.versions = {"crashbed": supervisor.VERSION, "server": supervisor.SERVER_VERSION}
    info.host = {"kernel": platform.release(), "cpus": os.cpu_count()}
    info.stop_rule = str(stop)
    run.write_info(info)


def _note_end(run: RunDirectory) -> None:
    """The campaign came to its end, or was interrupted: what follows is judging, which can be done again."""
    info = run.read_info()
    info.finished = utc_text(datetime.now(UTC))
    run.write_info(info)


def _note_exit(run: RunDirectory, exit_code: int) -> None:
    info = run.read_info()
    info.exit_code = exit_code
    run.write_info(info)


def _unusable(error: OSError, run: RunDirectory) -> RunDirectoryError:
    """What the system refused, as a sentence: a full disk most of all."""
    if isinstance(error, shutil.Error):
        # Of a copied tree, the first file that could not be copied tells enough.
        _, path, why = error.args[0][0]
        return RunDirectoryError(f"could not write {path}: {why} (is the disk full? choose another place with --out)")
    return unusable(error, "go on with", Path(os.fsdecode(error.filename) if error.filename else run.path))


def _raise_file_limit() -> None:
    """A connection, a history file and a pidfd for each backend: more than the usual soft limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _program() -> str:
    """How the person who runs this can call it again: by name, or by the path it was called by."""
    called = Path(sys.argv[0])
    if called.name != "crashbed" or shutil.which("crashbed"):
        return "crashbed"
    return os.path.relpath(called)
