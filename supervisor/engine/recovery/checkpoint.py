"""Checkpoints: making a point from which redo can start (PostgreSQL's `CreateCheckPoint` and `checkpointer.c`).

Owns when a checkpoint is due, how fast it is to go, its steps and their order, and the words by which other processes
ask for one and learn how it went. It does not own the checkpointer process: whoever runs the loop calls
`CheckpointRequests.take`, `checkpoint_due` and `create_checkpoint`, and waits in between as `is_checkpoint_on_schedule`
allows.

Online: the redo point comes first, so everything that changes from then on is in the log after it; then every page
that was dirty is written and synced; then the record; then the control file, which is the only thing that makes the
checkpoint count. A crash before that leaves the old one in force. There is no flag that delays a checkpoint while a
transaction commits (PostgreSQL's DELAY_CHKPT): `transam.clog` says why none is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from typing import Protocol

import msgspec

from supervisor import errors
from supervisor.config import Settings
from supervisor.engine.disk.disk import Disk
from supervisor.engine.recovery import leftovers
from supervisor.engine.recovery.control import (
    CheckPoint,
    ClusterState,
    encode_checkpoint,
    read_control,
    write_control,
)
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.transam.snapshot import RunningTransactions
from supervisor.engine.wal.insert import Wal
from supervisor.engine.wal.lsn import format_lsn
from supervisor.engine.wal.rmgr import Rmgr, XlogInfo
from supervisor.engine.wal.segment import Identity
from supervisor.errors import Panic, ServerError
from supervisor.host import Host
from supervisor.log import Level, ServerLog
from supervisor.points import Point
from supervisor.roles import Role
from supervisor.shmem.attachment import Attachment
from supervisor.shmem.lwlock import LWLock
from supervisor.shmem.procarray import process_count
from supervisor.shmem.region import Area, Region

_FLAGS, _STARTED, _DONE, _FAILED, _LAST_END, _LAST_REDO = range(6)
_RETRY_MS = 5
_RETRIES = 12_000


class CheckpointFlags(IntFlag):
    """Why and how (PostgreSQL's CHECKPOINT_* bits)."""

    IS_SHUTDOWN = 0x001
    END_OF_RECOVERY = 0x002
    FAST = 0x004
    FORCE = 0x008
    WAIT = 0x020
    CAUSE_XLOG = 0x080
    CAUSE_TIME = 0x100


_WORDS = (
    (CheckpointFlags.IS_SHUTDOWN, "shutdown"),
    (CheckpointFlags.END_OF_RECOVERY, "end-of-recovery"),
    (CheckpointFlags.FAST, "immediate"),
    (CheckpointFlags.FORCE, "force"),
    (CheckpointFlags.WAIT, "wait"),
    (CheckpointFlags.CAUSE_XLOG, "wal"),
    (CheckpointFlags.CAUSE_TIME, "time"),
)


def shmem_areas(settings: Settings) -> list[Area]:
    """The request words, one word per process that waits for a checkpoint's end, and the leftovers' word."""
    return [Area("checkpoint", 64), Area("checkpoint_waiters", 8 * process_count(settings)), leftovers.AREA]


def shmem_init(region: Region, settings: Settings) -> None:
    """Nothing asked for: zeroed memory is right."""


class Checkpointable(Protocol):
    """What a checkpoint works on; `Engine` fits."""

    disk: Disk
    host: Host
    settings: Settings
    identity: Identity
    attachment: Attachment
    log: ServerLog
    wal: Wal
    pool: BufferPool
    running: RunningTransactions


def checkpoint_due(
    settings: Settings,
    segment_size: int,
    *,
    requested: CheckpointFlags,
    since_last_s: float,
    insert_lsn: int,
    redo_lsn: int,
) -> CheckpointFlags:
    """The flags of the checkpoint that should begin now, 0 for none. Pure.

    By time: `checkpoint_timeout` since the last one began. By volume: PostgreSQL's CheckPointSegments, so that with
    `checkpoint_completion_target` of it spent on the checkpoint the log stays within `max_wal_size`.
    """
    flags = requested
    if since_last_s >= settings.checkpoint_timeout:
        flags |= CheckpointFlags.CAUSE_TIME
    segments = _checkpoint_segments(settings, segment_size)
    if insert_lsn // segment_size >= redo_lsn // segment_size + max(1, segments - 1):
        flags |= CheckpointFlags.CAUSE_XLOG
    return flags


def is_checkpoint_on_schedule(
    settings: Settings, segment_size: int, *, progress: float, elapsed_s: float, wal_bytes: int
) -> bool:
    """Whether a checkpoint that has written this share of its pages is early enough to rest. Pure (PostgreSQL's
    IsCheckpointOnSchedule).

    All pages are to be written when `checkpoint_completion_target` of the way to the next checkpoint lies behind, by
    whichever is further: the time since it began, or the WAL that was inserted since.
    """
    by_now = progress * settings.checkpoint_completion_target
    by_volume = wal_bytes / segment_size / _checkpoint_segments(settings, segment_size)
    return by_now >= by_volume and by_now >= elapsed_s / settings.checkpoint_timeout


def _checkpoint_segments(settings: Settings, segment_size: int) -> int:
    """WAL segments from one checkpoint to the next (CalculateCheckpointSegments)."""
    return max(1, int(settings.max_wal_size / segment_size / (1 + settings.checkpoint_completion_target)))


class CheckpointRequests:
    """The words by which a checkpoint is asked for (PostgreSQL's CheckpointerShmem)."""

    def __init__(self, attachment: Attachment) -> None:
        self._q = attachment.region.q
        self._locks = attachment.locks
        self._procs = attachment.procs
        self._latches = attachment.latches
        self._latch = attachment.latch
        self._host = attachment.host
        self._base = attachment.region.word("checkpoint")
        waiters = attachment.region.word("checkpoint_waiters")
        self._mine = waiters + attachment.procno
        self._waiters = slice(waiters, waiters + attachment.procs.count)

    def request(self, flags: CheckpointFlags) -> None:
        """Ask the checkpointer for a checkpoint; with WAIT return when one that began after this call is done.

        Raises ServerError XX000 when it failed, or when there is no checkpointer for a minute.
        """
        q, base = self._q, self._base
        self._locks.acquire(LWLock.CHECKPOINTER_COMM)
        q[base + _FLAGS] |= int(flags)
        failed, started = q[base + _FAILED], q[base + _STARTED]
        self._locks.release(LWLock.CHECKPOINTER_COMM)
        told = self._tell_checkpointer()
        if CheckpointFlags.WAIT in flags:
            self._wait(started, failed, told=told)
        elif not told:
            raise _no_checkpointer()

    def _tell_checkpointer(self) -> bool:
        """Wake the checkpointer; False if there is none.

        One that attaches later looks for requests before it sleeps: it sees this one, which was written before the
        look at its entry here, with a lock's release in between as there is between its entry and its look.
        """
        checkpointer = self._procs.find(Role.CHECKPOINTER)
        if checkpointer is not None:
            self._latches.set(checkpointer)
        return checkpointer is not None

    def _wait(self, started: int, failed: int, *, told: bool) -> None:
        q, base, latch = self._q, self._base, self._latch
        q[self._mine] = 1
        tries = _RETRIES
        try:
            target = 0
            while True:
                latch.clear()
                self._locks.acquire(LWLock.CHECKPOINTER_COMM)
                now_started, done, now_failed = q[base + _STARTED], q[base + _DONE], q[base + _FAILED]
                self._locks.release(LWLock.CHECKPOINTER_COMM)
                if not target and now_started != started:
                    target = now_started
                if target and done >= target:
                    break
                self._host.check_interrupts()
                if not told and not target:
                    tries -= 1
                    if not tries:
                        raise _no_checkpointer()
                    told = self._tell_checkpointer()
                self._host.wait(latch, None if told or target else _RETRY_MS)
        finally:
            q[self._mine] = 0
        if now_failed != failed:
            raise ServerError(
                "checkpoint request failed",
                sqlstate=errors.INTERNAL_ERROR,
                hint="Consult recent messages in the server log for details.",
            )

    def pending(self) -> CheckpointFlags:
        """What is asked for and not begun."""
        return CheckpointFlags(self._q[self._base + _FLAGS])

    def take(self) -> CheckpointFlags:
        """The checkpointer begins: what was asked for, taken; whoever asks from now on waits for the next one."""
        q, base = self._q, self._base
        self._locks.acquire(LWLock.CHECKPOINTER_COMM)
        flags = q[base + _FLAGS]
        q[base + _FLAGS] = 0
        q[base + _STARTED] += 1
        self._locks.release(LWLock.CHECKPOINTER_COMM)
        self.wake_waiters()
        return CheckpointFlags(flags)

    def finish(self, *, failed: bool) -> None:
        """The checkpointer is done: tell how it went."""
        q, base = self._q, self._base
        self._locks.acquire(LWLock.CHECKPOINTER_COMM)
        q[base + _DONE] = q[base + _STARTED]
        q[base + _FAILED] += failed
        self._locks.release(LWLock.CHECKPOINTER_COMM)
        self.wake_waiters()

    def wake_waiters(self) -> None:
        """Make everybody who waits look again."""
        for procno, waits in enumerate(self._q[self._waiters].tolist()):
            if waits:
                self._latches.set(procno)


def _no_checkpointer() -> ServerError:
    return ServerError(
        "could not request checkpoint because checkpointer is not running", sqlstate=errors.INTERNAL_ERROR
    )


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """What a checkpoint did; `lsn` is its record, the times are in seconds."""

    lsn: int
    redo_lsn: int
    buffers: int
    files: int
    write_s: float
    sync_s: float
    total_s: float


def create_checkpoint(
    engine: Checkpointable,
    flags: CheckpointFlags,
    *,
    progress: Callable[[int, int], None] | None = None,
    on_counted: Callable[[], None] | None = None,
) -> CheckpointResult | None:
    """Perform a checkpoint; None if nothing was logged since the last one (and nothing forces it).

    `progress(written, total)` is called after each buffer, to pace an online checkpoint; `on_counted()` when the
    checkpoint counts, before old segments are removed or used again. ServerError when a page could not be written: the
    checkpoint failed, the old one stands. Panic when a sync or the control file failed, or when somebody wrote WAL
    beside a shutdown checkpoint.
    """
    host, wal, log = engine.host, engine.wal, engine.log
    base = engine.attachment.region.word("checkpoint")
    q = engine.attachment.region.q
    alone = bool(flags & (CheckpointFlags.IS_SHUTDOWN | CheckpointFlags.END_OF_RECOVERY))
    if not alone and CheckpointFlags.FORCE not in flags and wal.insert_lsn() == q[base + _LAST_END]:
        log.log(Level.DEBUG1, "checkpoint skipped because system is idle")
        return None
    host.point(Point.CHECKPOINT_BEGIN)
    began_ns = host.now_ns()
    if CheckpointFlags.IS_SHUTDOWN in flags:
        set_cluster_state(engine.disk, host, ClusterState.SHUTDOWNING, fsync=engine.settings.fsync)
    redo = expected = wal.insert_lsn()
    if not alone:
        redo = wal.begin_redo_point()
    host.point(Point.CHECKPOINT_AFTER_REDO_POINT)
    log.log(Level.LOG, "checkpoint starting:" + "".join(f" {word}" for flag, word in _WORDS if flag in flags))
    checkpoint = _collect(engine, redo, alone)
    region = engine.attachment.region
    if CheckpointFlags.END_OF_RECOVERY in flags and not leftovers.leftovers_synced(region):
        leftovers.sync_leftovers(engine.disk, region, fsync=engine.settings.fsync)
    buffers = engine.pool.write_dirty(progress)
    host.point(Point.CHECKPOINT_BEFORE_SYNC)
    written_ns = host.now_ns()
    files = engine.pool.sync()
    synced_ns = host.now_ns()
    host.point(Point.CHECKPOINT_BEFORE_RECORD)
    if alone:
        lsn, end = wal.insert_shutdown_checkpoint(
            lambda start: encode_checkpoint(msgspec.structs.replace(checkpoint, redo=start)), expected
        )
        checkpoint = msgspec.structs.replace(checkpoint, redo=lsn)
    else:
        lsn, end = wal.insert(Rmgr.XLOG, XlogInfo.CHECKPOINT_ONLINE, 0, encode_checkpoint(checkpoint))
    wal.flush(end)
    if CheckpointFlags.IS_SHUTDOWN in flags and wal.insert_lsn() != end:
        raise Panic("concurrent write-ahead log activity while database system is shutting down")
    host.point(Point.CHECKPOINT_BEFORE_CONTROL)
    _record_in_control(engine, lsn, checkpoint, flags)
    host.point(Point.CHECKPOINT_AFTER_CONTROL)
    distance = checkpoint.redo - q[base + _LAST_REDO] if q[base + _LAST_REDO] else 0
    q[base + _LAST_END] = end
    q[base + _LAST_REDO] = checkpoint.redo
    if on_counted is not None:
        on_counted()
    segments = wal.remove_or_recycle(checkpoint.redo)
    result = CheckpointResult(
        lsn,
        checkpoint.redo,
        buffers,
        files,
        (written_ns - began_ns) / 1e9,
        (synced_ns - written_ns) / 1e9,
        (host.now_ns() - began_ns) / 1e9,
    )
    log.log(Level.LOG, _complete_line(result, segments, distance, engine.pool.n_buffers))
    return result


def _collect(engine: Checkpointable, redo: int, alone: bool) -> CheckPoint:
    next_xid, oldest_xid, next_relation = engine.running.counters()
    return CheckPoint(
        redo=redo,
        next_xid=next_xid,
        oldest_xid=oldest_xid,
        next_relation=next_relation,
        time=engine.host.wall_time(),
        shutdown=alone,
        oldest_active_xid=0 if alone else engine.running.horizon(),
        timeline=engine.identity.timeline,
        full_page_writes=engine.settings.full_page_writes,
    )


def _record_in_control(engine: Checkpointable, lsn: int, checkpoint: CheckPoint, flags: CheckpointFlags) -> None:
    control = msgspec.structs.replace(
        read_control(engine.disk), checkpoint_lsn=lsn, checkpoint=checkpoint, time=engine.host.wall_time()
    )
    if CheckpointFlags.IS_SHUTDOWN in flags:
        control = msgspec.structs.replace(control, state=ClusterState.SHUTDOWNED)
    elif CheckpointFlags.END_OF_RECOVERY in flags:
        # With the checkpoint and not by a write of its own: a crash from here on finds a cluster that was up.
        control = msgspec.structs.replace(control, state=ClusterState.IN_PRODUCTION)
    write_control(engine.disk, control, fsync=engine.settings.fsync)


def set_cluster_state(disk: Disk, host: Host, state: ClusterState, *, fsync: bool = True) -> None:
    """Change the cluster state in the control file: only one process does so at a time, startup or checkpointer."""
    control = msgspec.structs.replace(read_control(disk), state=state, time=host.wall_time())
    write_control(disk, control, fsync=fsync)


def _complete_line(result: CheckpointResult, segments: tuple[int, int, int], distance: int, n_buffers: int) -> str:
    added, removed, recycled = segments
    average = result.sync_s / result.files if result.files else 0.0
    return (
        f"checkpoint complete: wrote {result.buffers} buffers ({100 * result.buffers / n_buffers:.1f}%), "
        f"wrote 0 SLRU buffers; {added} WAL file(s) added, {removed} removed, {recycled} recycled; "
        f"write={result.write_s:.3f} s, sync={result.sync_s:.3f} s, total={result.total_s:.3f} s; "
        f"sync files={result.files}, longest={result.sync_s:.3f} s, average={average:.3f} s; "
        f"distance={distance // 1024} kB, estimate={distance // 1024} kB; "
        f"lsn={format_lsn(result.lsn)}, redo lsn={format_lsn(result.redo_lsn)}"
    )
