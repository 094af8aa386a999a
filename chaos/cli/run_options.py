"""From the options of `crashbed run` to the order that they make.

Owns what options mean together: defaults that depend on others, and which contradict each other. It runs nothing, so
`crashbed plan` shows by it what a run would do.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import click

from chaos.cli import command
from chaos.cli.plan_command import from_file, plan_of
from chaos.errors import PlanError
from chaos.faults.availability import select
from chaos.order import Order, StopRule
from chaos.plan import ASYNCHRONOUS_DELAY_MS, DELAY_MS, POINT_ONE_IN, CampaignPlan
from chaos.targets.choice import TargetChoice, TargetKind

KILLS = 20
"""Cycles of a run that says no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The parameters of `crashbed run`, each checked by itself; `duration` is in seconds."""

    plan_file: str | None
    target_kind: str
    pg_bindir: Path | None
    pg_settings: dict[str, str]
    workloads: tuple[str, ...]
    backends: int
    kills: int | None
    duration: float | None
    faults: tuple[str, ...]
    points: tuple[str, ...]
    no_points: bool
    synchronous_commit: str
    epoch_cycles: int
    seed: int | None
    out: Path
    defect: str | None
    require: str | None
    stop_on_finding: bool
    keep: bool
    resume: Path | None


def order_of(context: click.Context, options: RunOptions) -> tuple[Order, tuple[str, ...]]:
    """The order, and a line for each fault that `all` leaves out here. Raises PlanError, UsageError."""
    plan = plan_of(context)
    if options.target_kind == TargetKind.COMMAND:
        if plan is None:
            raise click.UsageError("--target command needs a plan file: crashbed run PLAN.toml")
        order = command.order_of(
            context, plan.path, kills=options.kills, duration_s=options.duration, seed=options.seed
        )
        return order, ()
    try:
        return _order(options)
    except PlanError as error:
        if plan is None:
            raise
        raise plan.located(error, from_file(context)) from error


def _order(options: RunOptions) -> tuple[Order, tuple[str, ...]]:
    if options.points and options.no_points:
        raise PlanError("--point and --no-points contradict each other: give one of them")
    pg_bindir = str(options.pg_bindir.absolute()) if options.pg_bindir else None
    target = TargetChoice(TargetKind(options.target_kind), pg_bindir, options.pg_settings)
    chosen, left_out = select(options.faults, target.kind)
    waits = options.synchronous_commit == "on"
    plan = CampaignPlan(
        seed=options.seed if options.seed is not None else secrets.randbits(32),
        workloads=options.workloads,
        backends=options.backends,
        faults=chosen,
        points=options.points,
        point_one_in=_point_one_in(options, target),
        epoch_cycles=options.epoch_cycles,
        synchronous_commit=waits,
        delay_ms=DELAY_MS if waits else ASYNCHRONOUS_DELAY_MS,
    )
    target.check(plan, options.defect)
    ends = options.kills is not None or options.duration is not None
    stop = StopRule(options.kills if ends else KILLS, options.duration, options.stop_on_finding)
    return Order(plan, stop, target, options.defect, options.require), left_out


def _point_one_in(options: RunOptions, target: TargetChoice) -> int:
    if options.points:
        return 1
    return 0 if options.no_points or target.kind is not TargetKind.BUILTIN else POINT_ONE_IN
