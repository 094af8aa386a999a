"""Forking children: the one place of the server that calls fork.

Owns the rules that make a fork cheap and safe: everything imported and the heap frozen before the
first (`heap`), one OS thread at each, all signals blocked from before the fork until the child's
own handlers stand. It never decides what to launch: the state machine does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from supervisor.processes import backend, bgworker, bgwriter, checkpointer, dead_end, startup, walwriter
from supervisor.processes.child import Birth, Main, mask_signals, run
from supervisor.roles import Role

MAIN: Mapping[Role, Main] = {
    Role.STARTUP: startup.main,
    Role.CHECKPOINTER: checkpointer.main,
    Role.BGWRITER: bgwriter.main,
    Role.WALWRITER: walwriter.main,
    Role.BACKEND: backend.main,
    Role.DEAD_END: dead_end.main,
    Role.BGWORKER: bgworker.main,
}


def fork_child(birth: Birth) -> int:
    """Fork a child that runs its role's main function and never returns; returns its pid.

    Raises OSError when the kernel refuses, RuntimeError when a second thread lives in this process.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"the postmaster has {threads} threads; a fork would copy only one")
    before = mask_signals()
    try:
        pid = os.fork()
        if pid == 0:
            run(birth, MAIN[birth.role])
    finally:
        mask_signals(before)
    # Where the kernel put the child behind this process, the child goes first: it is what somebody waits for.
    os.sched_yield()
    return pid
