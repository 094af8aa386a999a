"""The startup process: recovery, then exit 0 (PostgreSQL's `startup.c`).

Owns what surrounds recovery in a live server: the message to the postmaster just before the first record, the
end-of-recovery checkpoint that the checkpointer performs for it, and its exit status: 0 when the cluster may be used,
1 when it was told to stop or cannot recover. It never decides how to recover; `engine.recovery.redo` does.
"""

from __future__ import annotations

import gc
import os
import signal
from types import FrameType

from supervisor.engine.engine import Engine
from supervisor.engine.recovery.checkpoint import CheckpointFlags, CheckpointRequests
from supervisor.engine.recovery.redo import recover
from supervisor.errors import ADMIN_SHUTDOWN, SessionFatal, StartupError
from supervisor.log import Level
from supervisor.processes.child import EXIT_FATAL, EXIT_ORDERLY, Child, unblock_signals
from supervisor.shmem.pmsignal import Message


def main(child: Child) -> int:
    """Recover the cluster; returns the exit status."""
    # Redo makes millions of short-lived objects and no cycles.
    gc.disable()
    stop = reload = False

    def on_terminate(number: int, frame: FrameType | None) -> None:
        nonlocal stop
        stop = True

    def on_reload(number: int, frame: FrameType | None) -> None:
        nonlocal reload
        reload = True

    def check() -> None:
        nonlocal reload
        if reload:
            reload = False
            # What recovery goes by cannot change; how much the log is told can.
            child.reload()
        if stop:
            raise SessionFatal("terminating startup process due to administrator command", sqlstate=ADMIN_SHUTDOWN)

    signal.signal(signal.SIGTERM, on_terminate)
    signal.signal(signal.SIGHUP, on_reload)
    child.host.interrupts = check
    unblock_signals()
    attachment = child.attach()
    engine = Engine(child.disk, attachment, child.settings, child.control, child.log)
    requests = CheckpointRequests(attachment)

    def end_of_recovery_checkpoint() -> None:
        requests.request(CheckpointFlags.END_OF_RECOVERY | CheckpointFlags.FAST | CheckpointFlags.WAIT)

    status = EXIT_ORDERLY
    try:
        recover(
            engine,
            child.control,
            child.log,
            child.journal,
            on_redo_begin=lambda: child.pmsignal.send(Message.RECOVERY_STARTED, child.postmaster),
            end_of_recovery_checkpoint=end_of_recovery_checkpoint,
            cpu_times=_cpu_times,
        )
    except StartupError as error:
        child.log.log(Level.FATAL, error.message, hint=error.hint)
        status = EXIT_FATAL
    except SessionFatal as error:
        # Told to stop: no last words, as PostgreSQL's startup process has none.
        child.log.log(Level.DEBUG1, error.message)
        status = EXIT_FATAL
    engine.close()
    child.detach()
    return status


def _cpu_times() -> tuple[float, float]:
    times = os.times()
    return times.user, times.system
