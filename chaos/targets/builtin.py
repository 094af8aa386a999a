"""The built-in server as a target: a data directory, a postmaster started by exec, and its socket.

Owns how it is made, started, watched and stopped. The postmaster is started by exec and never by fork
from the harness, whose threads a fork would not carry over; it dies with the harness (`--die-with`), and
its socket lies in a short directory of its own, because a socket's path holds 107 bytes.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

import supervisor
from chaos.orphans import adopting_orphans
from chaos.targets.process import ServerProcess, child_pids, children_of, wait_ended
from chaos.targets.target import START_DEADLINE_S, STOP_DEADLINE_S, TargetError
from chaos.witness.tracefs import PREFIX, instance_name, owner_lives
from supervisor.postmaster.initdb import initialise

CODE_ROOT = Path(supervisor.__file__).parent.parent


def environment_of(code: Path) -> dict[str, str]:
    """The environment of a process that runs the code below a directory; what else is on the path stays on it, for a
    workload of another distribution may be there."""
    path = os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


class JournalTail:
    """Reads the server's journal as it grows. What it says is a claim: good for pacing, not for judging."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._rest = b""
        self._decoder = msgspec.json.Decoder(dict[str, Any])
        self.ready_generation = 0
        self.ready_ns = 0
        self.generation = 0

    def forget(self) -> None:
        """A new postmaster begins: no generation of it is ready."""
        self.ready_generation = self.generation = 0

    def read(self) -> list[dict[str, Any]]:
        """The records since the last look."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return []
        self._position += len(data)
        lines = (self._rest + data).split(b"\n")
        # A record begins with its newline, so the last line may still be growing: keep what does not parse.
        records = []
        self._rest = b""
        for number, line in enumerate(lines):
            if not line:
                continue
            try:
                records.append(self._decoder.decode(line))
            except msgspec.DecodeError:
                if number == len(lines) - 1:
                    self._rest = line
        for record in records:
            if record["ev"] == "memory":
                self.generation = record["gen"]
            elif record["ev"] == "ready":
                self.ready_generation, self.ready_ns = record["gen"], record["t"]
            elif record["ev"] == "postmaster_start":
                self.forget()
        return records


def sweep_sockets() -> list[Path]:
    """Remove the socket directories of harnesses that no longer live; those removed.

    Like a trace instance, each is named by its harness's pid and start time. Others' are let alone.
    """
    removed = []
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*.*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue  # its own harness was faster
        mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        # A harness of another pid namespace may share the directory: its pid says nothing here, its server answers.
        if mine and not owner_lives(path.name) and not _somebody_listens(path):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def _somebody_listens(directory: Path) -> bool:
    for path in directory.glob(".s.PGSQL.*[0-9]"):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except (ConnectionRefusedError, FileNotFoundError):
                continue
            return True
    return False


class BuiltinTarget:
    """One built-in server over one data directory."""

    name = "builtin"

    def __init__(
        self,
        data_directory: Path,
        *,
        options: Mapping[str, str],
        log: Path,
        journal: Path,
        code: Path | None = None,
    ) -> None:
        self.data_directory = data_directory
        self.journal = JournalTail(journal)
        self._options = {**options, "crashbed.journal": str(journal.absolute())}
        self._log = log
        self._code = code or CODE_ROOT
        sweep_sockets()
        self._sockets = Path(tempfile.mkdtemp(prefix=f"{instance_name(os.getpid())}."))
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def make_data_directory(directory: Path, *, segment_size: int = 1024**2) -> None:
        """A new, empty cluster; small segments, so that campaigns see many of them switched and recycled."""
        initialise(directory, segment_size=segment_size)

    @property
    def conninfo(self) -> str:
        """How libpq reaches the server."""
        return f"host={self._sockets} port=5432 user=crashbed dbname=crashbed connect_timeout=5"

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self._log

    @property
    def socket_directory(self) -> Path:
        """Where the socket lies."""
        return self._sockets

    @property
    def ready_generation(self) -> int:
        """The last generation of this postmaster that said it was ready."""
        return self.journal.ready_generation

    @property
    def ready_ns(self) -> int:
        """When it said so."""
        return self.journal.ready_ns

    @property
    def pid(self) -> int:
        """The postmaster's pid; raises TargetError when none was started."""
        if self._process is None:
            raise TargetError("the server is not running")
        return self._process.pid

    def versions(self) -> dict[str, str]:
        """What was tested."""
        return {"server": supervisor.SERVER_VERSION}

    def start(self) -> int:
        """Exec a postmaster and return its pid; `wait_ready` waits for it. Only from the main thread,
        because the death signal follows the thread that started it."""
        # What an earlier postmaster said of its generations says nothing of this one's.
        self.journal.read()
        self.journal.forget()
        command = [sys.executable, "-m", "supervisor", "-D", str(self.data_directory), "-k", str(self._sockets)]
        command += ["--die-with", str(os.getpid())]
        for name, value in self._options.items():
            command += ["-c", f"{name}={value}"]
        environment = {**environment_of(self._code), "PYTHONDONTWRITEBYTECODE": "1"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._sockets,
                env=environment,
                start_new_session=True,
            )
        return self._process.pid

    def exited(self) -> int | None:
        """The postmaster's exit status (negative for a signal), or None while it runs."""
        return None if self._process is None else self._process.poll()

    def wait_ready(self, after_generation: int = 0, *, deadline_s: float = START_DEADLINE_S) -> int:
        """Wait until a generation later than `after_generation` serves; returns it.

        Raises TargetError when the postmaster exits or time is up. Generations and not connections are
        waited for: a connection can succeed a moment before the postmaster notices a kill.
        """
        self.wait_until(
            lambda: self.journal.ready_generation > after_generation,
            f"no generation after {after_generation} became ready",
            deadline_s=deadline_s,
        )
        return self.journal.ready_generation

    def wait_until(self, condition: Callable[[], bool], what: str, *, deadline_s: float) -> None:
        """Follow the journal until a condition holds; raises TargetError on exit or timeout."""
        deadline = time.monotonic() + deadline_s
        while True:
            status = self.exited()
            self.journal.read()
            if condition():
                return
            if status is not None:
                raise TargetError(f"the server exited with status {status}; see {self._log}:\n{self.log_tail()}")
            if time.monotonic() >= deadline:
                raise TargetError(f"{what} within {deadline_s:g} s; see {self._log}:\n{self.log_tail()}")
            select.select((), (), (), 0.001)

    def processes(self) -> list[ServerProcess]:
        """The postmaster's children in fork order; the caller closes them."""
        return children_of(self.pid)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the server's log."""
        try:
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    def stop(self, number: signal.Signals = signal.SIGINT) -> int | None:
        """Shut down (fast by default) and wait; a server that does not stop is killed, and that is an error."""
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.kill()
                raise TargetError(
                    f"the server did not stop within {STOP_DEADLINE_S:g} s after {number.name} and was killed; "
                    f"see {self._log}:\n{self.log_tail()}"
                ) from None
        self._process = None
        return process.returncode

    def kill(self) -> None:
        """SIGKILL the postmaster and everything that it forked; returns when they have ended.

        Whom it forks between the look at its children and its end is adopted by this process, and found there: what
        has become a child of this process meanwhile was the postmaster's. It is never stopped to look at it in peace:
        if this process were killed just then, the stopped postmaster would never take the SIGQUIT of `--die-with`.
        As it is, this may be cut off anywhere: the postmaster has that SIGQUIT coming until it is killed, and its
        children the signal of its death from then on.
        """
        process = self._process
        if process is None:
            return
        with adopting_orphans():
            before = set(child_pids(os.getpid()))
            servers = children_of(process.pid)
            process.kill()
            process.wait()
            self._process = None
            servers += [child for child in children_of(os.getpid()) if child.pid not in before]
            while servers and _end(servers):
                # The kernel's list of children may skip some while others end: look until there is nobody.
                servers = [child for child in children_of(os.getpid()) if child.pid not in before]

    def close(self) -> None:
        """Kill what still runs and remove the socket's directory."""
        self.kill()
        shutil.rmtree(self._sockets, ignore_errors=True)


def _end(servers: Sequence[ServerProcess]) -> bool:
    """SIGKILL them, wait for their end, and reap those whose parent this process has become; False if one stays."""
    for server in servers:
        server.signal(signal.SIGKILL)
    ended = wait_ended(servers, deadline_s=STOP_DEADLINE_S)
    for server in servers:
        with suppress(ChildProcessError):  # the postmaster had reaped it
            os.waitid(os.P_PIDFD, server.pidfd, os.WEXITED | os.WNOHANG)
        server.close()
    return ended
