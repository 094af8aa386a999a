"""Processes and their parents: who adopts whom, and who dies with whom. The system calls, and the argument for them.

The harness is a *subreaper*: a process whose parent died becomes its child, and not that of process 1, so nothing
outlives a server unseen. And each process that it starts dies with it, also when it is SIGKILLed: a postmaster by
`--die-with`, the judge and the watch by `die_with` here. Neither depends on anything that the harness still has to do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37


def adopt_orphans() -> None:
    """Become the parent of whatever loses its own among the descendants. Raises OSError. Again is harmless."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Adopt orphans meanwhile, and go back to what was before: who adopts must reap, and not everybody does."""
    before = ctypes.c_int()
    _prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
    adopt_orphans()
    try:
        yield
    finally:
        _prctl(PR_SET_CHILD_SUBREAPER, before.value)


def die_with(parent: int) -> None:
    """This process gets SIGKILL when the thread that started it ends; at once if that has happened already."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


class Wakener:
    """Lets a stopped process go on when this process ends, however it ends: nothing that is stopped notices anything.

    It reads a pipe whose other end this process alone holds, and that closes with it.
    """

    def __init__(self, pid: int) -> None:
        self._waiting = subprocess.Popen(
            ["/bin/sh", "-c", f"read -r line; kill -CONT {pid}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self) -> None:
        """It is not needed any more."""
        self._waiting.kill()
        self._waiting.wait()
        assert self._waiting.stdin is not None
        self._waiting.stdin.close()


def reap_orphans() -> None:
    """Collect every child that has ended. Only when nobody waits for one of them any more."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def _prctl(option: int, value: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}) failed: {os.strerror(error)}")
