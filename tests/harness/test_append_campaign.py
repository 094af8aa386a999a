"""Campaigns of the workload append: a good server is held, and servers whose isolation is broken are found out.

What could go wrong: two workloads in one campaign that are judged by each other's operations or whose loads are mixed
up, an oracle of isolation that is never fed, and one that has seen faults in made-up histories alone. So the server's
own visibility rules are broken, one realistic change at a time, in a copy of the code; the oracle must tell by name
what each change allows, from what real transactions read, and must hold nothing else against it. The loads are counted
a second time (`tests/support/second_load_count.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.defects.defect import Edit
from chaos.oracles import isolation
from chaos.oracles.isolation_levels import Anomaly
from reports.verdict import OracleStatus, Status
from tests.support import second_load_count
from tests.support.campaigns import Bed, Ended, bed, plans_of

pytestmark = pytest.mark.live

SNAPSHOTS = "supervisor/engine/transam/snapmgr.py"
VISIBILITY = "supervisor/engine/access/visibility.py"

A_SNAPSHOT_FOR_EACH_STATEMENT = (Edit(SNAPSHOTS, "        if not self.repeatable:\n            return", "        if True:\n            return"),)  # fmt: skip
A_CHANGE_IS_SEEN_AT_ONCE = (
    Edit(VISIBILITY, "    if snapshot.sees_as_running(xmin):\n        return False\n", "    if snapshot.sees_as_running(xmin):\n        return True\n"),
    Edit(VISIBILITY, "    if snapshot.sees_as_running(xmax):\n        return True\n", "    if snapshot.sees_as_running(xmax):\n        return False\n"),
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with bed(tmp_path_factory.mktemp("runs") / "out") as made:
        yield made


def planted(edits: tuple[Edit, ...]) -> str:
    """Python that adds a defect to those that `--defect` knows."""
    return f"""
from chaos.defects import DEFECTS
from chaos.defects.defect import Defect, Edit
DEFECTS["isolation"] = Defect("isolation", "isolation is broken", "isolation", {edits!r})
"""


def test_two_workloads_side_by_side_are_held(place: Bed) -> None:
    done = place.campaign("--workload", "bank,append", "--kills", "6", "--seed", "3")
    assert done.status == 0, done
    verdict = done.directory.read_verdict()
    assert verdict.status is Status.HELD
    assert {plan["workload"] for plan in plans_of(done.directory).values()} == {"bank", "append"}
    (row,) = [row for row in verdict.oracles if row.name == isolation.NAME]
    assert row.status is OracleStatus.HELD and row.required and row.trials > 50
    assert "--workload bank,append" in done.last_line
    second_load_count.check(done.directory)
    lines = [line.strip() for line in done.output.splitlines() if line.startswith("  load of ")]
    assert [line.partition(":")[0] for line in lines] == ["load of append", "load of bank"]


def broken(place: Bed, edits: tuple[Edit, ...]) -> tuple[Ended, set[Anomaly], set[str]]:
    """Run a server with these edits: the run, the anomalies that were found, and the oracles that failed."""
    done = place.campaign(
        "--workload", "append", "--kills", "4", "--seed", "3", "--defect", "isolation", prelude=planted(edits)
    )
    assert done.status == 1, done
    verdict = done.directory.read_verdict()
    found = [finding for finding in verdict.findings if finding.oracle == isolation.NAME]
    assert all(len(finding.evidence) > 2 for finding in found)
    names = {Anomaly(finding.message.partition(",")[0]) for finding in found}
    return done, names, {row.name for row in verdict.oracles if row.failures}


def test_a_snapshot_for_each_statement_is_found_out(place: Bed) -> None:
    """REPEATABLE READ then is READ COMMITTED: nothing is lost, and transactions are misled."""
    done, names, failed = broken(place, A_SNAPSHOT_FOR_EACH_STATEMENT)
    assert names & {Anomaly.LOST_UPDATE, Anomaly.G_SINGLE}
    assert names <= {Anomaly.LOST_UPDATE, Anomaly.G_SINGLE, Anomaly.G_NONADJACENT}
    assert failed == {isolation.NAME}, "each transaction is there, and whole"
    explained = place.run("explain", str(done.directory.path)).output
    assert "the rule isolation was broken" in explained and " (rw)" in explained


def test_a_change_that_is_seen_before_its_commit_is_found_out(place: Bed) -> None:
    _, names, failed = broken(place, A_CHANGE_IS_SEEN_AT_ONCE)
    assert names & {Anomaly.G1A, Anomaly.G1B}
    assert isolation.NAME in failed, "and others, for transactions go on from what is rolled back"
