"""What a PostgreSQL's log says as it grows: that it serves, and which process is what.

Both are claims. A generation counts as ready when the postmaster logs it (`ServerLoop` after the startup process's
exit 0, `postmaster.c`); that paces a campaign, and the kernel's account judges it. The type of a process stands in
each of its lines (`%b`): it names the startup process, which may live too briefly for a look at /proc.

The log is written with `log_line_prefix = '%m [%p] %b '` and `lc_messages = C` (`SETTINGS`).
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

SETTINGS: Final = {
    "log_line_prefix": "%m [%p] %b ",
    "lc_messages": "C",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_checkpoints": "on",
    "log_connections": "on",
}
"""What the log must be written with to be read here."""

READY: Final = b"database system is ready to accept connections"
RECEIVED: Final = b"connection received"
"""What only the child that a connection made the postmaster fork says, before it has a type."""
_LINE: Final = re.compile(rb"^\S+ \S+ \S+ \[(?P<pid>[0-9]+)\] (?P<type>[a-z ]+?) [A-Z0-9]+:  (?P<message>.*)$")

ROLES: Final = {
    "client backend": "backend",
    "background writer": "bgwriter",
    "background worker": "bgworker",
    "autovacuum launcher": "autovacuum_launcher",
    "autovacuum worker": "autovacuum_worker",
    "io worker": "io_worker",
    "dead-end client backend": "dead_end",
}
"""PostgreSQL's names of types (`GetBackendTypeDesc`, `miscinit.c`) that this project has a shorter one for."""


class PostgresLog:
    """Reads the log of one server as it grows. `ready_generation` counts within the life of one postmaster."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._rest = b""
        self._postmaster = 0
        self._named: dict[int, str] = {}
        self.ready_generation = 0
        self.ready_ns = 0

    def forget(self) -> None:
        """A new postmaster begins, whose pid `follow` tells: no generation of it is ready."""
        self.read()
        self.ready_generation = self._postmaster = 0
        self._named.clear()

    def follow(self, postmaster: int) -> None:
        """Only this process's word counts from now on."""
        self._postmaster = postmaster

    def read(self) -> None:
        """Take in the lines since the last look."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return
        if not data:
            return
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            match = _LINE.match(line)
            if match is not None:
                self._line(int(match["pid"]), match["type"].decode(), match["message"])

    def roles(self) -> dict[int, str]:
        """The role of each process that has spoken since the last call of this."""
        named, self._named = self._named, {}
        return named

    def _line(self, pid: int, kind: str, message: bytes) -> None:
        if pid == self._postmaster:
            if message == READY:
                self.ready_generation += 1
                self.ready_ns = time.monotonic_ns()
        elif kind != "not initialized":
            self._named[pid] = ROLES.get(kind, kind)
        elif message.startswith(RECEIVED):
            self._named[pid] = "backend"
