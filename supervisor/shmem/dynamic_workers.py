"""How a running process registers background workers, waits for them and ends them (`bgworker.c`, the backend's part).

Owns the lock around a registration, the telling of the postmaster, and the waits. A worker that was registered so is
not tied to its creator: it outlives it. The postmaster notifies the creator with SIGUSR1, which ends the wait.
"""

from __future__ import annotations

from typing import Final

from msgspec import structs

from supervisor.background_worker import BackgroundWorker
from supervisor.shmem.attachment import Attachment
from supervisor.shmem.lwlock import LWLock
from supervisor.shmem.pmsignal import Message, PMSignal
from supervisor.shmem.worker_slots import WorkerHandle, WorkerSlots, WorkerStatus

_LOOK_AGAIN_MS: Final = 1000
"""How long a wait goes without another look: a slot that the postmaster cannot read it frees without knowing whom to
tell."""


class DynamicWorkers:
    """The registrations of one attached process."""

    def __init__(self, attachment: Attachment, pmsignal: PMSignal, postmaster: int) -> None:
        self._attachment = attachment
        self._slots = WorkerSlots(attachment.region, attachment.settings)
        self._pmsignal = pmsignal
        self._postmaster = postmaster

    def register(self, worker: BackgroundWorker) -> WorkerHandle | None:
        """Register a worker that notifies this process; None when there is no free slot
        (`RegisterDynamicBackgroundWorker`). Raises ServerError 22023 for a record that cannot be registered."""
        worker = structs.replace(worker, notify_pid=self._attachment.pid)
        worker.check()
        locks = self._attachment.locks
        locks.acquire(LWLock.BACKGROUND_WORKER)
        try:
            handle = self._slots.fill(worker)
        finally:
            locks.release(LWLock.BACKGROUND_WORKER)
        if handle is not None:
            self._pmsignal.send(Message.BACKGROUND_WORKER_CHANGE, self._postmaster)
        return handle

    def status(self, handle: WorkerHandle) -> tuple[WorkerStatus, int]:
        """How it is with a worker, and its pid if it runs."""
        return self._slots.status(handle)

    def wait_for_startup(self, handle: WorkerHandle) -> tuple[WorkerStatus, int]:
        """Wait until the worker runs, or never will any more (`WaitForBackgroundWorkerStartup`)."""
        while (status := self.status(handle))[0] is WorkerStatus.NOT_YET_STARTED:
            self._wait()
        return status

    def wait_for_shutdown(self, handle: WorkerHandle) -> None:
        """Wait until the worker has stopped (`WaitForBackgroundWorkerShutdown`)."""
        while self.status(handle)[0] is not WorkerStatus.STOPPED:
            self._wait()

    def terminate(self, handle: WorkerHandle) -> None:
        """Ask for the worker's end; without effect when it is over (`TerminateBackgroundWorker`)."""
        locks = self._attachment.locks
        locks.acquire(LWLock.BACKGROUND_WORKER)
        try:
            stands = self._slots.request_termination(handle)
        finally:
            locks.release(LWLock.BACKGROUND_WORKER)
        if stands:
            self._pmsignal.send(Message.BACKGROUND_WORKER_CHANGE, self._postmaster)

    def _wait(self) -> None:
        host = self._attachment.host
        host.wait(None, _LOOK_AGAIN_MS)
        host.check_interrupts()
