"""From a plan to a judged run directory: witness, target, campaign, judge, reports, in that order.

Owns the harness process itself: that it adopts orphans, that whatever it made is gone when it ends, and that
each stage's failure becomes one sentence. Judging runs in a process of its own, which loads what the harness
should not carry.
"""

from __future__ import annotations

import errno
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

import supervisor
from chaos.campaign import LEAST_FREE_BYTES, Campaign, CycleResult
from chaos.command.campaign import CommandCampaign, CommandResult
from chaos.command.plan import MAIN, CommandPlan
from chaos.defects import DEFECTS
from chaos.errors import CampaignError, DiskFull, Unobservable
from chaos.interruption import Interruption
from chaos.order import Order, boot_id, resume_order, wait_for_server
from chaos.orphans import adopt_orphans, reap_orphans
from chaos.phases import end_of_whole_cycles
from chaos.targets.builtin import CODE_ROOT, environment_of
from chaos.targets.choice import TargetKind
from chaos.targets.command import CommandTarget
from chaos.targets.target import TargetError
from chaos.tested import tested_server, tested_versions
from chaos.verdict import ExitCode
from chaos.watch import Seen, Watch
from chaos.witness.witness import KernelWitness, Unavailable, WitnessStopped, open_witness
from reports.records import unusable
from reports.rundir import RESUMED, RunDirectory, RunDirectoryError, sweep, utc_text
from reports.verdict import Status, Verdict

JUDGE = [sys.executable, "-m", "chaos.judge"]
SEGMENT_NOTE = "1 MiB WAL segments, so that campaigns switch and recycle many"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A judged run. `interrupted` tells of a Ctrl-C also where the verdict is a finding."""

    verdict: Verdict
    report: Path
    interrupted: bool


class Viewer(Protocol):
    """Who watches a campaign."""

    def say(self, text: str) -> None: ...
    def begin(self) -> None: ...
    def cycle(self, result: CycleResult | CommandResult) -> None: ...


def run_campaign(order: Order, out: Path, *, view: Viewer, keep: bool = False) -> Outcome:
    """Run a campaign to its end or to Ctrl-C (SIGTERM is taken for it), judge it and write its reports.

    Raises CampaignError, TargetError, RunDirectoryError, StaleDefectError; the run directory holds what was
    recorded so far. KeyboardInterrupt comes out of it when there was a second Ctrl-C, while it was judging.
    """
    tested_versions(order.target)  # what is not here is refused before there is a directory
    run = RunDirectory.create(out, order.plan.seed)
    with run.lock():
        view.say(f"run directory: {run.path}")
        return _run(run, order, view, keep=keep)


def resume_campaign(
    run: RunDirectory, *, cycles: int | None, duration_s: float | None, view: Callable[[Order], Viewer], keep: bool
) -> Outcome:
    """Go on with a run that was cut off, `view` watching; see `chaos.order.resume_order`. Raises as `run_campaign`."""
    with run.lock():
        order = resume_order(run, cycles=cycles, duration_s=duration_s)
        wait_for_server(run)
        watching = view(order)
        watching.say(f"run directory: {run.path}")
        watching.say(f"going on with cycle {order.begin}, on a fresh cluster")
        return _run(run, order, watching, keep=keep)


def _run(run: RunDirectory, order: Order, view: Viewer, *, keep: bool) -> Outcome:
    adopt_orphans()
    _raise_file_limit()
    with Interruption() as interruption:
        sweep(run.path.parent)
        _describe(run, order)
        if order.target.kind is TargetKind.POSTGRES:
            view.say(f"server: {run.read_info().versions['server']}")
        try:
            interrupted = _crash(run, order, view, interruption)
            _note_end(run)
            verdict = judge_in_a_process(run, interruption, interrupted=interrupted)
            if verdict.status is not Status.FINDING and not keep:
                shutil.rmtree(run.pgdata, ignore_errors=True)
            _note_exit(run, verdict.exit_code)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            full = _is_full(error, run)
            try:
                until_ns = end_of_whole_cycles(run) if full else None
                _note_exit(run, ExitCode.INTERRUPTED if stopped else ExitCode.HARNESS_ERROR, judged_until_ns=until_ns)
            except RunDirectoryError as another:
                view.say(str(another))
            view.say(f"what was recorded can be judged: crashbed judge {run.path}")
            if isinstance(error, OSError):
                raise _unusable(error, run) from error
            if full and isinstance(error, CampaignError | TargetError) and not isinstance(error, DiskFull):
                # A server that met it may refuse a connection or end: what failed first names no cause.
                raise DiskFull(run.path, error) from error
            raise
    return Outcome(verdict, run.report_html, interrupted)


def _crash(run: RunDirectory, order: Order, view: Viewer, interruption: Interruption) -> bool:
    """The campaign under its witness; returns whether it was interrupted.

    Whatever it makes beside the run directory is taken down whole, however often Ctrl-C is pressed.
    """
    with ExitStack() as made:
        made.callback(interruption.release)
        made.callback(shutil.rmtree, run.template, ignore_errors=True)
        made.callback(reap_orphans)
        if order.resumes:
            # Before the witness: what it records belongs to this sitting.
            with run.harness_writer() as harness:
                harness.append(
                    {"t": time.monotonic_ns(), "pid": os.getpid(), "ev": RESUMED, "cycle": order.begin,
                     "judged_until_ns": order.judged_until_ns}
                )  # fmt: skip
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
        if order.defect:
            # Kept beside the evidence: it is what was tested, in every sitting.
            code = run.code.absolute()
            if not code.exists():
                DEFECTS[order.defect].plant(CODE_ROOT, code)
            view.say(f"planted defect: {DEFECTS[order.defect].title}")
        watch = Watch(run, CODE_ROOT) if order.stop.on_finding else None
        if watch is not None:
            made.callback(watch.close)
        ended = _cycle_ended(view, witness, watch, interruption)
        campaign = _campaign(run, order, witness, code, made, interruption, ended)
        made.callback(interruption.hold)
        view.begin()
        try:
            campaign.run(order.begin, _until(order, view, watch))
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
    environment = environment_of(CODE_ROOT)
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


def _campaign(
    run: RunDirectory,
    order: Order,
    witness: KernelWitness | Unavailable,
    code: Path | None,
    made: ExitStack,
    interruption: Interruption,
    ended: Callable[[CycleResult | CommandResult], None],
) -> Campaign | CommandCampaign:
    """The campaign, ready to run; what it needs is taken down by `made`."""
    plan = order.plan

    def started(pid: int) -> None:
        if isinstance(witness, KernelWitness):
            with interruption.held():
                witness.follow(pid, MAIN if isinstance(plan, CommandPlan) else "postmaster")

    if isinstance(plan, CommandPlan):
        command = CommandTarget(plan, log=run.server_log.absolute())
        made.callback(command.close)
        against = CommandCampaign(run, plan, command, on_cycle=ended, on_start=started)
        made.callback(against.close)
        return against
    server = tested_server(run, order, plan, code)
    made.callback(server.close)
    campaign = Campaign(run, plan, server.target, server.points, server.driver, on_cycle=ended, on_start=started)
    made.callback(campaign.close)
    return campaign


def _cycle_ended(
    view: Viewer, witness: KernelWitness | Unavailable, watch: Watch | None, interruption: Interruption
) -> Callable[[CycleResult | CommandResult], None]:
    """What is done when a cycle has ended."""

    def ended(result: CycleResult | CommandResult) -> None:
        view.cycle(result)
        if isinstance(witness, KernelWitness):
            # If this harness is killed, the account is whole up to here.
            with interruption.held(), suppress(WitnessStopped):  # which the account tells itself
                witness.drain()
        if watch is not None:
            watch.tell()

    return ended


def _until(order: Order, view: Viewer, watch: Watch | None) -> Callable[[int], bool]:
    stop = order.stop
    deadline = None if stop.duration_s is None else time.monotonic() + stop.duration_s - order.spent_s
    found: list[Seen] = []

    def more(cycle: int) -> bool:
        if watch is not None and not found:
            found.extend(watch.seen())
            if found:
                view.say(f"found in cycle {found[0].cycle}: {found[0].message}")
        if found:
            return False
        if stop.cycles is not None and cycle - order.first_cycle >= stop.cycles:
            return False
        return deadline is None or time.monotonic() < deadline

    return more


def _describe(run: RunDirectory, order: Order) -> None:
    info = run.read_info()
    info.plan = order.recorded()
    info.finished = info.exit_code = info.judged_until_ns = None
    if order.resumes:
        # The old judgement is of less than the run will be.
        for path in (run.verdict_json, run.report_html, run.junit_xml, run.summary_md):
            path.unlink(missing_ok=True)
        info.stop_rule = f"{order.stop} (resumed with cycle {order.begin}; before: {info.stop_rule})"
    else:
        info.command = [_program(), *sys.argv[1:]]
        info.target = str(order.target.kind)
        info.versions = {"crashbed": supervisor.VERSION, **tested_versions(order.target)}
        info.host = {"kernel": platform.release(), "cpus": os.cpu_count(), "boot_id": boot_id()}
        info.stop_rule = str(order.stop)
    run.write_info(info)


def _note_end(run: RunDirectory) -> None:
    """The campaign came to its end, or was interrupted: what follows is judging, which can be done again."""
    info = run.read_info()
    info.finished = utc_text(datetime.now(UTC))
    run.write_info(info)


def _note_exit(run: RunDirectory, exit_code: int, *, judged_until_ns: int | None = None) -> None:
    info = run.read_info()
    info.exit_code = exit_code
    info.judged_until_ns = judged_until_ns
    run.write_info(info)


def _is_full(error: BaseException, run: RunDirectory) -> bool:
    """Whether a run ended because there was no room, for it or for its server."""
    refused = error if isinstance(error, OSError) else error.__cause__
    no_room = isinstance(refused, OSError) and refused.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return no_room or isinstance(error, DiskFull) or shutil.disk_usage(run.path).free < LEAST_FREE_BYTES


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
