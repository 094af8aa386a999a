"""What a harness is asked to do with a run directory: begin a run, or go on with one that was cut off.

Owns the stop rule, what run.json holds of an order, and the rule by which an order to go on follows from a run
directory. It runs nothing.

A run that is resumed goes on with the first cycle that did not end, on a fresh cluster: a cluster whose server was
killed with its harness is nobody's witness. No whole cycle is run twice, and none that was recorded is dropped: what
it showed stays shown. A cycle's plan follows from the seed and its number, so it is the plan that it would have been.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

import supervisor
from chaos.command.plan import CommandPlan
from chaos.errors import PlanError
from chaos.phases import cycles_of
from chaos.plan import CampaignPlan
from chaos.targets.choice import BUILTIN, TargetChoice, TargetKind
from chaos.verdict import ExitCode
from reports.rundir import RunDirectory, RunDirectoryError, RunInfo
from reports.verdict import SCHEMA

_N = TypeVar("_N", int, float)
SERVER_GONE_S = 10.0
"""How long a killed harness's server may take to notice."""


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
class Order:
    """One campaign. `first_cycle` is the run's first, `next_cycle` the one to begin with (None: the first), `spent_s`
    what earlier sittings took of the stop rule's duration, `judged_until_ns` where the last one met a full disk."""

    plan: CampaignPlan | CommandPlan
    stop: StopRule
    target: TargetChoice = BUILTIN
    defect: str | None = None
    require: str | None = None
    first_cycle: int = 0
    next_cycle: int | None = None
    spent_s: float = 0.0
    judged_until_ns: int | None = None

    @property
    def begin(self) -> int:
        """The cycle to begin with."""
        return self.first_cycle if self.next_cycle is None else self.next_cycle

    @property
    def resumes(self) -> bool:
        """Whether it goes on with an earlier run."""
        return self.next_cycle is not None

    def recorded(self) -> dict[str, object]:
        """What run.json holds of it."""
        return {
            "campaign": msgspec.to_builtins(self.plan),
            "target": self.target.recorded(),
            "defect": self.defect,
            "require": self.require,
            "first_cycle": self.first_cycle,
            "stop": {
                "cycles": self.stop.cycles,
                "duration_s": self.stop.duration_s,
                "on_finding": self.stop.on_finding,
            },
        }


def read_order(run: RunDirectory) -> Order:
    """The order of an earlier run. Raises RunDirectoryError when run.json holds none of this version."""
    info = run.read_info()
    recorded = info.plan
    try:
        return Order(
            plan=_plan_of(info),
            stop=StopRule(**recorded.get("stop", {})),
            target=TargetChoice.read(recorded.get("target")),
            defect=recorded.get("defect"),
            require=recorded.get("require"),
            first_cycle=recorded.get("first_cycle", 0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunDirectoryError(f"{run.run_json} holds no plan that can be run again: {error}") from error


def _plan_of(info: RunInfo) -> CampaignPlan | CommandPlan:
    if info.target == TargetKind.COMMAND:
        return msgspec.convert(info.plan["campaign"], CommandPlan)
    return msgspec.convert(info.plan["campaign"], CampaignPlan)


def resume_order(run: RunDirectory, *, cycles: int | None = None, duration_s: float | None = None) -> Order:
    """The order to go on with a run, its stop rule raised to `cycles` or `duration_s` if given.

    Only for who holds the run's lock. Raises RunDirectoryError when the run cannot go on, PlanError when the stop
    rule would not be raised by what was given.
    """
    info = run.read_info()
    _refuse_strangers(run, info)
    order = read_order(run)
    stop = replace(
        order.stop,
        cycles=_raised("--kills", order.stop.cycles, cycles),
        duration_s=_raised("--duration", order.stop.duration_s, duration_s),
    )
    if info.exit_code == ExitCode.FINDING:
        raise RunDirectoryError(
            f"{run.path} ended with a finding, and its data directory is kept as it was found: begin another run"
        )
    whole = [cycle.cycle for cycle in cycles_of(run.harness_records()) if cycle.end_ns is not None]
    next_cycle = max(whole, default=order.first_cycle - 1) + 1
    spent_s = sum(_span_s(sitting) for sitting in run.sittings())
    ran_out = stop.duration_s is not None and spent_s >= stop.duration_s
    if (stop == order.stop and info.exit_code in (ExitCode.HELD, ExitCode.INCONCLUSIVE)) or ran_out:
        raise RunDirectoryError(f"{run.path} ended as planned, {stop}: to go on, raise --kills or --duration")
    if stop.cycles is not None and next_cycle - order.first_cycle >= stop.cycles:
        raise RunDirectoryError(
            f"{run.path} has run all of its {stop.cycles} cycles: judge it with `crashbed judge`, or raise --kills"
        )
    return replace(order, stop=stop, next_cycle=next_cycle, spent_s=spent_s, judged_until_ns=info.judged_until_ns)


def boot_id() -> str:
    """Which start of which machine this is: times of two are not comparable."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def wait_for_server(run: RunDirectory) -> None:
    """Return when no process of the run's last server is left: each holds the data directory's lock.

    Raises RunDirectoryError when one stays.
    """
    if not run.pgdata.exists():
        return
    descriptor = os.open(run.pgdata, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + SERVER_GONE_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise RunDirectoryError(
                        f"a server still runs on {run.pgdata}: end it (see the first line of postmaster.pid there)"
                    ) from None
            time.sleep(0.01)
    finally:
        os.close(descriptor)


def _refuse_strangers(run: RunDirectory, info: RunInfo) -> None:
    version = info.versions.get("crashbed")
    if not info.plan:
        raise RunDirectoryError(f"{run.run_json} holds no plan: the run ended before it had begun, run it again")
    if info.schema != SCHEMA or version != supervisor.VERSION:
        raise RunDirectoryError(
            f"{run.path} was recorded by crashbed {version}, and this is {supervisor.VERSION}: a run is of one version, "
            "begin another"
        )
    if info.host.get("boot_id") != boot_id():
        raise RunDirectoryError(
            f"{run.path} was recorded on another machine, or before this one was started anew: its clock is not today's, "
            "begin another run"
        )


def _raised(option: str, planned: _N | None, given: _N | None) -> _N | None:
    if given is None:
        return planned
    if planned is None:
        raise PlanError(f"{option} cannot be given to a run that was planned without it")
    if given < planned:
        raise PlanError(f"{option} can only be raised: it was planned with {planned:g}")
    return given


def _span_s(sitting: RunDirectory) -> float:
    times = [record["t"] for record in sitting.harness_records() if "t" in record]
    return (max(times) - min(times)) / 1e9 if times else 0.0
