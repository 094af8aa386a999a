"""The engine against a dictionary, under any sequence of transactions, checkpoints and crashes.

What could go wrong: a committed row that recovery does not bring back, or brings back old; a row of a transaction that
never committed; a row that a snapshot should not see; an index that has lost an entry or leads to another row; a page
whose image was needed and not logged; a redo that is not idempotent, so that a crash in the middle of it spoils the
next one. Nor may the walk of `crashbed verify` find anything, in whatever state a crash leaves the files. The pool is so small and the segments so short that pages are evicted, read back and recycled all the time.

The last test shows that the machine can fail: with a redo that does nothing, it does.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from supervisor.engine.recovery import redo
from supervisor.engine.recovery.checkpoint import CheckpointFlags
from supervisor.engine.recovery.redo import RecoveryResult, Replay
from supervisor.engine.transam.clog import CommitLog, Status
from supervisor.engine.verify.cluster import verify_cluster
from supervisor.engine.wal.insert import Wal
from supervisor.engine.wal.rmgr import Rmgr
from supervisor.errors import Panic, ServerError, StartupError
from supervisor.points import Point
from supervisor.session.session import Session
from tests.support.engine_rig import Crash, Rig
from tests.support.heap_checks import check_table

TABLES = ("narrow", "wide")
KEYS = st.integers(0, 12)
TEXTS = st.sampled_from(["", "x" * 300, "y" * 2500, "z" * 1200])
LIVE_SESSIONS = 3
CRASH_POINTS = (
    Point.WAL_INSERT_AFTER_COPY,
    Point.WAL_FLUSH_BEFORE_WRITE,
    Point.WAL_FLUSH_AFTER_FSYNC,
    Point.COMMIT_BEFORE_RECORD,
    Point.HEAP_UPDATE_UNDER_LOCK,
    Point.HEAP_PRUNE_UNDER_LOCK,
    Point.BTREE_SPLIT_UNDER_LOCK,
    Point.BUFFER_WRITE_AFTER,
)
CHECKPOINT_POINTS = (
    Point.CHECKPOINT_AFTER_REDO_POINT,
    Point.BUFFER_WRITE_AFTER,
    Point.CHECKPOINT_BEFORE_SYNC,
    Point.CHECKPOINT_BEFORE_RECORD,
    Point.CHECKPOINT_BEFORE_CONTROL,
    Point.CHECKPOINT_AFTER_CONTROL,
)
RECOVERY_POINTS = (
    Point.REDO_RECORD,
    Point.BUFFER_WRITE_AFTER,
    Point.STARTUP_BEFORE_CHECKPOINT,
    Point.CHECKPOINT_BEFORE_CONTROL,
    Point.CHECKPOINT_AFTER_CONTROL,
    Point.DISK_PWRITE,
)

Rows = dict[tuple[str, int], str]


def crash_at(point: Point, k: int) -> Callable[[Point], None]:
    """Raise Crash when `point` is passed for the k-th time."""
    left = [k]

    def passed(which: Point) -> None:
        if which is point:
            left[0] -= 1
            if left[0] == 0:
                raise Crash(point.name)

    return passed


class Worker:
    """A session and what the model knows of its open transaction."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.open = False
        self.changes: dict[tuple[str, int], str | None] = {}


class RecoveryMachine(RuleBasedStateMachine):
    """Rules act on the engine and on `committed`, what must be there; `unknown` is a commit cut off by a crash."""

    directory: Path

    @initialize(batch=st.sampled_from([1, 3, 20, redo.BATCH_RECORDS]))
    def begin(self, batch: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(redo, "BATCH_RECORDS", batch)
        self.directory = Path(tempfile.mkdtemp(prefix="machine-"))
        self.rig = Rig(self.directory)
        self.rig.start()
        self.committed: Rows = {}
        self.tables: set[str] = set()
        self.locked: dict[tuple[str, int], int] = {}
        self.open_sessions()

    def open_sessions(self) -> None:
        self.quiet = 0
        self.workers = [Worker(self.rig.session()) for _ in range(LIVE_SESSIONS)]
        self.locked.clear()
        for name in TABLES:
            if name not in self.tables:
                self.workers[0].session.create_table(name, [("id", "integer"), ("v", "text")], "id")
                self.tables.add(name)

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
        if hasattr(self, "rig"):
            self.rig.point = lambda point: None
            self.rig.crash()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)

    # What a worker sees: what is committed, and its own changes over it.

    def sees(self, worker: Worker) -> Rows:
        if not worker.changes:
            return self.committed
        rows: dict[tuple[str, int], str | None] = {**self.committed, **worker.changes}
        return {row: value for row, value in rows.items() if value is not None}

    def value(self, worker: Worker, row: tuple[str, int]) -> str | None:
        return worker.changes[row] if row in worker.changes else self.committed.get(row)

    def may_touch(self, number: int, row: tuple[str, int]) -> bool:
        """Whether the row is free for this worker: nobody could end another transaction's wait here."""
        return self.locked.get(row, number) == number

    @rule(number=st.integers(0, LIVE_SESSIONS - 1), table=st.sampled_from(TABLES), key=KEYS, text=TEXTS)
    def put(self, number: int, table: str, key: int, text: str) -> None:
        row = (table, key)
        if not self.may_touch(number, row):
            return
        worker = self.workers[number]
        self.ensure_open(worker)
        if self.value(worker, row) is not None:
            assert worker.session.update(table, key, (key, text))
        else:
            assert worker.session.update(table, key, (key, text)) is False
            worker.session.insert(table, (key, text))
        worker.changes[row] = text
        self.locked[row] = number

    @rule(number=st.integers(0, LIVE_SESSIONS - 1), table=st.sampled_from(TABLES), key=KEYS)
    def delete(self, number: int, table: str, key: int) -> None:
        row = (table, key)
        if not self.may_touch(number, row):
            return
        worker = self.workers[number]
        self.ensure_open(worker)
        assert worker.session.delete(table, key) is (self.value(worker, row) is not None)
        worker.changes[row] = None
        self.locked[row] = number

    @rule(number=st.integers(0, LIVE_SESSIONS - 1), table=st.sampled_from(TABLES), key=KEYS, lock=st.booleans())
    def get(self, number: int, table: str, key: int, lock: bool) -> None:
        row = (table, key)
        worker = self.workers[number]
        expected = self.sees(worker).get(row)
        if lock and not self.may_touch(number, row):
            return
        if lock:
            self.ensure_open(worker)
        found = worker.session.get(table, key, for_update=lock)
        assert found == (None if expected is None else (key, expected))
        if lock and found is not None:
            self.locked[row] = number

    @rule(number=st.integers(0, LIVE_SESSIONS - 1), rounds=st.integers(5, 60), key=KEYS)
    def hammer(self, number: int, rounds: int, key: int) -> None:
        """Many versions of one row, so that pages fill up, are pruned and give rows away."""
        for i in range(rounds):
            self.put(number, "narrow", key, f"{i}" * 20)
            if i % 3 == 2:
                self.commit(number)

    @rule(number=st.integers(0, LIVE_SESSIONS - 1), first=st.integers(100, 700), step=st.integers(1, 7))
    def fill(self, number: int, first: int, step: int) -> None:
        """Many rows, so that the index splits and the heap grows over many pages."""
        for key in range(first, first + 80 * step, step):
            self.put(number, "narrow", key, "")

    @rule(number=st.integers(0, LIVE_SESSIONS - 1), first=st.integers(100, 700), count=st.integers(1, 200))
    def clear(self, number: int, first: int, count: int) -> None:
        """Remove rows, so that pages and index entries are given back."""
        for key in range(first, first + count):
            if ("narrow", key) in self.sees(self.workers[number]):
                self.delete(number, "narrow", key)

    @rule(number=st.integers(0, LIVE_SESSIONS - 1))
    def commit(self, number: int) -> None:
        worker = self.workers[number]
        if worker.open:
            assert worker.session.commit() is True
            self.end(number, committed=True)

    @rule(number=st.integers(0, LIVE_SESSIONS - 1))
    def rollback(self, number: int) -> None:
        worker = self.workers[number]
        if worker.open:
            worker.session.rollback()
            self.end(number, committed=False)

    @rule(number=st.integers(0, LIVE_SESSIONS - 1), table=st.sampled_from(TABLES))
    def duplicate(self, number: int, table: str) -> None:
        worker = self.workers[number]
        taken = [key for name, key in self.sees(worker) if name == table and self.may_touch(number, (name, key))]
        if taken:
            self.ensure_open(worker)
            with pytest.raises(ServerError) as caught:
                worker.session.insert(table, (taken[0], "again"))
            assert caught.value.sqlstate == "23505"
            worker.session.rollback()
            self.end(number, committed=False)

    @rule()
    def checkpoint(self) -> None:
        self.rig.checkpoint()

    @precondition(lambda self: self.quiet >= 4)
    @rule()
    def crash(self) -> None:
        self.rig.crash()
        self.recover()

    @precondition(lambda self: self.quiet >= 4)
    @rule(point=st.sampled_from(CRASH_POINTS), k=st.integers(1, 4), number=st.integers(0, LIVE_SESSIONS - 1), key=KEYS)
    def crash_in_transaction(self, point: Point, k: int, number: int, key: int) -> None:
        """A crash inside a statement or a commit: the transaction is either there or not, wholly."""
        worker = self.workers[number]
        row = ("wide", key)
        if not self.may_touch(number, row):
            return
        self.rig.point = crash_at(point, k)
        try:
            self.put(number, "wide", key, "c" * 900)
            self.commit(number)
        except Crash:
            worker.changes[row] = "c" * 900
        self.rig.point = lambda point: None
        maybe = dict(worker.changes)
        self.rig.crash()
        self.recover(maybe)

    @precondition(lambda self: self.quiet >= 4)
    @rule(point=st.sampled_from(CHECKPOINT_POINTS), k=st.integers(1, 3))
    def crash_in_checkpoint(self, point: Point, k: int) -> None:
        self.rig.point = crash_at(point, k)
        try:
            self.rig.checkpoint(CheckpointFlags.FAST | CheckpointFlags.FORCE)
        except Crash:
            pass
        self.rig.point = lambda point: None
        self.rig.crash()
        self.recover()

    @precondition(lambda self: self.quiet >= 4)
    @rule(point=st.sampled_from(RECOVERY_POINTS), k=st.integers(1, 30))
    def crash_in_recovery(self, point: Point, k: int) -> None:
        self.rig.crash()
        self.rig.point = crash_at(point, k)
        try:
            self.rig.start()
        except Crash:
            pass
        self.rig.point = lambda point: None
        self.rig.crash()
        self.recover()

    @precondition(lambda self: self.quiet >= 4)
    @rule()
    def shut_down(self) -> None:
        for number in range(LIVE_SESSIONS):
            self.rollback(number)
        self.rig.stop()
        self.files_are_sound(recovered=False)
        assert self.recover().performed is False

    # Keeping the model.

    def ensure_open(self, worker: Worker) -> None:
        if not worker.open:
            worker.session.begin()
            worker.open = True

    def end(self, number: int, *, committed: bool) -> None:
        worker = self.workers[number]
        if committed:
            self.apply(worker.changes)
        worker.changes.clear()
        worker.open = False
        for row in [row for row, owner in self.locked.items() if owner == number]:
            del self.locked[row]

    def apply(self, changes: dict[tuple[str, int], str | None]) -> None:
        for row, value in changes.items():
            if value is None:
                self.committed.pop(row, None)
            else:
                self.committed[row] = value

    def recover(self, maybe: dict[tuple[str, int], str | None] | None = None) -> RecoveryResult:
        self.files_are_sound()
        result = self.rig.start()
        self.open_sessions()
        found = self.found(self.workers[1].session)
        if maybe and found != self.committed:
            self.apply(maybe)
        assert found == self.committed
        return result

    def found(self, session: Session) -> Rows:
        rows: Rows = {}
        for table in TABLES:
            keys = []
            for key, text in session.scan(table):
                rows[table, key] = text
                keys.append(key)
            assert keys == sorted(set(keys))
        return rows

    def files_are_sound(self, *, recovered: bool | None = None) -> None:
        """Walk over the files as they are; of a cluster that is not shut down, as a crash now would leave them."""
        result = verify_cluster(self.rig.disk)
        assert result.corruptions == ()
        assert recovered is None or result.recovered is recovered

    @invariant()
    def everybody_sees_what_they_should(self) -> None:
        if hasattr(self, "workers"):
            self.quiet += 1
            for worker in self.workers:
                assert self.found(worker.session) == self.sees(worker)
            if self.quiet % 4 == 1:
                for table in TABLES:
                    check_table(self.rig.engines[0], table)
            if self.quiet % 4 == 3:
                self.files_are_sound(recovered=True)


MachineTest = RecoveryMachine.TestCase
MachineTest.settings = settings(
    max_examples=120,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def skip_records(*rmgrs: Rmgr) -> Callable[[pytest.MonkeyPatch], None]:
    """A redo that leaves records of some managers out."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        take = Replay.take
        monkeypatch.setattr(Replay, "take", lambda self, record: None if record.rmgr in rmgrs else take(self, record))

    return plant


def forget_to_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that does not wait for its record to be written."""
    monkeypatch.setattr(Wal, "flush", lambda self, lsn: None)


def everything_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A visibility check that takes every transaction for committed."""
    monkeypatch.setattr(CommitLog, "status", lambda self, xid: Status.COMMITTED)


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(skip_records(*Rmgr), id="redo does nothing"),
        pytest.param(skip_records(Rmgr.HEAP), id="redo leaves the heap out"),
        pytest.param(skip_records(Rmgr.BTREE), id="redo leaves the index out"),
        pytest.param(skip_records(Rmgr.TRANSACTION), id="redo leaves commits out"),
        pytest.param(forget_to_flush, id="commit is not flushed"),
        pytest.param(everything_committed, id="everything counts as committed"),
    ],
)
def test_a_planted_defect_is_found(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, ServerError, StartupError, Panic, ExceptionGroup)):
        run_state_machine_as_test(
            RecoveryMachine,
            settings=settings(
                max_examples=60,
                stateful_step_count=25,
                deadline=None,
                database=None,
                print_blob=False,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
