"""A shipped plan, run by its name from anywhere.

What could go wrong: a plan that resolves and does not run; a run directory that remembers the plan's name and not what
it came to; a reproducing command that needs the file, and so does something else once the file has changed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.order import read_order
from tests.support.campaigns import bed

pytestmark = pytest.mark.live


def test_smoke_runs_by_its_name_and_is_reproduced_without_it(tmp_path: Path) -> None:
    with bed(tmp_path / "out") as place:
        done = place.campaign("smoke", "--kills", "2", "--seed", "5")
        assert done.status in (0, 5), done
        assert "smoke" not in done.last_line
        assert "--workload bank,append,tpcb,customers" in done.last_line and "--epoch 20" in done.last_line
        order = read_order(done.directory)
        assert (order.stop.cycles, order.plan.seed, order.plan.epoch_cycles) == (2, 5, 20)
        again = place.paste(done.last_line.removeprefix("reproduce: "))
        assert again.status in (0, 5), again
        assert read_order(again.directory) == order
