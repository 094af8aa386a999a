"""What a fault causes, waited for: a recovery, the end of a postmaster and a new start, or nothing but a replacement.

Owns the waiting and the new starts, and the records of both. It goes by what the server does and not by what the fault
promises: a postmaster that ends is started again, whatever ended it, and whether it should have ended is for the
oracles. It never judges, and never looks at data.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from chaos.drivers.driver import Load
from chaos.errors import CampaignError
from chaos.faults import FAULTS, Consequence
from chaos.plan import CyclePlan
from chaos.strike import Strike
from chaos.targets.process import ServerProcess, child_pids, open_process, wait_ended
from chaos.targets.target import Target, TargetError

LOAD_DEADLINE_S = 30.0
RECOVERY_DEADLINE_S = 30.0
ORPHANS_DEADLINE_S = 10.0
"""How long children may take to notice that their postmaster is gone."""
STARTUP_KILLED = 1
"""With what a postmaster exits whose startup process was killed (specification 2.3)."""
_ENDS_THE_POSTMASTER = frozenset({Consequence.NEW_START, Consequence.SHUTDOWN})


@dataclass(frozen=True, slots=True)
class Starting:
    """How a postmaster is started again. `exec` returns its pid at once; `unobservable` makes the exception to raise
    when there is no way to see the data any more, from why."""

    exec: Callable[[], int]
    unobservable: Callable[[str], Exception]


class Aftermath:
    """What follows one strike."""

    def __init__(
        self, plan: CyclePlan, target: Target, strike: Strike, load: Load, starting: Starting, emit: Callable[..., Any]
    ) -> None:
        self._plan = plan
        self._target = target
        self._strike = strike
        self._load = load
        self._starting = starting
        self._emit = emit
        self._causes = FAULTS[plan.fault].causes
        self.acknowledged = 0
        self.notes: list[str] = []

    def settle(self, generation: int) -> bool:
        """Wait until the server serves again, and return whether that took a recovery after `generation` or a start.

        Nobody writes any more when it returns. Raises CampaignError, TargetError, Unobservable.
        """
        if not self._strike.decisive or self._causes is Consequence.REPLACEMENT:
            self._strike.scene.let_go_on()
            self._wait_for(self._load.over, LOAD_DEADLINE_S, "the load did not end")
            self._strike.disarm()
            return False
        if self._causes in _ENDS_THE_POSTMASTER:
            self._outlive_postmaster()
        else:
            self._recover(generation)
        return True

    def _recover(self, generation: int) -> None:
        """Wait until every connection has ended and a later generation serves."""
        self._wait_for(self._load.over, RECOVERY_DEADLINE_S, "connections outlive the crash")

        def serves() -> bool:
            self._strike.look()
            return self._target.ready_generation > generation

        try:
            self._target.wait_until(
                serves, f"no generation after {generation} became ready", deadline_s=RECOVERY_DEADLINE_S
            )
        except TargetError:
            status = self._target.exited()
            if status is None:
                raise
            self._strike.look()
            self._tell_exit(status, self._for_a_recovery(status))
            self._start_again()
        self._strike.disarm()

    def _for_a_recovery(self, status: int) -> str:
        hit = any(blow.role == "startup" and blow.landed for blow in self._strike.blows)
        return ", as it must" if status == STARTUP_KILLED and hit else " instead of recovering"

    def _start_again(self) -> None:
        """Start a new postmaster, and another for each that is hit in its own recovery as the plan means it."""
        while True:
            if not self._strike.halfway:
                self._strike.disarm()
            seen = len(self._strike.blows)
            self._starting.exec()
            try:
                self._target.wait_ready()
                return
            except TargetError as error:
                status = self._target.exited()
                if status is None:
                    raise
                self._strike.look()
                if len(self._strike.blows) == seen:
                    why = f"the server cannot be started again: {error}"
                    raise self._starting.unobservable(why) from error
                self._tell_exit(status, self._for_a_recovery(status))

    def _outlive_postmaster(self) -> None:
        """Wait for the postmaster's end, let its orphans go, and start another.

        A smart shutdown waits for the clients, so they leave when they have done their work.
        """

        def ended() -> bool:
            if self._load.over():
                self.acknowledged = self._load.acknowledged()
                self._load.close()
            return self._target.exited() is not None

        self._wait_for(ended, RECOVERY_DEADLINE_S, "the postmaster did not end")
        status = self._target.exited()
        assert status is not None
        self._tell_exit(status, ", as it must" if status == 0 and self._causes is Consequence.SHUTDOWN else "")
        self._strike.disarm()
        if self._strike.scene.stopped:
            self._try_to_start_beside()
            self._strike.scene.let_go_on()
        self._see_off(self._strike.scene.orphans)
        self._wait_for(self._load.over, RECOVERY_DEADLINE_S, "connections outlive the postmaster")
        self._start_again()

    def _try_to_start_beside(self) -> None:
        """Start a server while a process of the one before lives: the interlock must refuse it."""
        pid = self._starting.exec()
        beside = [process.pid for process in self._strike.scene.stopped]
        with suppress(TargetError):
            self._target.wait_ready()
        status = self._target.exited()
        outcome = "started" if status is None else "refused"
        self._emit("start_beside", cycle=self._plan.cycle, child=pid, orphans=beside, status=status, outcome=outcome)
        if status is None:
            self.notes.append(f"a server started beside PID {beside[0]} of the one before")
            self._target.kill()
        else:
            self.notes.append(f"no start beside PID {beside[0]} of the one before, as it must")

    def _see_off(self, orphans: Sequence[ServerProcess]) -> None:
        """Wait for the postmaster's children to notice its end; those that do not are killed, and told of.

        This process has become their parent (`chaos.orphans`), so it reaps them.
        """
        if not orphans:
            return
        gone = wait_ended(orphans, deadline_s=ORPHANS_DEADLINE_S)
        adopted = [pid for pid in child_pids(os.getpid()) if pid not in self._strike.scene.adopted_before]
        # Whom the postmaster forked after the look at its children.
        late = [process for pid in adopted if (process := open_process(pid, os.getpid())) is not None]
        try:
            gone = wait_ended(late, deadline_s=ORPHANS_DEADLINE_S) and gone
            if not gone:
                left = [process for process in (*orphans, *late) if process.signal(signal.SIGKILL)]
                wait_ended(left, deadline_s=ORPHANS_DEADLINE_S)
                self.notes.append("children outlived their postmaster and were killed")
            self._emit("orphans", cycle=self._plan.cycle, number=len(orphans) + len(late), noticed=gone)
            for process in (*orphans, *late):
                with suppress(ChildProcessError):  # it was not adopted, or has been reaped
                    os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOHANG)
        finally:
            for process in late:
                process.close()

    def _tell_exit(self, status: int, remark: str) -> None:
        self._emit("postmaster_exit", cycle=self._plan.cycle, status=status)
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        self.notes.append(f"the postmaster {how}{remark}; started again")

    def _wait_for(self, condition: Callable[[], bool], deadline_s: float, what: str) -> None:
        deadline = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() >= deadline:
                raise CampaignError(
                    f"cycle {self._plan.cycle}: {what} within {deadline_s:g} s of {self._plan.fault}; "
                    f"see {self._target.log_path}"
                )
            self._load.wait()
            self._strike.look()
        self.acknowledged = max(self.acknowledged, self._load.acknowledged())
