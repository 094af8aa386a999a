"""`crashbed replay`: a cycle of an earlier run again, once or so often that a rate can be told."""

from __future__ import annotations

from pathlib import Path

import click

from chaos.cli.verdict import show_verdict
from chaos.cli.view import View
from chaos.interruption import Interruption
from chaos.order import Order
from chaos.replay import EXACTNESS, HitRate, Sought, replay_order, sought
from chaos.start import Outcome, run_campaign
from chaos.verdict import ExitCode
from reports.rundir import RunDirectory


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--cycle", required=True, type=click.IntRange(0), help="The cycle to run again.")
@click.option(
    "--times", type=click.IntRange(1), metavar="N", help="Run it so often, and tell how often the finding came back."
)
@click.option("--out", type=click.Path(path_type=Path),
              help="Where new run directories go.  [default: beside DIR; with --times, DIR-cycle-K]")  # fmt: skip
def replay(directory: Path, cycle: int, times: int | None, out: Path | None) -> int:
    """Run a cycle of an earlier run again, from the beginning of its epoch.

    \b
    crashbed replay out/20260101T120000Z-7 --cycle 31
    crashbed replay out/20260101T120000Z-7 --cycle 31 --times 10

    The plan is the same to the byte. When a kill lands is up to the machine, so a failure that depends on the
    moment may need several tries; one placed at a point does not. --times repeats it, one run after the other, and tells
    in how many the same oracle failed at the cycle again, with the interval that so many tries allow. Ctrl-C ends it
    with the rate of those that came to their end.

    With --times the exit status is 1 when the finding came back at least once, 0 when it never did, 2 when it was
    interrupted before it did.
    """
    run = RunDirectory.open(directory)
    order = replay_order(run, cycle)
    if times is None:
        outcome = _once(order, out or run.path.parent)
        show_verdict(outcome.verdict, outcome.report)
        return outcome.verdict.exit_code
    finding = sought(run.read_verdict() if run.verdict_json.exists() else None, cycle)
    return _repeat(order, finding, times, out or run.path.with_name(f"{run.path.name}-cycle-{cycle}"))


def _once(order: Order, out: Path) -> Outcome:
    with View(order.plan, order.stop, server=order.target.kind.words) as view:
        return run_campaign(order, out, view=view)


def _repeat(order: Order, finding: Sought, times: int, out: Path) -> int:
    """Replay until it was done so often or somebody interrupts; tells the rate also when an error ends it."""
    click.echo(f"sought: {finding}")
    rate = HitRate()
    interrupted = False
    try:
        with Interruption():
            while rate.repetitions < times and not interrupted:
                outcome = _once(order, out)
                interrupted = outcome.interrupted
                if not interrupted:  # to count one only if it came to its finding in time would flatter the rate
                    rate = rate.after(outcome.verdict, finding)
                    came = "came back" if finding.is_in(outcome.verdict) else "did not come back"
                    click.echo(f"repetition {rate.repetitions} of {times}: it {came}; report: {outcome.report}\n")
    except KeyboardInterrupt:
        interrupted = True
    finally:
        click.echo(f"{'interrupted: ' if interrupted else ''}{rate}")
        click.echo(EXACTNESS)
        click.echo(f"runs: {out}")
    if rate.hits:
        return ExitCode.FINDING
    return ExitCode.INTERRUPTED if interrupted else ExitCode.HELD
