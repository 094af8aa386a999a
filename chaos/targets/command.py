"""Any command as a target: started through a guardian, asked whether it is ready, watched through /proc, stopped.

Owns the processes of one server and what it needs beside itself: a free port of loopback and a directory for scratch.
It is no `Target` of a campaign with clients: there is no SQL, no data and no generation, only processes and a probe.
Only descendants of the guardian are ever signalled, by pidfd.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from chaos.command.guardian import command_line
from chaos.command.plan import MAIN, CommandPlan
from chaos.command.probe import answers
from chaos.command.tree import Member, members_of
from chaos.descriptors import readable
from chaos.targets.postmaster import sweep_sockets
from chaos.targets.process import ServerProcess, open_process
from chaos.targets.target import STOP_DEADLINE_S, TargetError
from chaos.witness.tracefs import instance_name

LOOK_EVERY_S = 0.005
PROBE_EVERY_S = 0.02


class CommandTarget:
    """One command, one server at a time. `close` it: what still runs is killed."""

    def __init__(self, plan: CommandPlan, *, log: Path) -> None:
        self._log = log
        sweep_sockets()
        self._scratch = Path(tempfile.mkdtemp(prefix=f"{instance_name(os.getpid())}."))
        values = {"port": str(_free_port()), "python": sys.executable, "scratch": str(self._scratch)}
        self._plan = plan.filled(values)
        self._guardian: subprocess.Popen[bytes] | None = None
        self._main: ServerProcess | None = None
        self._lifeline = -1
        self._reports = -1
        self._said = b""
        self._status: int | None = None

    @property
    def pid(self) -> int:
        """The main process's pid. Raises TargetError when none was started."""
        if self._main is None:
            raise TargetError("the command is not running")
        return self._main.pid

    @property
    def main(self) -> ServerProcess:
        """The main process, held. Raises TargetError when none was started."""
        if self._main is None:
            raise TargetError("the command is not running")
        return self._main

    def start(self) -> int:
        """Start the command and return its pid; nobody has asked yet whether it is ready. Raises TargetError.

        Only from the main thread, as with any target.
        """
        assert self._guardian is None, "one server at a time"
        lifeline, self._lifeline = os.pipe()
        self._reports, reports = os.pipe()
        self._said, self._status = b"", None
        words = self._plan.start
        try:
            with self._log.open("ab") as log:
                self._guardian = subprocess.Popen(
                    command_line(lifeline, reports, words),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._plan.directory,
                    env={**os.environ, **self._plan.environment},
                    pass_fds=(lifeline, reports),
                    start_new_session=True,
                )
        except (FileNotFoundError, NotADirectoryError) as error:
            raise TargetError(f"directory: {self._plan.directory} cannot be entered: {error.strerror}") from error
        finally:
            os.close(lifeline)
            os.close(reports)
        self._main = self._begun(words)
        return self._main.pid

    def exited(self) -> int | None:
        """The main process's exit status (negative for a signal), or None while it runs."""
        if self._status is None and self._reports >= 0 and readable(self._reports):
            self._listen()
        return None if self._status is None else os.waitstatus_to_exitcode(self._status)

    def members(self) -> AbstractContextManager[list[Member]]:
        """All processes of the server but the main one, zombies and orphans included, each held meanwhile."""
        if self._guardian is None:
            raise TargetError("the command is not running")
        main = self._main.pid if self._main is not None else 0
        return members_of(
            self._guardian.pid, lambda pid, name, line: MAIN if pid == main else self._plan.role_of(name, line)
        )

    def wait_until(self, condition: Callable[[], bool], *, deadline_s: float) -> bool:
        """Look again and again until a condition holds; False when time is up."""
        deadline = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() >= deadline:
                return False
            select.select((), (), (), LOOK_EVERY_S)
        return True

    def wait_ready(self, *, deadline_s: float) -> int | None:
        """Ask until the server answers; when it did (CLOCK_MONOTONIC ns), None when it ended or time is up."""
        deadline = time.monotonic() + deadline_s
        while self.exited() is None:
            if answers(self._plan.ready):
                return time.monotonic_ns()
            if time.monotonic() >= deadline:
                return None
            select.select((), (), (), PROBE_EVERY_S)
        return None

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the server's output."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def end(self) -> None:
        """Let go of the server: its guardian kills what is left of it. Returns when nobody is."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self._guardian is not None:
            try:
                self._guardian.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                raise TargetError(f"processes of the command outlive SIGKILL by {STOP_DEADLINE_S:g} s") from None
            self._guardian = None
        if self._main is not None:
            self._main.close()
            self._main = None
        if self._reports >= 0:
            os.close(self._reports)
            self._reports = -1

    def close(self) -> None:
        """Kill what still runs and remove the scratch directory."""
        try:
            self.end()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _begun(self, words: Sequence[str]) -> ServerProcess:
        """The main process, as soon as the guardian tells of it. Raises TargetError."""
        said = self._listen()
        if "pid" not in said:
            why = said.get("error", "its guardian ended")
            self.end()
            raise TargetError(f"the command cannot be started: {why} (start: {' '.join(words)})")
        assert self._guardian is not None
        found = open_process(int(str(said["pid"])), self._guardian.pid)
        if found is None:
            self.end()
            raise TargetError(
                f"the command ended at once (start: {' '.join(words)}); see {self._log}:\n{self.log_tail()}"
            )
        return found

    def _listen(self) -> dict[str, object]:
        """The guardian's next report; waits for it. Empty when the guardian has ended."""
        while b"\n" not in self._said:
            piece = os.read(self._reports, 4096)
            if not piece:
                return {}
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        said: dict[str, object] = json.loads(line)
        if "status" in said:
            self._status = int(str(said["status"]))
        return said


def _free_port() -> int:
    """A TCP port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
