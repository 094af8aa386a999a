"""What grew from cycle to cycle, and how surely.

Owns the series of what processes used, made of the harness's samples, and the slope of each over one postmaster's
life. A life ends with its postmaster: a new one starts from nothing, so that no slope spans two of them. The slope is
the median of the slopes between all pairs of cycles (Theil 1950, Sen 1968): one outlier does not move it, and its
interval follows from the ranks of those slopes and from no assumption about how they are spread.

It loads scipy when it fits, so it runs in the judge's process and not in the harness.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from reports.details import Resources, Series, Trend

LEAST_CYCLES = 100
"""Cycles of one life from which on its slope is judged."""

CONFIDENCE = 0.95

OWNERS = ("postmaster", "children")

MOST_FITTED = 1000
"""Cycles of one life that a slope is fitted to, evenly chosen: the pairs of more would fill the memory."""


class Quantity(NamedTuple):
    """One field of the harness's samples: its name and unit for people, how much of it is one unit, and the growth
    per cycle that a postmaster may show."""

    field: str
    name: str
    unit: str
    one: int
    most: float


QUANTITIES = (
    Quantity("descriptors", "descriptors", "descriptors", 1, 0.02),
    Quantity("mappings", "mappings", "mappings", 1, 0.02),
    Quantity("resident_bytes", "resident memory", "KiB", 1024, 4.0),
    Quantity("threads", "threads", "threads", 1, 0.01),
)
"""A postmaster may gain a descriptor or a mapping in 50 crashes, a page of memory in each, a thread in 100."""


def resources(harness: Iterable[Mapping[str, Any]]) -> Resources:
    """Every series and every trend of a run, from the harness's records."""
    series = tuple(_series(harness))
    return Resources(series=series, trends=tuple(trend for one in series for trend in trends(one)))


def trends(series: Series) -> Iterator[Trend]:
    """The slope of one series in each life that has at least three samples."""
    limits = {quantity.name: quantity.most for quantity in QUANTITIES}
    most = limits.get(series.quantity) if series.owner == "postmaster" else None
    samples = zip(series.lives, series.cycles, series.values, strict=True)
    for life, some in groupby(samples, key=lambda sample: sample[0]):
        points = [(cycle, value) for _, cycle, value in some]
        if len(points) < 3:
            continue
        slope, low, high = theil_sen(points)
        yield Trend(
            owner=series.owner,
            quantity=series.quantity,
            unit=series.unit,
            life=life,
            first_cycle=points[0][0],
            cycles=len(points),
            slope=slope,
            low=low,
            high=high,
            most=most,
            judged=most is not None and len(points) >= LEAST_CYCLES,
        )


def theil_sen(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Slope, and the lower and upper bound of its interval, of points that are in order of their first value."""
    from scipy.stats import theilslopes

    if len(points) > MOST_FITTED:
        points = [points[len(points) * slot // MOST_FITTED] for slot in range(MOST_FITTED)]
    fitted = theilslopes([y for _, y in points], [x for x, _ in points], alpha=CONFIDENCE)
    return float(fitted.slope), float(fitted.low_slope), float(fitted.high_slope)


def _series(harness: Iterable[Mapping[str, Any]]) -> Iterator[Series]:
    """The series in a fixed order; of children the sum, because each crash makes new ones."""
    life = -1
    of_life: dict[int, int] = {}
    used = {owner: {quantity.field: defaultdict[int, float](float) for quantity in QUANTITIES} for owner in OWNERS}
    files: dict[int, float] = {}
    for record in harness:
        match record["ev"]:
            case "postmaster":
                life += 1
            case "used":
                of_life[record["cycle"]] = life
                mine = used["postmaster" if record["role"] == "postmaster" else "children"]
                for quantity in QUANTITIES:
                    mine[quantity.field][record["cycle"]] += record[quantity.field] / quantity.one
            case "files":
                of_life[record["cycle"]] = life
                files[record["cycle"]] = record["files"]
    groups: list[tuple[str, str, str, Mapping[int, float]]] = [
        (owner, quantity.name, quantity.unit, used[owner][quantity.field])
        for owner in OWNERS
        for quantity in QUANTITIES
    ]
    groups.append(("data directory", "files", "files", files))
    for owner, name, unit, found in groups:
        cycles = sorted(found)
        if cycles:
            yield Series(
                owner=owner,
                quantity=name,
                unit=unit,
                cycles=tuple(cycles),
                lives=tuple(of_life[cycle] for cycle in cycles),
                values=tuple(found[cycle] for cycle in cycles),
            )
