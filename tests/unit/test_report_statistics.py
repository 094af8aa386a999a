"""The numbers that a verdict is believed for.

What could go wrong: a bound claims more than the trials prove; no failure is taken for a chance of nothing; a
percentile of twenty values gets an upper limit that twenty values cannot know; a percentile interpolates a
value that never happened; an interval that says 95 % covers the truth less often than that.
"""

from __future__ import annotations

import random

import pytest

from reports.statistics import bound, clopper_pearson, ecdf, percent, percentile


def test_no_failure_is_the_exact_rule_of_three() -> None:
    for trials in (1, 20, 300, 30_000):
        low, high = clopper_pearson(trials, 0)
        assert low == 0.0
        assert high == pytest.approx(1 - 0.05 ** (1 / trials), rel=1e-9)
    assert clopper_pearson(300, 0)[1] == pytest.approx(3 / 300, rel=0.01)


def test_known_intervals() -> None:
    # Newcombe 1998, table I: the Clopper-Pearson interval of 81 of 263 is 0.2527 to 0.3676; of 15 of 148
    # 0.0578 to 0.1617.
    assert clopper_pearson(263, 81) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert clopper_pearson(148, 15) == pytest.approx((0.0578, 0.1617), abs=5e-5)


def test_the_edges() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0), "no trial proves nothing"
    low, high = clopper_pearson(10, 10)
    assert low == pytest.approx(0.05 ** (1 / 10))
    assert high == 1.0
    for trials, failures in ((5, 6), (5, -1), (-1, 0)):
        with pytest.raises(ValueError, match="failures of"):
            clopper_pearson(trials, failures)


def test_a_bound_says_its_condition() -> None:
    held = bound("cycle", 300, 0)
    assert held.statement == (
        "if cycles are independent draws of this plan, at most 0.99 % of cycles fail (95 % confidence)"
    )
    assert (held.lower, held.trials, held.failures) == (0.0, 300, 0)
    assert "between 0.21 % and 2.9 % of cycles" in bound("cycle", 300, 3).statement
    assert "at least 74 % of epochs" in bound("epoch", 10, 10).statement
    assert bound("epoch", 0, 0).statement == "no epoch was judged: nothing is proved"


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.393, "39 %"), (0.0099, "0.99 %"), (0.00001, "0.0010 %"), (0.9996, "99.96 %")],
)
def test_a_percentage_is_never_rounded_to_nothing_or_to_all(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_percentile_is_a_value_that_happened() -> None:
    ordered = [float(value) for value in range(1, 101)]
    for share, value in ((0.5, 50), (0.9, 90), (0.95, 95), (0.99, 99)):
        assert percentile(ordered, share).value == value
    assert percentile([7.0], 0.5).value == 7.0
    assert percentile([7.0], 0.99).value == 7.0
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="share"):
        percentile([1.0], 1.0)


def test_a_percentile_knows_what_it_cannot_know() -> None:
    twenty = [float(value) for value in range(1, 21)]
    median = percentile(twenty, 0.5)
    # The interval of the median of 20 runs from the 6th to the 15th value (Conover, table A3).
    assert (median.low, median.high) == (6.0, 15.0)
    assert percentile(twenty, 0.99).high is None
    assert percentile([1.0, 2.0, 3.0], 0.5).low is None


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = random.Random(5)
    for share in (0.5, 0.9):
        covered = 0
        for _ in range(400):
            found = percentile(sorted(draws.random() for _ in range(60)), share)
            covered += (found.low or 0.0) <= share <= (1.0 if found.high is None else found.high)
        # 0.95 of 400 is 380; 365 is more than three standard deviations below it.
        assert covered >= 365, f"p{share * 100:.0f}: {covered} of 400"


def test_an_ecdf_steps_at_every_value_once_and_ends_at_one() -> None:
    assert ecdf([1.0, 1.0, 2.0, 4.0]) == [(1.0, 0.5), (2.0, 0.75), (4.0, 1.0)]
    many = [float(value) for value in range(50_000)]
    points = ecdf(many, steps=1000)
    assert len(points) <= 2010
    assert points[-1] == (49_999.0, 1.0)
    assert points == sorted(points)
    assert all(abs((value + 1) / 50_000 - share) < 1e-9 for value, share in points)
    assert [value for value, _ in points[-900:]] == many[-900:], "the tail is whole"
