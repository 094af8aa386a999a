"""The lines that each source of a run has for one stretch of time.

Functions of records, one per source. They choose nothing: they say how much a line matters, and `line.choose` decides.
Times are CLOCK_MONOTONIC ns but for the server's log, which tells the time of day to the millisecond; it is aligned by
what the server wrote into its log and its journal at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from signal import Signals
from textwrap import shorten
from typing import Any

from chaos.explain.line import Line, Source, Weight
from chaos.explain.trace import Place, Trace
from chaos.oracles.ledger import Judgement
from chaos.oracles.supervision import Child, Reign
from chaos.oracles.wal_replay import Redo
from supervisor.engine.wal.lsn import format_lsn
from supervisor.postmaster.values import PMState
from workloads.workload import Operation, Outcome

Record = Mapping[str, Any]

_MS_NS = 1_000_000
_ENDING = frozenset({Signals.SIGKILL, Signals.SIGQUIT, Signals.SIGTERM, Signals.SIGABRT, Signals.SIGINT})
_LONGEST_TEXT = 110
_MOST_EVIDENCE = 8


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, both ends included: CLOCK_MONOTONIC ns."""

    since_ns: int
    until_ns: int

    def __contains__(self, t_ns: int) -> bool:
        return self.since_ns <= t_ns <= self.until_ns


# The kernel's account.


def kernel_lines(reign: Reign, span: Span, victims: Iterable[int], harness: int) -> list[Line]:
    """Signals that children got, how they ended, and who was forked; the blows at `victims` as plot. `harness` is the
    harness's pid."""
    hit = set(victims)
    names = {reign.postmaster.pid: "the postmaster", harness: "the harness"}
    lines = []
    for child in reign.children:
        process = child.process
        for received in process.received:
            if received.t in span and received.sig in _ENDING:
                # What comes from outside is the blow; what the postmaster sends is its answer to it.
                blow = process.pid in hit and received.by != reign.postmaster.pid
                by = "itself" if received.by == process.pid else names.get(received.by, f"process {received.by}")
                text = f"{child} gets {Signals(received.sig).name} from {by}"
                lines.append(Line(received.t, Source.KERNEL, text, Weight.PLOT if blow else Weight.DETAIL, "signal"))
        if process.exit_t is not None and process.exit_t in span:
            lines.append(Line(process.exit_t, Source.KERNEL, f"{child} {process.ended_by()}", Weight.DETAIL, "exit"))
        if process.reaped_t is not None and process.reaped_t in span:
            known = Weight.STEP if process.pid in hit or child.role == "startup" else Weight.DETAIL
            text = f"the postmaster reaps {child}, which {process.ended_by()}"
            lines.append(Line(process.reaped_t, Source.KERNEL, text, known, "reaping"))
        if process.born in span:
            lines.append(_forked(child))
    return lines


def _forked(child: Child) -> Line:
    weight = Weight.STEP if child.role == "startup" else Weight.DETAIL
    return Line(child.process.born, Source.KERNEL, f"the postmaster forks {child}", weight, "fork")


# The server's journal and log.


def journal_lines(journal: Iterable[Record], span: Span) -> list[Line]:
    """Memory, redo, states, readiness, by the server's own word."""
    return [line for record in journal if record["t"] in span and (line := _journal_line(record)) is not None]


def _journal_line(record: Record) -> Line | None:
    text, weight = "", Weight.STEP
    match record["ev"]:
        case "memory_closed":
            text = f"the memory of generation {record['gen']} is given up, with every change that was in it alone"
        case "memory":
            text, weight = f"a new memory is made, generation {record['gen']}", Weight.DETAIL
        case "redo_begin":
            text, weight = f"redo starts at {format_lsn(record['lsn'])}", Weight.PLOT
        case "redo_end":
            text = (
                f"redo ends at {format_lsn(record['lsn'])}: {record['records']} records, "
                f"{record['pages_changed']} pages changed; {record['end_reason']}"
            )
            weight = Weight.PLOT
        case "checkpoint_end":
            text = f"checkpoint complete at {format_lsn(record['lsn'])}"
        case "ready":
            text, weight = f"ready to accept connections, generation {record['gen']}", Weight.PLOT
        case "step":
            before, after = (PMState(record[when]["pm_state"]) for when in ("before", "after"))
            text = "" if before is after else f"the postmaster's state: {before.name} to {after.name}"
    return Line(record["t"], Source.JOURNAL, text, weight, "journal record") if text else None


_LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC \[(\d+)\] (\w+):  (.*)")
_READY = "database system is ready to accept connections"
_TOLD_ELSEWHERE = re.compile(r"redo (starts|done) at |invalid record length|checkpoint |database system is ready")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of the server's log. `wall_ns` is the time of day, in ns since the epoch, cut to the millisecond."""

    wall_ns: int
    pid: int
    level: str
    message: str


def log_entries(text: str) -> list[LogEntry]:
    """The first line of each entry of a server log, and its DETAIL and STATEMENT lines."""
    entries = []
    for line in text.splitlines():
        match = _LOG_LINE.fullmatch(line)
        if match is not None:
            moment = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
            wall_ns = int(moment.timestamp() * 1000 + 0.5) * _MS_NS
            entries.append(LogEntry(wall_ns, int(match[2]), match[3], match[4]))
    return entries


def wall_offset_ns(entries: Sequence[LogEntry], journal: Iterable[Record]) -> int | None:
    """What to take from a log line's time to have the monotonic clock's; None when nothing aligns the two.

    The postmaster writes that it is ready into its journal and its log at once. The log's times are cut to the
    millisecond, so each pair gives an offset that is up to 1 ms too small: the greatest is the best.
    """
    said = [entry for entry in entries if entry.message == _READY]
    noted = [record for record in journal if record["ev"] == "ready"]
    if not said or [entry.pid for entry in said] != [record["pid"] for record in noted]:
        return None
    return max(entry.wall_ns - int(record["t"]) for entry, record in zip(said, noted, strict=True))


def log_lines(entries: Sequence[LogEntry], offset_ns: int, span: Span) -> list[Line]:
    """What the log says beside the journal. A line stands at the end of its millisecond: not before what it tells of."""
    lines = []
    for entry in entries:
        t_ns = entry.wall_ns - offset_ns + _MS_NS
        if t_ns not in span or _TOLD_ELSEWHERE.match(entry.message):
            continue
        weight = Weight.STEP if entry.level == "DETAIL" else Weight.DETAIL
        text = shorten(f"[{entry.pid}] {entry.level}: {entry.message}", _LONGEST_TEXT, placeholder=" …")
        lines.append(Line(t_ns, Source.LOG, text, weight, "log line", about=True))
    return lines


# The harness, the history, the log, the observations.


def harness_lines(harness: Iterable[Record], span: Span) -> list[Line]:
    """What the harness did, and when it saw the server commit again."""
    lines = []
    for record in harness:
        if record["t"] not in span:
            continue
        match record["ev"]:
            case "fault":
                text = (
                    f"cycle {record['cycle']}: {record['fault']} at {record['role']} (PID {record['child']}): "
                    f"{record['outcome']}"
                )
                lines.append(Line(record["t"], Source.HARNESS, text, Weight.STEP, "fault"))
            case "postmaster_exit":
                how = record["status"]
                text = f"the postmaster has ended, by signal {-how}" if how < 0 else f"the postmaster exited with {how}"
                lines.append(Line(record["t"], Source.HARNESS, text, Weight.STEP))
            case "start_beside":
                text = f"a start beside the living PID {', '.join(map(str, record['orphans']))} was {record['outcome']}"
                lines.append(Line(record["t"], Source.HARNESS, text, Weight.STEP))
            case "orphans":
                left = "by themselves" if record["noticed"] else "only when they were killed"
                text = f"the {record['number']} children that it left went {left}"
                lines.append(Line(record["t"], Source.HARNESS, text, Weight.STEP))
            case "first_commit":
                text = "the first operation after the recovery is acknowledged"
                lines.append(Line(record["t"], Source.HARNESS, text, kind="first commit"))
    return lines


def history_lines(operation: Operation, trace: Trace | str) -> list[Line]:
    """What was asked, and what was told; the WAL says at which LSN when the history does not."""
    values = ", ".join(f"{name} {value}" for name, value in operation.values.items())
    asked = f"process {operation.pid}, worker {operation.worker}: {operation.kind} {operation.operation} ({values})"
    lines = [Line(operation.invoked_ns, Source.HISTORY, f"{asked} is begun", Weight.PLOT)]
    if operation.answered_ns is not None:
        code = f" {operation.sqlstate}" if operation.sqlstate else ""
        text = f"process {operation.pid} is told {operation.outcome.value}{code}{_at_lsn(operation, trace)}"
        lines.append(Line(operation.answered_ns, Source.HISTORY, text, Weight.PLOT))
    return lines


def _at_lsn(operation: Operation, trace: Trace | str) -> str:
    if operation.outcome is not Outcome.OK:
        return ""
    if operation.lsn is not None:
        return f", at {format_lsn(operation.lsn)}"
    if isinstance(trace, str):
        return "; at which LSN the history does not say"
    if trace.commit is None:
        return "; the WAL that is kept holds no COMMIT of it"
    return f"; its COMMIT ends at {format_lsn(trace.commit.end_lsn)}"


def acknowledged_lines(operations: Iterable[Operation], span: Span) -> list[Line]:
    """The other operations that were acknowledged meanwhile, each a detail."""
    return [
        Line(
            operation.answered_ns,
            Source.HISTORY,
            f"process {operation.pid} is told ok of {operation.operation}",
            Weight.DETAIL,
            "acknowledgement",
        )
        for operation in operations
        if operation.outcome is Outcome.OK and operation.answered_ns is not None and operation.answered_ns in span
    ]


def wal_lines(trace: Trace | str, redo: Redo | None, t_ns: int) -> list[Line]:
    """What the log holds of the operation, standing at `t_ns`, when redo had read it: records have no time."""

    def line(text: str) -> Line:
        return Line(t_ns, Source.WAL, text, Weight.PLOT, about=True)

    if isinstance(trace, str):
        return [line(f"not there to be read: {trace}")]
    if trace.row is None:
        return [line(f"no record of the row, in {format_lsn(trace.begin_lsn)} to {format_lsn(trace.end_lsn)}")]
    lines = [
        line(
            f"the row is written at {format_lsn(trace.row.lsn)} by transaction {trace.row.xid}{_where(trace.row, redo)}"
        )
    ]
    if trace.commit is None:
        return [*lines, line(f"no COMMIT of transaction {trace.row.xid}, up to {format_lsn(trace.end_lsn)}")]
    commit = f"COMMIT of transaction {trace.commit.xid} at {format_lsn(trace.commit.lsn)}{_where(trace.commit, redo)}"
    return [*lines, line(commit)]


def _where(place: Place, redo: Redo | None) -> str:
    if redo is None:
        return ""
    if place.lsn < redo.begin_lsn:
        return ", before the redo point"
    return ", replayed" if place.lsn < redo.end_lsn else ", behind the end of redo"


def observed_lines(operation: Operation, sightings: Iterable[tuple[Judgement, str]], last_ns: int) -> list[Line]:
    """What each observation found of the operation, in the workload's words; the one at `last_ns` settles it."""
    return [
        Line(
            judgement.t,
            Source.OBSERVED,
            f"after cycle {judgement.cycle}: {found} ({judgement.fates[operation.operation].value})",
            Weight.PLOT if judgement.t == last_ns else Weight.STEP,
            "observation",
        )
        for judgement, found in sightings
    ]


def evidence_lines(evidence: Sequence[str], crash_ns: int) -> list[Line]:
    """The first lines that an oracle shows its failure with, each at the first time it names, or else at the crash."""
    lines = []
    for text in evidence[:_MOST_EVIDENCE]:
        named = re.search(r"\bt=(\d+)", text)
        said = shorten(re.sub(r"^t=\d+ ", "", text), _LONGEST_TEXT, placeholder=" …")
        t_ns = crash_ns if named is None else int(named[1])
        lines.append(Line(t_ns, Source.VERDICT, said, Weight.PLOT, about=named is None))
    return lines
