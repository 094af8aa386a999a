"""A live server for a test: made in a temporary directory, watched from outside, ended with the test.

What a test asserts on is what the kernel and the files say: /proc, pidfds, wait statuses, the trace. The server's
log is read for its words only.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import psycopg

from chaos.targets.builtin import BuiltinTarget
from chaos.targets.process import ServerProcess, children_of, open_process
from tests.support.raw_client import RawClient
from tests.support.waiting import wait_until


class LiveServer:
    """A built-in server over a data directory of its own."""

    def __init__(self, directory: Path, options: Mapping[str, str] | None = None, *, code: Path | None = None) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log_path = directory / "server.log"
        self.journal_path = directory / "server.jsonl"
        self.history = directory / "history"
        self.history.mkdir(parents=True, exist_ok=True)
        if not self.data.exists():
            BuiltinTarget.make_data_directory(self.data)
        self.target = BuiltinTarget(
            self.data,
            options={
                "max_connections": "20",
                "shared_preload_libraries": "workloads.bank",
                "crashbed.run_name": "test",
                "crashbed.history_directory": str(self.history),
                "log_min_messages": "debug1",
                **(options or {}),
            },
            log=self.log_path,
            journal=self.journal_path,
            code=code,
        )

    def start(self) -> LiveServer:
        """Start it and wait until it serves."""
        self.target.start()
        self.target.wait_ready()
        return self

    @property
    def pid(self) -> int:
        """The postmaster's pid."""
        return self.target.pid

    @property
    def generation(self) -> int:
        """The last generation that said it was ready."""
        self.target.journal.read()
        return self.target.journal.ready_generation

    def child(self, role: str, nth: int = 0) -> ServerProcess:
        """The nth living child of a role in fork order, waited for."""

        def find() -> ServerProcess | None:
            found = [process for process in self.target.processes() if process.role == role]
            return found[nth] if len(found) > nth else None

        return wait_until(f"a living {role} process", find)

    def kill(self, role: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal a child of a role; returns its pid."""
        process = self.child(role)
        assert process.signal(number), f"{role} {process.pid} had gone"
        process.close()
        return process.pid

    def roles(self) -> dict[int, str]:
        """The living children and what they call themselves, in fork order."""
        found = {}
        for process in children_of(self.pid):
            found[process.pid] = process.role
            process.close()
        return found

    def signal_child(self, pid: int, number: signal.Signals) -> None:
        """Signal one child, by pidfd and only if it is one."""
        process = open_process(pid, self.pid)
        assert process is not None, f"process {pid} is no child of the postmaster, or has gone"
        with process:
            assert process.signal(number), f"process {pid} has gone"

    def signal_postmaster(self, number: signal.Signals) -> None:
        """Signal the postmaster, which this process has not yet reaped."""
        pidfd = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)

    def knock(self) -> RawClient:
        """A connection that has said nothing yet; the caller closes it."""
        return RawClient(self.target.socket_directory)

    def wait_generation(self, after: int, *, deadline_s: float = 20.0) -> int:
        """Wait until a later generation serves."""
        return self.target.wait_ready(after, deadline_s=deadline_s)

    def wait_exit(self, *, deadline_s: float = 20.0) -> int:
        """Wait until the postmaster has exited; returns its status."""
        return wait_until("the postmaster's exit", lambda: _Some.of(self.target.exited()), deadline_s=deadline_s).value

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A psycopg connection in autocommit."""
        return psycopg.connect(self.target.conninfo, autocommit=True)

    def log(self) -> str:
        """The server's log so far."""
        return self.log_path.read_text(errors="replace")

    def wait_log(self, text: str, *, deadline_s: float = 10.0) -> None:
        """Wait for words in the log."""
        wait_until(f'"{text}" in the log', lambda: text in self.log(), deadline_s=deadline_s)

    def close(self) -> None:
        """End whatever still runs."""
        self.target.close()


class _Some:
    """A value that is true even when it is 0."""

    def __init__(self, value: int) -> None:
        self.value = value

    @classmethod
    def of(cls, value: int | None) -> _Some | None:
        return None if value is None else cls(value)
