"""The oracle of leaks: a postmaster does not use more and more from crash to crash.

It lives through every crash, so that what each leaves behind in it adds up. A trial is one quantity of one postmaster
that lived for at least 100 cycles; it fails when even the lower bound of its growth per cycle (95 %) is above the rate
that `chaos.trends` states. Shorter lives are not judged: a few cycles cannot tell a leak from a heap that fills its
last page.
"""

from __future__ import annotations

from collections.abc import Sequence

from chaos.oracles.oracle import Failure, OracleResult
from chaos.trends import LEAST_CYCLES
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
    longest = max((trend.cycles for trend in trends), default=0)
    reason = f"no postmaster lived for {LEAST_CYCLES} cycles; the longest life had {longest}"
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
    last = trend.first_cycle + trend.cycles - 1
    return Failure(
        cycle=None,
        t=0,
        message=f"the postmaster gains {trend.slope:.3g} {trend.unit} a cycle ({trend.quantity}), surely more than "
        f"{trend.low:.3g}; up to {most:g} is no leak",
        evidence=(
            f"harness: {trend.cycles} samples of postmaster {trend.life}, cycles {trend.first_cycle} to {last}: slope "
            f"{trend.slope:.6g}, 95 % interval {trend.low:.6g} to {trend.high:.6g} {trend.unit} a cycle",
        ),
    )
