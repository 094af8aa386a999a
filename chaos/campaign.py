"""A campaign: epochs of cycles of load, fault, recovery and observation.

Owns the order of things and the harness's record of them. It decides nothing that a seed should decide (that is
`chaos.plan`) and judges nothing (that is `chaos.judge`, a stage of its own that reads what was written here).

One cycle: arm a point if the plan says so; open the workers; wait for the plan's moment; strike; wait until a
later generation serves; commit one operation as the first sign of life; look at the data; look at the memory
maps of every process. An epoch begins with a fresh cluster and ends with a look at everything.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from chaos.driver import CallError, ConnectError, OutsideClient, run_call, run_statement
from chaos.faults import FAULTS, Blow
from chaos.load import Load, probe_request
from chaos.plan import CampaignPlan, CyclePlan, PointPlacement, TimePlacement
from chaos.targets.builtin import BuiltinTarget, TargetError
from chaos.verdict import LEAST_ACKNOWLEDGED
from chaos.witness.proc_maps import mapped_memories
from reports.records import RecordWriter
from reports.rundir import RunDirectory
from supervisor.points import PointMap
from workloads.history import HistoryWriter
from workloads.registry import WORKLOADS
from workloads.workload import Observation, Workload, last_operation_of

PLACEMENT_DEADLINE_S = 30.0
RECOVERY_DEADLINE_S = 30.0
# Exits of the postmaster that specification 2.3 prescribes: its startup process was killed.
EXPECTED_EXITS = (1,)


class CampaignError(Exception):
    """The harness or the server did something that no cycle plans for; the message says what and where to look."""


class Unobservable(Exception):
    """The recovered server cannot show its data: recorded, to be judged, and the end of the campaign."""


@dataclass(slots=True)
class CycleResult:
    """What the live view shows of a cycle; none of it is evidence."""

    plan: CyclePlan
    acknowledged: int = 0
    blows: list[Blow] = field(default_factory=list)
    ready_ms: float | None = None
    first_commit_ms: float | None = None
    notes: list[str] = field(default_factory=list)


class Campaign:
    """One campaign over the built-in server, written into one run directory."""

    def __init__(
        self,
        run: RunDirectory,
        plan: CampaignPlan,
        target: BuiltinTarget,
        points: PointMap,
        *,
        on_cycle: Callable[[CycleResult], None],
        on_start: Callable[[int], None],
    ) -> None:
        self._run = run
        self._plan = plan
        self._target = target
        self._points = points
        self._on_cycle = on_cycle
        self._on_start = on_start
        self._events: RecordWriter = run.harness_writer()
        self._observed: RecordWriter = run.observed_writer()
        self._history = HistoryWriter(str(run.history), os.getpid(), time.monotonic_ns)
        self._template = run.path / "template"
        # Per workload: the last observation of this epoch, which the next one continues.
        self._previous: dict[str, tuple[int, Observation]] = {}

    def run(self, first_cycle: int, more: Callable[[int], bool]) -> None:
        """Run cycles from `first_cycle` on while `more(cycle)` says so; each epoch on a fresh cluster.

        Raises CampaignError, TargetError, RunDirectoryError. Whatever happens, no server is left running.
        """
        cycle = first_cycle
        try:
            while more(cycle):
                epoch = cycle // self._plan.epoch_cycles
                last = (epoch + 1) * self._plan.epoch_cycles
                self._begin_epoch(epoch)
                while cycle < last and more(cycle):
                    self._cycle(self._plan.cycle(cycle))
                    cycle += 1
                self._end_epoch(epoch, cycle - 1)
        finally:
            self._target.close()
            self._history.close()

    # -- epochs

    def _begin_epoch(self, epoch: int) -> None:
        self._emit("epoch_begin", epoch=epoch)
        self._previous.clear()
        data = self._target.data_directory
        if not self._template.exists():
            self._target.make_data_directory(self._template)
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(self._template, data)
        self._points.disarm_all()
        self._start()
        for name in self._plan.workloads:
            run_call(self._target.conninfo, f"{name}_setup", {})
        # What is judged begins here: the first crash must not be able to take the tables away.
        run_statement(self._target.conninfo, b"CHECKPOINT")

    def _end_epoch(self, epoch: int, cycle: int) -> None:
        for name in self._plan.workloads:
            self._observe(WORKLOADS[name], cycle, everything=True)
        status = self._target.stop()
        self._emit("epoch_end", epoch=epoch, exit=status)
        if status != 0:
            raise CampaignError(
                f"the server stopped with status {status} at the end of epoch {epoch}; see {self._run.server_log}"
            )

    def _start(self) -> None:
        pid = self._target.start()
        self._on_start(pid)
        self._emit("postmaster", child=pid)
        self._target.wait_ready()

    # -- one cycle

    def _cycle(self, plan: CyclePlan) -> None:
        result = CycleResult(plan)
        workload = WORKLOADS[plan.workload]
        generation = self._target.journal.ready_generation
        self._emit("cycle_begin", cycle=plan.cycle, epoch=plan.epoch, plan=plan)
        arm = None
        self._points.disarm_all()
        if isinstance(plan.placement, PointPlacement):
            arm = self._points.arm(plan.placement.arm())
        load = Load(self._target.conninfo, workload, plan, self._run.history, self._history)
        try:
            if arm is None:
                self._strike_in_time(plan, load, result)
            else:
                self._wait_for_point(plan, arm, load, result)
            for blow in result.blows:
                self._emit("fault", t=blow.t, cycle=plan.cycle, fault=plan.fault, child=blow.pid, role=blow.role,
                           sig=blow.signal, outcome="landed" if blow.landed else "missed")  # fmt: skip
            if any(blow.landed for blow in result.blows):
                self._recover(plan, generation, load, result)
            else:
                self._let_finish(load, result)
        finally:
            load.close()
        if any(blow.landed for blow in result.blows):
            self._first_commit(plan, workload, result)
        self._observe(workload, plan.cycle)
        self._look_at_memory(plan.cycle)
        result.notes += load.complaints()
        self._emit("cycle_end", cycle=plan.cycle, acknowledged=result.acknowledged, notes=result.notes)
        self._on_cycle(result)

    def _strike_in_time(self, plan: CyclePlan, load: Load, result: CycleResult) -> None:
        assert isinstance(plan.placement, TimePlacement) and plan.victims is not None
        deadline = time.monotonic() + PLACEMENT_DEADLINE_S
        while load.acknowledged() < LEAST_ACKNOWLEDGED and not load.over():
            self._give_up_at(deadline, "the load's 20th acknowledgement", plan, load)
            load.wait()
        moment = time.monotonic() + plan.placement.delay_ms / 1000
        while (left := moment - time.monotonic()) > 0:
            load.acknowledged()
            load.wait(min(left, 0.002))
        processes = self._target.processes()
        try:
            result.blows = FAULTS[plan.fault].inject(plan.victims, processes)
        finally:
            for process in processes:
                process.close()
        result.acknowledged = load.acknowledged()

    def _wait_for_point(self, plan: CyclePlan, arm: int, load: Load, result: CycleResult) -> None:
        deadline = time.monotonic() + PLACEMENT_DEADLINE_S
        while (pid := self._points.fired(arm)) is None and not load.over():
            self._give_up_at(deadline, "an armed point", plan, load)
            load.acknowledged()
            load.wait()
        pid = self._points.fired(arm)
        result.acknowledged = load.acknowledged()
        if pid is not None:
            assert isinstance(plan.placement, PointPlacement)
            role = plan.placement.arm().role.short_name
            result.blows = [Blow(time.monotonic_ns(), pid, role, int(signal.SIGKILL), True)]

    def _give_up_at(self, deadline: float, what: str, plan: CyclePlan, load: Load) -> None:
        if time.monotonic() >= deadline:
            raise CampaignError(
                f"cycle {plan.cycle}: {what} did not come within {PLACEMENT_DEADLINE_S:g} s "
                f"({load.acknowledged()} acknowledged; {'; '.join(load.complaints()) or 'no complaint'}); "
                f"see {self._run.server_log}"
            )

    def _recover(self, plan: CyclePlan, generation: int, load: Load, result: CycleResult) -> None:
        """Wait until every connection has ended and a later generation serves."""
        struck = min(blow.t for blow in result.blows if blow.landed)
        deadline = time.monotonic() + RECOVERY_DEADLINE_S
        while not load.over():
            if time.monotonic() >= deadline:
                raise CampaignError(
                    f"cycle {plan.cycle}: connections outlive the crash by {RECOVERY_DEADLINE_S:g} s; "
                    f"see {self._run.server_log}"
                )
            load.wait()
        result.acknowledged = load.acknowledged()
        try:
            ready = self._target.wait_ready(generation, deadline_s=RECOVERY_DEADLINE_S)
        except TargetError:
            status = self._target.exited()
            if status not in EXPECTED_EXITS:
                raise
            self._emit("postmaster_exit", cycle=plan.cycle, status=status)
            result.notes.append(f"the postmaster exited with status {status}, as it must; started again")
            self._points.disarm_all()
            self._start()
            ready = self._target.journal.ready_generation
        result.ready_ms = (self._target.journal.ready_ns - struck) / 1e6
        self._emit("ready", cycle=plan.cycle, gen=ready)

    def _let_finish(self, load: Load, result: CycleResult) -> None:
        """The fault missed: let the load come to its end, so that the observation finds nobody writing."""
        deadline = time.monotonic() + PLACEMENT_DEADLINE_S
        while not load.over():
            if time.monotonic() >= deadline:
                raise CampaignError(f"the load did not end within {PLACEMENT_DEADLINE_S:g} s")
            load.wait()
        result.acknowledged = load.acknowledged()
        result.notes.append("the fault missed")

    def _first_commit(self, plan: CyclePlan, workload: Workload, result: CycleResult) -> None:
        """Commit one operation: the sign of life that the time to recover ends with."""
        deadline = time.monotonic() + RECOVERY_DEADLINE_S
        while True:
            try:
                client = OutsideClient(
                    self._target.conninfo, workload.name, [probe_request(workload, plan)], self._history
                )
                break
            except ConnectError as error:
                # Ready was the server's word; a connection refused now is part of the time to recover.
                if error.sqlstate != "57P03" or time.monotonic() >= deadline:
                    raise CampaignError(f"cycle {plan.cycle}: the recovered server refuses: {error}") from error
        try:
            while not client.done:
                client.read()
                if time.monotonic() >= deadline:
                    raise CampaignError(f"cycle {plan.cycle}: the first commit after recovery did not come")
        finally:
            client.close()
        if client.acknowledged:
            struck = min(blow.t for blow in result.blows if blow.landed)
            now = time.monotonic_ns()
            result.first_commit_ms = (now - struck) / 1e6
            self._emit("first_commit", cycle=plan.cycle)

    # -- observing

    def _observe(self, workload: Workload, cycle: int, *, everything: bool = False) -> None:
        previous = None if everything else self._previous.get(workload.name)
        after = -1 if previous is None else last_operation_of(previous[0])
        try:
            rows = run_call(self._target.conninfo, f"{workload.name}_observe", {"after": after})
        except CallError as error:
            self._emit("unobservable", cycle=cycle, workload=workload.name, error=str(error), sqlstate=error.sqlstate)
            raise Unobservable(f"cycle {cycle}: the data cannot be read: {error}") from error
        typed = [tuple(_value(value) for value in row) for row in rows]
        observation = workload.observation(typed, after, None if previous is None else previous[1])
        self._observed.append(
            {"t": time.monotonic_ns(), "cycle": cycle, "workload": workload.name, "everything": everything,
             "observation": observation}
        )  # fmt: skip
        if not everything:
            self._previous[workload.name] = (cycle, observation)

    def _look_at_memory(self, cycle: int) -> None:
        """Which generations each server process maps, the postmaster included."""
        processes = self._target.processes()
        try:
            for pid, role in [(self._target.pid, "postmaster"), *((p.pid, p.role) for p in processes)]:
                maps = mapped_memories(pid)
                if maps is not None:
                    self._emit(
                        "memory_maps", cycle=cycle, pid=pid, role=role, inos=sorted(memory.inode for memory in maps)
                    )
        finally:
            for process in processes:
                process.close()

    def _emit(self, ev: str, **fields: Any) -> None:
        """One record of the harness; `pid` is the harness's own unless the record is about another process."""
        self._events.append({"t": time.monotonic_ns(), "pid": os.getpid(), "ev": ev, **fields})


def _value(text: str | None) -> int | str | None:
    """A column of an observation: bigint or text, as the procedure's columns say."""
    if text is None:
        return None
    return int(text) if text.lstrip("-").isdigit() else text
