"""Waiting for what a fault causes: the right thing is waited for, and a postmaster that ended is started again.

What could go wrong: a recovery waited for that nothing calls for; a postmaster that ended of its own accord, which the
harness takes for its own deed; a second hit in the recovery of a new start, taken for a server that cannot be started;
an interlock that lets a server in beside a living process, unnoticed; an orphan that stays, and blocks every start.
The target here is a script of what its postmasters do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from chaos import aftermath
from chaos.aftermath import Aftermath, Starting
from chaos.errors import CampaignError
from chaos.faults import Blow
from chaos.plan import CampaignPlan
from chaos.targets.process import ServerProcess, child_pids, open_process
from chaos.targets.target import TargetError

BLOW = Blow(1, 100, "backend", signal.SIGKILL, True)
STARTUP_BLOW = Blow(2, 101, "startup", signal.SIGKILL, True)


class FakeTarget:
    """`ends` is how each postmaster ends before it serves, the running one first; None serves."""

    log_path = "server.log"

    def __init__(self, *ends: int | None) -> None:
        self.ends = list(ends)
        self.ready_generation = 1
        self.started = 0
        self.killed = 0
        self.before_end: Callable[[], object] = lambda: None

    def exec(self) -> int:
        self.ends.pop(0)
        self.started += 1
        return 500 + self.started

    def exited(self) -> int | None:
        return self.ends[0]

    def wait_ready(self) -> int:
        self.before_end()
        if self.ends[0] is not None:
            raise TargetError("it exited")
        return 1

    def wait_until(self, condition: Callable[[], bool], what: str, *, deadline_s: float) -> None:
        self.before_end()
        if self.ends[0] is not None:
            raise TargetError("it exited")
        self.ready_generation += 1
        assert condition()

    def kill(self) -> None:
        self.killed += 1


class FakeStrike:
    decisive = True
    halfway = False

    def __init__(self) -> None:
        self.blows = [BLOW]
        self.disarmed = 0
        # Whatever children other tests have left to this process: they are none of this server's.
        before = frozenset(child_pids(os.getpid()))
        self.scene = SimpleNamespace(stopped=[], orphans=[], adopted_before=before, let_go_on=self.scene_goes_on)
        self.went_on = 0

    def scene_goes_on(self) -> None:
        self.went_on += 1

    def look(self) -> None: ...

    def disarm(self) -> None:
        self.disarmed += 1


class FakeLoad:
    ends = True

    def over(self) -> bool:
        return self.ends

    def acknowledged(self) -> int:
        return 33

    def wait(self) -> None: ...

    def close(self) -> None: ...


class Scenario:
    """One aftermath and what it recorded."""

    def __init__(self, fault: str, *ends: int | None) -> None:
        self.target = FakeTarget(*ends)
        self.strike = FakeStrike()
        self.load = FakeLoad()
        self.records: list[tuple[str, dict[str, Any]]] = []
        everything: Any = self
        plan = CampaignPlan(seed=1, faults=(fault,), point_one_in=0).cycle(0)
        starting = Starting(self.target.exec, AssertionError)
        self.aftermath = Aftermath(plan, everything.target, everything.strike, everything.load, starting, self.record)

    def record(self, ev: str, **fields: Any) -> None:
        self.records.append((ev, fields))

    def of(self, ev: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.records if name == ev]


def test_a_crash_is_over_when_a_later_generation_serves() -> None:
    scenario = Scenario("sigquit", None)
    assert scenario.aftermath.settle(1)
    assert (scenario.target.started, scenario.records, scenario.aftermath.notes) == (0, [], [])
    assert scenario.aftermath.acknowledged == 33 and scenario.strike.disarmed


def test_a_replacement_calls_for_nothing() -> None:
    scenario = Scenario("sigterm-auxiliary", None)
    assert not scenario.aftermath.settle(1)
    assert scenario.target.ready_generation == 1


def test_a_fault_that_only_stopped_somebody_lets_him_go_on() -> None:
    scenario = Scenario("sigstop-survivor", None)
    scenario.strike.decisive = False
    assert not scenario.aftermath.settle(1)
    assert scenario.strike.went_on == 1


@pytest.mark.parametrize(("hit", "remark"), [(True, "as it must"), (False, "instead of recovering")])
def test_a_postmaster_that_ends_in_a_recovery_is_started_again(hit: bool, remark: str) -> None:
    scenario = Scenario("sigkill-recovery", 1, None)
    scenario.strike.blows += [STARTUP_BLOW] if hit else []
    assert scenario.aftermath.settle(1)
    assert [fields["status"] for fields in scenario.of("postmaster_exit")] == [1]
    assert scenario.target.started == 1 and remark in scenario.aftermath.notes[0]


def test_a_new_start_that_is_hit_again_is_followed_by_another() -> None:
    scenario = Scenario("sigkill-recovery-twice", 1, 1, None)
    scenario.strike.blows.append(STARTUP_BLOW)
    scenario.strike.halfway = True

    def hit_again() -> None:
        if scenario.target.started == 1:
            scenario.strike.blows.append(STARTUP_BLOW)
            scenario.strike.halfway = False

    scenario.target.before_end = hit_again
    assert scenario.aftermath.settle(1)
    assert scenario.target.started == 2
    assert len(scenario.of("postmaster_exit")) == 2


def test_a_new_start_that_ends_by_itself_is_the_end() -> None:
    scenario = Scenario("sigkill-recovery", 1, 1)
    with pytest.raises(AssertionError, match="cannot be started again"):
        scenario.aftermath.settle(1)


@pytest.mark.parametrize(("fault", "status"), [("shutdown-fast", 0), ("sigkill-postmaster", -9)])
def test_a_postmaster_that_was_told_to_end_is_started_again(fault: str, status: int) -> None:
    scenario = Scenario(fault, status, None)
    assert scenario.aftermath.settle(1)
    assert scenario.of("postmaster_exit") == [{"cycle": 0, "status": status}]
    assert scenario.target.started == 1


def test_a_postmaster_that_does_not_end_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aftermath, "RECOVERY_DEADLINE_S", 0.01)
    with pytest.raises(
        CampaignError, match=r"the postmaster did not end within 0.01 s of shutdown-fast; see server.log"
    ):
        Scenario("shutdown-fast", None).aftermath.settle(1)


# Orphans.


@pytest.fixture
def orphan() -> Iterator[ServerProcess]:
    """A process that does not notice anything."""
    made = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    held = open_process(made.pid, os.getpid())
    assert held is not None
    yield held
    held.close()
    made.kill()
    made.wait()


@pytest.mark.parametrize(("beside", "outcome", "killed"), [(1, "refused", 0), (None, "started", 1)])
def test_a_start_beside_a_stopped_child_is_tried_and_told_of(
    orphan: ServerProcess, beside: int | None, outcome: str, killed: int
) -> None:
    scenario = Scenario("sigkill-postmaster-orphan", -9, beside, None)
    scenario.strike.scene.stopped = [orphan]
    assert scenario.aftermath.settle(1)
    (told,) = scenario.of("start_beside")
    assert (told["outcome"], told["orphans"]) == (outcome, [orphan.pid])
    assert scenario.target.killed == killed and scenario.strike.went_on == 1
    assert scenario.target.started == 2


def test_an_orphan_that_stays_is_killed_and_told_of(orphan: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aftermath, "ORPHANS_DEADLINE_S", 0.05)
    scenario = Scenario("sigkill-postmaster", -9, None)
    scenario.strike.scene.orphans = [orphan]
    assert scenario.aftermath.settle(1)
    assert scenario.of("orphans") == [{"cycle": 0, "number": 1, "noticed": False}]
    assert "children outlived their postmaster and were killed" in scenario.aftermath.notes
