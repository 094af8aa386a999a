"""`crashbed run`: a campaign with a live view, then judge and report."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from chaos.cli.plan_command import FILE, PlanCommand
from chaos.cli.run_options import RunOptions, order_of
from chaos.cli.verdict import show_verdict
from chaos.cli.view import View
from chaos.defects import DEFECTS
from chaos.errors import PlanError
from chaos.faults import DEFAULT, FAULTS
from chaos.faults.availability import ALL
from chaos.order import Order
from chaos.plan import EPOCH_CYCLES, MOST_BACKENDS, MOST_SEED
from chaos.selector import parse_selector
from chaos.start import resume_campaign, run_campaign
from chaos.targets.choice import TargetKind
from reports.rundir import RunDirectory
from workloads.registry import WORKLOADS, WorkloadUnavailable


def _names(known: tuple[str, ...], what: str) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    def check(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
        names = tuple(part.strip() for part in value.split(",") if part.strip())
        for name in names:
            if name not in known:
                raise click.BadParameter(f"there is no {what} '{name}'; there are {', '.join(known)}")
        return names

    return check


def _workloads(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = _names(tuple(WORKLOADS), "workload")(context, parameter, value)
    try:
        for name in names:
            WORKLOADS[name]
    except WorkloadUnavailable as unavailable:
        raise click.BadParameter(str(unavailable)) from unavailable
    return names


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (value[:-1], value[-1]) if value[-1:] in units else (value, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        raise click.BadParameter(f"'{value}' is not a duration: write 90s, 10m or 2h") from None
    if not 0 < seconds < math.inf:
        raise click.BadParameter(f"'{value}' is no time to run for: write 90s, 10m or 2h")
    return seconds


def _settings(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    settings = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals):
            raise click.BadParameter(f"'{text}' is no setting: write NAME=VALUE, as in fsync=off")
        settings[name.strip()] = value.strip()
    return settings


def _selectors(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for selector in values:
        try:
            parse_selector(selector)
        except PlanError as error:
            raise click.BadParameter(str(error)) from error
    return values


@click.command("run", cls=PlanCommand)
@click.argument("plan_file", metavar="[PLAN]", required=False)
@click.option("--target", "target_kind", type=click.Choice([str(kind) for kind in TargetKind]), default="builtin",
              show_default=True, help="What is crashed: the built-in server, a real PostgreSQL, or a plan's command.")  # fmt: skip
@click.option("--pg-bindir", type=click.Path(path_type=Path), metavar="DIR",
              help="Where PostgreSQL's programs are.  [default: PATH, the usual places, the wheel]")  # fmt: skip
@click.option("--pg-set", "pg_settings", multiple=True, callback=_settings, metavar="NAME=VALUE",
              help="Start PostgreSQL with this setting. May be repeated.")  # fmt: skip
@click.option("--workload", "workloads", default="bank", show_default=True, callback=_workloads,
              help="Workloads, separated by commas; each cycle runs one.")  # fmt: skip
@click.option("--backends", type=click.IntRange(1, MOST_BACKENDS), default=8, show_default=True,
              metavar="N", help="Workers inside the server.")  # fmt: skip
@click.option("--kills", type=click.IntRange(1), help="Stop after so many cycles.  [default: 20]")
@click.option("--duration", callback=_duration, metavar="TIME", help="Stop after so long: 90s, 10m, 2h.")
@click.option("--fault", "faults", default=",".join(DEFAULT), show_default=True,
              callback=_names((*FAULTS, ALL), "fault"),
              help="Faults (see crashbed faults), separated by commas; all: each that can be done here.")  # fmt: skip
@click.option("--point", "points", multiple=True, callback=_selectors, metavar="SELECTOR",
              help="Place every fault at such a point: role[#nth]/point:k (see crashbed points). May be repeated.")  # fmt: skip
@click.option("--no-points", is_flag=True, help="Place no fault at a point, all of them in time.")
@click.option("--synchronous-commit", type=click.Choice(["on", "off"]), default="on", show_default=True,
              help="off: commits do not wait for their flush, and the judge allows for the last ones.")  # fmt: skip
@click.option("--epoch", "epoch_cycles", type=click.IntRange(1), default=EPOCH_CYCLES, show_default=True, metavar="N",
              help="Cycles on one cluster and under one postmaster, before a fresh one.")  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0, MOST_SEED), metavar="N", help="Seed of all choices.  [default: drawn and printed]"
)
@click.option(
    "--out", default="out", show_default=True, type=click.Path(path_type=Path), help="Where run directories go."
)
@click.option("--defect", type=click.Choice(sorted(DEFECTS)), help="Plant this defect into a copy of the server first.")
@click.option(
    "--require", type=click.Choice(["supervision"]), help="Insist on the kernel's witness: exit 5 without it."
)
@click.option("--stop-on-finding", is_flag=True, help="Judge beside the run, and end it with the first finding.")
@click.option("--keep", is_flag=True, help="Keep the data directory also when nothing was found.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR",
              help="Go on with a run that was cut off; only --kills, --duration and --keep go with it.")  # fmt: skip
@click.pass_context
def run_command(context: click.Context, /, **given: Any) -> int:
    """Crash a server again and again, and judge what survived.

    \b
    crashbed run
    crashbed run --kills 300 --workload bank
    crashbed run --duration 10m --fault sigkill-several,sigquit
    crashbed run --kills 200 --fault all
    crashbed run --duration 8h --stop-on-finding
    crashbed run --kills 50 --point backend/COMMIT_AFTER_FLUSH:30
    crashbed run --kills 20 --point startup/REDO_RECORD:5     a crash, and another during its recovery
    crashbed run --synchronous-commit off     may lose the last commits, and nothing else
    crashbed run --seed 7 --kills 20          the same plan every time
    crashbed run --target postgres --workload bank,append
    crashbed run smoke                        a plan that is shipped (see crashbed plans), about a minute
    crashbed run nightly --duration 1h        what is said here goes before what the plan says
    crashbed run docs/examples/gunicorn.toml   any server of several processes: its supervision alone
    crashbed run --resume out/20260101T120000Z-7
    crashbed run --resume out/20260101T120000Z-7 --kills 600

    Each cycle opens the workers, waits for the plan's moment, strikes, waits until the server serves again, and
    looks at the data. The last line is the command that reproduces the run. Ctrl-C ends with the report so far.
    PLAN is a file in TOML whose keys are these options (docs/guide.md), or the name of a plan that is shipped.
    --resume goes on with a run that was interrupted or killed, with the first cycle that did not end.
    """
    options = RunOptions(**given)
    if options.resume is not None:
        return _resume(context, options.resume, options.kills, options.duration, keep=options.keep)
    order, left_out = order_of(context, options)
    for line in left_out:
        click.echo(line)
    return _run(order, options.out, keep=options.keep)


def _resume(context: click.Context, directory: Path, kills: int | None, duration_s: float | None, *, keep: bool) -> int:
    """What else a run is, it was told when it began."""
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name == FILE:
            raise click.UsageError(f"--resume goes on with a run as it began: leave out {context.params[FILE]}")
        if given and name not in ("resume", "kills", "duration", "keep"):
            raise click.UsageError(f"{parameter.opts[0]} cannot be changed by --resume: it is the run's own")
    with ExitStack() as shown:
        outcome = resume_campaign(
            RunDirectory.open(directory),
            cycles=kills,
            duration_s=duration_s,
            view=lambda order: shown.enter_context(
                View(order.plan, order.stop, done=order.begin - order.first_cycle, server=order.target.kind.words)
            ),
            keep=keep,
        )
    show_verdict(outcome.verdict, outcome.report)
    return outcome.verdict.exit_code


def _run(order: Order, out: Path, *, keep: bool = False) -> int:
    with View(order.plan, order.stop, server=order.target.kind.words) as view:
        outcome = run_campaign(order, out, view=view, keep=keep)
    show_verdict(outcome.verdict, outcome.report)
    return outcome.verdict.exit_code
