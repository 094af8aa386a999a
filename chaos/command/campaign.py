"""A campaign against a command: starts of the server, cycles of fault and recovery, stops; and the record of them.

Owns the order of things. It decides nothing that a seed should decide (`chaos.command.plan`) and judges nothing
(`chaos.command.sitting` does, later, from what was written here and by the kernel's witness).

One cycle: wait until the set of processes is unchanged for the plan's pause; look at all processes; strike; wait until
what the policy promises has come, or for twice as long as it may take; ask the server until it answers; look again.
What the waits end with only paces the campaign. A server that is not what it was by then is stopped, and the next
cycle begins with a fresh one.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.command.plan import MAIN, SIGNALS, CommandCycle, CommandFault, CommandPlan, Policy
from chaos.command.tree import Member
from chaos.errors import CampaignError
from chaos.faults import Blow
from chaos.oracles.command.service import NOT_REPLACED
from chaos.targets.command import CommandTarget
from chaos.victims import pick
from reports.rundir import RunDirectory

PATIENCE = 2.0
"""What comes too late is waited for as long again, so that the verdict can say how late it was."""
SETTLE_DEADLINE_S = 30.0


@dataclass(slots=True)
class CommandResult:
    """What the live view shows of a cycle; none of it is evidence."""

    plan: CommandCycle
    blows: list[Blow] = field(default_factory=list)
    ready_ms: float | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Before:
    """The children of the plan's roles that lived when the blow fell."""

    pids: frozenset[int]
    roles: Counter[str]


class CommandCampaign:
    """One campaign over one command, written into one run directory."""

    def __init__(
        self,
        run: RunDirectory,
        plan: CommandPlan,
        target: CommandTarget,
        *,
        on_cycle: Callable[[CommandResult], None],
        on_start: Callable[[int], None],
    ) -> None:
        self._run = run
        self._plan = plan
        self._target = target
        self._on_cycle = on_cycle
        self._on_start = on_start
        self._events = run.harness_writer()
        self._struck_ns = 0

    def run(self, first_cycle: int, more: Callable[[int], bool]) -> None:
        """Run cycles from `first_cycle` on while `more(cycle)` says so.

        Raises CampaignError, TargetError, RunDirectoryError, OSError. The server is the target's owner's to end.
        """
        cycle = first_cycle
        while more(cycle):
            epoch = cycle // self._plan.epoch_cycles
            last = (epoch + 1) * self._plan.epoch_cycles
            self._begin(epoch)
            whole = True
            while whole and cycle < last and more(cycle):
                whole = self._cycle(self._plan.cycle(cycle))
                cycle += 1
            self._end(epoch)

    def close(self) -> None:
        """Close the file that was written."""
        self._events.close()

    # -- one start of the server

    def _begin(self, epoch: int) -> None:
        self._emit("epoch_begin", epoch=epoch)
        pid = self._target.start()
        self._on_start(pid)
        self._emit("postmaster", child=pid)
        if self._target.wait_ready(deadline_s=self._plan.ready.deadline_s) is None:
            status = self._target.exited()
            what = f"ended with status {status}" if status is not None else "did not answer"
            raise CampaignError(
                f"the command {what} within {self._plan.ready.deadline_s:g} s of its start (ready: "
                f"{self._question()}); see {self._run.server_log}:\n{self._target.log_tail()}"
            )

    def _end(self, epoch: int) -> None:
        """Stop the server if it still runs, and let its guardian end whom it left."""
        expect = self._plan.expect
        if self._target.exited() is None:
            # A zombie is one only when its parent has had its time.
            settled = self._struck_ns + round(expect.reaped_s * 1e9)
            self._target.wait_until(lambda: time.monotonic_ns() > settled, deadline_s=expect.reaped_s + 1)
            self._look(None)
            number = signal.Signals[self._plan.stop_signal]
            self._emit("stop", child=self._target.pid, sig=int(number))
            self._target.main.signal(number)
            self._wait_ended(expect.stopped_s)
        self._look(None)
        self._emit("epoch_end", epoch=epoch, exit=self._target.exited())
        self._target.end()

    # -- one cycle

    def _cycle(self, plan: CommandCycle) -> bool:
        """Whether the server is whole again afterwards."""
        result = CommandResult(plan)
        self._emit("cycle_begin", cycle=plan.cycle, epoch=plan.epoch, plan=plan)
        self._settle(plan)
        before = self._look(plan.cycle)
        result.blows = self._strike(plan)
        for blow in result.blows:
            self._emit("fault", t=blow.t, cycle=plan.cycle, fault=plan.fault, child=blow.pid, role=blow.role,
                       sig=blow.signal, outcome="landed" if blow.landed else "missed")  # fmt: skip
        landed = [blow for blow in result.blows if blow.landed]
        whole = True
        if not landed:
            result.notes.append("the fault missed")
        else:
            self._struck_ns = landed[0].t
            whole = self._recover(plan, before, landed, result)
        self._look(plan.cycle)
        self._emit("cycle_end", cycle=plan.cycle, notes=result.notes)
        self._on_cycle(result)
        return whole

    def _settle(self, plan: CommandCycle) -> None:
        """Until the same children with a role have lived for the plan's pause, and the plan's delay is over."""
        seen: frozenset[int] = frozenset()
        since = time.monotonic()

        def settled() -> bool:
            nonlocal seen, since
            now = self._named().pids
            if now != seen:
                seen, since = now, time.monotonic()
            return bool(seen) and time.monotonic() - since >= self._plan.pause_s

        if not self._target.wait_until(settled, deadline_s=SETTLE_DEADLINE_S + self._plan.pause_s):
            with self._target.members() as members:
                there = ", ".join(f"{m.process.role} {m.process.pid}" for m in members) or "none"
            raise CampaignError(
                f"cycle {plan.cycle}: no lasting set of processes with a role of the plan ({', '.join(self._plan.roles)}) "
                f"within {SETTLE_DEADLINE_S:g} s; there are: {there}; see {self._run.server_log}"
            )
        select.select((), (), (), plan.delay_ms / 1000)

    def _strike(self, plan: CommandCycle) -> list[Blow]:
        number = SIGNALS[plan.fault]
        with self._target.members() as members:
            if plan.victims is None:
                chosen = [self._target.main]
            else:
                live = [m.process for m in members if m.alive and m.process.role in self._plan.targets]
                by_pid = {process.pid: process for process in live}
                chosen = [by_pid[pid] for pid in pick(plan.victims, [(p.pid, p.role) for p in live])]
            blows = []
            for victim in chosen:
                t = time.monotonic_ns()
                role = MAIN if victim is self._target.main else victim.role
                blows.append(Blow(t, victim.pid, role, int(number), victim.signal(number)))
        return blows

    def _recover(self, plan: CommandCycle, before: _Before, landed: Sequence[Blow], result: CommandResult) -> bool:
        """Wait for what is promised, and for the server's answer; whether the server is as it was."""
        expect = self._plan.expect
        victims = frozenset(blow.pid for blow in landed)
        hung_s = expect.hung_s if plan.fault is CommandFault.SIGSTOP else 0.0
        if plan.fault is CommandFault.SIGKILL_MAIN:
            result.notes += self._wait_ended(SETTLE_DEADLINE_S)
            return False
        if expect.policy is Policy.DRAIN:
            result.notes += self._wait_ended(expect.drained_s + hung_s)
            return False
        came = self._target.wait_until(
            lambda: self._target.exited() is not None or self._replaced(before, victims),
            deadline_s=PATIENCE * (expect.replaced_s + hung_s),
        )
        if self._target.exited() is not None:
            result.notes += [f"the server ended with status {self._target.exited()}", *self._wait_ended(0)]
            return False
        if not came:
            result.notes.append(NOT_REPLACED)
        ready_ns = self._target.wait_ready(deadline_s=PATIENCE * expect.ready_s)
        if ready_ns is None:
            result.notes.append("no answer")
            return False
        self._emit("ready", t=ready_ns, cycle=plan.cycle, outcome="" if came else NOT_REPLACED)
        result.ready_ms = (ready_ns - landed[0].t) / 1e6
        return came

    def _wait_ended(self, bound_s: float) -> list[str]:
        """Wait for the main process's end and then for its children's; what is to be noted of who stays."""
        if not self._target.wait_until(lambda: self._target.exited() is not None, deadline_s=PATIENCE * bound_s):
            return ["the server did not end"]
        if not self._target.wait_until(lambda: not self._living(), deadline_s=PATIENCE * self._plan.expect.orphaned_s):
            return [f"{len(self._living())} children outlive the main process"]
        return []

    def _replaced(self, before: _Before, victims: frozenset[int]) -> bool:
        """Whether there are as many of each role as before, and nobody of those who had to go."""
        now = self._named()
        gone = victims if self._plan.expect.policy is Policy.RESTART_ONE else before.pids
        return not now.pids & gone and now.roles == before.roles

    # -- looking

    def _named(self) -> _Before:
        with self._target.members() as members:
            return self._with_roles(members)

    def _with_roles(self, members: Sequence[Member]) -> _Before:
        named = [m.process for m in members if m.alive and m.process.role in self._plan.roles]
        return _Before(frozenset(p.pid for p in named), Counter(p.role for p in named))

    def _living(self) -> list[int]:
        with self._target.members() as members:
            return [m.process.pid for m in members if m.alive]

    def _look(self, cycle: int | None) -> _Before:
        """Record every process of the server, as /proc shows it now."""
        with self._target.members() as members:
            self._emit("processes", cycle=cycle, processes=[member.seen() for member in members])
            return self._with_roles(members)

    def _question(self) -> str:
        ready = self._plan.ready
        return str(ready.http or ready.tcp or ready.unix or " ".join(ready.command or ()))

    def _emit(self, ev: str, **fields: Any) -> None:
        self._events.append({"t": time.monotonic_ns(), "pid": os.getpid(), "ev": ev, **fields})
