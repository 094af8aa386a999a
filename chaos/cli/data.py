"""`crashbed init`, `serve`, `waldump`, `controldata`, `points`: the built-in server by hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.recovery.control import controldata_text, read_control
from supervisor.engine.recovery.waldump import dump_wal
from supervisor.errors import StartupError
from supervisor.host import SoloHost
from supervisor.points import Point
from supervisor.postmaster import data_directory
from supervisor.postmaster.initdb import initialise


def _directory_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "-D", "--pgdata", "directory", type=click.Path(path_type=Path), envvar="PGDATA", required=True,
        metavar="DIR", help="The data directory (default: $PGDATA).",
    )  # fmt: skip


@click.command()
@_directory_option()
@click.option(
    "--wal-segsize", default=16, show_default=True, metavar="MIB", help="Size of WAL segments: 1, 2, 4, 8 or 16."
)
def init(directory: Path, wal_segsize: int) -> int:
    """Make a data directory.

    \b
    crashbed init -D data
    """
    identifier = initialise(directory, segment_size=wal_segsize * 1024**2)
    click.echo(f"made data directory {directory} (system identifier {identifier})")
    click.echo(f"start it with: crashbed serve -D {directory}")
    return 0


@click.command(context_settings={"ignore_unknown_options": True})
@_directory_option()
@click.option("-p", "port", metavar="PORT", help="Names the socket (default 5432).")
@click.option("-k", "sockets", metavar="DIR", help="Directory of the socket (default: the data directory).")
@click.option("-c", "settings", multiple=True, metavar="NAME=VALUE", help="A setting; may be repeated.")
def serve(directory: Path, port: str | None, sockets: str | None, settings: tuple[str, ...]) -> int:
    """Run the built-in server in the foreground until it is told to stop.

    \b
    crashbed serve -D data -k /tmp
    psql -h /tmp -U me postgres -c "SHOW max_connections"
    """
    if not (directory / data_directory.CONTROL_FILE).exists():
        raise StartupError(
            f'"{directory}" is not a crashbed data directory', hint=f"Make one with: crashbed init -D {directory}"
        )
    command = [sys.executable, "-m", "supervisor", "-D", str(directory)]
    command += ["-p", port] if port else []
    command += ["-k", sockets] if sockets else []
    for setting in settings:
        command += ["-c", setting]
    sys.stdout.flush()
    # This process becomes the postmaster: what it loaded so far must not be in every child.
    os.execv(sys.executable, command)


@click.command()
@_directory_option()
@click.option("--start", metavar="LSN", help="Begin here (default: the last checkpoint's redo point).")
@click.option("-n", "--limit", type=int, help="Stop after so many records.")
def waldump(directory: Path, start: str | None, limit: int | None) -> int:
    """Print WAL records, one a line, and why the log ends where it ends.

    \b
    crashbed waldump -D data -n 20
    crashbed waldump -D data --start 0/110000
    """
    disk = PosixDisk(str(directory), SoloHost())
    first = None
    if start is not None:
        high, slash, low = start.partition("/")
        try:
            first = (int(high, 16) << 32) + int(low, 16)
        except ValueError:
            slash = ""
        if not slash:
            raise click.BadParameter(f'"{start}" is not an LSN: write two hexadecimal numbers, as in 0/110000')
    for line in dump_wal(disk, read_control(disk), start=first, limit=limit):
        click.echo(line)
    return 0


@click.command()
@_directory_option()
def controldata(directory: Path) -> int:
    """Print the control file.

    \b
    crashbed controldata -D data
    """
    click.echo(controldata_text(read_control(PosixDisk(str(directory), SoloHost()))), nl=False)
    return 0


@click.command()
def points() -> int:
    """List the named points that faults can be placed at (`role[#nth]/point:k`)."""
    for point in Point:
        click.echo(f"{point.name:<32}{point.meaning}")
    return 0
