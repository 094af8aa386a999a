"""Bounds on chances and on percentiles, exact and without assumptions about the shape of the data.

Chances are bounded by Clopper and Pearson's interval, which keeps its confidence for every number of trials.
Percentiles are order statistics with the distribution-free interval of the binomial: the smallest values
between which the true percentile lies with the confidence asked for. Times to recover are skewed and have
outliers, so no mean and no normal approximation appears anywhere.

scipy is imported by the functions that need it: only the processes that judge and report pay for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports.verdict import Bound

CONFIDENCE = 0.95


def clopper_pearson(trials: int, failures: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact interval for a chance of which `failures` were seen in `trials`.

    Without failures (or with nothing else) it is one-sided, so that the whole confidence is spent on the
    side that tells something: 0 of n gives 1 - (1 - confidence)**(1/n), of which 3/n is the rule of three.
    Without trials nothing is known: (0, 1). Raises ValueError for impossible counts.
    """
    if not 0 <= failures <= trials:
        raise ValueError(f"{failures} failures of {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    if failures == 0:
        test = binomtest(failures, trials, alternative="less")
    elif failures == trials:
        test = binomtest(failures, trials, alternative="greater")
    else:
        test = binomtest(failures, trials)
    interval = test.proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def bound(unit: str, trials: int, failures: int, confidence: float = CONFIDENCE) -> Bound:
    """What `failures` of `trials` prove of the chance per `unit` ("cycle", "epoch"), with its sentence."""
    low, high = clopper_pearson(trials, failures, confidence)
    if trials == 0:
        statement = f"no {unit} was judged: nothing is proved"
    else:
        condition = f"if {unit}s are independent draws of this plan, "
        sure = f"({confidence:.0%} confidence)".replace("%", " %")
        if failures == 0:
            said = f"at most {percent(high)} of {unit}s fail {sure}"
        elif failures == trials:
            said = f"at least {percent(low)} of {unit}s fail {sure}"
        else:
            said = f"between {percent(low)} and {percent(high)} of {unit}s fail {sure}"
        statement = condition + said
    return Bound(
        unit=unit,
        trials=trials,
        failures=failures,
        lower=low,
        upper=high,
        statement=statement,
        confidence=confidence,
    )


def percent(share: float) -> str:
    """A share of 1 as a percentage, with two significant digits below 10 % and never rounded to nothing."""
    value = 100 * share
    if value == 0 or value >= 10:
        return f"{value:.0f} %" if value < 99.5 or value == 100 else f"{value:.4g} %"
    decimals = 1 - math.floor(math.log10(value))
    return f"{value:.{decimals}f} %"


@dataclass(frozen=True, slots=True)
class Percentile:
    """A percentile of a sample and where the true one lies; a side that the sample is too small for is None."""

    share: float
    value: float
    low: float | None
    high: float | None


def percentile(ordered: Sequence[float], share: float, confidence: float = CONFIDENCE) -> Percentile:
    """The smallest value of `ordered` (ascending, not empty) that at least `share` of it does not exceed.

    The number of values below the true percentile is binomial, so the interval runs between two of the
    values themselves. Near the ends a small sample has no value far enough out: 20 values know no upper
    limit of their 99th percentile, and this says so instead of inventing one.
    """
    if not ordered:
        raise ValueError("a percentile of nothing")
    if not 0 < share < 1:
        raise ValueError(f"a percentile of share {share}")
    from scipy.stats import binom

    count = len(ordered)
    tail = (1 - confidence) / 2
    below = binom(count, share)
    # The r-th value exceeds the true percentile only if fewer than r values lie below that; ppf gives the
    # greatest r for which this is rarer than the tail, and on the other side one less than the smallest.
    low_rank = int(below.ppf(tail))
    high_rank = int(below.ppf(1 - tail)) + 1
    return Percentile(
        share=share,
        value=ordered[max(0, math.ceil(share * count - 1e-9) - 1)],
        low=ordered[low_rank - 1] if low_rank >= 1 else None,
        high=ordered[high_rank - 1] if high_rank <= count else None,
    )


def ecdf(ordered: Sequence[float], steps: int = 1000) -> list[tuple[float, float]]:
    """The empirical distribution of `ordered` (ascending) as (value, share not above it).

    At most about `steps` points, evenly spread in share, but the slowest fiftieth is kept whole up to the
    same number: the tail is what a reader looks for.
    """
    count = len(ordered)
    if count <= steps:
        ranks = list(range(1, count + 1))
    else:
        even = {max(1, round(count * step / steps)) for step in range(steps + 1)}
        ranks = sorted(even | set(range(count - min(count // 50, steps) + 1, count + 1)))
    points: list[tuple[float, float]] = []
    for rank in ranks:
        value = ordered[rank - 1]
        if points and points[-1][0] == value:
            points.pop()
        points.append((value, rank / count))
    return points
