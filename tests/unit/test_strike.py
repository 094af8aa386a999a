"""A fault on its way: armed in time, noticed when it fell, and taken back before it can hit somebody else.

What could go wrong: a point of recovery armed when its process has long been forked, so that it is never reached; a
point armed for a process that the plan's crash never forks anew; an arm left standing that kills the observer; a blow
dated after what it caused; a trigger taken for the fault itself, or a fault that missed taken for one that landed.
The server here is a list of processes that note their signals; the points map is a real one.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos.plan import CampaignPlan, CyclePlan, PointPlacement, Trigger, TriggerKind
from chaos.strike import Strike
from chaos.victims import RoleChild
from supervisor.points import Point, PointMap
from supervisor.roles import Role

ROLES = ("checkpointer", "bgwriter", "walwriter", "backend", "backend")


class FakeProcess:
    """A living child that notes what it is sent."""

    def __init__(self, pid: int, role: str) -> None:
        self.pid = pid
        self.role = role
        self.signals: list[int] = []
        self.then: Callable[[], object] = lambda: None

    def signal(self, number: signal.Signals) -> bool:
        self.signals.append(number)
        self.then()
        return True

    def close(self) -> None: ...


class FakeServer:
    """The target and the load in one: 20 acknowledgements are there, and the load ends when it is told to."""

    log_path = Path("server.log")

    def __init__(self) -> None:
        self.children = [FakeProcess(100 + number, role) for number, role in enumerate(ROLES)]
        self.waits: list[Callable[[], object]] = []

    def processes(self) -> list[FakeProcess]:
        return self.children

    def acknowledged(self) -> int:
        return 20

    def complaints(self) -> list[str]:
        return []

    def wait(self, timeout_s: float = 0.0) -> None:
        """What happens meanwhile is a list of functions, one a wait."""
        if self.waits:
            self.waits.pop(0)()

    def over(self) -> bool:
        return not self.waits

    def signalled(self) -> dict[str, list[int]]:
        return {child.role: child.signals for child in self.children if child.signals}


@pytest.fixture
def points(tmp_path: Path) -> Iterator[PointMap]:
    made = PointMap(tmp_path / "points.map", create=True)
    yield made
    made.close()


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


def planned(selector: str) -> CyclePlan:
    """A cycle at this point, where reaching it does nothing to this process."""
    plan = CampaignPlan(seed=1, points=(selector,), point_one_in=1, delay_ms=(0.0, 0.0)).cycle(0)
    return msgspec.structs.replace(plan, placement=PointPlacement(selector, "PASS"))


def strike_of(plan: CyclePlan, server: FakeServer, points: PointMap) -> Strike:
    target: Any = server
    return Strike(plan, target, points)


def fall(strike: Strike, server: FakeServer) -> None:
    load: Any = server
    strike.fall(load)


def reach(points: PointMap, role: Role, point: Point) -> None:
    """A process of this role is forked, and passes this point."""
    points.for_process(role, 1)(point)


# Plans.


@pytest.mark.parametrize(
    ("role", "trigger"),
    [
        ("startup", (TriggerKind.CRASH, "backend")),
        ("checkpointer", (TriggerKind.CRASH, "backend")),
        ("bgwriter", (TriggerKind.LEAVE, "bgwriter")),
        ("walwriter", (TriggerKind.LEAVE, "walwriter")),
        ("backend", None),
    ],
)
def test_a_point_that_no_worker_passes_needs_its_process_forked_anew(
    role: str, trigger: tuple[TriggerKind, str] | None
) -> None:
    plan = CampaignPlan(seed=1, points=(f"{role}/DISK_OPEN:5",), point_one_in=1).cycle(3)
    assert (plan.fault, plan.victims) == ("sigkill-role", None)
    if trigger is None:
        assert plan.trigger is None
        return
    assert isinstance(plan.trigger, Trigger) and isinstance(plan.trigger.victim, RoleChild)
    assert (plan.trigger.kind, plan.trigger.victim.role) == trigger
    assert 0 <= plan.trigger.delay_ms <= 40


def test_a_plan_with_a_trigger_comes_back_from_json() -> None:
    plan = planned("startup/REDO_RECORD:3")
    assert msgspec.json.decode(msgspec.json.encode(plan), type=CyclePlan) == plan
    assert msgspec.convert(msgspec.to_builtins(plan), CyclePlan) == plan


# At a point of the cycle's own workers.


def test_a_workers_point_is_armed_before_the_workers_are_forked(server: FakeServer, points: PointMap) -> None:
    strike = strike_of(planned("backend/COMMIT_AFTER_FLUSH:1"), server, points)
    strike.prepare()
    before = time.monotonic_ns()
    server.waits = [lambda: None, lambda: reach(points, Role.BACKEND, Point.COMMIT_AFTER_FLUSH)]
    fall(strike, server)
    (blow,) = strike.blows
    assert (blow.role, blow.landed, strike.fired, strike.trigger) == ("backend", True, True, [])
    assert before <= blow.t <= time.monotonic_ns()
    assert server.signalled() == {}, "it does it to itself"


def test_a_blow_is_dated_by_the_last_look_that_did_not_see_it(server: FakeServer, points: PointMap) -> None:
    strike = strike_of(planned("backend/COMMIT_AFTER_FLUSH:1"), server, points)
    strike.prepare()
    fell: list[int] = []

    def hit() -> None:
        fell.append(time.monotonic_ns())
        reach(points, Role.BACKEND, Point.COMMIT_AFTER_FLUSH)

    server.waits = [hit]
    fall(strike, server)
    assert strike.begun_ns is not None and strike.begun_ns <= fell[0]


def test_a_point_that_is_not_reached_is_a_miss_and_hits_nobody_later(server: FakeServer, points: PointMap) -> None:
    strike = strike_of(planned("backend/COMMIT_AFTER_FLUSH:1"), server, points)
    strike.prepare()
    fall(strike, server)
    assert strike.begun_ns is None and not strike.fired
    late = points.for_process(Role.BACKEND, 1)
    strike.disarm()
    late(Point.COMMIT_AFTER_FLUSH)
    assert [(blow.landed, blow.role) for blow in strike.blows] == [(False, "backend")]
    assert points.fired(0) is None, "an observer that loaded the arm passes"
    assert strike.begun_ns is None


# At a point of recovery.


def test_a_point_of_recovery_is_armed_just_before_the_crash(server: FakeServer, points: PointMap) -> None:
    strike = strike_of(planned("startup/REDO_RECORD:1"), server, points)
    strike.prepare()
    reach(points, Role.STARTUP, Point.REDO_RECORD)
    for child in server.children:
        child.then = lambda: reach(points, Role.STARTUP, Point.REDO_RECORD)
    fall(strike, server)
    assert server.signalled() == {"backend": [signal.SIGKILL]}
    (trigger,) = strike.trigger
    assert trigger.landed and strike.begun_ns == trigger.t
    assert strike.blows == [], "nobody has looked yet"
    strike.look()
    (blow,) = strike.blows
    assert (blow.role, blow.landed, blow.signal) == ("startup", True, signal.SIGKILL)
    strike.disarm()
    assert strike.blows == [blow]


def test_a_recovery_that_does_not_reach_the_point_is_a_miss(server: FakeServer, points: PointMap) -> None:
    strike = strike_of(planned("checkpointer/CHECKPOINT_BEFORE_CONTROL:2"), server, points)
    strike.prepare()
    fall(strike, server)
    strike.disarm()
    assert [blow.landed for blow in strike.trigger] == [True]
    assert [(blow.landed, blow.role) for blow in strike.blows] == [(False, "checkpointer")]


def test_without_a_backend_there_is_no_crash_to_recover_from(server: FakeServer, points: PointMap) -> None:
    server.children = [child for child in server.children if child.role != "backend"]
    strike = strike_of(planned("startup/REDO_RECORD:1"), server, points)
    strike.prepare()
    fall(strike, server)
    assert strike.begun_ns is None and server.signalled() == {}


def test_a_point_that_is_to_be_hit_twice_is_hit_by_two_processes(server: FakeServer, points: PointMap) -> None:
    plan = planned("startup/REDO_RECORD:1")
    twice = msgspec.structs.replace(plan, placement=PointPlacement("startup/REDO_RECORD:1", "PASS", times=2))
    strike = strike_of(twice, server, points)
    strike.prepare()
    fall(strike, server)
    assert not strike.halfway
    reach(points, Role.STARTUP, Point.REDO_RECORD)
    # One whose arm does not end it fires both; a SIGKILL leaves the second for the next process.
    strike.look()
    assert [(blow.landed, blow.part) for blow in strike.blows] == [(True, 0), (True, 1)]
    assert not strike.halfway and strike.decisive


def test_hits_that_never_come_are_misses_of_their_own(server: FakeServer, points: PointMap) -> None:
    plan = planned("startup/REDO_RECORD:1")
    twice = msgspec.structs.replace(plan, placement=PointPlacement("startup/REDO_RECORD:1", "PASS", times=2))
    strike = strike_of(twice, server, points)
    strike.prepare()
    fall(strike, server)
    strike.disarm()
    assert [(blow.landed, blow.part) for blow in strike.blows] == [(False, 0), (False, 1)]


def test_an_exit_at_a_point_is_told_as_what_it_is(server: FakeServer, points: PointMap) -> None:
    plan = CampaignPlan(seed=1, faults=("exit-1",)).cycle(0)
    strike = strike_of(plan, server, points)
    strike.prepare()
    fall(strike, server)
    strike.disarm()
    (blow,) = strike.blows
    assert (blow.role, blow.signal, blow.code, blow.landed) == ("backend", 0, 1, False)


# At a point of a process that another takes the place of.


def test_a_long_lived_process_makes_room_for_one_that_reads_the_arm(server: FakeServer, points: PointMap) -> None:
    strike = strike_of(planned("walwriter/WAL_FLUSH_BEFORE_WRITE:1"), server, points)
    strike.prepare()
    old = points.for_process(Role.WALWRITER, 1)
    server.waits = [lambda: old(Point.WAL_FLUSH_BEFORE_WRITE)]
    server.waits.append(lambda: reach(points, Role.WALWRITER, Point.WAL_FLUSH_BEFORE_WRITE))
    fall(strike, server)
    assert server.signalled() == {"walwriter": [signal.SIGTERM]}
    assert strike.trigger == [], "an orderly exit is no fault"
    assert [(blow.landed, blow.role) for blow in strike.blows] == [(True, "walwriter")]


# In time.


def test_a_fault_in_time_strikes_the_plans_victims(server: FakeServer, points: PointMap) -> None:
    plan = CampaignPlan(seed=1, faults=("sigquit",), point_one_in=0, delay_ms=(0.0, 0.0)).cycle(0)
    strike = strike_of(plan, server, points)
    strike.prepare()
    fall(strike, server)
    (blow,) = strike.blows
    assert list(server.signalled().values()) == [[signal.SIGQUIT]]
    assert blow.landed and strike.begun_ns == blow.t and not strike.fired
