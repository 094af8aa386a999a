"""A campaign: epochs of cycles of load, fault, recovery and observation.

Owns the order of things and the harness's record of them. It decides nothing that a seed should decide (that is
`chaos.plan`) and judges nothing (that is `chaos.judge`, a stage of its own that reads what was written here).

One cycle: arm a point if the plan says so; open the workers; wait for the plan's moment; strike (`chaos.strike`);
wait until a later generation serves; commit one operation as the first sign of life; look at the data; look at the
memory maps of every process, and at what it uses. An epoch begins with a fresh cluster and ends with a look at everything.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from chaos.aftermath import RECOVERY_DEADLINE_S, Aftermath, Starting
from chaos.driver import CallError, ConnectError
from chaos.drivers.driver import Driver
from chaos.errors import CampaignError, Corrupted, DiskFull, Unobservable
from chaos.faults import Blow
from chaos.plan import CampaignPlan, CyclePlan
from chaos.resources import files_below, used_by
from chaos.strike import Strike
from chaos.targets.target import Target
from reports.records import RecordWriter
from reports.rundir import RunDirectory
from supervisor.points import PointMap
from workloads.history import HistoryWriter
from workloads.registry import WORKLOADS
from workloads.workload import Observation, Workload, last_operation_of

DISK_FULL = "53100"
LEAST_FREE_BYTES = 4 * 1024**2
"""With less space left than this, a server that cannot go on is taken to have met a full disk."""


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
    """One campaign over one target, written into one run directory.

    `driver` makes the driver, which records what it asks for itself in the campaign's history; `points` is None for a
    target that has none.
    """

    def __init__(
        self,
        run: RunDirectory,
        plan: CampaignPlan,
        target: Target,
        points: PointMap | None,
        driver: Callable[[HistoryWriter], Driver],
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
        self._driver = driver(self._history)
        self._template = run.template
        # Per workload: the last observation of this epoch, which the next one continues.
        self._previous: dict[str, tuple[int, Observation]] = {}

    def run(self, first_cycle: int, more: Callable[[int], bool]) -> None:
        """Run cycles from `first_cycle` on while `more(cycle)` says so; each epoch on a fresh cluster.

        Raises CampaignError, TargetError, RunDirectoryError, OSError, Unobservable, Corrupted. The server is the target's
        owner's to end, whatever happens.
        """
        cycle = first_cycle
        while more(cycle):
            epoch = cycle // self._plan.epoch_cycles
            last = (epoch + 1) * self._plan.epoch_cycles
            self._begin_epoch(epoch)
            while cycle < last and more(cycle):
                self._cycle(self._plan.cycle(cycle))
                cycle += 1
            self._end_epoch(epoch, cycle - 1)

    def close(self) -> None:
        """Let go of the driver and close the files that were written."""
        self._driver.close()
        self._history.close()
        self._observed.close()
        self._events.close()

    # -- epochs

    def _begin_epoch(self, epoch: int) -> None:
        self._emit("epoch_begin", epoch=epoch)
        self._previous.clear()
        data = self._target.data_directory
        if not self._template.exists():
            self._target.make_data_directory(self._template)
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(self._template, data)
        if self._points is not None:
            self._points.disarm_all()
        self._start()
        self._target.wait_ready()
        try:
            # What is judged begins here: the first crash must not be able to take the tables away.
            self._driver.set_up((WORKLOADS[name] for name in self._plan.workloads), self._plan.seed)
        except (CallError, ConnectError) as error:
            raise CampaignError(
                f"epoch {epoch}: the workload's tables cannot be made: {error}; see {self._run.server_log}:\n"
                f"{self._target.log_tail()}"
            ) from error

    def _end_epoch(self, epoch: int, cycle: int) -> None:
        for name in self._plan.workloads:
            self._observe(WORKLOADS[name], cycle, everything=True)
        status = self._target.stop()
        self._note_roles()
        self._emit("epoch_end", epoch=epoch, exit=status)
        if status != 0:
            raise CampaignError(
                f"the server stopped with status {status} at the end of epoch {epoch}; see {self._run.server_log}"
            )
        found = self._target.check_files()
        if found is None:
            return
        self._emit("files_checked", cycle=cycle, epoch=epoch, verification=found)
        if found["corruptions"]:
            raise Corrupted(
                f"what epoch {epoch} left is corrupt in {len(found['corruptions'])} places, and is kept: see them with "
                f"crashbed verify -D {self._target.data_directory}"
            )

    def _start(self) -> int:
        pid = self._target.start()
        self._on_start(pid)
        self._emit("postmaster", child=pid)
        return pid

    # -- one cycle

    def _cycle(self, plan: CyclePlan) -> None:
        result = CycleResult(plan)
        workload = WORKLOADS[plan.workload]
        generation = self._target.ready_generation
        self._emit("cycle_begin", cycle=plan.cycle, epoch=plan.epoch, plan=plan)
        strike = Strike(plan, self._target, self._points)
        strike.prepare()
        load = self._driver.load(workload, plan)
        try:
            for worker, backend in load.backends():
                self._emit("served", cycle=plan.cycle, worker=worker, child=backend)
            strike.fall(load)
            if load.refusal and not strike.fired:
                raise CampaignError(
                    f"cycle {plan.cycle}: a worker could not connect: {load.refusal}; see {self._run.server_log}"
                )
            self._tell("trigger", strike.trigger, plan)
            starting = Starting(self._start, lambda why: self._unobservable(plan.cycle, plan.workload, why))
            aftermath = Aftermath(plan, self._target, strike, load, starting, self._emit)
            recovered = aftermath.settle(generation)
        finally:
            load.close()
            strike.close()
        self._tell(plan.fault, strike.blows, plan)
        result.acknowledged, result.notes = aftermath.acknowledged, aftermath.notes
        result.blows = [*strike.trigger, *strike.blows]
        if recovered and strike.begun_ns is not None:
            self._emit("ready", t=self._target.ready_ns, cycle=plan.cycle,
                       gen=self._target.ready_generation)  # fmt: skip
            result.ready_ms = (self._target.ready_ns - strike.begun_ns) / 1e6
        if strike.decisive and strike.begun_ns is not None:
            self._first_commit(plan, workload, strike.begun_ns, result)
        if not any(blow.landed for blow in strike.blows):
            result.notes.append("the fault missed")
        self._observe(workload, plan.cycle)
        self._look_at_processes(plan.cycle)
        for worker, sqlstate, message in load.refusals():
            self._emit("refused", cycle=plan.cycle, worker=worker, sqlstate=sqlstate, message=message)
        result.notes += dict.fromkeys(load.complaints())
        self._emit("cycle_end", cycle=plan.cycle, acknowledged=result.acknowledged, notes=result.notes)
        self._on_cycle(result)

    def _tell(self, fault: str, blows: Sequence[Blow], plan: CyclePlan) -> None:
        for blow in blows:
            exits = {} if blow.code is None else {"code": blow.code}
            self._emit("fault", t=blow.t, cycle=plan.cycle, fault=fault, child=blow.pid, role=blow.role,
                       sig=blow.signal, part=blow.part, outcome="landed" if blow.landed else "missed",
                       **exits)  # fmt: skip

    def _first_commit(self, plan: CyclePlan, workload: Workload, struck_ns: int, result: CycleResult) -> None:
        """Commit one operation: the sign of life that the time to recover ends with."""
        try:
            acknowledged = self._driver.commit_one(workload, plan, deadline_s=RECOVERY_DEADLINE_S)
        except ConnectError as error:
            raise CampaignError(f"cycle {plan.cycle}: the recovered server refuses: {error}") from error
        if acknowledged is None:
            raise CampaignError(f"cycle {plan.cycle}: the first commit after recovery did not come")
        if acknowledged:
            now = time.monotonic_ns()
            result.first_commit_ms = (now - struck_ns) / 1e6
            self._emit("first_commit", t=now, cycle=plan.cycle)

    # -- observing

    def _observe(self, workload: Workload, cycle: int, *, everything: bool = False) -> None:
        previous = None if everything else self._previous.get(workload.name)
        after = -1 if previous is None else last_operation_of(previous[0])
        try:
            rows = self._driver.observe(workload, after)
        except ConnectError as error:
            raise CampaignError(f"cycle {cycle}: the recovered server refuses: {error}") from error
        except CallError as error:
            raise self._unobservable(cycle, workload.name, str(error), error.sqlstate) from error
        observation = workload.observation(rows, after, None if previous is None else previous[1])
        self._observed.append(
            {"t": time.monotonic_ns(), "cycle": cycle, "workload": workload.name, "everything": everything,
             "observation": observation}
        )  # fmt: skip
        if not everything:
            self._previous[workload.name] = (cycle, observation)

    def _unobservable(self, cycle: int, workload: str, error: str, sqlstate: str | None = "") -> Exception:
        """Record that the data cannot be read; the exception to raise. A full disk is the harness's own trouble."""
        if sqlstate == DISK_FULL or shutil.disk_usage(self._run.path).free < LEAST_FREE_BYTES:
            return DiskFull(self._run.path, f"cycle {cycle}: {error}")
        self._emit("unobservable", cycle=cycle, workload=workload, error=error, sqlstate=sqlstate)
        return Unobservable(f"cycle {cycle}: the data cannot be read: {error}")

    def _look_at_processes(self, cycle: int) -> None:
        """Which generations each server process maps and what it uses, the postmaster included."""
        processes = self._target.processes()
        self._note_roles()
        try:
            for pid, role in [(self._target.pid, "postmaster"), *((p.pid, p.role) for p in processes)]:
                memories = self._target.memories(pid)
                if memories is not None:
                    self._emit("memory_maps", cycle=cycle, pid=pid, role=role, inos=sorted(memories))
                used = used_by(pid)
                if used is not None:
                    self._emit("used", cycle=cycle, pid=pid, role=role, **asdict(used))
            self._emit("files", cycle=cycle, files=files_below(self._target.data_directory))
        finally:
            for process in processes:
                process.close()

    def _note_roles(self) -> None:
        for seen in self._target.roles():
            self._emit("role", t=seen.t, child=seen.pid, role=seen.role, source=seen.source)

    def _emit(self, ev: str, **fields: Any) -> None:
        """One record of the harness; `pid` is the harness's own unless the record is about another process."""
        self._events.append({"t": time.monotonic_ns(), "pid": os.getpid(), "ev": ev, **fields})
