"""Campaigns of the workload tpcb: a server that loses commits is found out, and one that loses updates.

What could go wrong: rules that have met no real loss. A commit that is told too early is a loss of whole transactions.
A row lock that does not lock is the other kind: nothing is lost in the crash, each row of the history is there, and two
transactions that began from one balance have left one delta. pgbench's few branches are there to show that.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.defects.defect import Edit
from reports.verdict import Status
from tests.support.campaigns import Bed, Ended, bed

pytestmark = pytest.mark.live

FOR_UPDATE_LOCKS_NOTHING = Edit(
    "supervisor/session/session.py",
    "self._tables.get_for_update if for_update else self._tables.get",
    "self._tables.get",
)
PLANT = f"""
from chaos.defects import DEFECTS
from chaos.defects.defect import Defect, Edit
DEFECTS["lock"] = Defect("lock", "FOR UPDATE locks nothing", "invariant", ({FOR_UPDATE_LOCKS_NOTHING!r},))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with bed(tmp_path_factory.mktemp("runs") / "out") as made:
        yield made


def broken(place: Bed, defect: str) -> tuple[Ended, dict[str, list[str]]]:
    """Run a server with a defect: the run, and what each oracle found."""
    done = place.campaign("--workload", "tpcb", "--kills", "4", "--seed", "1", "--defect", defect, prelude=PLANT)
    assert done.status == 1, done
    verdict = done.directory.read_verdict()
    assert verdict.status is Status.FINDING
    assert all(finding.evidence for finding in verdict.findings)
    found: dict[str, list[str]] = {}
    for finding in verdict.findings:
        found.setdefault(finding.oracle, []).append(finding.message)
    return done, found


def test_a_commit_that_is_told_too_early_is_found_out(place: Bed) -> None:
    done, found = broken(place, "acknowledged-before-wal")
    assert any("was acknowledged and is lost" in message for message in found["durability"]), found
    assert "no row of operation" in place.run("explain", str(done.directory.path)).output


def test_a_row_lock_that_locks_nothing_is_found_out(place: Bed) -> None:
    _, found = broken(place, "lock")
    assert set(found) == {"atomicity", "invariant"}, "each transaction is there"
    assert any("the balances of branches grew by" in message for message in found["atomicity"]), found
