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
from chaos.faults import FAULTS, Blow, Fault
from chaos.faults.signals import SIGTERM_ROLE
from chaos.plan import CyclePlan, FaultKind, PointPlacement, TimePlacement, Trigger, TriggerKind, Victims
from chaos.targets.target import Target
from chaos.verdict import LEAST_ACKNOWLEDGED
from supervisor.points import PointMap

DEADLINE_S = 30.0
"""For the load's 20th acknowledgement, and for an armed point to be reached."""


class Strike:
    """The fault of one cycle; a target without points has no map of them, and its plans place nothing at one. `prepare` before the workers connect, `fall` while they work."""

    def __init__(self, plan: CyclePlan, target: Target, points: PointMap | None) -> None:
        self._plan = plan
        self._target = target
        self._points = points
        self._arm: int | None = None
        self._unseen_ns = 0  # the armed point had not been hit by then
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
        return self._arm is None and bool(self.blows) and isinstance(self._plan.placement, PointPlacement)

    def prepare(self) -> None:
        """Arm the plan's point if it is one that the cycle's own workers pass."""
        self._disarm_all()
        if isinstance(self._plan.placement, PointPlacement) and self._plan.trigger is None:
            self._set_arm(self._plan.placement)

    def fall(self, load: Load) -> None:
        """Wait for the plan's moment and strike; returns when a blow has landed, or cannot any more.

        A point of recovery is reached after this: `look` notices it. Raises CampaignError when time is up.
        """
        match self._plan.placement:
            case TimePlacement() as placement:
                assert self._plan.victims is not None
                self._wait_for_moment(placement.delay_ms, load)
                self.blows = self._inject(FAULTS[self._plan.fault], self._plan.victims)
            case PointPlacement() as placement:
                if self._plan.trigger is not None:
                    self._pull(self._plan.trigger, placement, load)
                if not self.trigger:
                    self._wait_for_point(load)

    def look(self) -> None:
        """See whether the armed point was hit since the last look."""
        if self._arm is None:
            return
        assert self._points is not None
        now = time.monotonic_ns()
        pid = self._points.fired(self._arm)
        if pid is None:
            self._unseen_ns = now
            return
        assert isinstance(self._plan.placement, PointPlacement)
        role = self._plan.placement.arm().role.short_name
        self.blows = [Blow(self._unseen_ns, pid, role, int(signal.SIGKILL), True)]
        self._arm = None

    def disarm(self) -> None:
        """Take the arm back: nobody may be hit from now on. A point that was not reached is a blow that missed."""
        self.look()
        self._disarm_all()
        if self._arm is not None:
            assert isinstance(self._plan.placement, PointPlacement)
            role = self._plan.placement.arm().role.short_name
            self.blows = [Blow(time.monotonic_ns(), 0, role, int(signal.SIGKILL), False)]
            self._arm = None

    def _disarm_all(self) -> None:
        if self._points is not None:
            self._points.disarm_all()

    def _set_arm(self, placement: PointPlacement) -> None:
        if self._points is None:
            raise CampaignError(f"cycle {self._plan.cycle}: the target has no points")
        self._arm = self._points.arm(placement.arm())
        self._unseen_ns = time.monotonic_ns()

    def _pull(self, trigger: Trigger, placement: PointPlacement, load: Load) -> None:
        self._wait_for_moment(trigger.delay_ms, load)
        self._set_arm(placement)
        if trigger.kind is TriggerKind.CRASH:
            self.trigger = self._inject(FAULTS[FaultKind.SIGKILL_ROLE], trigger.victim)
        else:
            self._inject(SIGTERM_ROLE, trigger.victim)

    def _inject(self, fault: Fault, victims: Victims) -> list[Blow]:
        processes = self._target.processes()
        try:
            return fault.inject(victims, processes)
        finally:
            for process in processes:
                process.close()

    def _wait_for_moment(self, delay_ms: float, load: Load) -> None:
        """The 20th acknowledgement, and so many milliseconds more."""
        deadline = time.monotonic() + DEADLINE_S
        while load.acknowledged() < LEAST_ACKNOWLEDGED and not load.over():
            self._give_up_at(deadline, f"the load's {LEAST_ACKNOWLEDGED}th acknowledgement", load)
            load.wait()
        moment = time.monotonic() + delay_ms / 1000
        while (left := moment - time.monotonic()) > 0:
            load.acknowledged()
            load.wait(min(left, 0.002))

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
