"""`crashbed plan` and `crashbed plans`: what a run would do, without doing it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import msgspec

from chaos.cli.plan_file import KEYS, Shape, read_run_plan
from chaos.cli.run import run_command
from chaos.cli.run_options import RunOptions, order_of
from chaos.command.plan import CommandCycle, CommandPlan
from chaos.order import Order
from chaos.plan import MOST_SEED, CyclePlan, PointPlacement
from chaos.plans import SHIPPED
from chaos.victims import AnyChild, EveryChild, RoleChild, SeveralChildren, Victims

CYCLES = 10


@click.command()
@click.argument("plan_file", metavar="PLAN")
@click.option("--cycles", type=click.IntRange(0), default=CYCLES, show_default=True, help="How many cycles to show.")
@click.option(
    "--seed",
    type=click.IntRange(0, MOST_SEED),
    metavar="N",
    help="Seed of all choices.  [default: the plan's, or drawn]",
)
def plan(plan_file: str, cycles: int, seed: int | None) -> int:
    """Show what a plan comes to: its options, and its first cycles. Nothing is run.

    \b
    crashbed plan smoke
    crashbed plan nightly --cycles 40 --seed 7
    crashbed plan docs/examples/gunicorn.toml

    PLAN is a file in TOML, or the name of a plan that is shipped (see crashbed plans). An option that the plan does not
    name is shown with its default. A plan without a seed has other cycles each time.
    """
    words = [plan_file] if seed is None else ["--seed", str(seed), plan_file]
    with run_command.make_context("run", words) as context:
        options = RunOptions(**context.params)
        order, left_out = order_of(context, options)
    click.echo(f"{context.obj.path}: {context.obj.about}" if context.obj.about else context.obj.path)
    resolved = _of_command(order.plan) if isinstance(order.plan, CommandPlan) else _of_server(order, options)
    _table([(f"  {name}", value) for name, value in (*resolved.items(), ("ends", str(order.stop)))])
    for line in left_out:
        click.echo(f"  {line}")
    click.echo()
    rows = [_row(order.plan.cycle(number)) for number in range(cycles)]
    _table([("cycle", "epoch", "workload", "fault", "placed", "whom"), *rows])
    return 0


@click.command()
def plans() -> int:
    """List the plans that are shipped.

    \b
    crashbed plans
    crashbed plan smoke      what it comes to
    crashbed run smoke       run it
    """
    with run_command.make_context("run", []) as context:
        _table([(name, read_run_plan(str(path), context).about) for name, path in SHIPPED.items()])
    return 0


def _of_server(order: Order, options: RunOptions) -> dict[str, str]:
    """The options as the keys of a plan file; faults and seed as they were resolved."""
    values: dict[str, Any] = {key.name: getattr(options, key.parameter) for key in KEYS.values()}
    values |= {"faults": order.plan.faults, "seed": order.plan.seed}
    for name in ("kills", "duration"):  # said by the rule of the end
        del values[name]
    return {name: _value(value, KEYS[name].shape) for name, value in values.items() if value not in (None, (), {})}


def _of_command(plan: CommandPlan) -> dict[str, str]:
    said: Mapping[str, Any] = msgspec.to_builtins(plan)
    return {name: _value(value, Shape.TEXT) for name, value in said.items() if value not in (None, [], (), {}, "")}


def _value(value: Any, shape: Shape) -> str:
    if shape is Shape.FLAG:
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {of}" for name, of in value.items() if of is not None)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _row(cycle: CyclePlan | CommandCycle) -> tuple[str, ...]:
    if isinstance(cycle, CommandCycle):
        whom = "the main process" if cycle.victims is None else _whom(cycle.victims)
        return (str(cycle.cycle), str(cycle.epoch), "", cycle.fault, f"{cycle.delay_ms:.3f} ms", whom)
    at = cycle.placement
    if isinstance(at, PointPlacement):
        placed, whom = at.selector, "who gets there"
    else:
        placed, whom = f"{at.delay_ms:.3f} ms", "the postmaster" if cycle.victims is None else _whom(cycle.victims)
    return (str(cycle.cycle), str(cycle.epoch), cycle.workload, cycle.fault, placed, whom)


def _whom(victims: Victims) -> str:
    match victims:
        case AnyChild():
            return "any child"
        case RoleChild(role):
            return f"a {role}"
        case SeveralChildren(draws):
            return f"{len(draws)} children"
        case EveryChild(role):
            return f"every {role}"


def _table(rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as they must be; the last is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
