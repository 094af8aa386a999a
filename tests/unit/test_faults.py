"""The registry of faults, whether one can be done here, and the steps that carry one out.

What could go wrong: a fault that says one thing and does another; `all` that silently leaves something out; a name that
cannot be done and is passed over; a fault of two signals that hits two different processes, or a bystander who is the
victim; a stopped process that nobody lets go on; a machine without memory cgroups that is promised an OOM kill. The
server here is a list of processes that note their signals; the cgroups are the machine's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chaos.errors import PlanError
from chaos.faults import DEFAULT, FAULTS, Consequence, Fault, cgroup
from chaos.faults.availability import ALL, select, unavailable
from chaos.faults.fault import Need, Whom
from chaos.faults.steps import Scene
from chaos.plan import CampaignPlan, CyclePlan
from supervisor.points import Point, PointMap
from supervisor.roles import Role

ROLES = ("checkpointer", "bgwriter", "walwriter", "backend", "backend", "backend")


# The registry.


def test_each_fault_is_known_by_its_own_name_and_says_what_it_is() -> None:
    assert all(name == fault.name and fault.does and fault.weight > 0 for name, fault in FAULTS.items())
    assert set(DEFAULT) <= set(FAULTS)
    assert all(FAULTS[name].causes is Consequence.CRASH for name in DEFAULT), "the postmaster lives through an epoch"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_strikes_somewhere(fault: Fault) -> None:
    assert fault.steps or (fault.at is not None and fault.at.only is not None)
    if fault.at is not None and fault.at.only is not None:
        assert Need.POINTS in fault.needs
    ends = fault.causes in (Consequence.NEW_START, Consequence.SHUTDOWN)
    assert ends == fault.sends(to=Whom.POSTMASTER), "the postmaster ends if, and only if, it is told to"


# What can be done here.


def test_all_is_everything_that_can_be_done_and_a_line_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "unavailable", lambda: "no cgroups; get some")
    chosen, left_out = select([ALL], "builtin")
    assert set(FAULTS) - set(chosen) == {"oom-kill"}
    assert left_out == ("without oom-kill: no cgroups; get some",)
    with pytest.raises(PlanError, match="oom-kill cannot be done here: no cgroups; get some"):
        select(["oom-kill"], "builtin")


def test_a_server_without_points_cannot_be_struck_at_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "unavailable", lambda: None)
    chosen, left_out = select([ALL], "postgres")
    assert set(FAULTS) - set(chosen) == {name for name, fault in FAULTS.items() if Need.POINTS in fault.needs}
    assert len(left_out) == len(FAULTS) - len(chosen) > 0
    assert "use --target builtin" in (unavailable(FAULTS["exit-0"], "postgres") or "")
    assert unavailable(FAULTS["sigquit"], "postgres") is None


def test_names_keep_their_order_and_come_once() -> None:
    assert select(["sigquit", "sigkill-random", "sigquit"], "builtin") == (("sigquit", "sigkill-random"), ())
    with pytest.raises(PlanError, match=r"no fault 'tickle'; there are sigkill-random, .*, and all for"):
        select(["tickle"], "builtin")


# The OOM killer.


def test_the_memory_controller_is_found_in_either_hierarchy() -> None:
    old = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0"
    found = cgroup.find(old)
    assert found is not None
    assert (str(found.directory), found.limit) == ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
    unified = cgroup.find("proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0")
    assert unified is not None
    assert (str(unified.directory), unified.limit) == ("/sys/fs/cgroup", "memory.max")
    assert cgroup.find("proc /proc proc rw 0 0") is None


def test_a_machine_without_memory_cgroups_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(cgroup, "_MOUNTS", mounts)
    mounts.write_text("proc /proc proc rw 0 0\n")
    assert "no memory controller is mounted; run as root" in (cgroup.unavailable() or "")
    mounts.write_text(f"cgroup2 {tmp_path}/nowhere cgroup2 rw 0 0\n")
    assert "no memory cgroup can be used: No such file or directory; run as root" in (cgroup.unavailable() or "")


def test_a_process_without_memory_is_killed_and_nothing_is_left(tmp_path: Path) -> None:
    why = cgroup.unavailable()
    if why is not None:
        pytest.skip(why)
    victim = subprocess.Popen([sys.executable, "-c", "import time\nwhile True: bytearray(1 << 20); time.sleep(0.001)"])
    try:
        assert cgroup.out_of_memory(victim.pid)
        assert victim.wait(10) == -signal.SIGKILL
        hierarchy = cgroup.find(Path("/proc/self/mounts").read_text())
        assert hierarchy is not None
        assert list(hierarchy.directory.glob(f"crashbed-{os.getpid()}-*")) == []
        left = hierarchy.directory / "crashbed-1-1.1"
        left.mkdir()
        cgroup.sweep(hierarchy)
        assert not left.exists(), "no process 1 was started in the first moment of the machine's life"
        assert not cgroup.out_of_memory(victim.pid), "it is gone"
    finally:
        victim.kill()
        victim.wait()


# The steps.


class FakeProcess:
    def __init__(self, pid: int, role: str) -> None:
        self.pid = pid
        self.role = role
        self.signals: list[signal.Signals] = []

    def signal(self, number: signal.Signals) -> bool:
        self.signals.append(number)
        return True

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def nobody_is_really_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pids of these processes are made up: nothing may be waiting to signal them."""
    monkeypatch.setattr("chaos.faults.steps.Wakener", lambda pid: SimpleNamespace(close=lambda: None))


class FakeServer:
    """A target whose children note their signals."""

    def __init__(self) -> None:
        self.children = [FakeProcess(100 + number, role) for number, role in enumerate(ROLES)]

    def processes(self) -> list[FakeProcess]:
        return self.children

    def told(self) -> dict[int, list[signal.Signals]]:
        return {child.pid: child.signals for child in self.children if child.signals}


@pytest.fixture
def points(tmp_path: Path) -> Iterator[PointMap]:
    made = PointMap(tmp_path / "points.map", create=True)
    yield made
    made.close()


def planned(name: str, seed: int = 1) -> CyclePlan:
    return CampaignPlan(seed=seed, faults=(name,), point_one_in=0).cycle(0)


def carried_out(name: str, server: FakeServer, points: PointMap, seed: int = 1) -> tuple[Scene, list[Any], list[float]]:
    target: Any = server
    scene = Scene(planned(name, seed), target, points)
    waits: list[float] = []
    return scene, list(scene.carry_out(FAULTS[name], waits.append)), waits


def test_a_victim_is_stopped_and_the_same_one_killed(points: PointMap) -> None:
    server = FakeServer()
    scene, blows, waits = carried_out("sigstop-victim", server, points)
    ((victim, signals),) = server.told().items()
    assert signals == [signal.SIGSTOP, signal.SIGKILL]
    assert [(blow.pid, blow.signal, blow.part) for blow in blows] == [
        (victim, signal.SIGSTOP, 0),
        (victim, signal.SIGKILL, 2),
    ]
    assert waits == [planned("sigstop-victim").pause_ms / 1000] and 0.001 <= waits[0] <= 0.02
    assert scene.stopped == [], "a killed process needs nobody to go on"


def test_a_bystander_is_none_of_the_victims(points: PointMap) -> None:
    for seed in range(50):
        server = FakeServer()
        scene, blows, _ = carried_out("sigstop-survivor", server, points, seed)
        stopped, killed = blows
        assert stopped.pid != killed.pid
        assert (stopped.signal, killed.signal) == (signal.SIGSTOP, signal.SIGKILL)
        scene.close()
        assert server.told() == {stopped.pid: [signal.SIGSTOP, signal.SIGCONT], killed.pid: [signal.SIGKILL]}


def test_every_backend_means_every_backend(points: PointMap) -> None:
    server = FakeServer()
    _, blows, _ = carried_out("sigkill-backends", server, points)
    assert {blow.pid for blow in blows} == {child.pid for child in server.children if child.role == "backend"}
    assert {blow.part for blow in blows} == {0}, "alternatives: one that landed will do"


def test_with_nobody_to_hit_a_fault_missed(points: PointMap) -> None:
    server = FakeServer()
    server.children = []
    _, blows, _ = carried_out("sigabrt", server, points)
    assert [blow.landed for blow in blows] == [False]


def test_who_asks_for_no_memory_makes_room_for_the_next(points: PointMap, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def only_the_third(pid: int) -> bool:
        asked.append(pid)
        return len(asked) == 3

    monkeypatch.setattr("chaos.faults.steps.out_of_memory", only_the_third)
    _, blows, _ = carried_out("oom-kill", FakeServer(), points)
    assert [blow.landed for blow in blows] == [False, False, True]
    assert sorted(asked) == [103, 104, 105], "backends, each once"


def test_a_checkpoint_that_never_comes_is_a_miss(points: PointMap, monkeypatch: pytest.MonkeyPatch) -> None:
    class Statement:
        """A CHECKPOINT that is over before its point was passed; or during which it is passed."""

        passes = False

        def __init__(self, connection: object) -> None: ...

        def send(self, text: bytes) -> None:
            assert text == b"CHECKPOINT"
            if self.passes:
                points.for_process(Role.CHECKPOINTER, 1)(Point[plan.checkpoint_point])

        def read(self) -> str:
            return "completed"

        def close(self) -> None: ...

    plan = planned("sigkill-checkpoint")
    monkeypatch.setattr("chaos.faults.steps.connect", lambda conninfo: None)
    monkeypatch.setattr("chaos.faults.steps.Worker", Statement)
    server = FakeServer()
    server.conninfo = ""  # type: ignore[attr-defined]
    _, blows, _ = carried_out("sigkill-checkpoint", server, points)
    assert [blow.landed for blow in blows] == [False] and server.told() == {}
    Statement.passes = True
    _, blows, _ = carried_out("sigkill-checkpoint", server, points)
    assert [blow.landed for blow in blows] == [True] and server.told() == {100: [signal.SIGKILL]}
