"""What a background worker is registered as (PostgreSQL's `BackgroundWorker` in `postmaster/bgworker.h`).

Owns the record, its checks and its bytes. A preloaded module offers records as `BACKGROUND_WORKERS` and is known by
shape alone, like its procedures; a backend sends one through shared memory. Never: when a worker is started (that is
`postmaster.worker_rules`) or what it runs in (`processes.bgworker`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec

from supervisor.errors import INVALID_PARAMETER_VALUE, UNDEFINED_FUNCTION, ServerError, StartupError

SHMEM_ACCESS: Final = 1
"""Flag: the worker uses shared memory. All do (BGWORKER_SHMEM_ACCESS)."""
DATABASE_CONNECTION: Final = 2
"""Flag: the worker has a session (BGWORKER_BACKEND_DATABASE_CONNECTION)."""

NEVER_RESTART: Final = -1
"""As `restart_time_s`: one life, however it ends (BGW_NEVER_RESTART)."""
DEFAULT_RESTART_S: Final = 60
MAX_RESTART_S: Final = 86_400

RECORD_BYTES: Final = 1024
"""What a record may take in shared memory."""


class StartTime(StrEnum):
    """From when on a worker may run (BgWorkerStartTime)."""

    POSTMASTER_START = "postmaster_start"
    CONSISTENT_STATE = "consistent_state"
    """Of a standby that clients may read; elsewhere the same as the next."""
    RECOVERY_FINISHED = "recovery_finished"


class BackgroundWorker(msgspec.Struct, frozen=True, kw_only=True):
    """One registration.

    `function` of the module `library` is called with a `WorkerContext`; what it returns is the exit status, None is 0.
    With 0 the worker is done for good; after 1 it is started again `restart_time_s` seconds later; anything else is a
    crash of the server. `type` is how log and people call it. `notify_pid` is the process that gets SIGUSR1 when the
    worker starts and stops; 0 is nobody.
    """

    name: str
    library: str
    function: str
    type: str = ""
    flags: int = SHMEM_ACCESS | DATABASE_CONNECTION
    start_time: StartTime = StartTime.RECOVERY_FINISHED
    restart_time_s: int = DEFAULT_RESTART_S
    argument: str = ""
    notify_pid: int = 0

    @property
    def shown_type(self) -> str:
        """The type, which is the name unless it says otherwise."""
        return self.type or self.name

    @property
    def restarts(self) -> bool:
        """Whether it is started again after it failed."""
        return self.restart_time_s != NEVER_RESTART

    def problem(self) -> str | None:
        """Why it cannot be registered, None if it can (`SanityCheckBackgroundWorker`)."""
        if not self.flags & SHMEM_ACCESS:
            return "background workers without shared memory access are not supported"
        if self.flags & DATABASE_CONNECTION and self.start_time is StartTime.POSTMASTER_START:
            return "cannot request database access if starting at postmaster start"
        if self.restart_time_s != NEVER_RESTART and not 0 <= self.restart_time_s <= MAX_RESTART_S:
            return "invalid restart interval"
        if len(self.encode()) > RECORD_BYTES:
            return f"its registration takes more than {RECORD_BYTES} bytes"
        return None

    def check(self) -> None:
        """Raises ServerError 22023 for one that cannot be registered."""
        problem = self.problem()
        if problem is not None:
            raise ServerError(f'background worker "{self.name}": {problem}', sqlstate=INVALID_PARAMETER_VALUE)

    def encode(self) -> bytes:
        """As bytes for shared memory."""
        return msgspec.json.encode(self)


def decode(data: bytes) -> BackgroundWorker:
    """Raises msgspec.DecodeError or UnicodeDecodeError for bytes that are none."""
    return msgspec.json.decode(data, type=BackgroundWorker)


def entry_point(worker: BackgroundWorker) -> Any:
    """The function that a worker runs; raises ServerError 42883 when it is not there (`LookupBackgroundWorkerFunction`)."""
    try:
        return getattr(importlib.import_module(worker.library), worker.function)
    except (ImportError, AttributeError) as error:
        raise ServerError(
            f'could not find function "{worker.function}" in library "{worker.library}"',
            sqlstate=UNDEFINED_FUNCTION,
            detail=str(error),
        ) from error


def offered_by(modules: Iterable[str]) -> list[BackgroundWorker]:
    """The workers that preloaded modules offer, in order, unchecked but for their shape and their functions.

    Raises StartupError naming the module for a record that is none, or a function that is not there.
    """
    found = []
    for name in modules:
        for offered in getattr(importlib.import_module(name), "BACKGROUND_WORKERS", ()):
            try:
                worker = msgspec.convert(offered, BackgroundWorker, from_attributes=True)
                entry_point(worker)
            except (msgspec.ValidationError, ServerError) as error:
                raise StartupError(
                    f'library "{name}" offers a background worker that cannot be registered: {error}',
                    hint="BACKGROUND_WORKERS holds records with the attributes of "
                    "supervisor.background_worker.BackgroundWorker.",
                ) from error
            found.append(worker)
    return found
