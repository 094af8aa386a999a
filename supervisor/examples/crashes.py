"""A background worker that crashes: it aborts half a second after the server is ready, and takes the server through one
crash cycle.

It never restarts, so the reset forgets it. With a restart interval it would come back at once after each reset, for
after a crash nothing is waited for, and the server would crash for ever.
"""

from __future__ import annotations

import os

from supervisor.background_worker import NEVER_RESTART, BackgroundWorker
from supervisor.processes.bgworker import WorkerContext


def main(context: WorkerContext) -> None:
    """SIGABRT, as a failed assertion: its slot is not cleaned up, and its memory is suspect."""
    context.wait(0.5)
    os.abort()


BACKGROUND_WORKERS = (
    BackgroundWorker(name="crashes", library=__name__, function="main", restart_time_s=NEVER_RESTART),
)
