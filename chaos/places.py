"""The points that plans choose from by themselves: which of the server's named points are passed often enough.

Owns the tables and nothing else. A point that is named by hand may be any; one that is drawn must be reached, for a
cycle whose point is never reached proves nothing.
"""

from __future__ import annotations

from typing import Final

from supervisor.points import Point
from supervisor.roles import Role

CHECKPOINT_POINTS: Final = (
    Point.CHECKPOINT_BEGIN,
    Point.CHECKPOINT_AFTER_REDO_POINT,
    Point.CHECKPOINT_BEFORE_SYNC,
    Point.CHECKPOINT_BEFORE_RECORD,
    Point.CHECKPOINT_BEFORE_CONTROL,
)
"""The points of a checkpoint that a kill during one waits for."""

RECOVERY_POINTS: Final = (
    (Role.STARTUP, Point.REDO_BEGIN, 1),
    (Role.STARTUP, Point.REDO_RECORD, 40),
    (Role.STARTUP, Point.REDO_END, 1),
    (Role.STARTUP, Point.STARTUP_BEFORE_CHECKPOINT, 1),
    *((Role.CHECKPOINTER, point, 1) for point in CHECKPOINT_POINTS),
    (Role.CHECKPOINTER, Point.CHECKPOINT_AFTER_CONTROL, 1),
)
"""The points that every recovery passes, by role, and up to which pass: 20 transactions leave many more records."""

BACKEND_POINTS: Final[dict[Point, int]] = {
    Point.COMMIT_BEFORE_RECORD: 1,
    Point.COMMIT_AFTER_RECORD: 1,
    Point.COMMIT_AFTER_FLUSH: 1,
    Point.COMMIT_BEFORE_VISIBLE: 1,
    Point.COMMIT_AFTER_VISIBLE: 1,
    Point.WAL_INSERT_BEFORE_LOCK: 4,
    Point.WAL_INSERT_UNDER_LOCK: 4,
    Point.WAL_INSERT_AFTER_COPY: 4,
    Point.WAL_FLUSH_BEFORE_WRITE: 1,
    Point.WAL_FLUSH_BEFORE_FSYNC: 1,
    Point.HEAP_INSERT_UNDER_LOCK: 1,
    Point.HEAP_UPDATE_UNDER_LOCK: 2,
    Point.BTREE_INSERT_UNDER_LOCK: 1,
}
"""The points that plans draw from, with how often a transaction of the bank passes each.

Only points that every writing backend keeps passing: a cycle whose point is never reached proves nothing.
"""

RARELY_PASSED: Final[dict[str, frozenset[Point]]] = {
    "append": frozenset({Point.HEAP_INSERT_UNDER_LOCK, Point.BTREE_INSERT_UNDER_LOCK}),
}
"""By workload, those of them that are not drawn: appends change rows, and add one when a list is full."""

OF_SYNCHRONOUS_COMMIT: Final = frozenset(
    {Point.COMMIT_AFTER_FLUSH, Point.WAL_FLUSH_BEFORE_WRITE, Point.WAL_FLUSH_BEFORE_FSYNC}
)
"""Those of them that a backend passes because it waits for its commit's flush."""
