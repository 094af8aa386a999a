"""The built-in server as a target: a data directory, a postmaster started by exec, and its socket.

Owns how it is made and started, and its journal, by which it tells that it serves. The postmaster is started by exec
and never by fork from the harness, whose threads a fork would not carry over; it dies with the harness (`--die-with`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

import supervisor
from chaos.targets.postmaster import PostmasterTarget
from chaos.targets.target import CHECK_DEADLINE_S, RoleSeen, TargetError
from chaos.witness.proc_maps import mapped_memories
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


class BuiltinTarget(PostmasterTarget):
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
        super().__init__(data_directory, log=log)
        self.journal = JournalTail(journal)
        self._options = {**options, "crashbed.journal": str(journal.absolute())}
        self._code = code or CODE_ROOT

    @staticmethod
    def make_data_directory(directory: Path, *, segment_size: int = 1024**2) -> None:
        """A new, empty cluster; small segments, so that campaigns see many of them switched and recycled."""
        initialise(directory, segment_size=segment_size)

    @property
    def conninfo(self) -> str:
        """How libpq reaches the server."""
        return f"host={self._sockets} port=5432 user=crashbed dbname=crashbed connect_timeout=5"

    @property
    def ready_generation(self) -> int:
        """The last generation of this postmaster that said it was ready."""
        return self.journal.ready_generation

    @property
    def ready_ns(self) -> int:
        """When it said so."""
        return self.journal.ready_ns

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

    def memories(self, pid: int) -> frozenset[int] | None:
        """The memfds named for a run that a process maps."""
        maps = mapped_memories(pid)
        return None if maps is None else frozenset(memory.inode for memory in maps)

    def roles(self) -> tuple[RoleSeen, ...]:
        """None: its processes name themselves."""
        return ()

    def _look(self) -> None:
        self.journal.read()

    def check_files(self) -> dict[str, Any]:
        """Walk over the files in a process of its own (`chaos.targets.check_files`), with this harness's code."""
        command = [sys.executable, "-m", "chaos.targets.check_files", str(self.data_directory)]
        environment = {**os.environ, "PYTHONPATH": str(CODE_ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                [*command, "--die-with", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment,
                start_new_session=True,
                timeout=CHECK_DEADLINE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TargetError(f"the check of {self.data_directory} did not end in {CHECK_DEADLINE_S:g} s") from None
        if done.returncode != 0:
            raise TargetError(f"{self.data_directory} cannot be checked:\n{done.stderr.decode(errors='replace')}")
        return msgspec.json.decode(done.stdout, type=dict[str, Any])
