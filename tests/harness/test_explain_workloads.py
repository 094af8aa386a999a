"""`crashbed explain` finds the row of an acknowledged operation in the WAL, whichever workload wrote it.

What could go wrong: a workload whose rows nobody can tell from others', so that the story of a lost operation ends
before its reason; or a row found that is another operation's.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.explain.trace import ROWS
from tests.support.campaigns import bed
from workloads.history import read_history
from workloads.registry import WORKLOADS
from workloads.workload import READ_KIND, Outcome

pytestmark = pytest.mark.live


def test_every_workload_is_known() -> None:
    assert set(ROWS) == set(WORKLOADS)


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_an_acknowledged_operation_is_in_the_wal(name: str, tmp_path: Path) -> None:
    with bed(tmp_path / "out") as place:
        done = place.campaign("--kills", "1", "--workload", name, "--keep", "--no-points", "--seed", "3")
        assert done.status in (0, 5), done
        operations = read_history(done.directory.history_records()).operations.values()
        operation = max(
            (known for known in operations if known.outcome is Outcome.OK and known.kind != READ_KIND),
            key=lambda known: known.invoked_ns,
        )
        told = place.run("explain", str(done.directory.path), "--op", str(operation.operation)).output
    committed = next(line for line in told.splitlines() if "COMMIT of transaction" in line)
    row = next(line for line in told.splitlines() if "the row is written at" in line)
    assert committed.split(" at ")[0].split()[-1] in row, "the row and its COMMIT are of one transaction"
    assert "why: nothing is wrong" in told
