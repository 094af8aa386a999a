"""The example of the documents, installed as a distribution of its own, in a real campaign.

What could go wrong: a workload that is found where the command runs is not found in the server, which imports its
module by itself, or in the judge, which is another process again; and one that runs is not judged, so that a server
that loses its transactions would be held.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reports.verdict import Status
from tests.support.campaigns import ROOT, Bed, bed, plans_of
from tests.support.distribution import install

pytestmark = pytest.mark.live

EXAMPLE = ROOT / "docs" / "examples" / "inbox.py"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Bed]:
    """A place where the example is installed."""
    site = tmp_path / "site"
    site.mkdir()
    install(site, "crashbed-inbox", {"inbox": "inbox"}, {"inbox": EXAMPLE.read_text()})
    with bed(tmp_path / "out") as made:
        made.environment["PYTHONPATH"] += f"{os.pathsep}{site}"
        yield made


def test_a_campaign_runs_a_workload_of_another_distribution(place: Bed) -> None:
    done = place.campaign("--workload", "bank,inbox", "--kills", "5", "--seed", "5")
    assert done.status == 0, done
    verdict = done.directory.read_verdict()
    assert verdict.status is Status.HELD
    assert {plan["workload"] for plan in plans_of(done.directory).values()} == {"bank", "inbox"}
    assert verdict.ledger.ok.committed > 100


def test_its_rules_find_a_planted_defect(place: Bed) -> None:
    done = place.campaign("--workload", "inbox", "--kills", "6", "--seed", "5", "--defect", "acknowledged-before-wal")
    assert done.status == 1, done
    assert "durability" in {row.name for row in done.directory.read_verdict().oracles if row.failures}


def test_a_run_whose_workload_is_gone_cannot_be_judged_and_says_why(place: Bed) -> None:
    done = place.campaign("--workload", "inbox", "--kills", "1", "--seed", "5")
    place.environment["PYTHONPATH"] = str(ROOT)
    again = place.run("judge", str(done.directory.path))
    assert again.status == 3, again
    assert "there is no workload 'inbox'; there are bank, append" in again.errors
    assert "Traceback" not in again.errors
