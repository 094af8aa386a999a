"""`crashbed init`, `serve`, `waldump`, `controldata`, `points`: the built-in server by hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import supervisor
from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.recovery.control import controldata_text, read_control
from supervisor.engine.recovery.waldump import dump_wal
from supervisor.engine.wal.lsn import parse_lsn
from supervisor.errors import StartupError
from supervisor.host import SoloHost
from supervisor.points import Point
from supervisor.postmaster import data_directory
from supervisor.postmaster.initdb import initialise


def directory_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "-D", "--pgdata", "directory", type=click.Path(path_type=Path), envvar="PGDATA", required=True,
        metavar="DIR", help="The data directory (default: $PGDATA).",
    )  # fmt: skip


@click.command()
@directory_option()
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


@click.command()
@directory_option()
@click.option("-p", "port", metavar="PORT", help="Names the socket (default 5432).")
@click.option("-k", "sockets", metavar="DIR", help="Directory of the socket (default: the data directory).")
@click.option("-c", "settings", multiple=True, metavar="NAME=VALUE", help="A setting; may be repeated.")
def serve(directory: Path, port: str | None, sockets: str | None, settings: tuple[str, ...]) -> int:
    """Run the built-in server in the foreground until it is told to stop.

    \b
    crashbed serve -D data -k /tmp
    crashbed serve -D data -k /tmp -c shared_preload_libraries=workloads.bank
    psql -h /tmp -U me -d postgres -c "SHOW max_connections"

    Ctrl-C is a fast shutdown, SIGTERM a smart one (it waits for clients to leave), SIGQUIT an immediate one.
    """
    if not (directory / data_directory.CONTROL_FILE).exists():
        raise StartupError(
            f'"{directory}" is not a crashbed data directory', hint=f"Make one with: crashbed init -D {directory}"
        )
    # -P: a directory named "supervisor" where the command is given must not be taken for the server.
    command = [sys.executable, "-P", "-m", "supervisor", "-D", str(directory)]
    command += ["-p", port] if port else []
    command += ["-k", sockets] if sockets else []
    for setting in settings:
        command += ["-c", setting]
    code = str(Path(supervisor.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (code, os.environ.get("PYTHONPATH"))))
    sys.stdout.flush()
    # This process becomes the postmaster: what it loaded so far must not be in every child.
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})


def _lsn(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return parse_lsn(value)
    except ValueError:
        raise click.BadParameter(f"'{value}' is not an LSN: write two hexadecimal numbers, as in 0/1000020") from None


def open_disk(directory: Path) -> PosixDisk:
    """The files of a data directory; StartupError where there is none."""
    try:
        return PosixDisk(str(directory), SoloHost())
    except OSError as error:
        raise StartupError(
            f'could not open data directory "{directory}": {error.strerror}',
            hint=f"Make one with: crashbed init -D {directory}",
        ) from error


@click.command()
@directory_option()
@click.option("--start", callback=_lsn, metavar="LSN", help="Begin here (default: the last checkpoint's redo point).")
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="Stop after so many records.")
def waldump(directory: Path, start: int | None, limit: int | None) -> int:
    """Print WAL records, one a line, and why the log ends where it ends.

    \b
    crashbed waldump -D data -n 20
    crashbed waldump -D data --start 0/1000020

    It only reads, so the server may run meanwhile. The oldest LSN that can be given is the start of the oldest
    segment in pg_wal, plus its header; `crashbed controldata` names the last checkpoint's.
    """
    disk = open_disk(directory)
    for line in dump_wal(disk, read_control(disk), start=start, limit=limit):
        click.echo(line)
    return 0


@click.command()
@directory_option()
def controldata(directory: Path) -> int:
    """Print the control file.

    \b
    crashbed controldata -D data
    """
    click.echo(controldata_text(read_control(open_disk(directory))), nl=False)
    return 0


@click.command()
def points() -> int:
    """List the named points that faults can be placed at.

    \b
    crashbed points
    crashbed run --kills 20 --point backend/COMMIT_AFTER_FLUSH:30
    crashbed run --kills 20 --point backend#3/BTREE_INSERT_UNDER_LOCK:20

    A selector is role[#nth]/POINT:k: the k-th time since its fork that a process of the role gets there; with #nth,
    only the nth process of the role since the last reset.
    """
    width = max(len(point.name) for point in Point)
    for point in Point:
        click.echo(f"{point.name:<{width}}  {point.meaning}")
    return 0
