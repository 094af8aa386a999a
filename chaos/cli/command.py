"""`crashbed run PLAN.toml`: a campaign against any command, as its plan file says."""

from __future__ import annotations

import secrets
from pathlib import Path

import click
from click.core import ParameterSource

from chaos.command.plan_file import read_plan_file
from chaos.order import Order, StopRule
from chaos.targets.choice import TargetChoice, TargetKind

KILLS = 20
"""Cycles of a plan that says no end."""
OPTIONS = frozenset({"plan_file", "target_kind", "kills", "duration", "seed", "out", "keep"})
"""What may be said beside a plan file; anything else, the file says."""


def order_of(
    context: click.Context, path: Path, *, kills: int | None, duration_s: float | None, seed: int | None
) -> Order:
    """The order that a plan file makes, with what the command line says in its place. Raises PlanError, UsageError."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and name not in OPTIONS:
            raise click.UsageError(f"{parameter.opts[0]} does not go with a plan file: {path} is the plan")
    file = read_plan_file(path)
    drawn = seed if seed is not None else file.seed if file.seed is not None else secrets.randbits(32)
    if kills is None and duration_s is None:
        kills, duration_s = file.kills, file.duration_s
    if kills is None and duration_s is None:
        kills = KILLS
    return Order(file.plan(drawn), StopRule(cycles=kills, duration_s=duration_s), TargetChoice(TargetKind.COMMAND))
