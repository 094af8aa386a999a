"""How a verdict is shown at the end of a command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from reports import loads
from reports.verdict import OracleStatus, Status, Verdict

_COLOURS = {
    Status.HELD: "green",
    Status.FINDING: "red",
    Status.INCONCLUSIVE: "yellow",
    Status.INTERRUPTED: "yellow",
}
_SHOWN_FINDINGS = 5


def show_verdict(verdict: Verdict, report: Path, story: Sequence[str] = ()) -> None:
    """The verdict, what it rests on, a story of the run, where the report is, and, last, the command that repeats it."""
    click.echo()
    for row in verdict.oracles:
        mark = {OracleStatus.HELD: "ok", OracleStatus.FAILED: "FAILED", OracleStatus.NOT_JUDGED: "not judged"}[
            row.status
        ]
        reason = f"  {row.reason}" if row.reason and row.status is OracleStatus.NOT_JUDGED else ""
        click.echo(f"  {mark:<10} {row.title:<62} {row.trials:>8} trials{reason}")
    for finding in verdict.findings[:_SHOWN_FINDINGS]:
        click.echo()
        where = f"cycle {finding.cycle}: " if finding.cycle is not None else ""
        click.secho(f"  {where}{finding.message}", fg="red")
        for line in finding.evidence:
            click.echo(f"    {line}")
    if len(verdict.findings) > _SHOWN_FINDINGS:
        click.echo(f"\n  and {len(verdict.findings) - _SHOWN_FINDINGS} more in the report")
    for item in verdict.not_judged:
        click.echo(f"\n  not judged: {item.what}: {item.reason}" + (f"\n    {item.remedy}" if item.remedy else ""))
    click.echo()
    word = click.style(verdict.status.value.upper(), fg=_COLOURS[verdict.status], bold=True)
    click.echo(
        f"{word}  {verdict.conclusive_cycles} of {verdict.cycles} cycles conclusive"
        + (f", {verdict.ledger.total} operations judged" if verdict.ledger.total else "")
    )
    for why in verdict.inconclusive:
        click.echo(f"  {why.cycles} inconclusive: {why.reason}" + (f" ({why.remedy})" if why.remedy else ""))
    for bound in verdict.bounds:
        click.echo(f"  {bound.statement}")
    for load in verdict.loads:
        click.echo(f"  load of {loads.line(load)}")
    if story:
        click.echo()
        for line in story:
            click.echo(line)
        click.echo()
    elif verdict.findings:
        click.echo(f"explain: crashbed explain {report.parent}")
    click.echo(f"report: {report}")
    if verdict.exactness:
        click.echo(verdict.exactness)
    click.echo(f"reproduce: {verdict.reproduce}")
