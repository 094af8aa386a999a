"""One cycle's fault on its way: armed, awaited, done, noticed.

Owns the moment and the arm: when a plan's fault is due, which processes must be forked anew for a point to be armed
in them, and what was hit when. It never decides what is hit (the plan does) and never waits for what a blow causes
(the campaign does).

A blow at a point falls inside the server, and the harness learns of it at its next look. Its time is that of the
last look that did not see it: everything acknowledged before that was certainly acknowledged before the blow.
"""

from __future__ import annotations

import signal
import time

from chaos.drivers.driver import Load
from chaos.errors import CampaignError
from chaos.faults import FAULTS, Blow
from chaos.faults.steps import Scene, strike_one
from chaos.plan import CyclePlan, PointPlacement, TimePlacement, Trigger, TriggerKind
from chaos.targets.target import Target
from chaos.verdict import LEAST_ACKNOWLEDGED
from supervisor.points import PointAction, PointMap

DEADLINE_S = 30.0
"""For the load's 20th acknowledgement, and for an armed point to be reached."""


class Strike:
    """The fault of one cycle. `prepare` before the workers connect, `fall` while they work.

    A target without points has no map of them, and its plans place nothing at one.
    """

    def __init__(self, plan: CyclePlan, target: Target, points: PointMap | None) -> None:
        self._plan = plan
        self._target = target
        self._points = points
        self._arms: list[int] = []  # set, and not seen to be hit
        self._unseen_ns = 0  # none of them had been hit by then
        self.scene = Scene(plan, target, points)
        self.trigger: list[Blow] = []
        """The crash that forks the point's process anew, if the plan needs one."""
        self.blows: list[Blow] = []
        """What the plan's fault hit, or just missed."""

    @property
    def begun_ns(self) -> int | None:
        """When the first blow landed (CLOCK_MONOTONIC ns); None while none has."""
        return min((blow.t for blow in (*self.trigger, *self.blows) if blow.landed), default=None)

    @property
    def fired(self) -> bool:
        """Whether the armed point was hit, as far as anybody has looked."""
        return any(blow.landed for blow in self.blows) and isinstance(self._plan.placement, PointPlacement)

    @property
    def halfway(self) -> bool:
        """Whether the armed point was hit, and is to be hit again."""
        return self.fired and bool(self._arms)

    @property
    def decisive(self) -> bool:
        """Whether something was done that the server must act on: to stop a process is nothing by itself."""
        return any(blow.landed and blow.signal != signal.SIGSTOP for blow in (*self.trigger, *self.blows))

    def prepare(self) -> None:
        """Arm the plan's point if it is one that the cycle's own workers pass."""
        self._disarm_all()
        if isinstance(self._plan.placement, PointPlacement) and self._plan.trigger is None:
            self._set_arms(self._plan.placement)

    def fall(self, load: Load) -> None:
        """Wait for the plan's moment and strike; returns when a blow has landed, or cannot any more.

        A point of recovery is reached after this: `look` notices it. Raises CampaignError when time is up.
        """
        match self._plan.placement:
            case TimePlacement() as placement:
                self._wait_for_moment(placement.delay_ms, load)
                self.blows = self.scene.carry_out(FAULTS[self._plan.fault], lambda wait_s: self._let_pass(wait_s, load))
            case PointPlacement() as placement:
                if self._plan.trigger is not None:
                    self._pull(self._plan.trigger, placement, load)
                if not self.trigger:
                    self._wait_for_point(load)

    def look(self) -> None:
        """See whether the armed point was hit since the last look."""
        if not self._arms:
            return
        assert self._points is not None
        now = time.monotonic_ns()
        hit = [(arm, pid) for arm in self._arms if (pid := self._points.fired(arm)) is not None]
        for arm, pid in hit:
            self.blows.append(self._blow_at_point(self._unseen_ns, pid, landed=True))
            self._arms.remove(arm)
        if not hit:
            self._unseen_ns = now

    def disarm(self) -> None:
        """Take the arms back: nobody may be hit from now on. A point that was not reached is a blow that missed."""
        self.look()
        self._disarm_all()
        for _ in self._arms:
            self.blows.append(self._blow_at_point(time.monotonic_ns(), 0, landed=False))
        self._arms.clear()

    def close(self) -> None:
        """Leave nobody stopped and nothing open."""
        self.scene.close()

    def _disarm_all(self) -> None:
        if self._points is not None:
            self._points.disarm_all()

    def _set_arms(self, placement: PointPlacement) -> None:
        if self._points is None:
            raise CampaignError(f"cycle {self._plan.cycle}: the target has no points")
        points = self._points
        self._arms = [points.arm(placement.arm()) for _ in range(placement.times)]
        self._unseen_ns = time.monotonic_ns()

    def _blow_at_point(self, t: int, pid: int, *, landed: bool) -> Blow:
        """The next of the plan's blows at its point; each is a part of its own, for each was meant."""
        assert isinstance(self._plan.placement, PointPlacement)
        arm = self._plan.placement.arm()
        exits = arm.action is PointAction.EXIT
        return Blow(
            t, pid, arm.role.short_name, 0 if exits else int(signal.SIGKILL), landed,
            part=len(self.blows), code=arm.argument if exits else None,
        )  # fmt: skip

    def _pull(self, trigger: Trigger, placement: PointPlacement, load: Load) -> None:
        self._wait_for_moment(trigger.delay_ms, load)
        self._set_arms(placement)
        if trigger.kind is TriggerKind.CRASH:
            self.trigger = strike_one(self._target, trigger.victim, signal.SIGKILL)
        else:
            strike_one(self._target, trigger.victim, signal.SIGTERM)  # it breaks nothing: it makes room for another

    def _wait_for_moment(self, delay_ms: float, load: Load) -> None:
        """The 20th acknowledgement, and so many milliseconds more."""
        deadline = time.monotonic() + DEADLINE_S
        while load.acknowledged() < LEAST_ACKNOWLEDGED and not load.over():
            self._give_up_at(deadline, f"the load's {LEAST_ACKNOWLEDGED}th acknowledgement", load)
            load.wait()
        self._let_pass(delay_ms / 1000, load)

    def _let_pass(self, wait_s: float, load: Load) -> None:
        """So many seconds, the load going on; without any, one look at it."""
        moment = time.monotonic() + wait_s
        load.acknowledged()
        while (left := moment - time.monotonic()) > 0:
            load.wait(min(left, 0.002))
            load.acknowledged()

    def _wait_for_point(self, load: Load) -> None:
        """Until the armed point is hit, or nobody is left who could reach it."""
        deadline = time.monotonic() + DEADLINE_S
        self.look()
        while not self.fired and not load.over():
            self._give_up_at(deadline, "an armed point", load)
            load.acknowledged()
            load.wait()
            self.look()
        # The blow that ended the last connection may have fallen since the last look.
        self.look()

    def _give_up_at(self, deadline: float, what: str, load: Load) -> None:
        if time.monotonic() >= deadline:
            raise CampaignError(
                f"cycle {self._plan.cycle}: {what} did not come within {DEADLINE_S:g} s "
                f"({load.acknowledged()} acknowledged; {'; '.join(load.complaints()) or 'no complaint'}); "
                f"see {self._target.log_path}"
            )
