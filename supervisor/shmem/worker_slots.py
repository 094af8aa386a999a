"""The registrations of background workers as all processes see them (PostgreSQL's `BackgroundWorkerArray`).

Owns the slots and their generations. A backend fills a free slot under the lock `BACKGROUND_WORKER` and tells the
postmaster, which copies it: from then on its own list counts, and what stands here is for those who wait. The
postmaster takes no lock; it writes a slot's pid and frees slots, and believes nothing that it reads. `in_use` is
stored last when a slot is filled and first when it is freed, so whoever sees a slot in use sees it whole.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, NamedTuple

import msgspec

from supervisor.background_worker import RECORD_BYTES, BackgroundWorker, decode
from supervisor.config import Settings
from supervisor.shmem.region import Area, Region

_IN_USE, _TERMINATE, _PID, _GENERATION, _LENGTH = range(5)
_HEAD_WORDS: Final = 8
_SLOT_WORDS: Final = _HEAD_WORDS + RECORD_BYTES // 8

_NOT_YET: Final = -1
"""As pid: registered, and never started so far."""


class WorkerStatus(Enum):
    """What became of a registered worker (BgwHandleStatus)."""

    NOT_YET_STARTED = auto()
    STARTED = auto()
    STOPPED = auto()


class WorkerHandle(NamedTuple):
    """One registration: a slot, and which of its owners is meant (BackgroundWorkerHandle)."""

    slot: int
    generation: int


class Claim(NamedTuple):
    """What a slot in use says, as far as it can be read; `worker` is None when it cannot."""

    slot: int
    terminate: bool
    worker: BackgroundWorker | None


def shmem_areas(settings: Settings) -> list[Area]:
    """One slot for each of max_worker_processes."""
    return [Area("background_workers", 8 * _SLOT_WORDS * settings.max_worker_processes)]


class WorkerSlots:
    """The slots of a region, numbered from 0."""

    def __init__(self, region: Region, settings: Settings) -> None:
        self._q = region.q
        self._mm = region.mm
        self._first = region.word("background_workers")
        self._count = settings.max_worker_processes

    # -- by the postmaster

    def claims(self) -> list[Claim]:
        """Every slot in use."""
        return [self._claim(slot) for slot in range(self._count) if self._q[self._at(slot)]]

    def set_pid(self, slot: int, pid: int) -> None:
        """The worker runs as this process, or with 0 does not run any more."""
        self._q[self._at(slot) + _PID] = pid

    def free(self, slot: int) -> None:
        """The registration is over."""
        self._q[self._at(slot)] = 0
        self._q[self._at(slot) + _PID] = 0

    # -- by a backend, under the lock

    def fill(self, worker: BackgroundWorker) -> WorkerHandle | None:
        """Take a free slot for this worker, if there is one. The postmaster fills them too, before anybody else lives."""
        q = self._q
        for slot in range(self._count):
            at = self._at(slot)
            if q[at + _IN_USE]:
                continue
            data = worker.encode()
            q[at + _TERMINATE] = 0
            q[at + _PID] = _NOT_YET
            q[at + _GENERATION] += 1
            q[at + _LENGTH] = len(data)
            start = 8 * (at + _HEAD_WORDS)
            self._mm[start : start + len(data)] = data
            q[at + _IN_USE] = 1
            return WorkerHandle(slot, q[at + _GENERATION])
        return None

    def request_termination(self, handle: WorkerHandle) -> bool:
        """Mark the worker to be ended, if this registration still stands."""
        stands = self._stands(handle)
        if stands:
            self._q[self._at(handle.slot) + _TERMINATE] = 1
        return stands

    def status(self, handle: WorkerHandle) -> tuple[WorkerStatus, int]:
        """How it is with this registration, and the worker's pid if it runs (`GetBackgroundWorkerPid`)."""
        pid = self._q[self._at(handle.slot) + _PID]
        if not self._stands(handle) or pid == 0:
            return WorkerStatus.STOPPED, 0
        return (WorkerStatus.NOT_YET_STARTED, 0) if pid == _NOT_YET else (WorkerStatus.STARTED, pid)

    # --

    def _at(self, slot: int) -> int:
        return self._first + slot * _SLOT_WORDS

    def _stands(self, handle: WorkerHandle) -> bool:
        at = self._at(handle.slot)
        return 0 <= handle.slot < self._count and bool(
            self._q[at + _IN_USE] and self._q[at + _GENERATION] == handle.generation
        )

    def _claim(self, slot: int) -> Claim:
        at = self._at(slot)
        start = 8 * (at + _HEAD_WORDS)
        length = min(max(0, self._q[at + _LENGTH]), RECORD_BYTES)
        try:
            worker = decode(bytes(self._mm[start : start + length]))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Claim(slot, bool(self._q[at + _TERMINATE]), None)
        return Claim(slot, bool(self._q[at + _TERMINATE]), worker if worker.problem() is None else None)
