"""The server log in PostgreSQL's words, and the event journal.

The log is for people: `<time> UTC [<pid>] LOG:  <message>`, on standard error, which the harness sends
to `server.log`. The journal is for machines: one JSON object a line in `events/server.jsonl`, what the
server says of itself. Both write each record with one system call. A journal record begins with its
newline, so that one torn by a SIGKILL is cut off by the next and spoils nothing else.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from enum import IntEnum

import msgspec

from supervisor.errors import ServerError


class Level(IntEnum):
    """Severity, least first; in the server log LOG ranks between ERROR and FATAL (`elog.h`)."""

    DEBUG2 = 13
    DEBUG1 = 14
    INFO = 17
    NOTICE = 18
    WARNING = 19
    ERROR = 21
    LOG = 22
    FATAL = 23
    PANIC = 24


def _label(level: Level) -> str:
    return "DEBUG" if level <= Level.DEBUG1 else level.name


class ServerLog:
    """Writes log lines at or above a level to a descriptor."""

    def __init__(self, descriptor: int | None = 2, *, minimum: Level = Level.WARNING) -> None:
        self._descriptor = descriptor
        self._minimum = minimum

    def set_minimum(self, name: str) -> None:
        """From here on write what ranks at least this high, by a name that `log_min_messages` may have."""
        self._minimum = Level[name.upper()]

    @classmethod
    def to_nowhere(cls) -> ServerLog:
        """A log that keeps nothing."""
        return cls(None)

    def log(
        self,
        level: Level,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        statement: str | None = None,
    ) -> None:
        """Write one entry. A log that cannot be written to is given up silently, as PostgreSQL does:
        there is nobody left to tell."""
        if self._descriptor is None or level < self._minimum:
            return
        # Not strftime, which looks the module `time` up at each call: dear in a process that has just been forked.
        now = datetime.now(UTC).replace(tzinfo=None).isoformat(" ", "milliseconds")
        prefix = f"{now} UTC [{os.getpid()}] "
        lines = [f"{prefix}{_label(level)}:  {_indented(message)}"]
        for label, text in (("DETAIL", detail), ("HINT", hint), ("STATEMENT", statement)):
            if text:
                lines.append(f"{prefix}{label}:  {_indented(text)}")
        try:
            # A path need not be UTF-8.
            os.write(self._descriptor, ("\n".join(lines) + "\n").encode(errors="backslashreplace"))
        except OSError:
            self._descriptor = None

    def error(self, error: ServerError, level: Level = Level.ERROR, *, statement: str | None = None) -> None:
        """Write an error with its detail and hint."""
        detail = error.detail_log or error.detail
        self.log(level, error.message, detail=detail, hint=error.hint, statement=statement)


def _indented(text: str) -> str:
    return text.replace("\n", "\n\t")


class Journal:
    """Appends records to the server's event journal; every server process has it open."""

    def __init__(self, path: str | None) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600) if path else None
        self._encoder = msgspec.json.Encoder()

    @classmethod
    def to_nowhere(cls) -> Journal:
        """A journal that keeps nothing."""
        return cls(None)

    def close(self) -> None:
        """Give the file back; what is emitted from now on is not kept."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def emit(self, ev: str, **fields: object) -> None:
        """Append one record: CLOCK_MONOTONIC ns, the writer's pid, the event and its fields."""
        if self._descriptor is None:
            return
        record = {"t": time.monotonic_ns(), "pid": os.getpid(), "ev": ev, **fields}
        os.write(self._descriptor, b"\n" + self._encoder.encode(record))
