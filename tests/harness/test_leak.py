"""A postmaster that lives through more than a hundred crashes uses no more at the end than at the beginning.

What could go wrong: each crash leaves a descriptor, a mapping or some memory behind in the one process that outlives
it, too little to see in an epoch of fifty; or the harness takes no samples, so that nobody would notice. One epoch is
made long enough that the oracle judges, and the samples are those of the real processes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.trends import LEAST_CYCLES, QUANTITIES
from reports.verdict import OracleStatus
from tests.support.campaigns import bed

pytestmark = [pytest.mark.live, pytest.mark.long, pytest.mark.timeout(400)]

CYCLES = LEAST_CYCLES + 5


def test_a_hundred_crashes_leave_nothing_in_the_postmaster(tmp_path: Path) -> None:
    with bed(tmp_path / "out") as place:
        # Placed nowhere near recovery: a startup process that is killed would end the postmaster, and its life.
        arguments = ("--kills", str(CYCLES), "--seed", "12", "--no-points", "--backends", "4", "--epoch", str(CYCLES))
        running = place.start("run", "--out", str(place.out), *arguments)
        done = running.end(deadline_s=300)
        assert done.status == 0, done
        (row,) = [row for row in done.directory.read_verdict().oracles if row.name == "leak"]
        assert (row.status, row.trials, row.failures) == (OracleStatus.HELD, len(QUANTITIES), 0)
        found = done.directory.read_details().resources
        assert {series.owner for series in found.series} == {"postmaster", "children", "data directory"}
        assert all(series.cycles == tuple(range(CYCLES)) for series in found.series)
        steady = {trend.quantity: trend.slope for trend in found.trends if trend.judged}
        assert steady == {**steady, "descriptors": 0, "threads": 0}
