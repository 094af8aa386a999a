"""Campaigns of the workload customers: a good server is held, also beside others, and one that loses commits is found out.

What could go wrong: people who are made in the harness and do not arrive in the server, or other people after a resumed
epoch; expected refusals that end the load, so that a cycle proves nothing; and rules that no real loss ever met.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reports.verdict import Status
from tests.support.campaigns import Bed, bed, plans_of
from workloads.customers import DUPLICATE
from workloads.history import read_history
from workloads.session import UNIQUE_VIOLATION

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with bed(tmp_path_factory.mktemp("runs") / "out") as made:
        yield made


def test_all_workloads_side_by_side_are_held(place: Bed) -> None:
    done = place.campaign("--workload", "bank,append,tpcb,customers", "--kills", "10", "--seed", "18", "--epoch", "5")
    assert done.status == 0, done
    verdict = done.directory.read_verdict()
    assert verdict.status is Status.HELD and verdict.conclusive_cycles == 10
    assert {plan["workload"] for plan in plans_of(done.directory).values()} == {"bank", "append", "tpcb", "customers"}
    operations = read_history(done.directory.history_records()).operations.values()
    refused = [operation for operation in operations if operation.kind == DUPLICATE and operation.sqlstate]
    assert refused and {operation.sqlstate for operation in refused} == {UNIQUE_VIOLATION}


def test_a_commit_that_is_told_too_early_is_found_out(place: Bed) -> None:
    done = place.campaign(
        "--workload", "customers", "--kills", "6", "--seed", "1", "--defect", "acknowledged-before-wal"
    )
    assert done.status == 1, done
    failed = {row.name for row in done.directory.read_verdict().oracles if row.failures}
    assert "durability" in failed
