"""A click command whose options may also come from a plan file.

Owns the order of precedence: the command line, then the file, then the option's default. It reads the file before
click checks anything, and hands click what it says as `default_map`, so that no option knows where its value is from.
"""

from __future__ import annotations

from typing import Final

import click
from click.core import ParameterSource

from chaos.cli.plan_file import RunPlan, read_run_plan
from chaos.targets.choice import TargetKind

FILE: Final = "plan_file"
"""The parameter that names the file."""
INSTEAD: Final = (frozenset({"kills", "duration"}), frozenset({"points", "no_points"}))
"""Parameters that answer one question together: said on the command line, one takes the place of all in the file."""


class PlanCommand(click.Command):
    """A command with an argument `plan_file`; the context's object is its RunPlan, or None without one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command.parse_args`. Raises PlanError for a file that is no plan."""
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        written = given.get(FILE)
        if isinstance(written, str) and "resume" not in given:
            plan = read_run_plan(written, ctx)
            _refuse_another_target(plan, given.get("target_kind"))
            superseded = frozenset[str]().union(*(group for group in INSTEAD if group & given.keys()))
            ctx.default_map = {name: value for name, value in plan.options.items() if name not in superseded}
            ctx.obj = plan
        return super().parse_args(ctx, args)


def plan_of(context: click.Context) -> RunPlan | None:
    """The plan file that a command was given."""
    return context.obj if isinstance(context.obj, RunPlan) else None


def from_file(context: click.Context) -> tuple[str, ...]:
    """The parameters whose values are the file's."""
    return tuple(name for name in context.params if context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP)


def _refuse_another_target(plan: RunPlan, target: object) -> None:
    """A command's plan is of a layout of its own; whether it is one, no option can change."""
    if target is not None and plan.is_of_command != (target == TargetKind.COMMAND):
        kind = "a command" if plan.is_of_command else "the built-in server or PostgreSQL"
        raise click.UsageError(f"--target {target}: {plan.path} is a plan for {kind}")
