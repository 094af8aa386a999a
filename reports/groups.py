"""The time to recover by what was done, to whom, and how much WAL had to be replayed.

Pure: recoveries in, rows out. A cycle that did not recover is in no row; the verdict counts it elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reports.statistics import percentile
from reports.verdict import Recovery

MOST_ROWS = 12
"""Rows of one group; the rarest of more are put together."""

KIB = 1024
LEAST_LIMIT = 64 * KIB


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One part of the cycles: how many, and their time to recover in milliseconds."""

    label: str
    count: int
    median: float
    p95: float
    worst: float


@dataclass(frozen=True, slots=True)
class Group:
    """One way to part the cycles."""

    title: str
    rows: tuple[GroupRow, ...]


def groups(recoveries: Sequence[Recovery]) -> tuple[Group, ...]:
    """By fault, victim and size; of each the commonest first, of sizes the smallest first."""
    timed = [recovery for recovery in recoveries if recovery.first_commit is not None]
    if not timed:
        return ()
    found = [
        Group("Fault", _rows(timed, lambda recovery: recovery.fault or "not recorded")),
        Group("Victim", _rows(timed, _victim)),
    ]
    if any(recovery.redo_bytes is not None for recovery in timed):
        found.append(Group("WAL replayed", _by_size(timed)))
    return tuple(found)


def _rows(timed: Sequence[Recovery], label: Callable[[Recovery], str]) -> tuple[GroupRow, ...]:
    parts: dict[str, list[Recovery]] = {}
    for recovery in timed:
        parts.setdefault(label(recovery), []).append(recovery)
    ordered = sorted(parts.items(), key=lambda part: (-len(part[1]), part[0]))
    kept, rest = ordered, []
    if len(ordered) > MOST_ROWS:
        kept, rest = ordered[: MOST_ROWS - 1], ordered[MOST_ROWS - 1 :]
    rows = [_row(name, some) for name, some in kept]
    if rest:
        rows.append(_row(f"{len(rest)} others", [recovery for _, some in rest for recovery in some]))
    return tuple(rows)


def _victim(recovery: Recovery) -> str:
    """One role, or that it was several: their combinations are too many to compare."""
    return "several roles" if ", " in recovery.victim else recovery.victim or "not recorded"


def _by_size(timed: Sequence[Recovery]) -> tuple[GroupRow, ...]:
    """In steps of four: 64 KiB, 256 KiB, 1 MiB and so on."""
    parts: dict[int, list[Recovery]] = {}
    unknown: list[Recovery] = []
    for recovery in timed:
        if recovery.redo_bytes is None:
            unknown.append(recovery)
            continue
        limit = LEAST_LIMIT
        while recovery.redo_bytes >= limit:
            limit *= 4
        parts.setdefault(limit, []).append(recovery)
    rows = [
        _row(f"under {size(limit)}" if limit == LEAST_LIMIT else f"{size(limit // 4)} to {size(limit)}", some)
        for limit, some in sorted(parts.items())
    ]
    return (*rows, *([_row("not recorded", unknown)] if unknown else ()))


def _row(label: str, some: Sequence[Recovery]) -> GroupRow:
    ordered = sorted(recovery.first_commit or 0.0 for recovery in some)
    return GroupRow(label, len(ordered), percentile(ordered, 0.5).value, percentile(ordered, 0.95).value, ordered[-1])


def size(count: int) -> str:
    """A number of bytes as a person says it."""
    for unit in ("B", "KiB", "MiB"):
        if count < KIB:
            return f"{count:g} {unit}"
        count //= KIB
    return f"{count:g} GiB"
