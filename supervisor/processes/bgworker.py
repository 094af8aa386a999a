"""A background worker: one process, one function of a preloaded module (PostgreSQL's `BackgroundWorkerMain`).

Owns the order of such a process's life: its signals, its PGPROC, its session if it asked for one, and what becomes of
the function's end. The function returns the exit status (None is 0). An error of a statement that it does not catch
is logged and ends the process with 1, SIGTERM ends it as FATAL, also with 1; any other exception is left to the child
runner, which makes a crash of it. The postmaster decides what follows (`postmaster.worker_rules`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from supervisor.background_worker import DATABASE_CONNECTION, BackgroundWorker, entry_point
from supervisor.engine.engine import Engine
from supervisor.errors import ServerError, SessionFatal
from supervisor.host import Host
from supervisor.log import Level
from supervisor.processes.child import EXIT_FATAL, EXIT_ORDERLY, Child, unblock_signals
from supervisor.processes.interrupts import Interrupts
from supervisor.session.session import Session
from supervisor.shmem.dynamic_workers import DynamicWorkers


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a worker's function is called with. `session` is None without a database connection."""

    name: str
    argument: str
    pid: int
    host: Host
    session: Session | None
    workers: DynamicWorkers
    log: Callable[[str], None]

    def wait(self, timeout_s: float) -> None:
        """Sleep that long, or until a signal comes; raises what the signal asks for (SIGTERM: SessionFatal)."""
        until_ns = self.host.now_ns() + int(timeout_s * 1e9)
        self.host.check_interrupts()
        while (left_ns := until_ns - self.host.now_ns()) > 0:
            self.host.wait(None, left_ns // 1_000_000 + 1)
            self.host.check_interrupts()


def main(child: Child) -> int:
    """Run `child.worker`; returns the exit status."""
    worker = child.worker
    if worker is None:
        raise AssertionError("a background worker has a registration")
    connected = bool(worker.flags & DATABASE_CONNECTION)
    interrupts = Interrupts(f'terminating background worker "{worker.shown_type}" due to administrator command')
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupts.on_terminate)
    if connected:
        signal.signal(signal.SIGINT, interrupts.on_cancel)
    child.host.interrupts = interrupts.check
    unblock_signals()
    attachment = child.attach()
    engine = Engine(child.disk, attachment, child.settings, child.control, child.log) if connected else None
    interrupts.begin_statement()
    status = _run(child, worker, attachment.pid, engine)
    interrupts.hold()
    if engine is not None:
        # Also when no transaction is open: an error may have left a lock or a snapshot held.
        engine.abort()
        engine.close()
    child.detach()
    return status


def _run(child: Child, worker: BackgroundWorker, pid: int, engine: Engine | None) -> int:
    """The function's own status, or 1 after an error that it did not catch."""
    context = WorkerContext(
        name=worker.name,
        argument=worker.argument,
        pid=pid,
        host=child.host,
        session=None if engine is None else Session(engine),
        workers=child.dynamic_workers(),
        log=lambda message: child.log.log(Level.LOG, message),
    )
    try:
        status = entry_point(worker)(context)
    except ServerError as error:
        child.log.error(error, Level.FATAL if isinstance(error, SessionFatal) else Level.ERROR)
        return EXIT_FATAL
    return EXIT_ORDERLY if status is None else int(status)
