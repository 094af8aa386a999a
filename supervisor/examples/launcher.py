"""Background workers registered by a running session: `CALL start_worker('heartbeat')`, `CALL stop_worker(slot, generation)`.

The answer to `start_worker` is the handle (slot and generation) and the worker's pid, 0 if it has stopped already. The
worker outlives the session that registered it; whoever knows the handle may stop it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from supervisor.background_worker import BackgroundWorker
from supervisor.errors import (
    INSUFFICIENT_RESOURCES,
    INVALID_PARAMETER_VALUE,
    OBJECT_NOT_IN_PREREQUISITE_STATE,
    ServerError,
)
from supervisor.examples import crashes, fails, heartbeat, succeeds
from supervisor.shmem.dynamic_workers import DynamicWorkers
from supervisor.shmem.worker_slots import WorkerHandle
from supervisor.sql.procedures import REQUIRED, ProcedureContext

KNOWN: dict[str, BackgroundWorker] = {
    worker.name: worker for module in (succeeds, fails, crashes, heartbeat) for worker in module.BACKGROUND_WORKERS
}


@dataclass(frozen=True, slots=True)
class _Procedure:
    name: str
    parameters: tuple[tuple[str, str, Any], ...]
    columns: tuple[tuple[str, str], ...]
    run: Callable[..., Iterable[tuple[Any, ...]] | None]


def start_worker(context: ProcedureContext, *, name: str) -> Iterable[tuple[int, int, int]]:
    """Register the example of this name and wait until it runs."""
    worker = KNOWN.get(name)
    if worker is None:
        raise ServerError(
            f'there is no example worker "{name}"',
            sqlstate=INVALID_PARAMETER_VALUE,
            hint=f"There are {', '.join(KNOWN)}.",
        )
    workers = _workers(context)
    handle = workers.register(worker)
    if handle is None:
        raise ServerError(
            "could not register background process",
            sqlstate=INSUFFICIENT_RESOURCES,
            hint='You may need to increase "max_worker_processes".',
        )
    _, pid = workers.wait_for_startup(handle)
    return [(handle.slot, handle.generation, pid)]


def stop_worker(context: ProcedureContext, *, slot: int, generation: int) -> None:
    """Ask for a worker's end and wait for it."""
    workers, handle = _workers(context), WorkerHandle(slot, generation)
    workers.terminate(handle)
    workers.wait_for_shutdown(handle)


def _workers(context: ProcedureContext) -> DynamicWorkers:
    if context.workers is None:
        raise ServerError("there is no postmaster here", sqlstate=OBJECT_NOT_IN_PREREQUISITE_STATE)
    return context.workers


PROCEDURES = (
    _Procedure(
        "start_worker",
        (("name", "text", REQUIRED),),
        (("slot", "integer"), ("generation", "bigint"), ("pid", "bigint")),
        start_worker,
    ),
    _Procedure("stop_worker", (("slot", "integer", REQUIRED), ("generation", "bigint", REQUIRED)), (), stop_worker),
)
