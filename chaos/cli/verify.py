"""`crashbed verify`: whether the files of a data directory are sound."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click
import msgspec

from chaos.cli.data import directory_option, open_disk
from chaos.verdict import ExitCode
from supervisor.engine.verify.cluster import verify_cluster
from supervisor.engine.verify.corruption import Verification
from supervisor.engine.wal.lsn import format_lsn
from supervisor.errors import LOCK_FILE_EXISTS, StartupError
from supervisor.postmaster import data_directory

_FIRST_PROGRESS_S = 2.0
_PROGRESS_EVERY_S = 1.0


@click.command()
@directory_option()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def verify(directory: Path, as_json: bool) -> int:
    """Check that the files of a data directory are sound: pages, rows, indexes, commit log, catalog.

    \b
    crashbed verify -D data
    crashbed verify -D out/20260101T120000Z-7/pgdata --json

    It only reads, and refuses while a server runs there, whose newest pages are in its memory. Of a cluster that was
    not shut down it checks a copy that it recovers in memory: what the log can mend is no damage.

    Exit status: 0 sound, 1 corruption, 3 cannot be read, 4 usage.
    """
    lock = _lock(directory)
    try:
        result = verify_cluster(open_disk(directory), progress=_Progress() if sys.stderr.isatty() else _no_progress)
    finally:
        os.close(lock)
    click.echo(msgspec.json.encode(result).decode() if as_json else _text(directory, result))
    return ExitCode.HELD if result.sound else ExitCode.FINDING


def _lock(directory: Path) -> int:
    """Keep servers away. Raises StartupError where there is one, or no data directory."""
    if not directory.is_dir():
        raise StartupError(f'data directory "{directory}" does not exist', hint="Give the directory with -D DIR.")
    try:
        return data_directory.interlock(directory)
    except StartupError as error:
        if error.sqlstate != LOCK_FILE_EXISTS:
            raise
        raise StartupError(
            f'a server runs on data directory "{directory}", or processes of one that is gone',
            hint="Stop it first: its newest pages are in its memory, and its files are not what it would leave.",
        ) from error


class _Progress:
    """Tells on stderr where a long walk is."""

    def __init__(self) -> None:
        self._next_s = time.monotonic() + _FIRST_PROGRESS_S

    def __call__(self, file: str, block: int, blocks: int) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _PROGRESS_EVERY_S
            click.echo(f"{file}: block {block} of {blocks}", err=True)


def _no_progress(file: str, block: int, blocks: int) -> None:
    """Nobody watches."""


def _text(directory: Path, result: Verification) -> str:
    state = f"state: {result.state or 'not known'}"
    if result.recovered:
        state += "; checked is a copy, recovered in memory"
    lines = [f"{state}; WAL ends at {format_lsn(result.end_lsn)}"]
    if result.relations:
        lines.append(f"{'file':<12} {'what':<11} {'relation':<28} {'pages':>8} {'items':>10} {'corruptions':>11}")
    lines += [
        f"{one.file:<12} {one.role:<11} {one.relation:<28} {one.pages:>8} {one.items:>10} {one.corruptions:>11}"
        for one in result.relations
    ]
    lines += [f"corruption: {one.place}: {one.kind}: {one.message}" for one in result.corruptions]
    count = len(result.corruptions)
    lines.append(f"{directory}: " + ("sound" if result.sound else f"{count} corruption{'s' if count > 1 else ''}"))
    return "\n".join(lines)
