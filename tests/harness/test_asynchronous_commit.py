"""A campaign over a server that does not wait for its flushes: it loses commits, and only those that it may.

What could go wrong: a judge that was made milder for this and sees nothing any more; an option that does not reach the
server, so that nothing is ever lost; a run whose reproducing command forgets it. So the campaign must have lost
acknowledged operations and be held, and the same evidence, judged as if every commit had waited, must be a finding.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from chaos.judge import judge_run
from reports.verdict import Status
from tests.support.campaigns import Bed, Ended, bed

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with bed(tmp_path_factory.mktemp("runs") / "out") as made:
        yield made


@pytest.fixture(scope="module")
def campaign(place: Bed) -> Ended:
    return place.campaign("--kills", "5", "--seed", "5", "--synchronous-commit", "off")


def test_commits_are_lost_and_the_run_is_held(campaign: Ended) -> None:
    assert campaign.status == 0, campaign
    verdict = campaign.directory.read_verdict()
    assert verdict.status is Status.HELD and not verdict.findings
    assert verdict.ledger.unflushed.absent > 0, "nothing was lost: the campaign has shown nothing"
    assert verdict.ledger.ok.committed > 0 and verdict.ledger.ok.absent == 0
    assert "--synchronous-commit off" in campaign.last_line


def test_the_same_losses_are_a_finding_where_every_commit_waits(campaign: Ended) -> None:
    run = campaign.directory
    lost = run.read_verdict().ledger.unflushed.absent
    info = msgspec.json.decode(run.run_json.read_bytes())
    info["plan"]["campaign"]["synchronous_commit"] = True
    run.run_json.write_bytes(msgspec.json.encode(info))
    verdict = judge_run(run)
    assert verdict.status is Status.FINDING
    assert {finding.oracle for finding in verdict.findings} >= {"durability"}
    (durability,) = (row for row in verdict.oracles if row.name == "durability")
    assert durability.failures == lost
