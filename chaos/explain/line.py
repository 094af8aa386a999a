"""The lines of a story: what happened when, and which source says so; and the choice of those that are shown.

Pure functions of values. They know nothing of where lines come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Source(StrEnum):
    """Who says it. `kernel` is the witness's account and evidence; `journal` and `log` are the server's own word."""

    KERNEL = "kernel"
    JOURNAL = "journal"
    LOG = "log"
    HARNESS = "harness"
    HISTORY = "history"
    WAL = "wal"
    OBSERVED = "observed"
    VERDICT = "verdict"


class Weight(IntEnum):
    """How much a line matters: the heavier is kept when not all fit."""

    DETAIL = 0
    """One of many of its kind."""
    STEP = 1
    """A step of the recovery."""
    PLOT = 2
    """Without it the story makes no sense."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened at `t_ns` (CLOCK_MONOTONIC).

    `about` is the time of a source that has none of its own, or a coarser one: where the line stands is then a matter
    of order. `kind` is what lines left out are counted by, in the singular.
    """

    t_ns: int
    source: Source
    text: str
    weight: Weight = Weight.STEP
    kind: str = "line"
    about: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A run of neighbouring lines that are not shown: how many of each kind, the commonest first."""

    counts: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        return "… " + ", ".join(f"{count} more {kind}{'s' if count > 1 else ''}" for kind, count in self.counts)


def merge(*sources: Sequence[Line]) -> list[Line]:
    """All lines in order of time. Of lines of one time, those of an earlier source come first, in their own order."""
    return sorted((line for lines in sources for line in lines), key=lambda line: line.t_ns)


def choose(lines: Sequence[Line], limit: int) -> list[Line | LeftOut]:
    """At most `limit` entries: the heaviest lines in their order, and for each run of others one that counts them.

    Of lines of one weight the earlier are kept. As many are kept as fit with the counts between them.
    """
    if limit < 1:
        raise ValueError(f"a story of {limit} lines cannot be told")
    ranked = sorted(range(len(lines)), key=lambda index: (-lines[index].weight, index))
    for number in range(min(limit, len(lines)), -1, -1):
        shown = _with_gaps(lines, set(ranked[:number]))
        if len(shown) <= limit:
            return shown
    raise AssertionError("one entry counts them all")


def _with_gaps(lines: Sequence[Line], kept: set[int]) -> list[Line | LeftOut]:
    shown: list[Line | LeftOut] = []
    left_out: Counter[str] = Counter()
    for index, line in enumerate(lines):
        if index not in kept:
            left_out[line.kind] += 1
            continue
        if left_out:
            shown.append(LeftOut(tuple(left_out.most_common())))
            left_out.clear()
        shown.append(line)
    if left_out:
        shown.append(LeftOut(tuple(left_out.most_common())))
    return shown


def as_text(entry: Line | LeftOut, zero_ns: int) -> str:
    """One entry of a story: milliseconds since `zero_ns`, the source, the text. `~` marks a time of order alone."""
    if isinstance(entry, LeftOut):
        return f"{'':>14} {'':<8} {entry}"
    mark = "~" if entry.about else " "
    return f"{(entry.t_ns - zero_ns) / 1e6:>+10.3f} ms{mark} {entry.source:<8} {entry.text}"
