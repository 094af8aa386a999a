"""Servers started by hand, as an operator does it: a command, its words and its exit status; and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chaos.descriptors import readable
from chaos.targets.builtin import CODE_ROOT
from chaos.targets.process import ServerProcess
from tests.support.server import LiveServer
from tests.support.waiting import wait_until

REFUSAL_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Said:
    """What a command said before it ended."""

    status: int
    out: str
    err: str


def command(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> Said:
    """Run `python ARGUMENTS` with this checkout's code to its end.

    A server that starts where it should refuse is killed at the deadline, and its children with it: that fails the test.
    """
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(CODE_ROOT), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=REFUSAL_DEADLINE_S,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Said(done.returncode, done.stdout, done.stderr)


def postmaster(data: Path, *arguments: object) -> Said:
    """`python -m supervisor -D DATA ARGUMENTS`, which is expected to refuse."""
    return command("-m", "supervisor", "-D", data, *arguments, cwd=data.parent)


def crashbed(*arguments: object, cwd: Path) -> Said:
    """The command `crashbed`."""
    return command("-m", "chaos", *arguments, cwd=cwd)


@contextmanager
def orphans_of(server: LiveServer, *, stopped: Sequence[int] = ()) -> Iterator[dict[int, ServerProcess]]:
    """SIGKILL the postmaster; its children of that moment by pid. Those that `stopped` names cannot notice.

    Whoever is left at the end is SIGKILLed and waited for.
    """
    children = {process.pid: process for process in server.target.processes()}
    try:
        for pid in stopped:
            assert children[pid].signal(signal.SIGSTOP)
        server.signal_postmaster(signal.SIGKILL)
        assert server.wait_exit() == -signal.SIGKILL
        yield children
    finally:
        for process in children.values():
            end(process)
            process.close()


def ended(process: ServerProcess) -> bool:
    """Whether a process has exited: its pidfd says so, whoever reaps it."""
    return readable(process.pidfd)


def end(process: ServerProcess) -> None:
    """SIGKILL a process and wait for its end."""
    process.signal(signal.SIGKILL)
    wait_until(f"the end of {process.role} {process.pid}", lambda: ended(process))
