"""`crashbed judge` and `crashbed report`: the later stages, on a directory alone."""

from __future__ import annotations

from pathlib import Path

import click

from chaos.cli.verdict import show_verdict
from chaos.judge import judge_in_full
from reports.render import write_reports
from reports.rundir import RunDirectory

_DIRECTORY = click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")


@click.command()
@_DIRECTORY
def judge(directory: Path) -> int:
    """Judge a run again from what it recorded, and write verdict and report anew.

    \b
    crashbed judge out/20260101T120000Z-7
    """
    run = RunDirectory.open(directory)
    judgement = judge_in_full(run)
    judgement.write(run)
    show_verdict(judgement.verdict, write_reports(run))
    return judgement.verdict.exit_code


@click.command()
@_DIRECTORY
def report(directory: Path) -> int:
    """Write report.html, junit.xml and summary.md of a judged run anew.

    \b
    crashbed report out/20260101T120000Z-7
    """
    click.echo(write_reports(RunDirectory.open(directory)))
    return 0
