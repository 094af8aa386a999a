"""The named points of a server process, and the map that arms and counts them.

A point is a place in the code that has a name, so that a kill can be placed there, a run can tell
which places it covered, and (later) a scheduler can choose who passes next. This module owns the
names, the file-backed map that arms and coverage live in, and what an arm does when it is hit. It
never decides which point to arm: that is the harness's plan.

The map is a file of the run directory and not part of the region: arms and counts survive a reset,
and the harness reads coverage from it after every server process has died.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
from collections.abc import Callable
from enum import IntEnum, unique
from pathlib import Path

import msgspec

from supervisor.roles import Role


@unique
class Point(IntEnum):
    """Every named point, and what is about to happen, or has just happened, there."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Point:
        point = int.__new__(cls, value)
        point._value_ = value
        point.meaning = meaning
        return point

    DISK_OPEN = 0, "a data file is about to be opened or created"
    DISK_PREAD = 1, "about to read from a data file"
    DISK_PWRITE = 2, "about to write to a data file"
    DISK_TRUNCATE = 3, "about to truncate a data file"
    DISK_FDATASYNC = 4, "about to flush a file's data"
    DISK_FSYNC = 5, "about to flush a file"
    DISK_RENAME = 6, "about to rename a file"
    DISK_UNLINK = 7, "about to remove a file"
    DISK_MKDIR = 8, "about to create a directory"
    DISK_LIST = 9, "about to list a directory"
    DISK_SYNC_DIRECTORY = 10, "about to flush a directory entry"
    PROCESS_ATTACHED = 11, "a child holds its PGPROC and has done nothing with it"
    BACKEND_READY = 12, "a backend is about to send ReadyForQuery"
    STATEMENT_BEGIN = 13, "a statement has been read and not yet executed"
    LWLOCK_ACQUIRED = 14, "a lightweight lock was just taken, its owner word is set"
    ROW_LOCK_WAIT = 15, "a transaction is about to wait for another one's row"
    WAL_INSERT_BEFORE_LOCK = 16, "a record is built, the insert lock is not yet held"
    WAL_INSERT_UNDER_LOCK = 17, "the insert lock is held, nothing is reserved"
    WAL_INSERT_AFTER_COPY = 18, "the record is in the WAL buffers, the lock is released"
    WAL_FLUSH_BEFORE_WRITE = 19, "the flush leader is about to write WAL buffers to the segment"
    WAL_FLUSH_BEFORE_FSYNC = 20, "WAL is written and not yet flushed"
    WAL_FLUSH_AFTER_FSYNC = 21, "WAL is on disk and nobody has been told"
    WAL_SEGMENT_SWITCH = 22, "a new segment is about to be taken into use"
    WAL_SEGMENT_RECYCLE = 23, "an old segment is about to be renamed or removed"
    COMMIT_BEFORE_RECORD = 24, "a transaction is about to write its commit record"
    COMMIT_AFTER_RECORD = 25, "the commit record is inserted, the commit log says so, nothing is flushed"
    COMMIT_AFTER_FLUSH = 26, "the commit record is on disk"
    COMMIT_BEFORE_VISIBLE = 27, "the transaction is durable, snapshots still see it running"
    COMMIT_AFTER_VISIBLE = 28, "the transaction is over, the client has not been told"
    ABORT_BEFORE_RECORD = 29, "a transaction is about to be rolled back"
    HEAP_INSERT_UNDER_LOCK = 30, "a row version was put on its page, its record is not inserted"
    HEAP_UPDATE_UNDER_LOCK = 31, "both versions of an update are in place, no record yet"
    HEAP_DELETE_UNDER_LOCK = 32, "a row was marked deleted, no record yet"
    HEAP_PRUNE_UNDER_LOCK = 33, "a page was pruned, no record yet"
    BTREE_INSERT_UNDER_LOCK = 34, "an index entry was put on its leaf, no record yet"
    BTREE_SPLIT_UNDER_LOCK = 35, "all pages of a split are changed, no record yet"
    BUFFER_READ = 36, "a page is about to be read into a buffer"
    BUFFER_EVICT_BEFORE_WRITE = 37, "a dirty page is about to be written to make room"
    BUFFER_WRITE_AFTER = 38, "a dirty page was written and is not flushed"
    CLOG_UPDATE_UNDER_LOCK = 39, "the commit log says committed, no record yet"
    CHECKPOINT_BEGIN = 40, "a checkpoint has been decided on"
    CHECKPOINT_AFTER_REDO_POINT = 41, "the new redo point is published"
    CHECKPOINT_BEFORE_SYNC = 42, "dirty buffers are written and not flushed"
    CHECKPOINT_BEFORE_RECORD = 43, "data is on disk, the checkpoint record is not inserted"
    CHECKPOINT_BEFORE_CONTROL = 44, "the checkpoint record is on disk, the control file is old"
    CHECKPOINT_AFTER_CONTROL = 45, "the control file is new, old segments are still there"
    STARTUP_BEFORE_CHECKPOINT = 46, "redo is over, the end-of-recovery checkpoint is not requested"
    REDO_BEGIN = 47, "the first record is about to be replayed"
    REDO_RECORD = 48, "a record is about to be replayed"
    REDO_END = 49, "the last record was replayed"


@unique
class PointAction(IntEnum):
    """What an armed point does to the process that reaches it."""

    PASS = 0
    SIGKILL = 1
    SIGSTOP = 2
    RAISE = 3
    EXIT = 4


class PointHit(Exception):
    """Raised by an arm whose action is RAISE."""


class Arm(msgspec.Struct, frozen=True):
    """One armed point: the k-th pass of the nth process of a role (nth 0 is any) through a point.

    `nth` counts processes of the role in fork order within one generation, from 1; `k` counts passes
    in one process since its fork, from 1. An arm fires once in its life.
    """

    role: Role
    nth: int
    point: Point
    k: int
    action: PointAction
    argument: int = 0


MAX_ARMS = 64
_MAGIC = 0x73746E696F706263  # "cbpoints"
_ARM = struct.Struct("<8q")  # state, role, nth, point, k, action, argument, pid that fired it
_ARM_EMPTY, _ARM_ARMED, _ARM_FIRED = 0, 1, 2
_ARMS_AT = 64
_COUNTS_AT = _ARMS_AT + MAX_ARMS * _ARM.size
_N_POINTS = len(Point)
MAP_SIZE = _COUNTS_AT + 8 * len(Role) * _N_POINTS


class PointMap:
    """The file-backed map of one run: arms written by the harness, counts written by the server.

    `create` makes it anew, empty. Raises OSError, and ValueError for a file that is no points map of this version.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if create else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            if create:
                os.ftruncate(descriptor, MAP_SIZE)
            elif os.fstat(descriptor).st_size != MAP_SIZE:
                raise ValueError(f'points map "{path}" has {os.fstat(descriptor).st_size} bytes, expected {MAP_SIZE}')
            self._map = mmap.mmap(descriptor, MAP_SIZE)
        finally:
            os.close(descriptor)
        if create:
            struct.pack_into("<q", self._map, 0, _MAGIC)
        elif struct.unpack_from("<q", self._map, 0)[0] != _MAGIC:
            raise ValueError(f'"{path}" is not a points map')
        self._words = memoryview(self._map).cast("q")

    def arm(self, arm: Arm) -> int:
        """Arm a point and return the arm's number; raises ValueError when all arms are taken."""
        for number in range(MAX_ARMS):
            at = _ARMS_AT + number * _ARM.size
            if _ARM.unpack_from(self._map, at)[0] == _ARM_EMPTY:
                _ARM.pack_into(
                    self._map,
                    at,
                    _ARM_EMPTY,
                    arm.role,
                    arm.nth,
                    arm.point,
                    arm.k,
                    arm.action,
                    arm.argument,
                    0,
                )
                # The state word last: a process forked meanwhile sees a whole arm or none.
                self._words[at // 8] = _ARM_ARMED
                return number
        raise ValueError(f"all {MAX_ARMS} arms are taken; disarm some")

    def disarm_all(self) -> None:
        """Forget every arm, fired or not. A process that has loaded its arms keeps them."""
        for number in range(MAX_ARMS):
            self._words[(_ARMS_AT + number * _ARM.size) // 8] = _ARM_EMPTY

    def fired(self, number: int) -> int | None:
        """The pid that hit an arm, or None while nobody has."""
        state, *_, pid = _ARM.unpack_from(self._map, _ARMS_AT + number * _ARM.size)
        return pid if state == _ARM_FIRED else None

    def counts(self) -> dict[tuple[Role, Point], int]:
        """How often each role passed each point. Processes of one role may lose counts to each
        other, so a count is a lower bound; that it is not zero is exact."""
        return {
            (role, point): count
            for role in Role
            for point in Point
            if (count := self._words[_COUNTS_AT // 8 + int(role) * _N_POINTS + point])
        }

    def close(self) -> None:
        """Give the mapping back."""
        self._words.release()
        self._map.close()

    def for_process(self, role: Role, nth: int) -> Callable[[Point], None]:
        """The `point` function of one process: counts, and acts on the arms meant for it.

        Arms are read once, here: a process obeys those that stood when it was forked.
        """
        words = self._words
        base = _COUNTS_AT // 8 + int(role) * _N_POINTS
        mine: dict[int, list[tuple[int, int, PointAction, int]]] = {}
        for number in range(MAX_ARMS):
            state, arm_role, arm_nth, point, k, action, argument, _ = _ARM.unpack_from(
                self._map, _ARMS_AT + number * _ARM.size
            )
            if state == _ARM_ARMED and arm_role == role and arm_nth in (0, nth):
                mine.setdefault(point, []).append((k, number, PointAction(action), argument))
        if not mine:

            def count_only(point: Point) -> None:
                words[base + point] += 1

            return count_only
        passes = dict.fromkeys(mine, 0)

        def count_and_act(point: Point) -> None:
            words[base + point] += 1
            arms = mine.get(point)
            if arms is None:
                return
            passes[point] += 1
            for k, number, action, argument in arms:
                at = (_ARMS_AT + number * _ARM.size) // 8
                if passes[point] == k and words[at] == _ARM_ARMED:
                    words[at + 7] = os.getpid()
                    words[at] = _ARM_FIRED
                    _act(action, argument, point)

        return count_and_act


def _act(action: PointAction, argument: int, point: Point) -> None:
    match action:
        case PointAction.SIGKILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case PointAction.SIGSTOP:
            os.kill(os.getpid(), signal.SIGSTOP)
        case PointAction.RAISE:
            raise PointHit(point.name)
        case PointAction.EXIT:
            os._exit(argument)
        case PointAction.PASS:
            pass
