"""`crashbed demo`: a red run, so that everybody knows what one looks like."""

from __future__ import annotations

from pathlib import Path

import click

from chaos.cli.verdict import show_verdict
from chaos.cli.view import View
from chaos.defects import DEFECTS
from chaos.explain.story import tell_verdict
from chaos.order import Order, StopRule
from chaos.plan import CampaignPlan
from chaos.start import run_campaign
from reports.rundir import RunDirectory
from reports.verdict import Status

DEFECT = "acknowledged-before-wal"
CYCLES = 6


@click.command()
@click.option(
    "--out", default="out", show_default=True, type=click.Path(path_type=Path), help="Where run directories go."
)
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Seed of all choices.")
@click.option("--kills", default=CYCLES, show_default=True, type=click.IntRange(1), help="Stop after so many cycles.")
def demo(out: Path, seed: int, kills: int) -> int:
    """Crash a server with a planted defect and see it found (exit status 1).

    The commit is acknowledged before its WAL record has left the session: the record goes in with the session's
    next transaction. A client that was told "committed" just before the kill was told a lie. It ends with the story of
    the first loss, as `crashbed explain` tells it.

    \b
    crashbed demo
    """
    plan = CampaignPlan(seed=seed, faults=("sigkill-random",), point_one_in=0)
    stop = StopRule(cycles=kills)
    with View(plan, stop) as view:
        outcome = run_campaign(Order(plan, stop, defect=DEFECT), out, view=view, keep=True)
    story = tell_verdict(RunDirectory.open(outcome.report), outcome.verdict) if outcome.verdict.findings else ()
    show_verdict(outcome.verdict, outcome.report, story)
    if outcome.verdict.status is not Status.FINDING:
        click.echo(
            f"\nthe planted defect ({DEFECTS[DEFECT].title}) was not found: this is an error of the harness", err=True
        )
    return outcome.verdict.exit_code
