"""Plans: the same seed gives the same plan, cycle k needs no other cycle, and a selector says what it means.

What could go wrong: a plan that depends on the order in which cycles are planned, two choices that are the
same draw, seeds of neighbouring cycles that are neighbours, a new choice that changes all the old ones, a
plan that cannot be read back from run.json, a selector that is read as another.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec
import pytest

from chaos.errors import PlanError
from chaos.faults import DEFAULT, FAULTS
from chaos.faults.fault import Places, Whom
from chaos.places import BACKEND_POINTS, CHECKPOINT_POINTS, OF_SYNCHRONOUS_COMMIT, RARELY_PASSED, RECOVERY_POINTS
from chaos.plan import (
    ASYNCHRONOUS_DELAY_MS,
    CampaignPlan,
    CyclePlan,
    PointPlacement,
    TimePlacement,
    TriggerKind,
    decode_campaign,
    decode_cycle,
    derive,
    encode,
    loss_window_ns,
)
from chaos.selector import Selector, parse_selector
from chaos.victims import AnyChild, EveryChild, RoleChild, SeveralChildren, pick
from supervisor.points import Arm, Point, PointAction
from supervisor.roles import Role

PLAN = CampaignPlan(seed=42)


def plans(campaign: CampaignPlan, number: int = 300) -> list[CyclePlan]:
    return [campaign.cycle(cycle) for cycle in range(number)]


def test_the_plan_of_a_seed_is_pinned() -> None:
    """A change here makes every reproducing command of an older run a lie: say so in the changelog."""
    digest = blake2b(b"".join(encode(plan) for plan in plans(PLAN)), digest_size=8).hexdigest()
    assert digest == "7b9013ef67751b9b"


def test_a_cycles_plan_needs_no_other_cycle() -> None:
    assert [CampaignPlan(seed=42).cycle(k) for k in (7, 3)] == [plans(PLAN)[7], plans(PLAN)[3]]


def test_seeds_give_different_plans_and_everything_its_own_draw() -> None:
    seeds = [
        seed
        for campaign in (PLAN, CampaignPlan(seed=43))
        for plan in plans(campaign)
        for seed in (*plan.worker_seeds, plan.outside_seed)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_paths_do_not_run_into_each_other() -> None:
    paths: list[tuple[Any, ...]] = [(1, "ab", "c"), (1, "a", "bc"), (1, "abc"), (11, "abc"), (1, 1), (1, "1"), (1,)]
    assert len({derive(*path) for path in paths}) == len(paths)


def test_plans_come_back_from_json() -> None:
    for plan in plans(PLAN, 50):
        assert decode_cycle(encode(plan)) == plan
        assert msgspec.convert(msgspec.to_builtins(plan), CyclePlan) == plan
    assert decode_campaign(encode(PLAN)) == PLAN


def test_every_kind_of_fault_and_placement_is_drawn() -> None:
    drawn = plans(PLAN)
    assert {plan.fault for plan in drawn} == set(DEFAULT)
    assert {type(plan.victims) for plan in drawn} == {AnyChild, RoleChild, SeveralChildren, type(None)}
    assert {plan.victims.role for plan in drawn if isinstance(plan.victims, RoleChild)} == set(PLAN.roles)
    several = [plan.victims.draws for plan in drawn if isinstance(plan.victims, SeveralChildren)]
    assert {len(draws) for draws in several} == {2, 3, 4}
    points = [plan.placement for plan in drawn if isinstance(plan.placement, PointPlacement)]
    assert 50 < len(points) < 100, "one in four"
    assert {parse_selector(point.selector).point for point in points} == set(BACKEND_POINTS)
    assert all(plan.victims is None for plan in drawn if isinstance(plan.placement, PointPlacement))
    delays = [plan.placement.delay_ms for plan in drawn if isinstance(plan.placement, TimePlacement)]
    assert 0 <= min(delays) < 2 and 38 < max(delays) <= 40


def test_everything_there_is_is_drawn_by_its_weight() -> None:
    """A fault whose cycles take 5 s is rare, or a campaign would do little else."""
    drawn = plans(CampaignPlan(seed=1, faults=tuple(FAULTS), point_one_in=0), 4000)
    total = sum(fault.weight for fault in FAULTS.values())
    for name, fault in FAULTS.items():
        share = sum(plan.fault == name for plan in drawn) / len(drawn)
        assert 0.5 < share / (fault.weight / total) < 1.6, name


def test_a_plan_holds_what_its_faults_steps_ask_for() -> None:
    drawn = plans(CampaignPlan(seed=1, faults=tuple(FAULTS), point_one_in=0), 2000)
    for plan in drawn:
        fault = FAULTS[plan.fault]
        assert isinstance(plan.placement, TimePlacement) == bool(fault.steps)
        assert (plan.bystander is not None) == fault.sends(to=Whom.BYSTANDER)
        assert not fault.sends(to=Whom.VICTIMS) or plan.victims is not None
        assert decode_cycle(encode(plan)) == plan
    assert {plan.checkpoint_point for plan in drawn} == {"", *(point.name for point in CHECKPOINT_POINTS)}
    pauses = {plan.fault: plan.pause_ms for plan in drawn if plan.pause_ms}
    assert set(pauses) == {"sigstop-victim", "shutdown-smart-kill", "shutdown-fast-kill", "shutdown-immediate-kill"}


def test_a_fault_that_is_of_points_alone_has_its_own() -> None:
    drawn = plans(CampaignPlan(seed=1, faults=("exit-0", "exit-1", "sigkill-recovery", "sigkill-recovery-twice")), 400)
    seen = set()
    for plan in drawn:
        assert isinstance(plan.placement, PointPlacement)
        at, selector = FAULTS[plan.fault].at, parse_selector(plan.placement.selector)
        assert at is not None
        placed = (plan.placement.action, plan.placement.argument, plan.placement.times)
        assert placed == (at.action.name, at.argument, at.times)
        assert (plan.trigger is not None) == (at.only is Places.RECOVERY)
        if plan.trigger is not None:
            assert plan.trigger.kind is TriggerKind.CRASH
            seen.add((selector.role, selector.point))
        else:
            assert selector.point in BACKEND_POINTS
    assert seen == {(role, point) for role, point, _ in RECOVERY_POINTS}


def test_an_exit_goes_to_the_point_that_is_asked_for() -> None:
    plan = CampaignPlan(seed=1, faults=("exit-1",), points=("backend/DISK_OPEN:5",), point_one_in=1).cycle(0)
    assert plan.placement == PointPlacement("backend/DISK_OPEN:5", "EXIT", 1)


def test_a_point_that_a_workload_hardly_passes_is_not_drawn_for_it() -> None:
    drawn = plans(CampaignPlan(seed=1, workloads=("bank", "append"), point_one_in=1), 400)
    for name in ("bank", "append"):
        points = {
            parse_selector(plan.placement.selector).point
            for plan in drawn
            if plan.workload == name and isinstance(plan.placement, PointPlacement)
        }
        assert points == set(BACKEND_POINTS) - RARELY_PASSED.get(name, frozenset())


def test_work_is_bounded_and_shared_with_the_outside_client() -> None:
    for plan in plans(PLAN, 5):
        assert len(plan.worker_seeds) == 8
        assert plan.transactions * 8 + plan.outside_operations <= 2000
        assert plan.outside_operations == 100
    assert [plan.epoch for plan in plans(PLAN, 101)] == [0] * 50 + [1] * 50 + [2]


def test_options_narrow_the_plan() -> None:
    drawn = plans(CampaignPlan(seed=1, faults=("sigquit",)))
    assert {plan.fault for plan in drawn} == {"sigquit"}
    assert all(isinstance(plan.placement, TimePlacement) for plan in drawn), "what happens at a point is a SIGKILL"
    drawn = plans(CampaignPlan(seed=1, points=("startup/REDO_RECORD:3",), point_one_in=1))
    assert {plan.placement for plan in drawn} == {PointPlacement("startup/REDO_RECORD:3")}
    drawn = plans(CampaignPlan(seed=1, point_one_in=0, delay_ms=(5.0, 5.0)))
    assert {plan.placement for plan in drawn} == {TimePlacement(5.0)}


def test_asynchronous_commit_draws_no_point_of_a_flush_that_nobody_waits_for() -> None:
    drawn = plans(CampaignPlan(seed=1, synchronous_commit=False, point_one_in=1), 300)
    points = {parse_selector(str(plan.placement.selector)).point for plan in drawn}  # type: ignore[union-attr]
    assert points == set(BACKEND_POINTS) - OF_SYNCHRONOUS_COMMIT
    assert loss_window_ns(synchronous_commit=True) == 0
    least_ms, _ = ASYNCHRONOUS_DELAY_MS
    assert 0 < loss_window_ns(synchronous_commit=False) < least_ms * 1e6, "what a cycle begins with is promised"


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": 1 << 63},
        {"backends": 0},
        {"operations": 2001},
        {"operations": 8},
        {"epoch_cycles": 0},
        {"faults": ()},
        {"faults": ("tickle",)},
        {"faults": ("sigquit",), "points": ("backend/DISK_OPEN:5",)},
        {"faults": ("sigkill-recovery",), "points": ("startup/REDO_BEGIN:1",)},
        {"faults": ("exit-1",), "points": ("checkpointer/CHECKPOINT_BEGIN:1",)},
        {"roles": ("nobody",)},
        {"roles": ("postmaster",)},
        {"points": ("backend",)},
        {"delay_ms": (5.0, 4.0)},
        {"workloads": ()},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        CampaignPlan(**{"seed": 1, **wrong})


# Selectors.


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("backend/COMMIT_AFTER_FLUSH:1", Selector(Role.BACKEND, Point.COMMIT_AFTER_FLUSH, 1)),
        ("backend#2/commit_after_flush:30", Selector(Role.BACKEND, Point.COMMIT_AFTER_FLUSH, 30, 2)),
        ("dead_end/DISK_OPEN:5", Selector(Role.DEAD_END, Point.DISK_OPEN, 5)),
    ],
)
def test_selectors_are_read(text: str, selector: Selector) -> None:
    assert parse_selector(text) == selector


def test_every_selector_reads_as_it_is_written() -> None:
    for role in Role:
        for point in Point:
            for nth in (0, 1, 12):
                selector = Selector(role, point, 3, nth)
                assert parse_selector(str(selector)) == selector


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "role"),
        ("backend", "role"),
        ("backend/COMMIT_AFTER_FLUSH", "role"),
        ("backend#/COMMIT_AFTER_FLUSH:1", "role"),
        ("backend/COMMIT_AFTER_FLUSH:-1", "role"),
        ("backend/COMMIT_AFTER_FLUSH:1 ", "role"),
        ("butler/COMMIT_AFTER_FLUSH:1", "no role 'butler'"),
        ("backend/TEA_TIME:1", "no point 'TEA_TIME'"),
        ("backend/COMMIT_AFTER_FLUSH:0", "from 1"),
        ("backend#0/COMMIT_AFTER_FLUSH:1", "from 1"),
    ],
)
def test_other_texts_are_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        parse_selector(text)


def test_a_placement_arms_the_map() -> None:
    placement = PointPlacement("checkpointer#1/CHECKPOINT_BEGIN:2", "SIGSTOP")
    assert placement.arm() == Arm(Role.CHECKPOINTER, 1, Point.CHECKPOINT_BEGIN, 2, PointAction.SIGSTOP)
    with pytest.raises(PlanError, match="no action"):
        PointPlacement("backend/DISK_OPEN:1", "TICKLE").arm()


# Victims.

LIVE = [(101, "checkpointer"), (102, "bgwriter"), (103, "walwriter"), (104, "backend"), (105, "backend")]


def test_victims_are_picked_in_fork_order() -> None:
    assert pick(AnyChild(7), LIVE) == (103,)
    assert pick(RoleChild("backend", 3), LIVE) == (105,)
    assert pick(RoleChild("startup", 3), LIVE) == ()
    assert pick(SeveralChildren((0, 0, 0)), LIVE) == (101, 102, 103)
    assert sorted(pick(SeveralChildren((9, 8, 7, 6, 5, 4, 3)), LIVE)) == [101, 102, 103, 104, 105]
    assert pick(AnyChild(7), []) == ()
    assert pick(EveryChild("backend"), LIVE) == (104, 105)
