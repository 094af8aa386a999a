"""The checkpointer: performs every checkpoint, and is the last to leave in a clean shutdown (`checkpointer.c`).

SIGINT asks for the shutdown checkpoint, after which it tells the postmaster and waits for SIGUSR2 to exit with 0.
SIGTERM is ignored: init systems send it to everybody at once, and this process must outlive the others.

A checkpoint for which nobody waits is spread out, so that its writes do not take the disk from everybody at once; in the
pauses the process obeys its signals as it does between checkpoints.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from supervisor.engine.engine import Engine
from supervisor.engine.recovery.checkpoint import (
    CheckpointFlags,
    CheckpointRequests,
    checkpoint_due,
    create_checkpoint,
    is_checkpoint_on_schedule,
    set_cluster_state,
)
from supervisor.engine.recovery.control import ClusterState, read_control
from supervisor.engine.recovery.leftovers import leftovers_synced, sync_leftovers
from supervisor.errors import ServerError
from supervisor.log import Level
from supervisor.processes.auxiliary import Requests, attach, attempt
from supervisor.processes.child import EXIT_ORDERLY, Child
from supervisor.shmem.pmsignal import Message

# How often time and WAL volume are looked at; a request comes with the latch.
ROUND_MS = 200
# PostgreSQL's nap after each page of a checkpoint that is ahead of its schedule.
WRITE_DELAY_MS = 100
_NEVER_SPREAD = CheckpointFlags.FAST | CheckpointFlags.IS_SHUTDOWN | CheckpointFlags.END_OF_RECOVERY


class Checkpointer:
    """The checkpointer's state: when and where in the log the last checkpoint began.

    `obey` does what signals ask for that can be done at any time, and says whether the shutdown checkpoint is wanted.
    """

    def __init__(self, child: Child, engine: Engine, obey: Callable[[], bool]) -> None:
        self._child = child
        self._engine = engine
        self._obey = obey
        self._requests = CheckpointRequests(engine.attachment)
        self._last_ns = child.host.now_ns()
        self._last_lsn = 0

    def work(self) -> None:
        """Perform a checkpoint if one is due."""
        engine, child = self._engine, self._child
        requested = self._requests.pending()
        recovering = engine.wal.insert_lsn() == 0
        flags = requested
        if not recovering:
            flags = checkpoint_due(
                child.settings,
                child.control.segment_size,
                requested=requested,
                since_last_s=(child.host.now_ns() - self._last_ns) / 1e9,
                insert_lsn=engine.wal.insert_lsn(),
                redo_lsn=engine.wal.redo_pointer(),
            )
        if flags:
            self._perform(flags | self._requests.take())
            # What was asked for in a pause of this one is looked at now and not a round later.
            engine.attachment.latch.set_own()

    def shut_down(self) -> None:
        """The shutdown checkpoint; after it no WAL may be written.

        Recovery that was stopped on its way has none: what it replayed is not all on disk, and WAL is not open. The
        next start takes it up again from the same checkpoint (PostgreSQL's ShutdownXLOG and CreateRestartPoint).
        """
        if self._recovery_is_over():
            self._perform(CheckpointFlags.IS_SHUTDOWN | CheckpointFlags.FAST)
        else:
            self._child.log.log(Level.DEBUG1, "skipping the shutdown checkpoint: recovery has not ended")
        self._child.pmsignal.send(Message.XLOG_IS_SHUTDOWN, self._child.postmaster)

    def _recovery_is_over(self) -> bool:
        """Whether WAL is open, and the control file does not say that crash recovery is at work. If it is, the file
        is marked as shut down in recovery."""
        disk, settings = self._child.disk, self._child.settings
        if read_control(disk).state is ClusterState.IN_CRASH_RECOVERY:
            set_cluster_state(disk, self._child.host, ClusterState.SHUTDOWNED_IN_RECOVERY, fsync=settings.fsync)
            return False
        return self._engine.wal.insert_lsn() != 0

    def _perform(self, flags: CheckpointFlags) -> None:
        self._last_ns = self._child.host.now_ns()
        self._last_lsn = self._engine.wal.insert_lsn()
        self._child.journal.emit("checkpoint_begin", flags=str(flags))
        failed = True
        told = False

        def tell() -> None:
            nonlocal told
            told = True
            self._requests.finish(failed=False)

        try:
            # The startup process, and everybody behind it, need not wait for old segments to be tidied up.
            early = tell if CheckpointFlags.END_OF_RECOVERY in flags else None
            pace = None if flags & _NEVER_SPREAD else self._write_delay
            done = create_checkpoint(self._engine, flags, progress=pace, on_counted=early)
            failed = False
            self._child.journal.emit("checkpoint_end", lsn=done.lsn if done else None)
        except ServerError:
            # What the attempt held is given back before anybody is told.
            self._engine.attachment.locks.release_all()
            raise
        finally:
            if not told and not flags & CheckpointFlags.IS_SHUTDOWN and not self._engine.attachment.locks.held:
                self._requests.finish(failed=failed)

    def _write_delay(self, written: int, total: int) -> None:
        """Rest for a moment if the checkpoint is ahead of its schedule and nobody is in a hurry (CheckpointWriteDelay)."""
        child, engine = self._child, self._engine
        latch = engine.attachment.latch
        # Before the conditions are read: whoever changes one from now on ends the wait.
        latch.clear()
        if self._obey() or CheckpointFlags.FAST in self._requests.pending():
            return
        if is_checkpoint_on_schedule(
            child.settings,
            child.control.segment_size,
            progress=written / total,
            elapsed_s=(child.host.now_ns() - self._last_ns) / 1e9,
            wal_bytes=engine.wal.insert_lsn() - self._last_lsn,
        ):
            child.host.wait(latch, WRITE_DELAY_MS)


def main(child: Child) -> int:
    """Serve until the shutdown checkpoint is written and SIGUSR2 comes; returns the exit status."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    requests = Requests(signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    if child.control.state is not ClusterState.SHUTDOWNED and not leftovers_synced(child.region):
        # First of all, and needing nothing but the disk: the startup process is at work, and will wait for this.
        sync_leftovers(child.disk, child.region, fsync=child.settings.fsync)
    engine = attach(child)
    requests.latch = latch = engine.attachment.latch

    def obey() -> bool:
        if requests.take(signal.SIGHUP):
            engine.use(child.reload())
        return requests.came(signal.SIGINT)

    checkpointer = Checkpointer(child, engine, obey)
    while not obey():
        latch.clear()
        pause_ms = attempt(child, engine, checkpointer.work, ROUND_MS)
        if not requests.came(signal.SIGINT):
            child.host.wait(latch, pause_ms)
    checkpointer.shut_down()
    while not requests.came(signal.SIGUSR2):
        latch.clear()
        if not requests.came(signal.SIGUSR2):
            child.host.wait(latch, None)
    engine.close()
    child.detach()
    return EXIT_ORDERLY
