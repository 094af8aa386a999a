"""`crashbed bundle`: a run in one file, for a bug report."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from chaos.bundle import Wanted, pack, survey
from reports.rundir import RunDirectory


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="The file to make, which must not be there.  [default: DIR.tar.gz]")  # fmt: skip
@click.option("--data", is_flag=True, help="Pack the kept data directory too: explain reads its WAL.")
@click.option("--all", "everything", is_flag=True, help="Pack all evidence, however much it is.")
@click.option(
    "--no-environment", is_flag=True, help="Do not try what this machine permits; equal runs give equal bytes."
)
def bundle(directory: Path, output: Path | None, data: bool, everything: bool, no_environment: bool) -> int:
    """Pack a run into one tar.gz that somebody else can judge, explain and replay.

    \b
    crashbed bundle out/20260101T120000Z-7
    crashbed bundle out/20260101T120000Z-7 --data -o /tmp/lost-commit.tar.gz

    Its MANIFEST says what is in it, and what was left out and why. Of a run with more than 64 MiB of
    evidence the failing cycles and their neighbours go in; such a bundle has verdict and report of the whole run, and
    cannot be judged again. Variables of the environment are not packed, but for a few that change how Python runs.
    """
    run = RunDirectory.open(directory)
    path = output or run.path.resolve().with_name(f"{run.path.resolve().name}.tar.gz")
    if not path.absolute().parent.is_dir():
        raise click.UsageError(f"{path.parent} is no directory: the bundle needs one to be made in")
    wanted = Wanted(data=data, everything=everything, environment=not no_environment)
    with run.lock():
        contents = survey(run, wanted)
        try:
            with click.progressbar(
                length=contents.bytes, label="packing", file=sys.stderr, hidden=not sys.stderr.isatty()
            ) as bar:
                manifest = pack(run, path, wanted, contents, progress=bar.update)
        except FileExistsError as there:
            raise click.UsageError(f"{path} {there.strerror}") from there
    click.echo(manifest.summary)
    click.echo(f"bundle: {path} ({path.stat().st_size:,d} bytes)")
    return 0
