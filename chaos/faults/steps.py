"""Carrying out the steps of a fault in time: choosing whom, signalling through pidfds, noting each blow.

Owns the processes that it looked at, until `close`. It never waits for what a blow causes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from psycopg import pq

from chaos.driver import Worker, connect
from chaos.faults.cgroup import out_of_memory
from chaos.faults.fault import BeginCheckpoint, Blow, Fault, OutOfMemory, Pause, Send, SilentClient, Whom
from chaos.orphans import Wakener
from chaos.plan import CyclePlan
from chaos.targets.process import ServerProcess, child_pids, open_process
from chaos.targets.target import Target
from chaos.victims import RoleChild, pick
from supervisor.points import Point, PointMap
from supervisor.roles import Role

CHECKPOINT_DEADLINE_S = 10.0
"""For a checkpoint that was asked for to reach its point."""

NOTICED_DEADLINE_S = 2.0
"""For the postmaster to reap a victim."""


class Scene:
    """A running server while a fault strikes it."""

    def __init__(self, plan: CyclePlan, target: Target, points: PointMap | None) -> None:
        self._plan = plan
        self._target = target
        self._points = points
        self._looked_at: list[ServerProcess] = []
        self._live: list[ServerProcess] = []  # when the victims were chosen
        self._victims: list[ServerProcess] | None = None
        self._bystanders: list[ServerProcess] = []
        self._checkpoint: Worker | None = None
        self._wakeners: list[Wakener] = []
        self._silent: pq.abc.PGconn | None = None
        self.stopped: list[ServerProcess] = []
        """Whom a SIGSTOP hit, and nobody has continued or killed."""
        self.orphans: list[ServerProcess] = []
        """The children that the postmaster had when a SIGKILL hit it."""
        self.adopted_before: frozenset[int] = frozenset()
        """The children of this process just before: whoever it has besides afterwards was the postmaster's."""

    def carry_out(self, fault: Fault, wait: Callable[[float], None]) -> list[Blow]:
        """Take the fault's steps, `wait` letting the load go on for so many seconds; what was hit, or just missed."""
        blows: list[Blow] = []
        for part, step in enumerate(fault.steps):
            match step:
                case Pause():
                    wait(self._plan.pause_ms / 1000)
                case BeginCheckpoint():
                    if not self._begin_checkpoint(Point[self._plan.checkpoint_point], wait):
                        blows.append(_missed(Role.CHECKPOINTER.short_name, part))
                        break
                case OutOfMemory():
                    blows += self._starve(part) or [_missed(Whom.VICTIMS.value, part)]
                case SilentClient():
                    if not self._connect_silently(wait):
                        blows.append(_missed("client", part))
                case Send(whom, number):
                    blows += self._send(whom, number, part)
        return blows

    def let_go_on(self) -> None:
        """SIGCONT to whoever is still stopped."""
        for process in self.stopped:
            process.signal(signal.SIGCONT)
        self.stopped.clear()
        for wakener in self._wakeners:
            wakener.close()
        self._wakeners.clear()

    def close(self) -> None:
        """Leave nobody stopped, and let go of what was looked at."""
        self.let_go_on()
        if self._checkpoint is not None:
            self._checkpoint.close()
        if self._silent is not None:
            self._silent.finish()
        for process in self._looked_at:
            process.close()
        self._looked_at.clear()

    def _send(self, whom: Whom, number: signal.Signals, part: int) -> list[Blow]:
        processes = self._chosen(whom)
        if whom is Whom.POSTMASTER and number == signal.SIGKILL:
            self.orphans = self._look()
            self.adopted_before = frozenset(child_pids(os.getpid()))
        blows = []
        for process in processes:
            if number == signal.SIGSTOP:
                self._wakeners.append(Wakener(process.pid))
            t = time.monotonic_ns()
            blows.append(Blow(t, process.pid, process.role, int(number), process.signal(number), part))
            if number == signal.SIGSTOP:
                self.stopped.append(process)
            elif number == signal.SIGKILL and process in self.stopped:
                self.stopped.remove(process)
        return blows or [_missed(whom.value, part)]

    def _starve(self, part: int) -> list[Blow]:
        """Take the memory of a victim, or of the next of its role if it asks for none, until one has died of it."""
        victims = self._chosen(Whom.VICTIMS)
        roles = {victim.role for victim in victims}
        others = [process for process in self._live if process.role in roles and process not in victims]
        blows: list[Blow] = []
        for process in (*victims, *others):
            t = time.monotonic_ns()
            blows.append(Blow(t, process.pid, process.role, signal.SIGKILL, out_of_memory(process.pid), part))
            if blows[-1].landed:
                break
        return blows

    def _chosen(self, whom: Whom) -> Sequence[ServerProcess]:
        if whom is Whom.POSTMASTER:
            postmaster = open_process(self._target.pid, os.getpid())
            if postmaster is None:
                return []
            postmaster = replace(postmaster, role=Role.POSTMASTER.short_name)
            self._looked_at.append(postmaster)
            return [postmaster]
        if self._victims is None:
            self._choose()
        return self._bystanders if whom is Whom.BYSTANDER else self._victims or []

    def _choose(self) -> None:
        """Find victims and bystander among the children that live now; whoever a later step hits is the same."""
        live = self._live = self._look()
        by_pid = {process.pid: process for process in live}
        named = [(process.pid, process.role) for process in live]
        victims = () if self._plan.victims is None else pick(self._plan.victims, named)
        self._victims = [by_pid[pid] for pid in victims]
        if self._plan.bystander is not None:
            others = [(pid, role) for pid, role in named if pid not in victims]
            self._bystanders = [by_pid[pid] for pid in pick(self._plan.bystander, others)]

    def _look(self) -> list[ServerProcess]:
        live = self._target.processes()
        self._looked_at += live
        return live

    def _begin_checkpoint(self, point: Point, wait: Callable[[float], None]) -> bool:
        """Whether a checkpoint has passed the point, or is about to: it was seen after CHECKPOINT was sent."""
        passed = self._passes(point)
        self._checkpoint = Worker(connect(self._target.conninfo))
        self._checkpoint.send(b"CHECKPOINT")
        deadline = time.monotonic() + CHECKPOINT_DEADLINE_S
        while self._passes(point) == passed:
            if self._checkpoint.read() is not None or time.monotonic() >= deadline:
                return False
            wait(0.0)
        return True

    def _connect_silently(self, wait: Callable[[float], None]) -> bool:
        """Whether there is a connection, made after the victims were reaped and with nobody to speak for it."""
        deadline = time.monotonic() + NOTICED_DEADLINE_S
        while any(process.pid in child_pids(self._target.pid) for process in self._victims or []):
            if time.monotonic() >= deadline:
                return False
            wait(0.001)
        # The first step of libpq's is to connect; the startup packet would be the second.
        self._silent = pq.PGconn.connect_start(self._target.conninfo.encode())
        return self._silent.status != pq.ConnStatus.BAD

    def _passes(self, point: Point) -> int:
        assert self._points is not None  # a fault that needs points is not available without (`Need.POINTS`)
        return self._points.counts().get((Role.CHECKPOINTER, point), 0)


def strike_one(target: Target, victim: RoleChild, number: signal.Signals) -> list[Blow]:
    """Signal one child now: what makes a process be forked anew that a point is armed for."""
    live = target.processes()
    try:
        pids = pick(victim, [(process.pid, process.role) for process in live])
        return [
            Blow(time.monotonic_ns(), process.pid, process.role, int(number), process.signal(number))
            for process in live
            if process.pid in pids
        ]
    finally:
        for process in live:
            process.close()


def _missed(role: str, part: int) -> Blow:
    return Blow(time.monotonic_ns(), 0, role, 0, False, part)
