"""The oracles of data over a run directory: an epoch at a time, so that memory does not grow with a campaign.

Owns which files and observations belong to which epoch, the names of the oracles and their answers, and
the counts that say whether a cycle proves anything. It reads the directory alone: judging again with newer
code needs no server. Two ways in: `judge_run` judges everything; `judge_latest` judges the last observation
by itself, at a cost that does not depend on how many there were before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from chaos.faults import FAULTS
from chaos.faults.fault import LOSES_NOTHING
from chaos.oracles import atomicity, durability, invariant, isolation, resurrection, wal_replay
from chaos.oracles.ledger import Count, Ledger, add, judge_observation, totals
from chaos.oracles.loss_window import loss_window
from chaos.oracles.oracle import OracleResult
from chaos.reached_load import LoadedCycle, reached_loads, sum_loads
from reports import verdict as report
from reports.records import read_records
from reports.rundir import RunDirectory
from workloads.history import History, read_history
from workloads.workload import Outcome, Workload, cycle_of

OF_LEDGER: Mapping[str, tuple[str, Callable[[Ledger], Count]]] = {
    durability.NAME: (durability.TITLE, durability.judge),
    atomicity.NAME: (atomicity.TITLE, atomicity.judge),
    resurrection.NAME: (resurrection.TITLE, resurrection.judge),
    invariant.NAME: (invariant.TITLE, invariant.judge),
}
OF_EVERY_WORKLOAD = (*OF_LEDGER, wal_replay.NAME)
NAMES = (*OF_EVERY_WORKLOAD, isolation.NAME)

Record = Mapping[str, Any]

_FOREVER = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class CycleCounts:
    """What the data say of one cycle, for the rule of the verified cycle (`chaos.verdict.CycleFacts`).

    `acknowledged` and `in_flight` are as of the kill; `unjudged` counts acknowledged operations that no
    observation covers, `contradictions` operations whose records contradict each other.
    """

    cycle: int
    acknowledged: int
    in_flight: int
    unjudged: int
    contradictions: int


@dataclass(frozen=True, slots=True)
class DataJudgement:
    """The oracles' answers, the durability ledger, the counts of each cycle that had operations, and the load of all."""

    results: tuple[OracleResult, ...]
    ledger: report.Ledger
    cycles: Mapping[int, CycleCounts]
    loads: tuple[report.ReachedLoad, ...]


@dataclass(frozen=True, slots=True)
class _Cycle:
    cycle: int
    epoch: int
    workload: str | None
    workers: int
    begin_ns: int
    end_ns: int | None
    kill_ns: int | None
    ready_ns: int | None
    crashed: bool


def judge_run(run: RunDirectory, workloads: Mapping[str, Workload], *, loss_window_ns: int = 0) -> DataJudgement:
    """Judge every observation of a run's sitting. `workloads` has each workload by name, as it was set up.

    `loss_window_ns` is how long before a crash an acknowledgement was no promise yet; see `loss_window`.

    Raises RunDirectoryError for files that cannot be read, KeyError for a workload that is not given.
    """
    timeline = _timeline(run.harness_records())
    judging = _Judging(run, workloads, OF_EVERY_WORKLOAD, loss_window_ns)
    epoch_of = {cycle.cycle: cycle.epoch for cycle in timeline}
    left = {epoch: [cycle for cycle in timeline if cycle.epoch == epoch] for epoch in epoch_of.values()}
    for epoch, observed in groupby(run.observed_records(), key=lambda record: epoch_of.get(record["cycle"])):
        if epoch in left:
            judging.epoch(left.pop(epoch), list(observed))
    for cycles in left.values():
        # Nothing was observed in these epochs: their operations are counted as unjudged.
        judging.epoch(cycles, [])
    return judging.done()


def judge_latest(run: RunDirectory, workloads: Mapping[str, Workload], *, loss_window_ns: int = 0) -> DataJudgement:
    """Judge the last observation of a run's sitting with the operations it covers; nothing if there is none.

    WAL replay is left to `judge_run`, for it needs the server's whole journal.
    """
    judging = _Judging(run, workloads, tuple(OF_LEDGER), loss_window_ns)
    record = last_record(run.observed)
    if record is not None and run.covers(record["t"]):
        timeline = _timeline(run.harness_records())
        epoch = next((cycle.epoch for cycle in timeline if cycle.cycle == record["cycle"]), None)
        first = cycle_of(record["observation"]["after"]) + 1
        covered = [
            c
            for c in timeline
            if c.epoch == epoch and first <= c.cycle <= record["cycle"] and c.workload in (None, record["workload"])
        ]
        judging.epoch(covered, [record])
    return judging.done()


def last_record(path: Path) -> Record | None:
    """The last whole record of a file of records, read from its end; None when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            length = 1 << 12
            while True:
                length = min(length, size)
                file.seek(size - length)
                lines = file.read(length).split(b"\n")
                # The first line may have begun before what was read.
                for line in reversed(lines if length == size else lines[1:]):
                    if line.startswith(b"{") and (record := _whole(line)) is not None:
                        return record
                if length == size:
                    return None
                length *= 8
    except FileNotFoundError:
        return None


def file_span(path: Path) -> tuple[int, int | None]:
    """From when to when a history file was written (CLOCK_MONOTONIC ns): by its name, and by its last record.

    A name that tells no time counts as the beginning of time, a file without a record as written to this day.
    """
    match = re.fullmatch(r"[0-9]+-([0-9]+)\.jsonl", path.name)
    record = last_record(path)
    return (int(match[1]) if match else 0), (record["t"] if record else None)


class _Judging:
    """A judgement while it is being made, an epoch at a time."""

    def __init__(
        self, run: RunDirectory, workloads: Mapping[str, Workload], oracles: tuple[str, ...], loss_window_ns: int
    ) -> None:
        self._workloads = workloads
        self._loss_window_ns = loss_window_ns
        self._files = [(path, *file_span(path)) for path in run.history_files()]
        self._harness: list[Record] = []
        self._server: list[Record] = []
        if wal_replay.NAME in oracles:
            self._harness = list(run.harness_records())
            self._server = [record for record in run.server_records() if record.get("ev") in wal_replay.EVENTS]
        self._counts: dict[str, list[Count]] = {name: [] for name in oracles}
        self._ledgers: list[report.Ledger] = []
        self._cycles: dict[int, CycleCounts] = {}
        self._loads: list[report.ReachedLoad] = []

    def epoch(self, timeline: Sequence[_Cycle], observed: Sequence[Record]) -> None:
        """Judge some cycles of one epoch by some of its observations."""
        if not timeline:
            return
        history = self._history(timeline)
        crashes = [
            (c.kill_ns, c.ready_ns or c.end_ns or _FOREVER) for c in timeline if c.kill_ns is not None and c.crashed
        ]
        losses = loss_window(crashes, self._loss_window_ns)
        judged: set[int] = set()
        for name in sorted({record["workload"] for record in observed}):
            workload = self._workloads[name]
            own = _of_workload(history, timeline, name)
            ledger = Ledger(
                workload,
                [
                    judge_observation(
                        workload,
                        own,
                        first_cycle=timeline[0].cycle,
                        cycle=record["cycle"],
                        t=record["t"],
                        observation=record["observation"],
                    )
                    for record in observed
                    if record["workload"] == name
                ],
                losses,
            )
            judged.update(ledger.covered)
            for oracle, (_, judge) in OF_LEDGER.items():
                self._counts[oracle].append(judge(ledger))
            isolated = isolation.judge(ledger)
            if isolated is not None:
                self._counts.setdefault(isolation.NAME, []).append(isolated)
            self._ledgers.append(totals([ledger]))
        if wal_replay.NAME in self._counts:
            numbers = {cycle.cycle for cycle in timeline}
            harness = [record for record in self._harness if record.get("cycle") in numbers]
            replays = wal_replay.recoveries(harness, self._server, history, self._loss_window_ns)
            self._counts[wal_replay.NAME].append(wal_replay.judge(replays))
        self._cycles.update(count_cycles({c.cycle: c.kill_ns for c in timeline}, history, judged))
        loaded = {c.cycle: LoadedCycle(c.workload, c.workers, c.kill_ns) for c in timeline if c.workload is not None}
        told = (one for id_, one in history.operations.items() if id_ not in history.contradicted)
        self._loads += reached_loads(loaded, told)

    def done(self) -> DataJudgement:
        """What it came to."""
        titles = {name: title for name, (title, _) in OF_LEDGER.items()}
        titles |= {wal_replay.NAME: wal_replay.TITLE, isolation.NAME: isolation.TITLE}
        results = tuple(add(counts).result(name, titles[name]) for name, counts in self._counts.items())
        return DataJudgement(results, sum_ledgers(self._ledgers), self._cycles, sum_loads(self._loads))

    def _history(self, timeline: Sequence[_Cycle]) -> History:
        numbers = {cycle.cycle for cycle in timeline}
        since, until = timeline[0].begin_ns, timeline[-1].end_ns
        paths = [
            path
            for path, begun, ended in self._files
            if (until is None or begun <= until) and (ended is None or ended >= since)
        ]
        return read_history(
            (record for record in read_records(path) if cycle_of(record["op"]) in numbers) for path in paths
        )


def count_cycles(
    kills_ns: Mapping[int, int | None], history: History, judged: Container[int]
) -> dict[int, CycleCounts]:
    """The counts of each cycle of `kills_ns`, which tells when its kill was (None: not known, count its end).

    `judged` holds the operations that an observation covers; `history` those of these cycles alone.
    """
    acknowledged = dict.fromkeys(kills_ns, 0)
    in_flight, unjudged, contradictions = acknowledged.copy(), acknowledged.copy(), acknowledged.copy()
    for id_, operation in history.operations.items():
        cycle = cycle_of(id_)
        if id_ in history.contradicted:
            contradictions[cycle] += 1
            continue
        kill_ns = kills_ns[cycle]
        answered_ns = operation.answered_ns
        ok = operation.outcome is Outcome.OK
        unjudged[cycle] += ok and id_ not in judged
        if kill_ns is None:
            acknowledged[cycle] += ok
            in_flight[cycle] += answered_ns is None
        elif answered_ns is None or answered_ns > kill_ns:
            in_flight[cycle] += operation.invoked_ns <= kill_ns
        else:
            acknowledged[cycle] += ok
    return {
        cycle: CycleCounts(cycle, acknowledged[cycle], in_flight[cycle], unjudged[cycle], contradictions[cycle])
        for cycle in kills_ns
    }


def _timeline(harness: Iterable[Record]) -> list[_Cycle]:
    """The cycles of a run in their order. The kill is the first fault that landed; an orderly end is no crash."""
    begun: dict[int, tuple[int, str | None, int, int]] = {}
    killed: dict[int, int] = {}
    ready: dict[int, int] = {}
    ended: dict[int, int] = {}
    orderly: set[int] = set()
    for record in harness:
        match record.get("ev"):
            case "cycle_begin":
                plan = record.get("plan", {})
                workers = len(plan.get("worker_seeds", ()))
                begun[record["cycle"]] = (record.get("epoch", 0), plan.get("workload"), workers, record["t"])
            case "fault" if record.get("outcome") != "missed":
                killed.setdefault(record["cycle"], record["t"])
                fault = FAULTS.get(record.get("fault", ""))
                if fault is not None and fault.causes in LOSES_NOTHING:
                    orderly.add(record["cycle"])
            case "ready":
                ready[record["cycle"]] = record["t"]
            case "cycle_end":
                ended[record["cycle"]] = record["t"]
    return [
        _Cycle(
            cycle, epoch, workload, workers, begin_ns, ended.get(cycle), killed.get(cycle), ready.get(cycle),
            crashed=cycle not in orderly,
        )
        for cycle, (epoch, workload, workers, begin_ns) in sorted(begun.items())
    ]  # fmt: skip


def _of_workload(history: History, timeline: Iterable[_Cycle], workload: str) -> History:
    """The part of a history that a workload's own cycles made; a cycle that does not name one is everybody's."""
    others = {cycle.cycle for cycle in timeline if cycle.workload not in (None, workload)}
    operations = {id_: operation for id_, operation in history.operations.items() if cycle_of(id_) not in others}
    return History(operations, history.contradictions, history.contradicted)


def sum_ledgers(ledgers: Sequence[report.Ledger]) -> report.Ledger:
    """The ledgers of several clusters as one."""

    def row(name: str) -> report.Fate:
        rows: list[report.Fate] = [getattr(ledger, name) for ledger in ledgers]
        return report.Fate(
            committed=sum(fate.committed for fate in rows),
            absent=sum(fate.absent for fate in rows),
            torn=sum(fate.torn for fate in rows),
        )

    return report.Ledger(ok=row("ok"), unflushed=row("unflushed"), failed=row("failed"), unknown=row("unknown"))


def _whole(line: bytes) -> Record | None:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
