"""A postmaster that the harness started: watched, stopped, and ended with everything that it forked.

Owns what servers of PostgreSQL's shape have in common as targets: one parent process over a data directory, started
by exec in a session of its own, whose children are the server, and a short directory of its own for the socket,
because a socket's path holds 107 bytes. How a server is started and how it tells that it serves is each target's own.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from chaos.orphans import adopting_orphans
from chaos.targets.process import ServerProcess, child_pids, children_of, wait_ended
from chaos.targets.target import START_DEADLINE_S, STOP_DEADLINE_S, TargetError
from chaos.witness.tracefs import PREFIX, instance_name, owner_lives

POLL_S = 0.001


class PostmasterTarget:
    """One postmaster over one data directory; `close` it."""

    def __init__(self, data_directory: Path, *, log: Path) -> None:
        self.data_directory = data_directory
        self._log = log
        sweep_sockets()
        self._sockets = Path(tempfile.mkdtemp(prefix=f"{instance_name(os.getpid())}."))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self._log

    @property
    def socket_directory(self) -> Path:
        """Where the socket lies."""
        return self._sockets

    @property
    @abstractmethod
    def ready_generation(self) -> int:
        """The last generation of this postmaster that was seen to serve; 0 is none."""

    @abstractmethod
    def _look(self) -> None:
        """Take in what the server has said and done since the last look."""

    @property
    def pid(self) -> int:
        """The postmaster's pid; raises TargetError when none was started."""
        if self._process is None:
            raise TargetError("the server is not running")
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
            lambda: self.ready_generation > after_generation,
            f"no generation after {after_generation} became ready",
            deadline_s=deadline_s,
        )
        return self.ready_generation

    def wait_until(self, condition: Callable[[], bool], what: str, *, deadline_s: float) -> None:
        """Watch the server until a condition holds; raises TargetError on exit or timeout."""
        deadline = time.monotonic() + deadline_s
        while True:
            status = self.exited()
            self._look()
            if condition():
                return
            if status is not None:
                raise TargetError(f"the server exited with status {status}; see {self._log}:\n{self.log_tail()}")
            if time.monotonic() >= deadline:
                raise TargetError(f"{what} within {deadline_s:g} s; see {self._log}:\n{self.log_tail()}")
            select.select((), (), (), POLL_S)

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
        if this process were killed just then, the stopped postmaster would never take the SIGQUIT of its parent's
        death. As it is, this may be cut off anywhere: the postmaster has that SIGQUIT coming until it is killed, and
        its children notice its death from then on.
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
    for path in directory.glob("**/.s.PGSQL.*[0-9]"):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except (ConnectionRefusedError, FileNotFoundError):
                continue
            return True
    return False


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
