"""One postmaster's life as the kernel's account shows it: its children, its generations, its signals, its crashes.

Owns what the supervision oracles have in common: who was a child of which postmaster and in which role, which
SIGQUIT and SIGKILL the postmaster sent, and which ends of children obliged it to end all others. All of it is
evidence but for three things that only the server can say and that never excuse a missing act of its own: the
role of a child that died before it had a name, or of one whose server names it in its log alone, whether a slot had been cleaned up, and (to excuse a SIGQUIT)
that the lock file was lost or a fork had failed.

The rules of what an exit means are written here once more, from PostgreSQL's postmaster.c (specification 2.3)
and not from the server under test: an oracle that imported the server's table would agree with its mistakes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from signal import SIGABRT, SIGCONT, SIGINT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2

from chaos.oracles.evidence import Evidence, ServerRecord
from chaos.witness.account import TICK_NS, Account, Process, surely_after

ORDERLY_CODES: Mapping[str, frozenset[int]] = {
    "checkpointer": frozenset(),
    "bgwriter": frozenset({0}),
    "walwriter": frozenset({0}),
    "backend": frozenset({0, 1}),
    "dead_end": frozenset({0, 1}),
    "bgworker": frozenset({0, 1}),
}
"""Exit codes that are no crash, per role; a process of an unknown role may exit 0 or 1."""

SLOT_MATTERS = frozenset({"backend", "bgworker"})
"""Roles whose orderly exit is a crash all the same if their slot had not been cleaned up."""

AHEAD_OF_STARTUP = frozenset({"io_worker"})
"""Roles of a real PostgreSQL whose processes a new generation forks before its startup process (`maybe_adjust_io_workers`,
postmaster.c)."""

_FOREVER = 1 << 62

PROMPT_NS = 1_000_000_000
"""What a postmaster does without waiting for anybody is done within this time.

It takes milliseconds; a second is what a loaded machine may add. A wake-up that is lost costs a minute (the next look
at the lock file), and a child that is waited for in vain for ever: both lie far behind it.
"""

PENDING_NS = 10_000_000_000
"""What is missing this shortly before the account ends is perhaps still to come."""

PMSIGNAL_GRACE_NS = 50_000_000
"""A postmaster looks at its flags a while after the signal that announces them, and after reaping."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A signal from the postmaster to one of its children."""

    t: int
    order: int
    sig: int
    child: Process


@dataclass(frozen=True, slots=True)
class Child:
    """A child of the postmaster. `clean` is what the journal says of its slot when it was reaped; None when
    it says nothing. `lost_t` is from when on nobody knows whether it lives: its end was not seen, and the account has
    a gap; None when it has none."""

    process: Process
    role: str
    clean: bool | None
    lost_t: int | None = None

    def __str__(self) -> str:
        return f"{self.role} (PID {self.process.pid})"


@dataclass(frozen=True, slots=True)
class Crash:
    """The end of a child that is a crash by its status. `excused` says why it obliged the postmaster to
    nothing: a crash was being handled already, or may have been."""

    child: Child
    t: int
    excused: str | None


class Reign:
    """The life of one postmaster."""

    title = "postmaster"
    """What its main process is called."""

    def __init__(self, postmaster: Process, evidence: Evidence) -> None:
        self.postmaster = postmaster
        self.evidence = evidence
        self.account: Account = evidence.account
        self.begin = postmaster.born or self.account.begin
        self.end = postmaster.exit_t or self.account.end
        # Its exit begins after its last record, so the end of its life bounds them.
        until = (postmaster.exit_t or _FOREVER) + TICK_NS
        self.journal: Sequence[ServerRecord] = [
            record for record in evidence.server_between(postmaster.born, until) if record.pid == postmaster.pid
        ]
        """What this postmaster itself wrote into the server's journal."""
        self.data_directory = next((r.data_directory for r in self.journal if r.ev == "postmaster_start"), "")
        """Where it served, by its own word; empty when it did not say."""
        journal = _Journal(self.journal)
        self.children: Sequence[Child] = [
            Child(process, _role(process, journal, evidence), journal.clean(process), self._lost(process))
            for process in self.account.children(postmaster)
        ]

    def _lost(self, process: Process) -> int | None:
        gap = self.account.gap(process.born, self.account.end) if process.exit_t is None else None
        return max(gap.since, process.born) if gap is not None else None

    @cached_property
    def startups(self) -> Sequence[Child]:
        """Its startup processes, oldest first: each but the first begins a generation after a crash."""
        return [child for child in self.children if child.role == "startup"]

    @cached_property
    def _startup_begins(self) -> Sequence[int]:
        return [child.process.born for child in self.startups]

    @cached_property
    def sent(self) -> Sequence[Sent]:
        """Every signal that it sent a child, in order."""
        sent = [
            Sent(signal.t, signal.order, signal.sig, child.process)
            for child in self.children
            for signal in child.process.received
            if signal.by == self.postmaster.pid
        ]
        return sorted(sent, key=lambda signal: signal.order)

    @cached_property
    def quits(self) -> Sequence[Sent]:
        """Every SIGQUIT (or SIGABRT, with send_abort_for_crash) that it sent a child, in order."""
        return [signal for signal in self.sent if signal.sig in (SIGQUIT, SIGABRT)]

    def quits_between(self, since_ns: int, until_ns: int) -> Sequence[Sent]:
        """Those of a span, both ends included."""
        begin = bisect_left(self.quits, since_ns, key=_time)
        return self.quits[begin : bisect_right(self.quits, until_ns, key=_time)]

    def sent_between(self, since_ns: int, until_ns: int) -> Sequence[Sent]:
        """Every signal that it sent a child in a span, both ends included."""
        begin = bisect_left(self.sent, since_ns, key=_time)
        return self.sent[begin : bisect_right(self.sent, until_ns, key=_time)]

    @cached_property
    def kills(self) -> Sequence[Sent]:
        """Every SIGKILL that it sent a child, in order."""
        return [signal for signal in self.sent if signal.sig == SIGKILL]

    def requests(self, before_ns: int, signals: Sequence[int] = (SIGTERM, SIGINT, SIGQUIT)) -> bool:
        """Whether it had been asked to shut down by then, in one of these ways."""
        return any(r.sig in signals and r.t <= before_ns + TICK_NS for r in self.postmaster.received)

    def stood_still(self, since_ns: int, until_ns: int) -> bool:
        """Whether somebody had stopped it for a part of a span: what was late then was not its fault."""
        return stood_still(self.postmaster, since_ns, until_ns)

    def other_reason(self, since_ns: int, until_ns: int) -> bool:
        """Whether its journal tells in a span of a reason to end everybody that no child's end and no signal shows:
        the lock file went, a fork failed, the recovery target was reached, the WAL was shut down unasked."""
        return any(_is_other_reason(record) for record in self.journal if since_ns <= record.t <= until_ns)

    def generation_begin(self, t_ns: int) -> int:
        """When the generation that was current at a time began: its startup process' fork."""
        begins = self._startup_begins
        index = bisect_right(begins, t_ns)
        return begins[index - 1] if index > 1 else self.begin

    def generation_end(self, t_ns: int) -> int:
        """When the next startup process after a time was forked; the end of this life if none was."""
        begins = self._startup_begins
        index = bisect_right(begins, t_ns)
        return begins[index] if index < len(begins) else self.end

    def startup_before(self, t_ns: int) -> Child | None:
        """The last startup process forked before a time."""
        index = bisect_right(self._startup_begins, t_ns + TICK_NS)
        return self.startups[index - 1] if index else None

    def is_crash(self, child: Child) -> bool:
        """Whether the child's end, by the kernel's account, is a crash (specification 2.3, 3.3)."""
        process = child.process
        if process.code is None:
            return process.signal is not None
        at = process.exit_t or 0
        if child.role == "startup":
            return process.code not in (0, 3) and not (process.code == 1 and self.requests(at))
        if child.role == "checkpointer" and process.code == 0:
            # Dismissed at the end of an orderly shutdown; at any other time its exit is a crash.
            return not any(r.sig == SIGUSR2 and r.by == self.postmaster.pid for r in process.received)
        if process.code not in ORDERLY_CODES.get(child.role, frozenset({0, 1})):
            return True
        return child.role in SLOT_MATTERS and child.clean is False

    @cached_property
    def crashes(self) -> Sequence[Crash]:
        """The ends of children that are crashes, in the order in which the postmaster learned of them."""
        found = []
        for child in self.children:
            process = child.process
            t = process.reaped_t
            if t is not None and process.reaped_by == self.postmaster.pid and self.is_crash(child):
                found.append(Crash(child, t, self._excuse(child, t)))
        return sorted(found, key=lambda crash: crash.t)

    def _excuse(self, child: Child, t_ns: int) -> str | None:
        begin = self.generation_begin(t_ns)
        if self.quits_between(begin, t_ns - 1):
            return "everybody had been told to go already"
        if self.fatal_error_may_stand(t_ns):
            return "the crash before it was perhaps still being handled"
        return None

    def fatal_error_may_stand(self, t_ns: int) -> bool:
        """Whether, in the generation after a crash, recovery had perhaps not begun yet by the postmaster's
        knowledge: PostgreSQL then relaunches the dead one and signals nobody (specification 1.6 no. 9)."""
        startup = self.startup_before(t_ns)
        if startup is None or startup is self.startups[0]:
            return False
        process = startup.process
        if process.code == 0 and process.reaped_t is not None and process.reaped_t < t_ns:
            return False
        announced = [
            r.t for r in self.postmaster.received if r.sig == SIGUSR1 and r.by == process.pid and r.t >= process.born
        ]
        return not announced or t_ns <= announced[0] + PMSIGNAL_GRACE_NS


def _is_other_reason(record: ServerRecord) -> bool:
    event = record.event if isinstance(record.event, Mapping) else {}
    kind = event.get("type")
    if kind in ("LockFileInvalid", "ForkFailed"):
        return True
    if kind == "PmSignal":
        after = record.after if isinstance(record.after, Mapping) else {}
        return event.get("kind") == "xlog_is_shutdown" and bool(after.get("fatal_error"))
    return kind == "ChildExited" and event.get("outcome") == "exit_3"


class _Journal:
    """The postmaster's own records of its children, found by pid and time."""

    def __init__(self, records: Sequence[ServerRecord]) -> None:
        self._by_child: dict[int, list[ServerRecord]] = {}
        for record in records:
            if record.ev in ("fork", "reap") and record.child:
                self._by_child.setdefault(record.child, []).append(record)

    def of(self, process: Process, ev: str) -> ServerRecord | None:
        """The record of this event in this life of the pid: the first one after its fork."""
        for record in self._by_child.get(process.pid, []):
            if record.ev == ev and record.t + TICK_NS >= process.born:
                return record
        return None

    def clean(self, process: Process) -> bool | None:
        record = self.of(process, "reap") if process.reaped_t is not None else None
        return record.clean if record is not None else None


def _role(process: Process, journal: _Journal, evidence: Evidence) -> str:
    """By the kernel's account, by what the harness saw, or, where neither could, by the server's word."""
    named = process.role
    if named is not None and named != "postmaster":
        return named
    seen = evidence.role_seen(process)
    if seen is not None:
        return seen
    claimed = journal.of(process, "fork")
    return (claimed.role if claimed is not None else None) or "unknown"


def reigns(evidence: Evidence) -> list[Reign]:
    """Every postmaster of the run, oldest first: followed as one, named as one, or said to be one."""
    known: list[Reign] | None = evidence.derived.get("reigns")
    if known is None:
        known = evidence.derived["reigns"] = _find_reigns(evidence)
    return known


def _find_reigns(evidence: Evidence) -> list[Reign]:
    account = evidence.account
    found: dict[int, Process] = {}
    candidates = [account.at(f.pid, f.t) for f in account.followed if f.role == "postmaster"]
    candidates += [account.at(r.pid, r.t) for r in evidence.server if r.ev == "postmaster_start"]
    candidates += [process for process in account.processes if process.role == "postmaster"]
    for process in candidates:
        if process is not None:
            found[id(process)] = process
    return [Reign(process, evidence) for process in sorted(found.values(), key=lambda process: process.order)]


def _time(sent: Sent) -> int:
    return sent.t


def when(t_ns: int) -> str:
    """A time as the lines of evidence show it."""
    return f"t={t_ns}"


def lived(child: Child) -> str:
    """One child's life in one line."""
    process = child.process
    parts = [f"{child}: forked {when(process.born)}"]
    if process.exit_t is not None:
        parts.append(f"{process.ended_by()} {when(process.exit_t)}")
    if process.reaped_t is not None:
        parts.append(f"reaped by {process.reaped_by} {when(process.reaped_t)}")
    return ", ".join(parts)


def stood_still(process: Process, since_ns: int, until_ns: int) -> bool:
    """Whether a process had been stopped by a signal for a part of a span."""
    stopped = False
    for signal in process.received:
        if signal.t > until_ns:
            break
        if signal.sig in (SIGSTOP, SIGTSTP):
            stopped = True
        elif signal.sig == SIGCONT:
            if stopped and signal.t >= since_ns:
                return True
            stopped = False
    return stopped


def surely_alive(child: Child, t_ns: int) -> bool:
    """Whether a child certainly had been forked and not yet reaped at a time."""
    process = child.process
    born_before = surely_after(t_ns, process.born) and not is_lost(child, t_ns)
    return born_before and (process.reaped_t is None or surely_after(process.reaped_t, t_ns))


def outlived(child: Child, t_ns: int) -> bool:
    """Whether a child certainly had not exited at a time."""
    exit_t = child.process.exit_t
    return not is_lost(child, t_ns) and (exit_t is None or surely_after(exit_t, t_ns))


def is_lost(child: Child, t_ns: int) -> bool:
    """Whether a child's end may lie unseen before a time."""
    return child.lost_t is not None and child.lost_t <= t_ns


__all__ = [
    "PENDING_NS",
    "PROMPT_NS",
    "Child",
    "Crash",
    "Reign",
    "Sent",
    "is_lost",
    "lived",
    "outlived",
    "reigns",
    "stood_still",
    "surely_alive",
    "when",
]
