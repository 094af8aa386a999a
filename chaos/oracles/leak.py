"""The oracle of leaks: a postmaster does not use more and more from crash to crash.

It lives through every crash, so that what each leaves behind in it adds up. A trial is one quantity, over at least 100
cycles of postmasters that lived for at least 40 each; it fails when even the lower bound of its growth per cycle (95 %)
is above the rate that `chaos.trends` states. Less is not judged: a few cycles cannot tell a leak from a heap that fills
its last page.
"""

from __future__ import annotations

from collections.abc import Sequence

from chaos.oracles.oracle import Failure, OracleResult
from chaos.trends import LEAST_CYCLES, LEAST_OF_A_LIFE
from reports.details import Trend
from reports.verdict import OracleStatus

NAME = "leak"
TITLE = "the postmaster does not use more and more from crash to crash"


def judge(trends: Sequence[Trend]) -> OracleResult:
    """`trends` are all of a run; those that are not judged feed nobody."""
    judged = [trend for trend in trends if trend.judged and trend.most is not None]
    failures = tuple(
        _failure(trend, trend.most) for trend in judged if trend.most is not None and trend.low > trend.most
    )
    status = OracleStatus.FAILED if failures else OracleStatus.HELD if judged else OracleStatus.NOT_JUDGED
    reason = f"it takes {LEAST_CYCLES} cycles of postmasters that live for {LEAST_OF_A_LIFE} or more"
    return OracleResult(
        name=NAME,
        title=TITLE,
        status=status,
        trials=len(judged),
        failed=len(failures),
        failures=failures,
        reason="" if judged else reason,
    )


def _failure(trend: Trend, most: float) -> Failure:
    return Failure(
        cycle=None,
        t=0,
        message=f"the postmaster gains {trend.slope:.3g} {trend.unit} a cycle ({trend.quantity}), surely more than "
        f"{trend.low:.3g}; up to {most:g} is no leak",
        evidence=(
            f"harness: {trend.cycles} samples in {trend.lives} lives of postmasters: slope {trend.slope:.6g}, "
            f"95 % interval {trend.low:.6g} to {trend.high:.6g} {trend.unit} a cycle",
        ),
    )
