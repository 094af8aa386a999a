"""Recovery: what the startup process does before anybody may work (PostgreSQL's `StartupXLOG` and `xlogrecovery.c`).

Owns the order: read the control file's checkpoint, replay the log from its redo point to the first record that fails
a check, take the log up at its end, make a checkpoint, call the cluster in production. Redo is idempotent: a record
is applied to a page that is older than it and to no other, so a crash at any point of recovery only begins it again,
from the same checkpoint. Transactions that the crash interrupted need no undoing: they are never marked committed.

It never decides which process performs the checkpoint: in the server the checkpointer does, in one process it is done
in place; the caller passes how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from supervisor.engine.access import btree, heap_redo
from supervisor.engine.access.catalog import STORAGE_CREATE, decode_storage_create
from supervisor.engine.disk.disk import Disk
from supervisor.engine.engine import Engine
from supervisor.engine.recovery.checkpoint import CheckpointFlags, create_checkpoint, set_cluster_state
from supervisor.engine.recovery.control import CheckPoint, ClusterState, ControlData, decode_checkpoint
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.storage.redo import BATCH_RECORDS, PageRedo, not_redone
from supervisor.engine.transam import clog
from supervisor.engine.transam.clog import TransactionInfo, record_time
from supervisor.engine.transam.snapshot import FIRST_USER_RELATION
from supervisor.engine.transam.xid import FIRST_NORMAL_XID, advance, newer
from supervisor.engine.wal.lsn import WAL_DIRECTORY, format_lsn, parse_segment_name
from supervisor.engine.wal.reader import WalReader
from supervisor.engine.wal.record import WalRecord
from supervisor.engine.wal.rmgr import Rmgr, XlogInfo
from supervisor.errors import Panic, ServerError, StartupError
from supervisor.host import Host
from supervisor.log import Journal, Level, ServerLog
from supervisor.points import Point

_PROGRESS_EVERY_NS = 10_000_000_000
_CHECK_EVERY = 256
_COMMIT = int(TransactionInfo.COMMIT)
_CHECKPOINTS = (int(XlogInfo.CHECKPOINT_ONLINE), int(XlogInfo.CHECKPOINT_SHUTDOWN))

CRASHED_HINT = "This probably means that some data is corrupted and you will have to use the last backup for recovery."


@dataclass(frozen=True, slots=True)
class RecoveryResult:
    """What recovery found and did.

    `performed` is False after an orderly shutdown; then nothing else counts but `end_lsn`. `redo_start_lsn` is 0 when
    redo was not required. `pages_changed_older` counts the pages that really were older than the log, `end_reason` is
    the check that ended it, `last_commit_time` seconds since the epoch or None.
    """

    performed: bool
    redo_start_lsn: int
    end_lsn: int
    records: int
    pages_changed_older: int
    end_reason: str
    last_commit_time: float | None


class _RecoveryFlush:
    """WAL before data while the log is only read: what is replayed must be on disk before a page of it is.

    After a crash of the server alone the log may be in the kernel and not on disk. Pages are rarely written during
    redo, so the log is synced when the first one is.
    """

    def __init__(self, disk: Disk, control: ControlData, *, fsync: bool) -> None:
        self._disk = disk
        self._control = control
        self._synced = not fsync

    def flush(self, lsn: int) -> None:
        """Have the whole log that may be replayed on disk."""
        if self._synced:
            return
        first = self._control.checkpoint.redo // self._control.segment_size
        try:
            self._disk.sync_directory(WAL_DIRECTORY)
            for name in self._disk.list(WAL_DIRECTORY):
                parsed = parse_segment_name(name, self._control.segment_size)
                if parsed is not None and parsed[1] >= first:
                    handle = self._disk.open(f"{WAL_DIRECTORY}/{name}")
                    self._disk.fdatasync(handle)
                    self._disk.close(handle)
        except OSError as error:
            raise Panic(f"could not fsync the write-ahead log: {error}") from error
        self._synced = True


class Replay:
    """What the log says, repeated: records are taken in order, and carried out in batches.

    `recover` drives it, and a tool may. ServerError or ValueError for a record that cannot be.
    """

    def __init__(self, disk: Disk, pool: BufferPool, checkpoint: CheckPoint) -> None:
        self._pool = pool
        self._pages = PageRedo(
            disk,
            pool,
            {Rmgr.TRANSACTION: clog.apply, Rmgr.HEAP: heap_redo.apply, Rmgr.BTREE: btree.apply},
        )
        self.next_xid = checkpoint.next_xid
        self.next_relation = max(checkpoint.next_relation, FIRST_USER_RELATION)
        self._last_commit: WalRecord | None = None
        self._last_xid = 0
        self._notes: dict[int, Callable[[WalRecord], None]] = {
            Rmgr.XLOG: self._note_xlog,
            Rmgr.TRANSACTION: self._note_transaction,
            Rmgr.STORAGE: self._redo_storage,
        }

    @property
    def pages_changed(self) -> int:
        """How many pages were older than a record about them."""
        return self._pages.pages_changed

    @property
    def last_commit_time(self) -> float | None:
        """When the last transaction committed, seconds since the epoch."""
        return None if self._last_commit is None else record_time(self._last_commit)

    def take(self, record: WalRecord) -> None:
        """Note what a record says of the whole cluster; `carry_out` repeats what it says of pages."""
        xid = record.xid
        if xid != self._last_xid and xid >= FIRST_NORMAL_XID:
            self.next_xid = newer(self.next_xid, advance(xid))
            self._last_xid = xid
        if record.blocks:
            self._pages.collect(record)
        note = self._notes.get(record.rmgr)
        if note is not None:
            note(record)

    def carry_out(self) -> None:
        """Change the pages that the records taken are about, as far as it is not done."""
        self._pages.carry_out()

    def close(self) -> None:
        """Give the files back that were looked into."""
        self._pages.close()

    def _note_transaction(self, record: WalRecord) -> None:
        if record.info == _COMMIT:
            self._last_commit = record

    def _note_xlog(self, record: WalRecord) -> None:
        if record.info in _CHECKPOINTS:
            checkpoint = decode_checkpoint(record.body)
            self.next_xid = newer(self.next_xid, checkpoint.next_xid)
            self.next_relation = max(self.next_relation, checkpoint.next_relation)

    def _redo_storage(self, record: WalRecord) -> None:
        if record.info != STORAGE_CREATE:
            raise ValueError(f"unknown storage record 0x{record.info:02X}")
        relation = decode_storage_create(record)
        self.next_relation = max(self.next_relation, relation + 1)
        self._pool.create_relation_again(relation)


def recover(
    engine: Engine,
    control: ControlData,
    log: ServerLog,
    journal: Journal,
    *,
    on_redo_begin: Callable[[], None] | None = None,
    end_of_recovery_checkpoint: Callable[[], None] | None = None,
    cpu_times: Callable[[], tuple[float, float]] | None = None,
) -> RecoveryResult:
    """Make the region and the files those of a running cluster; nobody else may work before this returns.

    `on_redo_begin` is called just before the first record (the postmaster is told). `end_of_recovery_checkpoint`
    performs one or has it performed; by default it is done here. `cpu_times` gives (user, system) seconds for the
    log. StartupError when the log or the data cannot be used, Panic when the disk fails.
    """
    disk, host = engine.disk, engine.host
    _log_state(log, control)
    _remove_temporary_segments(disk)
    reader = WalReader(disk, control)
    start, needed = _find_start(reader, control)
    pool = BufferPool(
        disk, engine.attachment, _RecoveryFlush(disk, control, fsync=engine.settings.fsync), engine.settings
    )
    replay = Replay(disk, pool, control.checkpoint)
    if needed:
        log.log(Level.LOG, "database system was not properly shut down; automatic recovery in progress")
        # For people, and not synced: recovery that a power loss cuts off is performed again whichever of the states
        # is found, as long as it is not "shut down".
        set_cluster_state(disk, host, ClusterState.IN_CRASH_RECOVERY, fsync=False)
        if on_redo_begin is not None:
            on_redo_begin()
    times = cpu_times or (lambda: (0.0, 0.0))
    records, first = _replay_log(engine, log, journal, reader, replay, start, control.checkpoint_lsn, needed, times)
    replay.close()
    pool.close()
    end = reader.end
    if end is None:
        raise StartupError(f"could not read the write-ahead log at {format_lsn(start)}: {reader.end_reason}")
    reader.close()
    engine.running.start(replay.next_xid, control.checkpoint.oldest_xid, replay.next_relation)
    if not needed:
        # Before the first byte is logged: a crash right after it must not find "shut down" and a longer log.
        set_cluster_state(disk, host, ClusterState.IN_PRODUCTION, fsync=engine.settings.fsync)
    engine.wal.start_at(end, control.checkpoint.redo)
    if needed:
        host.point(Point.STARTUP_BEFORE_CHECKPOINT)
        if end_of_recovery_checkpoint is None:
            create_checkpoint(engine, CheckpointFlags.END_OF_RECOVERY | CheckpointFlags.FAST)
        else:
            end_of_recovery_checkpoint()
    return RecoveryResult(
        needed, first, end.lsn, records, replay.pages_changed, reader.end_reason, replay.last_commit_time
    )


def _log_state(log: ServerLog, control: ControlData) -> None:
    when = _date(control.time)
    match control.state:
        case ClusterState.SHUTDOWNED:
            log.log(Level.LOG, f"database system was shut down at {when}")
        case ClusterState.SHUTDOWNED_IN_RECOVERY:
            log.log(Level.LOG, f"database system was shut down in recovery at {when}")
        case ClusterState.SHUTDOWNING:
            log.log(Level.LOG, f"database system shutdown was interrupted; last known up at {when}")
        case ClusterState.IN_CRASH_RECOVERY:
            log.log(Level.LOG, f"database system was interrupted while in recovery at {when}", hint=CRASHED_HINT)
        case ClusterState.IN_PRODUCTION:
            log.log(Level.LOG, f"database system was interrupted; last known up at {when}")
        case _:
            raise StartupError("control file contains invalid database cluster state")


def _remove_temporary_segments(disk: Disk) -> None:
    for name in disk.list(WAL_DIRECTORY):
        if name.startswith("xlogtemp."):
            disk.unlink(f"{WAL_DIRECTORY}/{name}")


def _find_start(reader: WalReader, control: ControlData) -> tuple[int, bool]:
    """(LSN to read from, whether recovery is needed); StartupError if the checkpoint cannot be read."""
    lsn, redo = control.checkpoint_lsn, control.checkpoint.redo
    record = reader.read_record(lsn)
    if record is None or record.rmgr != Rmgr.XLOG or record.info not in _CHECKPOINTS:
        raise StartupError(
            f"could not locate a valid checkpoint record at {format_lsn(lsn)}",
            hint=reader.end_reason or "The record found there is not a checkpoint's.",
        )
    if redo == lsn:
        return lsn, control.state is not ClusterState.SHUTDOWNED
    if redo > lsn or record.info == XlogInfo.CHECKPOINT_SHUTDOWN:
        raise Panic("invalid redo record in shutdown checkpoint" if redo < lsn else "invalid redo in checkpoint record")
    first = reader.read_record(redo)
    if first is None:
        raise StartupError(
            f"could not find redo location {format_lsn(redo)} referenced by checkpoint record at {format_lsn(lsn)}",
            hint=reader.end_reason,
        )
    if first.rmgr != Rmgr.XLOG or first.info != XlogInfo.CHECKPOINT_REDO:
        raise StartupError(f"unexpected record type found at redo point {format_lsn(redo)}")
    return redo, True


def _replay_log(
    engine: Engine,
    log: ServerLog,
    journal: Journal,
    reader: WalReader,
    replay: Replay,
    start: int,
    checkpoint_lsn: int,
    needed: bool,
    times: Callable[[], tuple[float, float]],
) -> tuple[int, int]:
    """Read the log to its end, applying it if `needed`; (records applied, LSN of the first, 0 if none).

    After an orderly shutdown the walk only finds the end, which is right behind the checkpoint.
    """
    report = _RedoReport(engine.host, log, journal, times)
    records = first = last = 0
    for record in reader.read_from(start):
        if record.lsn == start and start == checkpoint_lsn:
            continue  # A shutdown checkpoint's own record: redo begins behind it.
        if not needed:
            raise StartupError(
                f"found a record at {format_lsn(record.lsn)} behind the shutdown checkpoint",
                hint="The control file says that the cluster was shut down, the write-ahead log says it was not.",
            )
        if not first:
            first = record.lsn
            report.begins(first)
            engine.host.point(Point.REDO_BEGIN)
        if records % _CHECK_EVERY == 0:
            engine.host.check_interrupts()
            report.goes_on(record.lsn)
        try:
            replay.take(record)
        except (ServerError, ValueError) as error:
            raise not_redone(record, error) from error
        records += 1
        last = record.lsn
        if records % BATCH_RECORDS == 0:
            replay.carry_out()
    replay.carry_out()
    if not first:
        if needed:
            log.log(Level.LOG, "redo is not required")
        return 0, 0
    engine.host.point(Point.REDO_END)
    report.ends(last, records, reader, replay)
    return records, first


class _RedoReport:
    """What is said of a redo, in PostgreSQL's words (xlogrecovery.c, PerformWalRecovery) and in the journal's."""

    def __init__(self, host: Host, log: ServerLog, journal: Journal, times: Callable[[], tuple[float, float]]) -> None:
        self._host = host
        self._log = log
        self._journal = journal
        self._times = times
        self._user, self._system = times()
        self._began_ns = host.now_ns()
        self._next_ns = self._began_ns + _PROGRESS_EVERY_NS

    def begins(self, lsn: int) -> None:
        """Before the first record is applied."""
        self._log.log(Level.LOG, f"redo starts at {format_lsn(lsn)}")
        self._journal.emit("redo_begin", lsn=lsn)

    def goes_on(self, lsn: int) -> None:
        """Now and then; it says something every ten seconds."""
        if self._host.now_ns() >= self._next_ns:
            self._next_ns += _PROGRESS_EVERY_NS
            self._log.log(
                Level.LOG,
                f"redo in progress, elapsed time: {self._elapsed_s:.2f} s, current LSN: {format_lsn(lsn)}",
            )

    def ends(self, last: int, records: int, reader: WalReader, replay: Replay) -> None:
        """When all is applied; `last` is the LSN of the last record."""
        self._log.log(Level.LOG, reader.end_reason)
        user, system = self._times()
        self._log.log(
            Level.LOG,
            f"redo done at {format_lsn(last)} system usage: CPU: user: {user - self._user:.2f} s, "
            f"system: {system - self._system:.2f} s, elapsed: {self._elapsed_s:.2f} s",
        )
        if replay.last_commit_time is not None:
            when = _date(replay.last_commit_time, parts=True)
            self._log.log(Level.LOG, f"last completed transaction was at log time {when}")
        self._journal.emit(
            "redo_end",
            lsn=reader.end_lsn,
            records=records,
            pages_changed=replay.pages_changed,
            end_reason=reader.end_reason,
        )

    @property
    def _elapsed_s(self) -> float:
        return (self._host.now_ns() - self._began_ns) / 1e9


def _date(time: float, *, parts: bool = False) -> str:
    moment = datetime.fromtimestamp(time, UTC).replace(tzinfo=None)
    return f"{moment.isoformat(' ', 'microseconds')}+00" if parts else f"{moment.isoformat(' ', 'seconds')} UTC"
