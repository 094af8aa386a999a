"""A background worker that fails: it exits 1 each time, and is started again when its restart interval is over."""

from __future__ import annotations

from supervisor.background_worker import BackgroundWorker
from supervisor.processes.bgworker import WorkerContext

RESTART_S = 2


def main(context: WorkerContext) -> int:
    """An orderly failure: what it held is given back, and nobody else is disturbed."""
    context.log(f"{context.name}: giving up")
    return 1


BACKGROUND_WORKERS = (BackgroundWorker(name="fails", library=__name__, function="main", restart_time_s=RESTART_S),)
