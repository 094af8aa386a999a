"""How often a finding comes back when its cycle is run again.

What could go wrong: another oracle's failure, or the right one's in another cycle, taken for the finding; a finding of
the stopped server, which belongs to no cycle, never found again; a rate without its uncertainty, so that 0 of 3 reads as
"gone"; repetitions that proved nothing counted in silence.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from chaos.errors import PlanError
from chaos.order import StopRule
from chaos.plan import CampaignPlan
from chaos.replay import HitRate, Sought, replay_order, sought
from reports.records import RecordWriter
from reports.rundir import RunDirectory
from reports.verdict import Finding, Status, Verdict


def verdict(*findings: tuple[str, int | None], cycles: int = 1, conclusive: int = 1) -> Verdict:
    return Verdict(
        status=Status.FINDING if findings else Status.HELD,
        exit_code=1 if findings else 0,
        seed=1,
        target="builtin",
        workload="bank",
        cycles=cycles,
        conclusive_cycles=conclusive,
        findings=tuple(Finding(oracle=oracle, message="broken", cycle=cycle) for oracle, cycle in findings),
    )


def recorded(path: Path, *cycles: int) -> RunDirectory:
    run = RunDirectory.create(path, 4)
    info = run.read_info()
    info.plan = {"campaign": msgspec.to_builtins(CampaignPlan(seed=4, epoch_cycles=3)), "defect": None}
    run.write_info(info)
    with RecordWriter(run.harness_events) as harness:
        harness.extend([{"t": cycle, "ev": "cycle_begin", "cycle": cycle, "epoch": cycle // 3} for cycle in cycles])
    return run


def test_a_replay_begins_where_the_cycles_cluster_did(tmp_path: Path) -> None:
    order = replay_order(recorded(tmp_path, *range(6)), 4)
    assert (order.first_cycle, order.stop) == (3, StopRule(cycles=2))


def test_a_cycle_that_never_was_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"has no cycle 9: it ran cycles 0 to 5$"):
        replay_order(recorded(tmp_path, *range(6)), 9)


def test_what_is_sought_is_what_failed_at_the_cycle() -> None:
    original = verdict(("durability", 2), ("atomicity", 2), ("fan-out", 3), ("storage", None))
    assert sought(original, 2) == Sought(frozenset({"durability", "atomicity"}), 2)
    assert sought(original, 3) == Sought(frozenset({"fan-out"}), 3)


def test_where_the_cycle_has_no_finding_those_outside_any_cycle_are_sought() -> None:
    assert sought(verdict(("durability", 1), ("storage", None)), 2) == Sought(frozenset({"storage"}), None)


@pytest.mark.parametrize(
    "original", [None, verdict(), verdict(("durability", 1))], ids=["unjudged", "held", "elsewhere"]
)
def test_where_nothing_was_found_any_finding_of_the_cycle_is_sought(original: Verdict | None) -> None:
    assert sought(original, 2) == Sought(frozenset(), 2)


@pytest.mark.parametrize(
    ("finding", "found", "hit"),
    [
        (Sought(frozenset({"durability"}), 2), ("durability", 2), True),
        (Sought(frozenset({"durability"}), 2), ("durability", 1), False),
        (Sought(frozenset({"durability"}), 2), ("atomicity", 2), False),
        (Sought(frozenset({"durability"}), 2), ("durability", None), False),
        (Sought(frozenset({"storage"}), None), ("storage", None), True),
        (Sought(frozenset(), 2), ("anything", 2), True),
        (Sought(frozenset(), 2), ("anything", 1), False),
    ],
)
def test_a_hit_is_the_same_oracle_at_the_same_cycle(finding: Sought, found: tuple[str, int | None], hit: bool) -> None:
    assert finding.is_in(verdict(found)) is hit
    assert not finding.is_in(verdict())


RATES = [
    (HitRate(), "no repetition came to its end: nothing is known of how often the finding comes back"),
    (HitRate(10, 7), "the finding came back in 7 of 10 repetitions: 70 %, 95 % interval 35 % to 93 %"),
    (HitRate(3, 0), "the finding did not come back in 3 repetitions: at most 63 % of them find it, at 95 % confidence"),
    (HitRate(1, 1), "the finding came back in 1 of 1 repetition: 100 %, at least 5.0 % at 95 % confidence"),
]


@pytest.mark.parametrize(("rate", "said"), RATES, ids=[f"{rate.hits} of {rate.repetitions}" for rate, _ in RATES])
def test_a_rate_is_told_with_its_uncertainty(rate: HitRate, said: str) -> None:
    assert str(rate) == said


def test_repetitions_that_proved_little_are_counted_apart() -> None:
    finding = Sought(frozenset({"durability"}), 2)
    rate = HitRate()
    for came_to in (verdict(("durability", 2), conclusive=0), verdict(conclusive=0), verdict()):
        rate = rate.after(came_to, finding)
    assert rate == HitRate(repetitions=3, hits=1, inconclusive=1)
    assert str(rate).endswith("; 1 of those without it had a cycle that was not conclusive")
