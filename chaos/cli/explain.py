"""`crashbed explain`: the story of a failure, or of a recovery, from what a run recorded."""

from __future__ import annotations

import re
from pathlib import Path

import click

from chaos.explain.story import NothingToExplain, tell_operation, tell_verdict
from reports.rundir import RunDirectory


def _operation(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """An operation's number, alone or as evidence names it: `operation 16`, `transfer 16`."""
    if value is None:
        return None
    match = re.fullmatch(r"(?:[a-z]+ )?(\d+)", value.strip())
    if match is None:
        raise click.BadParameter(f"'{value}' is no operation: write its number, as in 16 or 'operation 16'")
    return int(match[1])


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--cycle", type=click.IntRange(0), help="Explain this cycle's first failure, or its recovery.")
@click.option("--op", "operation", callback=_operation, metavar="ID", help="Explain what became of this operation.")
def explain(directory: Path, cycle: int | None, operation: int | None) -> int:
    """Tell how a failure came about, in at most thirty lines, and why.

    \b
    crashbed explain out/20260101T120000Z-7
    crashbed explain out/20260101T120000Z-7 --cycle 3
    crashbed explain out/20260101T120000Z-7 --op 9437184

    Without an option it explains the first failure of the verdict; if there is none, the slowest recovery. Every line
    says when (ms since the kill) and which of the run's sources tells it. The WAL is read from the kept data directory.
    """
    if cycle is not None and operation is not None:
        raise click.UsageError("--cycle and --op are two questions: give one of them")
    run = RunDirectory.open(directory)
    try:
        lines = (
            tell_operation(run, operation) if operation is not None else tell_verdict(run, run.read_verdict(), cycle)
        )
    except NothingToExplain as nothing:
        raise click.UsageError(str(nothing)) from nothing
    for line in lines:
        click.echo(line)
    return 0
