"""`crashbed reload`: have a running server read its settings again (PostgreSQL's `pg_ctl reload`).

Owns finding the postmaster of a data directory from outside, and never signals a process that is not one: the lock
file of a server that was killed stays behind, and its pid may be anybody's by now.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from chaos.cli.data import directory_option
from chaos.targets.process import ROLE_PREFIX
from chaos.targets.target import TargetError
from supervisor.postmaster import lockfile
from supervisor.roles import Role


@click.command()
@directory_option()
def reload(directory: Path) -> int:
    """Have a running server read postgresql.conf again.

    \b
    crashbed reload -D data

    Only asks, as SIGHUP does, and does not wait: the server's log tells what was changed, and what was not and why.
    Options that the server was started with still win over the file.
    """
    signal_postmaster(directory, signal.SIGHUP)
    click.echo("server signaled")
    return 0


def signal_postmaster(directory: Path, number: signal.Signals) -> None:
    """Signal the postmaster that runs on a data directory.

    Raises TargetError when none does, StartupError for a lock file that cannot be one.
    """
    path = directory / lockfile.NAME
    try:
        pid = lockfile.read_pid(path.read_bytes(), path)
    except FileNotFoundError:
        raise TargetError(f'PID file "{path}" does not exist. Is server running?') from None
    stale = TargetError(
        f'PID file "{path}" names process {pid}, which is not the server of this directory; nothing was signaled. '
        f"Start the server with: crashbed serve -D {directory}"
    )
    try:
        # Held first and looked at afterwards, so that what is signalled is what was looked at.
        pidfd = os.pidfd_open(abs(pid))
    except ProcessLookupError:
        raise stale from None
    try:
        if not _is_postmaster_of(abs(pid), directory):
            raise stale
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        raise stale from None
    finally:
        os.close(pidfd)


def _is_postmaster_of(pid: int, directory: Path) -> bool:
    """Whether a process calls itself a postmaster and works in this directory."""
    process = Path(f"/proc/{pid}")
    try:
        name = (process / "comm").read_text().rstrip("\n")
        return name == ROLE_PREFIX + Role.POSTMASTER.short_name and (process / "cwd").samefile(directory)
    except (FileNotFoundError, PermissionError):
        return False  # gone by now, or another user's
