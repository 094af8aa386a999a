"""The stretches of a long run that a bug report needs, and what of a record file lies in them.

A run of a night records gigabytes, of which a finding's cycle and its neighbours are told. Owns the choice of cycles and
the filter over lines. It copies lines as they are and drops none that it does not understand: a torn record is evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from chaos.phases import Cycle
from reports.verdict import Verdict

MARGIN_CYCLES = 1
"""Cycles before and after one that failed: what it began with, and whether what followed recovered."""
MOST_CYCLES = 20
"""Failing cycles that are taken, the first ones: a defect that shows in a thousand shows in twenty."""


class _Timed(msgspec.Struct):
    """What is read of a record."""

    t: int | None = None


_decode = msgspec.json.Decoder(_Timed).decode


@dataclass(frozen=True, slots=True)
class Stretch:
    """Cycles `first` to `last` of a run, and when they were: CLOCK_MONOTONIC ns, None without an end."""

    first: int
    last: int
    since_ns: int
    until_ns: int | None

    def __str__(self) -> str:
        return f"{self.first} to {self.last}" if self.first != self.last else str(self.first)

    def __contains__(self, t_ns: int) -> bool:
        return self.since_ns <= t_ns and (self.until_ns is None or t_ns <= self.until_ns)


def stretches(cycles: Sequence[Cycle], verdict: Verdict | None) -> list[Stretch]:
    """The failing cycles with their margin, those that touch as one; the run's last where no cycle failed, for that is
    where a run ends that was cut off or whose files were found damaged. None of a run without cycles."""
    failed = sorted({f.cycle for f in verdict.findings if f.cycle is not None}) if verdict is not None else []
    places = [index for index, cycle in enumerate(cycles) if cycle.cycle in failed[:MOST_CYCLES]]
    chosen = set[int]()
    for place in places or ([len(cycles) - 1] if cycles else []):
        chosen.update(range(max(0, place - MARGIN_CYCLES), min(len(cycles), place + MARGIN_CYCLES + 1)))
    return [
        # What follows the last cycle is the end of the server, which belongs to it.
        Stretch(
            cycles[first].cycle,
            cycles[last].cycle,
            cycles[first].begin_ns,
            None if last == len(cycles) - 1 else cycles[last].end_ns,
        )
        for first, last in _spans(sorted(chosen))
    ]


def lines_within(lines: Iterable[bytes], chosen: Sequence[Stretch]) -> Iterator[bytes]:
    """The lines of a record file whose time lies in a stretch, and all that tell no time."""
    for line in lines:
        try:
            t_ns = _decode(line).t
        except (msgspec.MsgspecError, UnicodeDecodeError):
            t_ns = None
        if t_ns is None or any(t_ns in stretch for stretch in chosen):
            yield line


def _spans(indexes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive numbers, as their first and last."""
    for place, index in enumerate(indexes):
        if place == 0 or indexes[place - 1] != index - 1:
            first = index
        if place == len(indexes) - 1 or indexes[place + 1] != index + 1:
            yield first, index
