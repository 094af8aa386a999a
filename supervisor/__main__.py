"""`python -m supervisor -D DIR`: run a postmaster in the foreground.

Its options are PostgreSQL's. It stays on the standard library and what the server itself needs, so
that the postmaster's heap, which every child shares, stays small.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import supervisor

if getattr(supervisor, "PROJECT", None) != "crashbed":
    sys.exit(
        'crashbed: another distribution named "supervisor" is installed in this environment; '
        "install crashbed into a virtual environment of its own"
    )

from supervisor.errors import StartupError
from supervisor.log import Level, ServerLog
from supervisor.postmaster.start import start_postmaster

EPILOG = """\
examples:
  python -m supervisor -D data
  python -m supervisor -D data -p 5433 -k /tmp -c max_connections=20 -c shared_preload_libraries=workloads.bank

signals:
  SIGTERM  smart shutdown: wait for clients to leave
  SIGINT   fast shutdown: end sessions, write the shutdown checkpoint
  SIGQUIT  immediate shutdown: everybody quits at once, recovery at the next start
  SIGHUP   reload: all processes read postgresql.conf again
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """As wide as the texts are written for: to ask the terminal would load `shutil` and three libraries with it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m supervisor",
        description="Run the supervised server: a PostgreSQL-style postmaster and its children.",
        epilog=EPILOG,
        formatter_class=_Help,
    )
    parser.add_argument("-D", dest="directory", metavar="DIR", default=os.environ.get("PGDATA"), help="data directory")
    parser.add_argument("-p", dest="port", metavar="PORT", help="names the socket (default 5432)")
    parser.add_argument(
        "-k", dest="sockets", metavar="DIR", help="directory of the socket (default: the data directory)"
    )
    parser.add_argument("-c", dest="options", metavar="NAME=VALUE", action="append", default=[], help="a setting")
    parser.add_argument("--die-with", type=int, metavar="PID", help="shut down at once when this parent process dies")
    chosen = parser.parse_args(arguments)
    if not chosen.directory:
        parser.error("no data directory: give -D DIR or set PGDATA")
    options = list(chosen.options)
    if chosen.port:
        options.append(f"port={chosen.port}")
    if chosen.sockets:
        options.append(f"unix_socket_directories={chosen.sockets}")
    try:
        return start_postmaster(Path(chosen.directory), options, die_with=chosen.die_with)
    except StartupError as error:
        ServerLog().log(Level.FATAL, error.message, hint=error.hint)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
