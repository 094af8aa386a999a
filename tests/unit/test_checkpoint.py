"""Checkpoints and recovery: when, in which order, with which words, and from which files not at all.

What could go wrong: a checkpoint that counts before it is complete; a commit between the redo point and the commit
log that is lost; an idle server that writes checkpoints for ever; a request that nobody answers; a damaged directory
that is recovered into nonsense instead of being refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from supervisor.config import Settings
from supervisor.engine.recovery.checkpoint import (
    CheckpointFlags,
    CheckpointRequests,
    checkpoint_due,
    create_checkpoint,
    is_checkpoint_on_schedule,
)
from supervisor.engine.recovery.cluster import VERSION_FILE, check_version, initialise_cluster
from supervisor.engine.recovery.control import ClusterState, read_control, write_control
from supervisor.engine.recovery.waldump import dump_wal
from supervisor.errors import Panic, ServerError, StartupError
from supervisor.points import Point
from supervisor.roles import Role
from supervisor.session.session import Session
from supervisor.shmem.attachment import attach
from tests.support.engine_rig import SEGMENT_SIZE, SMALL, Crash, Rig

MIB = 1 << 20


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.start()
    yield rig
    rig.point = lambda point: None
    rig.crash()


def with_table(rig: Rig, rows: int = 3) -> Session:
    session = rig.session()
    session.create_table("t", [("id", "integer"), ("v", "text")], "id")
    for key in range(rows):
        session.insert("t", (key, "v"))
    return session


def due(**changes: object) -> CheckpointFlags:
    values: dict[str, object] = {
        "requested": CheckpointFlags(0),
        "since_last_s": 1.0,
        "insert_lsn": 10 * MIB,
        "redo_lsn": 10 * MIB,
    }
    return checkpoint_due(Settings(), MIB, **(values | changes))  # type: ignore[arg-type]


def test_a_checkpoint_is_due_by_time_by_volume_and_by_request() -> None:
    assert due() == 0
    assert due(since_last_s=300.0) == CheckpointFlags.CAUSE_TIME
    assert due(requested=CheckpointFlags.FAST) == CheckpointFlags.FAST
    # max_wal_size 64 MiB in segments of 1 MiB, over 1.9: 33 segments, so after 32 full ones.
    assert due(insert_lsn=41 * MIB) == 0
    assert due(insert_lsn=42 * MIB) == CheckpointFlags.CAUSE_XLOG


def on_schedule(progress: float, *, elapsed_s: float = 0.0, wal_bytes: int = 0, **changes: object) -> bool:
    settings = Settings().replace(**({"checkpoint_timeout": 100, "checkpoint_completion_target": 0.5} | changes))
    return is_checkpoint_on_schedule(settings, MIB, progress=progress, elapsed_s=elapsed_s, wal_bytes=wal_bytes)


def test_a_checkpoint_may_rest_while_it_is_ahead_of_the_clock_and_of_the_log() -> None:
    assert on_schedule(0.5, elapsed_s=25.0)  # half of the pages in half of the half
    assert not on_schedule(0.5, elapsed_s=25.1)
    assert on_schedule(1.0, elapsed_s=50.0) and not on_schedule(1.0, elapsed_s=50.1)
    # max_wal_size 64 MiB over 1.5 is 42 segments of 1 MiB.
    assert on_schedule(0.5, wal_bytes=42 * MIB // 4)
    assert not on_schedule(0.5, wal_bytes=42 * MIB // 4 + 1)
    assert not on_schedule(0.5, elapsed_s=25.1, wal_bytes=0) and not on_schedule(0.5, elapsed_s=0, wal_bytes=20 * MIB)


def test_a_target_of_nothing_never_rests_and_a_small_log_is_one_segment() -> None:
    assert not on_schedule(1.0, elapsed_s=0.001, checkpoint_completion_target=0.0)
    assert on_schedule(0.5, wal_bytes=MIB // 4, max_wal_size=2 * MIB)
    assert not on_schedule(0.5, wal_bytes=MIB // 4 + 1, max_wal_size=2 * MIB)


def test_whoever_waits_is_told_when_the_checkpoint_counts_and_before_old_segments_are_tidied_up(rig: Rig) -> None:
    session = with_table(rig)
    for key in range(100, 1100):
        session.insert("t", (key, "v" * 3000))  # three segments and more
    seen: list[tuple[int, list[str]]] = []
    result = create_checkpoint(
        rig.engine(),
        CheckpointFlags.FAST,
        on_counted=lambda: seen.append((read_control(rig.disk).checkpoint_lsn, rig.disk.list("pg_wal"))),
    )
    assert result is not None
    ((lsn, segments),) = seen
    assert lsn == result.lsn, "a crash from here on begins at the new checkpoint"
    assert segments != rig.disk.list("pg_wal"), "old segments are used again or removed afterwards"


def test_the_words_of_a_life(rig: Rig) -> None:
    assert re.fullmatch(r"database system was shut down at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", rig.log.lines[0])
    with_table(rig)
    rig.checkpoint()
    assert rig.log.lines[1] == "checkpoint starting: immediate"
    assert re.fullmatch(
        r"checkpoint complete: wrote \d+ buffers \(\d+\.\d%\), wrote 0 SLRU buffers; \d+ WAL file\(s\) added, "
        r"\d+ removed, \d+ recycled; write=\d+\.\d{3} s, sync=\d+\.\d{3} s, total=\d+\.\d{3} s; sync files=\d+, "
        r"longest=\d+\.\d{3} s, average=\d+\.\d{3} s; distance=\d+ kB, estimate=\d+ kB; "
        r"lsn=[0-9A-F]+/[0-9A-F]+, redo lsn=[0-9A-F]+/[0-9A-F]+",
        rig.log.lines[2],
    )
    rig.log.lines.clear()
    rig.restart()
    words = [re.sub(r"[0-9A-F]+/[0-9A-F]+|\d[\d.:+ -]*", "#", line) for line in rig.log.lines]
    assert words[:7] == [
        "database system was interrupted; last known up at #UTC",
        "database system was not properly shut down; automatic recovery in progress",
        "redo starts at #",
        "invalid record length at #: expected at least #, got #",
        "redo done at # system usage: CPU: user: #s, system: #s, elapsed: #s",
        "last completed transaction was at log time #",
        "checkpoint starting: end-of-recovery immediate",
    ] or words[5].startswith("checkpoint starting"), words


def test_recovery_tells_what_it_did(rig: Rig) -> None:
    with_table(rig, 50)
    result = rig.restart()
    assert result.performed and result.records > 100
    # Catalog heap and index, the table's heap and index, the commit log.
    assert result.pages_changed_older == 5
    assert result.last_commit_time is not None
    assert read_control(rig.disk).state is ClusterState.IN_PRODUCTION


def test_an_idle_server_makes_no_checkpoint(rig: Rig) -> None:
    with_table(rig)
    assert rig.checkpoint() is not None
    assert rig.checkpoint() is None
    assert rig.checkpoint(CheckpointFlags.FORCE) is not None


def test_a_shutdown_leaves_nothing_to_redo(rig: Rig) -> None:
    with_table(rig)
    rig.stop()
    control = read_control(rig.disk)
    assert control.state is ClusterState.SHUTDOWNED and control.checkpoint.redo == control.checkpoint_lsn
    result = rig.start()
    assert not result.performed and len(list(rig.session().scan("t"))) == 3


@pytest.mark.parametrize("point", [Point.CHECKPOINT_BEFORE_SYNC, Point.CHECKPOINT_BEFORE_CONTROL])
def test_wal_beside_a_shutdown_checkpoint_is_a_panic(rig: Rig, point: Point) -> None:
    session = with_table(rig)

    def late(passed: Point) -> None:
        if passed is point:
            rig.point = lambda _: None
            session.insert("t", (100, "late"))

    rig.point = late
    if point is Point.CHECKPOINT_BEFORE_SYNC:
        with pytest.raises(Panic, match="concurrent write-ahead log activity"):
            rig.checkpoint(CheckpointFlags.IS_SHUTDOWN)
    else:
        # Behind the record: not noticed, and found by redo, since the state never becomes "shut down" unseen.
        rig.checkpoint(CheckpointFlags.IS_SHUTDOWN)


@pytest.mark.parametrize(
    "point",
    [
        Point.COMMIT_BEFORE_RECORD,
        Point.COMMIT_AFTER_RECORD,
        Point.COMMIT_AFTER_FLUSH,
        Point.COMMIT_BEFORE_VISIBLE,
        Point.COMMIT_AFTER_VISIBLE,
    ],
)
def test_a_commit_beside_a_checkpoint_is_not_lost(rig: Rig, point: Point) -> None:
    """Wherever in a commit a whole checkpoint happens, the commit stands after a crash (PostgreSQL: DELAY_CHKPT)."""
    session = with_table(rig)
    session.begin()
    session.insert("t", (50, "x"))
    seen = [0]

    # Between record and commit log there is no point to stop at: both happen under the page's lock, see `clog`.
    def passed(which: Point) -> None:
        if which is point:
            rig.point = lambda _: None
            seen[0] += 1
            rig.checkpoint(CheckpointFlags.FORCE)

    rig.point = passed
    session.commit()
    assert seen[0] == 1
    rig.restart()
    assert rig.session().get("t", 50) == (50, "x")


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_a_crash_in_the_middle_of_redo_only_repeats_it(rig: Rig, k: int) -> None:
    with_table(rig, 30)
    rig.crash()
    left = [k]

    def passed(point: Point) -> None:
        if point is Point.REDO_RECORD:
            left[0] -= 1
            if not left[0]:
                raise Crash

    rig.point = passed
    with pytest.raises(Crash):
        rig.start()
    assert read_control(rig.disk).state is ClusterState.IN_CRASH_RECOVERY
    rig.point = lambda point: None
    rig.crash()
    rig.start()
    assert len(list(rig.session().scan("t"))) == 30
    assert any("interrupted while in recovery" in line for line in rig.log.lines)


def test_a_start_that_a_crash_cuts_off_after_a_shutdown(rig: Rig) -> None:
    """Between the shutdown's state and the first record of the new run there are several writes."""
    with_table(rig)
    rig.stop()
    for k in range(1, 40):
        left = [k]

        def passed(point: Point, left: list[int] = left) -> None:
            if point in (Point.DISK_PWRITE, Point.DISK_FSYNC, Point.DISK_FDATASYNC):
                left[0] -= 1
                if not left[0]:
                    raise Crash

        rig.point = passed
        try:
            rig.start()
        except Crash:
            pass
        rig.point = lambda point: None
        rig.crash()
    rig.start()
    assert len(list(rig.session().scan("t"))) == 3


def test_old_segments_are_used_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, SMALL.replace(min_wal_size=2 * MIB, max_wal_size=8 * MIB))
    rig.start()
    session = with_table(rig, 1)
    for i in range(24):
        for j in range(8):
            session.update("t", 0, (0, chr(97 + j) * 7000))
        if i % 3 == 2:
            rig.checkpoint()
    names = [name for name in rig.disk.list("pg_wal") if len(name) == 24]
    assert len(names) <= 9
    rig.restart()
    assert rig.session().get("t", 0) == (0, "h" * 7000)
    rig.crash()


# Requests.


def test_a_request_is_answered_after_a_checkpoint_that_began_later(rig: Rig) -> None:
    engine = rig.engine()
    assert rig.region is not None
    checkpointer = attach(rig.region, rig.host, rig.settings, Role.CHECKPOINTER, 0)
    theirs, mine = CheckpointRequests(checkpointer), CheckpointRequests(engine.attachment)
    mine.request(CheckpointFlags.FAST)
    assert checkpointer.latch.is_set() and theirs.pending() == CheckpointFlags.FAST
    answers = iter([False, True])

    def answer() -> None:
        theirs.take()
        theirs.finish(failed=next(answers))

    rig.host.interrupts = answer
    mine.request(CheckpointFlags.WAIT)
    with pytest.raises(ServerError, match="checkpoint request failed"):
        mine.request(CheckpointFlags.WAIT)
    rig.host.interrupts = lambda: None
    checkpointer.detach()


def test_a_request_without_a_checkpointer_is_refused_in_the_end(rig: Rig) -> None:
    before_ns = rig.host.now_ns()
    with pytest.raises(ServerError, match="checkpointer is not running"):
        CheckpointRequests(rig.engine().attachment).request(CheckpointFlags.WAIT)
    assert 50e9 < rig.host.now_ns() - before_ns < 70e9


# What cannot be recovered is refused.


def test_a_checkpoint_record_that_is_gone(rig: Rig, tmp_path: Path) -> None:
    with_table(rig)
    rig.crash()
    control = read_control(rig.disk)
    write_control(rig.disk, msgspec.structs.replace(control, checkpoint_lsn=control.checkpoint_lsn + 8))
    with pytest.raises(StartupError, match="could not locate a valid checkpoint record at"):
        rig.start()


def test_a_redo_point_that_is_none(rig: Rig) -> None:
    with_table(rig)
    rig.checkpoint()
    rig.crash()
    control = read_control(rig.disk)
    wrong = msgspec.structs.replace(control.checkpoint, redo=control.checkpoint.redo + 8)
    write_control(rig.disk, msgspec.structs.replace(control, checkpoint=wrong))
    with pytest.raises(StartupError, match="could not find redo location"):
        rig.start()


def test_a_control_file_that_is_damaged(rig: Rig, tmp_path: Path) -> None:
    rig.crash()
    file = tmp_path / "global" / "pg_control"
    file.write_bytes(bytes([file.read_bytes()[0]]) + bytes(8191))
    with pytest.raises(StartupError):
        rig.start()


def test_a_directory_of_another_version_or_none(rig: Rig, tmp_path: Path) -> None:
    rig.stop()
    check_version(rig.disk)
    (tmp_path / VERSION_FILE).write_text("999\n")
    with pytest.raises(StartupError, match="incompatible"):
        check_version(rig.disk)
    (tmp_path / VERSION_FILE).unlink()
    with pytest.raises(StartupError, match="not a data directory"):
        check_version(rig.disk)
    with pytest.raises(StartupError, match="not empty"):
        initialise_cluster(rig.disk, SMALL, system_identifier=1, segment_size=SEGMENT_SIZE)


def test_every_record_has_a_description(rig: Rig) -> None:
    session = with_table(rig, 400)
    session.begin()
    session.get("t", 1, for_update=True)
    session.rollback()
    for i in range(200):
        session.update("t", 3, (3, "x" * (i % 50)))
    session.update("t", 5, (5, "y" * 7000))
    session.delete("t", 7)
    rig.checkpoint()
    rig.crash()
    lines = list(dump_wal(rig.disk, read_control(rig.disk), start=SEGMENT_SIZE))
    text = "\n".join(lines)
    for word in ("INSERT", "HOT_UPDATE", "UPDATE old", "DELETE", "PRUNE", "COMMIT", "ABORT", "CREATE base/", "START"):
        assert word in text, word
    assert "UNKNOWN" not in text
    assert lines[-1].startswith("end of log: ")
