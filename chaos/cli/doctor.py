"""`crashbed doctor`: what this machine permits, a line each."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from chaos.doctor import Diagnosis, Place, State, diagnose
from chaos.plan import CampaignPlan

_COLOURS = {State.OK: "green", State.DEGRADED: "yellow", State.MISSING: "red"}


@click.command()
@click.option(
    "--out", default="out", show_default=True, type=click.Path(path_type=Path), help="Where run directories would go."
)
@click.option("--backends", default=8, show_default=True, help="Workers that runs would have.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(out: Path, backends: int, as_json: bool) -> int:
    """Try what runs rest on, and say what is lost where something is missing.

    \b
    crashbed doctor
    crashbed doctor --backends 500 --out /mnt/disk
    crashbed doctor --json

    Exit status 0 when runs here can be trusted in full, 1 when not: the last line says why. No browser, no perf and no
    PostgreSQL is needed.
    """
    CampaignPlan(seed=0, backends=backends)  # which refuses what no run could have
    directory = out.absolute()
    while not directory.exists():
        directory = directory.parent
    diagnosis = diagnose(Place(directory, backends))
    if as_json:
        shown = {"trusted": diagnosis.trusted, "summary": diagnosis.summary, "lines": diagnosis.lines}
        click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2))
    else:
        _show(diagnosis)
    return 0 if diagnosis.trusted else 1


def _show(diagnosis: Diagnosis) -> None:
    width = max(len(line.name) for line in diagnosis.lines)
    for line in diagnosis.lines:
        answer = line.answer
        state = click.style(f"{answer.state:<8}", fg=_COLOURS[answer.state])
        click.echo(f"{line.name:<{width}}  {state}  {answer.found}")
        if answer.state is not State.OK:
            needed = "" if line.trust else " (no run needs it)"
            click.echo(f"{'':<{width}}            lost: {answer.lost}{needed}; remedy: {answer.remedy}")
    click.echo(f"\n{diagnosis.summary}")
