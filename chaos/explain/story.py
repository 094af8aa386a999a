"""A story of a run: one operation from its beginning to what was found of it, or one cycle's crash and recovery.

Owns which operation or cycle is told, which crash it belongs to, and the frame of thirty lines: two that say what is
told and how to read it, the lines of the sources, and the reason as the last. Reads the run directory alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chaos.explain import reasons, sources
from chaos.explain.line import Line, as_text, choose, merge
from chaos.explain.sources import Span
from chaos.explain.trace import ROWS, NoWal, Trace, trace_operation
from chaos.oracles import isolation
from chaos.oracles.evidence import Evidence
from chaos.oracles.ledger import Entry, Judgement, judge_observation
from chaos.oracles.supervision import reigns
from chaos.oracles.wal_replay import Redo
from chaos.phases import Cycle, cycles_of, fell_ns
from reports.rundir import RunDirectory
from reports.verdict import Finding, Recovery, Verdict
from workloads.history import History, read_history
from workloads.registry import WORKLOADS
from workloads.workload import READ_KIND, Fate, Operation, cycle_of

LINES = 30
"""How long a story is at most."""
_FRAME = 3
_LEAD_NS = 1_000_000
"""How long before the kill the sources of a crash begin to be told."""
_REACHED = ("redo_end", "checkpoint_end")
"""The journal's records of an LSN that the log had reached by then."""

Record = Mapping[str, Any]


class NothingToExplain(Exception):
    """There is no such operation or cycle in the run; the message says what there is."""


@dataclass(frozen=True, slots=True)
class Crash:
    """A cycle's crash and what the recovery from it came to. `struck_ns` is when the first blow fell, by the kernel
    where it saw it; `redo` is the last that was completed before the server was ready, None when none was."""

    cycle: Cycle
    struck_ns: int
    over_ns: int
    redo: Redo | None
    redo_ns: int


def tell_verdict(run: RunDirectory, verdict: Verdict, cycle: int | None = None) -> list[str]:
    """The story of the first failure, of this cycle or of all; without a failure, of a recovery: this cycle's or the
    slowest. Raises NothingToExplain, RunDirectoryError."""
    told = _Run(run)
    if cycle is not None:
        told.cycle(cycle)
    finding = next((finding for finding in verdict.findings if cycle is None or finding.cycle == cycle), None)
    if finding is not None:
        return _tell_finding(told, finding)
    timed = [recovery for recovery in verdict.recoveries if recovery.ready is not None]
    chosen = max(timed, key=lambda recovery: recovery.ready or 0.0, default=None)
    if cycle is not None:
        chosen = next((recovery for recovery in verdict.recoveries if recovery.cycle == cycle), None)
    if chosen is None:
        where = f"cycle {cycle}" if cycle is not None else "the run"
        raise NothingToExplain(f"{where} has no failure, and no recovery that was seen")
    if cycle is None:
        said = f"no rule was broken in this run; this is its slowest recovery of {len(timed)}"
    elif any(row.failures for row in verdict.oracles):
        said = "none of the failures that the verdict tells of is of this cycle"
    else:
        said = "no rule was broken in it"
    return told.tell_cycle(chosen.cycle, f"cycle {chosen.cycle}, {chosen.fault}: {said}", recovery_text(chosen))


def tell_operation(run: RunDirectory, operation: int) -> list[str]:
    """The story of one operation. Raises NothingToExplain, RunDirectoryError."""
    return _Run(run).tell_operation(operation)


def _tell_finding(told: _Run, finding: Finding) -> list[str]:
    named = re.search(r"\boperation (\d+)\b", finding.message)
    # What transactions saw of each other is not explained by what became of one of them.
    if named is not None and finding.oracle != isolation.NAME and told.has(int(named[1])):
        return told.tell_operation(int(named[1]))
    ending = f"why: {finding.message}; the evidence is the verdict's, and nothing more is derived from it"
    if finding.cycle is None:
        return [f"the rule {finding.oracle} was broken, in no cycle", *finding.evidence[: LINES - 2], ending]
    title = f"cycle {finding.cycle}: the rule {finding.oracle} was broken"
    return told.tell_cycle(finding.cycle, title, ending, finding.evidence)


def recovery_text(recovery: Recovery) -> str:
    """Where the time of a recovery went: its phases in ms, the longest named."""
    steps = (
        ("the postmaster noticed", recovery.noticed),
        ("all children were gone", recovery.last_child_reaped),
        ("the memory was new", recovery.memory_reset),
        ("redo began", recovery.redo_start),
        ("redo ended", recovery.redo_end),
        ("the server was ready", recovery.ready),
        ("the first operation was acknowledged", recovery.first_commit),
    )
    seen = [(name, at) for name, at in steps if at is not None]
    if not seen:
        return "recovery: none of its phases was seen"
    longest, before = max(
        ((name, at - since) for (_, since), (name, at) in zip([("", 0.0), *seen], seen, strict=False)),
        key=lambda part: part[1],
    )
    phases = ", ".join(f"{name} at {at:.1f}" for name, at in seen)
    return f"recovery, in ms since the kill: {phases}; the longest step was the {before:.1f} ms until {longest}"


class _Run:
    """A run directory, read as far as a story needs."""

    def __init__(self, run: RunDirectory) -> None:
        run.insist_on_whole()
        self._run = run
        self._harness: list[Record] = list(run.harness_records())
        self._server: list[Record] = list(run.server_records())
        self._cycles = {cycle.cycle: cycle for cycle in cycles_of(self._harness)}
        self._read: tuple[int, History] | None = None

    @cached_property
    def _evidence(self) -> Evidence:
        return Evidence.of(self._run)

    def cycle(self, number: int) -> Cycle:
        """One cycle. Raises NothingToExplain."""
        if number not in self._cycles:
            raise NothingToExplain(f"{self._run.path} has no cycle {number}: {self._ran()}")
        return self._cycles[number]

    def has(self, operation: int) -> bool:
        """Whether the history has this operation."""
        return operation in self._history(cycle_of(operation)).operations

    def tell_cycle(self, number: int, title: str, ending: str, evidence: Sequence[str] = ()) -> list[str]:
        """One cycle's crash and recovery, with an oracle's evidence laid beside it."""
        cycle = self.cycle(number)
        crash = self._crash(cycle)
        if crash is None:
            return [
                title,
                "no blow landed in this cycle, so there is no crash to tell of",
                *evidence[: LINES - 3],
                ending,
            ]
        until = max((r["t"] for r in self._run.observed_records() if r["cycle"] == number), default=crash.over_ns)
        asked = self._history(number).operations.values()
        before = sources.acknowledged_lines(asked, Span(cycle.begin_ns, crash.struck_ns))
        return self._story(title, crash, until, ending, [*before, *sources.evidence_lines(evidence, crash.struck_ns)])

    def tell_operation(self, number: int) -> list[str]:
        """One operation, from its invoke to the observation that says what became of it."""
        history = self._history(cycle_of(number))
        operation = history.operations.get(number)
        if operation is None:
            raise NothingToExplain(self._no_such_operation(number, history))
        entry = Entry(operation)
        for judgement in self._judgements(operation):
            entry.seen.append((judgement.cycle, judgement.fates[number], judgement))
        last = _telling(entry)
        crash = self._crash_after(operation)
        trace = self._trace(operation)
        facts = reasons.Facts(
            operation=operation,
            fate=None if last is None else last.fates[number],
            kept=last is not None and any(fate is Fate.COMMITTED and at.t < last.t for _, fate, at in entry.seen),
            redo=None if crash is None else crash.redo,
            trace=trace,
            since_lsn=self._lsn_before(operation),
        )
        unseen = "it only read" if operation.kind == READ_KIND else "no observation covers it"
        found = unseen if facts.fate is None else f"found {facts.fate.value}"
        title = f"operation {number}, cycle {cycle_of(number)}: told {operation.outcome.value}, {found}"
        if operation.answered_ns is None:
            title = f"operation {number}, cycle {cycle_of(number)}: no answer, {found}"
        workload = WORKLOADS[self._workload(cycle_of(number))]
        told_ns = operation.answered_ns or operation.invoked_ns
        until = last.t if last is not None else crash.over_ns if crash is not None else told_ns
        lines = sources.history_lines(operation, trace)
        lines += sources.wal_lines(trace, facts.redo, crash.redo_ns if crash is not None else until)
        seen = [(at, workload.found(number, at.observation)) for _, _, at in entry.seen if at.t <= until]
        lines += sources.observed_lines(operation, seen, until)
        if crash is not None:
            others = (other for other in history.operations.values() if other.operation != number)
            lines += sources.acknowledged_lines(others, Span(told_ns, crash.struck_ns))
        return self._story(title, crash, until, f"why: {reasons.explain(facts)}", lines)

    def _story(self, title: str, crash: Crash | None, until_ns: int, ending: str, own: Sequence[Line]) -> list[str]:
        zero = min((line.t_ns for line in own), default=0) if crash is None else crash.struck_ns
        if crash is None:
            since = "ms since its beginning, for no crash followed it"
            lines = merge(own)
        else:
            since = f"ms since the kill of cycle {crash.cycle.cycle}"
            lines = merge(self._of_the_crash(crash, until_ns), own)
        missing = self._evidence.missing("kernel")
        how = f"{since}; ~ is placed by order or to the millisecond; journal and log are the server's own word"
        shown = choose(lines, LINES - _FRAME)
        return [
            title,
            how + (f"; {missing}" if missing else ""),
            *(as_text(entry, zero) for entry in shown),
            ending,
        ]

    def _of_the_crash(self, crash: Crash, until_ns: int) -> list[Line]:
        span = Span(crash.struck_ns - _LEAD_NS, crash.over_ns)
        victims = [blow.pid for blow in crash.cycle.blows if blow.landed]
        lines: list[Line] = []
        for reign in reigns(self._evidence):
            if reign.begin <= crash.struck_ns <= reign.end:
                lines += sources.kernel_lines(reign, span, victims, self._harness[0]["pid"])
        lines += sources.journal_lines(self._server, span)
        path = self._run.server_log
        entries = sources.log_entries(path.read_text(errors="replace") if path.exists() else "")
        offset = sources.wall_offset_ns(entries, self._server)
        if offset is not None:
            lines += sources.log_lines(entries, offset, span)
        lines += sources.harness_lines(self._harness, Span(span.since_ns, until_ns))
        return merge(lines)

    # What the run recorded.

    def _history(self, cycle: int) -> History:
        """One cycle's operations. A story needs those of one cycle only, so the last read is kept."""
        if self._read is None or self._read[0] != cycle:
            readers = self._run.history_records()
            found = ((record for record in reader if cycle_of(record["op"]) == cycle) for reader in readers)
            self._read = cycle, read_history(found)
        return self._read[1]

    def _workload(self, cycle: int) -> str:
        begun = (r for r in self._harness if r["ev"] == "cycle_begin" and r["cycle"] == cycle)
        return str(next(begun)["plan"]["workload"])

    def _judgements(self, operation: Operation) -> Iterable[Judgement]:
        """What each observation that covers the operation holds of it, oldest first."""
        own = self.cycle(cycle_of(operation.operation))
        epoch = [cycle.cycle for cycle in self._cycles.values() if cycle.epoch == own.epoch]
        name = self._workload(own.cycle)
        for record in self._run.observed_records():
            if record["cycle"] in epoch and record["workload"] == name:
                judgement = judge_observation(
                    WORKLOADS[name],
                    History({operation.operation: operation}),
                    first_cycle=min(epoch),
                    cycle=record["cycle"],
                    t=record["t"],
                    observation=record["observation"],
                )
                if operation.operation in judgement.fates:
                    yield judgement

    def _crash_after(self, operation: Operation) -> Crash | None:
        """The first crash of its epoch whose recovery ended after the operation: what it had not on disk by then was
        thrown away."""
        at = operation.invoked_ns if operation.answered_ns is None else operation.answered_ns
        epoch = self.cycle(cycle_of(operation.operation)).epoch
        for cycle in self._cycles.values():
            if cycle.epoch == epoch and (cycle.ready_ns is None or cycle.ready_ns > at):
                crash = self._crash(cycle)
                if crash is not None and crash.over_ns > at:
                    return crash
        return None

    def _crash(self, cycle: Cycle) -> Crash | None:
        landed = [blow for blow in cycle.blows if blow.landed]
        if not landed:
            return None
        struck = min(fell_ns(cycle, blow, self._evidence.account) or blow.t for blow in landed)
        ends = (cycle.first_commit_ns, cycle.ready_ns, cycle.end_ns)
        over = next((t for t in ends if t is not None), max((r["t"] for r in self._server), default=struck))
        redo, redo_ns = _last_redo(self._server, Span(struck, cycle.ready_ns or over))
        return Crash(cycle, struck, over, redo, redo_ns if redo is not None else over)

    def _lsn_before(self, operation: Operation) -> int | None:
        """A position that the log of this epoch's cluster had certainly reached before the operation began."""
        epoch = self.cycle(cycle_of(operation.operation)).epoch
        begun = next((r["t"] for r in self._harness if r["ev"] == "epoch_begin" and r["epoch"] == epoch), None)
        if begun is None:
            return None
        reached = (r["lsn"] for r in self._server if r["ev"] in _REACHED and begun < r["t"] < operation.invoked_ns)
        return max(reached, default=None)

    def _trace(self, operation: Operation) -> Trace | str:
        name = self._workload(cycle_of(operation.operation))
        epoch = self.cycle(cycle_of(operation.operation)).epoch
        last = max(cycle.epoch for cycle in self._cycles.values())
        if name not in ROWS:
            return f"which records are an operation's is not known of the workload {name}"
        if epoch != last:
            return f"the operation is of epoch {epoch}, and the data directory is the last epoch's, {last}"
        try:
            return trace_operation(self._run.pgdata, ROWS[name](operation))
        except NoWal as error:
            return str(error)

    def _ran(self) -> str:
        if not self._cycles:
            return "no cycle was recorded"
        return f"it ran cycles {min(self._cycles)} to {max(self._cycles)}"

    def _no_such_operation(self, number: int, history: History) -> str:
        start = f"{self._run.path} has no operation {number}"
        if not history.operations:
            return f"{start}: it would be of cycle {cycle_of(number)}, and {self._ran()}"
        known = history.operations
        return f"{start}: cycle {cycle_of(number)} has {len(known)}, from {min(known)} to {max(known)}"


def _telling(entry: Entry) -> Judgement | None:
    """The observation that settles what became of an operation: the one that shows it wrong, else the last."""
    lost = entry.turned(Fate.COMMITTED, Fate.ABSENT) or (
        entry.first(Fate.ABSENT) if entry.operation.must_be_committed else None
    )
    return lost or entry.first(Fate.TORN) or (entry.seen[-1][2] if entry.seen else None)


def _last_redo(server: Iterable[Record], span: Span) -> tuple[Redo | None, int]:
    """The last redo that was completed in a span, and when it ended: of a recovery that crashed itself, the one that
    counted."""
    found: Redo | None = None
    at = begin_lsn = 0
    for record in sorted(server, key=lambda record: int(record["t"])):
        if record["t"] in span and record["ev"] == "redo_begin":
            begin_lsn = record["lsn"]
        elif record["t"] in span and record["ev"] == "redo_end":
            at = record["t"]
            found = Redo(begin_lsn, record["lsn"], record["records"], record["pages_changed"], record["end_reason"])
    return found, at
