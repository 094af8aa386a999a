"""What grew from cycle to cycle, and how surely.

Owns the series of what processes used, made of the harness's samples, and the slope of each over a run. A life ends
with its postmaster: a new one starts from nothing, so only samples of one life are compared. The slope is the median
of the slopes between all pairs of cycles (Theil 1950, Sen 1968): one outlier does not move it, and its interval
follows from the ranks of those slopes and from no assumption about how they are spread. The lives of a run, an epoch
each, are taken together as Hirsch, Slack and Smith (1982) do with seasons: pairs within each, ranked as one.

It loads numpy and scipy when it fits, so it runs in the judge's process and not in the harness.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from reports.details import Resources, Series, Trend

T = TypeVar("T")

LEAST_CYCLES = 100
"""Cycles from which on a slope is judged."""

LEAST_OF_A_LIFE = 40
"""Cycles of a life that counts: every life begins with a growth of its own, when a heap fills its last page."""

CONFIDENCE = 0.95

OWNERS = ("postmaster", "children")

MOST_FITTED = 1000
"""Cycles of one life that a slope is fitted to, evenly chosen: the pairs of more would fill the memory."""

MOST_LIVES = 200
"""Lives that a slope is fitted to, evenly chosen."""


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


Points = Sequence[tuple[float, float]]
"""(cycle, value) of one life, in order."""


def resources(harness: Iterable[Mapping[str, Any]]) -> Resources:
    """Every series of a run and its trend, from the harness's records."""
    series = tuple(_series(harness))
    return Resources(series=series, trends=tuple(found for one in series if (found := trend(one)) is not None))


def trend(series: Series) -> Trend | None:
    """The slope of one series over all lives that are long enough; without any, over the longest one.

    None when no life has three samples.
    """
    samples = zip(series.lives, series.cycles, series.values, strict=True)
    lives = [[(cycle, value) for _, cycle, value in some] for _, some in groupby(samples, key=lambda one: one[0])]
    longest = max(lives, key=len)
    fitted = [points for points in lives if len(points) >= LEAST_OF_A_LIFE] or [longest]
    if len(longest) < 3:
        return None
    slope, low, high = pooled_slope(_even(fitted, MOST_LIVES))
    cycles = sum(map(len, fitted))
    limits = {quantity.name: quantity.most for quantity in QUANTITIES}
    most = limits.get(series.quantity) if series.owner == "postmaster" else None
    return Trend(
        owner=series.owner,
        quantity=series.quantity,
        unit=series.unit,
        lives=len(fitted),
        cycles=cycles,
        slope=slope,
        low=low,
        high=high,
        most=most,
        judged=most is not None and len(longest) >= LEAST_OF_A_LIFE and cycles >= LEAST_CYCLES,
    )


def pooled_slope(lives: Sequence[Points]) -> tuple[float, float, float]:
    """Slope per cycle, and the lower and upper bound of its interval, of lives that have at least two points each.

    The interval is that of `scipy.stats.theilslopes`, which knows one life, with the variance of Kendall's S summed
    over lives and corrected for ties.
    """
    import numpy as np
    from scipy.stats import norm

    slopes = []
    variance = 0.0
    for points in lives:
        x, y = np.array(_even(points, MOST_FITTED), dtype=float).T
        earlier, later = np.triu_indices(len(x), 1)
        slopes.append((y[later] - y[earlier]) / (x[later] - x[earlier]))
        tied = np.unique(y, return_counts=True)[1]
        variance += (len(x) * (len(x) - 1) * (2 * len(x) + 5) - (tied * (tied - 1) * (2 * tied + 5)).sum()) / 18
    ranked = np.sort(np.concatenate(slopes))
    reach = norm.ppf((1 + CONFIDENCE) / 2) * variance**0.5
    low = max(round((len(ranked) - reach) / 2) - 1, 0)
    high = min(round((len(ranked) + reach) / 2), len(ranked) - 1)
    return float(np.median(ranked)), float(ranked[low]), float(ranked[high])


def _even(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many of them, evenly chosen."""
    return items if len(items) <= most else [items[len(items) * slot // most] for slot in range(most)]


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
