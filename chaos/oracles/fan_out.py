"""The oracle of the crash fan-out: one crash ends everybody, in the prescribed way.

After a child's crash every child of the postmaster then alive gets SIGQUIT from the postmaster, newest first,
to the process and to its group, before a new startup process is forked; SIGKILL comes no sooner than 4 s after
the first SIGQUIT and for whoever is still there in time (specification 5.1, 5.3, checklist 21-27; the 4 s are
what remains of 5 in PostgreSQL's whole seconds). Judged from the kernel's account alone.

The order is asked of servers that promise it (`chaos.oracles.server_kind`): PostgreSQL since 18.

A child whose end had begun before its turn came may have been passed over. A crash while another is being
handled obliges to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import Child, Crash, Reign, Sent, lived, reigns, surely_alive, when
from chaos.witness.account import TICK_NS, surely_after

EARLIEST_KILL_NS = 4_000_000_000
LATEST_KILL_NS = 8_000_000_000
"""6 s is the specification's limit; the rest is what a loaded machine may add."""
PENDING_NS = 10_000_000_000
"""A volley that is missing this shortly before the account ends is perhaps still to come."""


@dataclass(frozen=True, slots=True)
class _Volley:
    """What the postmaster sent after one crash: the first SIGQUIT to each child, in order of sending."""

    crash: Crash
    alive: list[Child]
    first: dict[int, Sent]
    """By the child's place in the account."""
    until: int

    @property
    def begin(self) -> int | None:
        return min((sent.t for sent in self.first.values()), default=None)

    @property
    def end(self) -> int:
        return max((sent.t for sent in self.first.values()), default=self.crash.t)


class FanOut:
    name = "fan_out"
    title = "after a crash every child gets SIGQUIT, newest first, and SIGKILL only 5 s later"
    needs: tuple[Source, ...] = ("kernel",)

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for reign in reigns(evidence):
            for crash in reign.crashes:
                if crash.excused is None:
                    _judge_crash(reign, crash, tally)
            _judge_kills(reign, tally)
        return tally.result(
            self,
            slack="from the last SIGQUIT to the fork of the next startup process",
            longest="from the reaping of the crashed child to the last SIGQUIT",
        )


def _judge_crash(reign: Reign, crash: Crash, tally: Tally) -> None:
    until = reign.generation_end(crash.t)
    alive = [c for c in reign.children if c is not crash.child and surely_alive(c, crash.t)]
    if not alive or not tally.whole(reign.generation_begin(crash.t), max(crash.t, min(until, reign.account.end))):
        return
    first: dict[int, Sent] = {}
    for sent in reign.quits_between(crash.t - TICK_NS, until):
        first.setdefault(sent.child.order, sent)
    volley = _Volley(crash, alive, first, until)
    passed_over = [child for child in alive if child.process.order not in first and not _was_ending(child, volley)]
    if passed_over and _cut_short(reign, volley, tally):
        return
    tally.trial(
        slack_ns=until - volley.end if first and until < reign.end else None,
        longest_ns=volley.end - crash.t if first else None,
    )
    story = lived(crash.child)
    for child in passed_over:
        tally.fail(crash.t, f"{child} got no SIGQUIT after the crash of {crash.child}", story, lived(child))
    if reign.evidence.kind.newest_first:
        _judge_order(volley, story, tally)
    if reign.account.sessions:
        _judge_groups(reign, volley, story, tally)
    _judge_escalation(reign, volley, story, tally)


def _was_ending(child: Child, volley: _Volley) -> bool:
    begun = child.process.end_begun_t
    return begun is not None and not surely_after(begun, volley.end)


def _cut_short(reign: Reign, volley: _Volley, tally: Tally) -> bool:
    """Whether the postmaster or the account ended before the volley must have been complete."""
    if reign.postmaster.signal is not None and volley.until == reign.end:
        tally.leave("the postmaster was killed before it could finish")
        return True
    if reign.postmaster.exit_t is None and reign.account.end - volley.end < PENDING_NS and volley.until == reign.end:
        tally.leave("the account ended before the postmaster could finish")
        return True
    return False


def _judge_order(volley: _Volley, story: str, tally: Tally) -> None:
    mine = {child.process.order: child for child in volley.alive}
    sent = sorted((s for order, s in volley.first.items() if order in mine), key=lambda s: s.order)
    for earlier, later in pairwise(sent):
        if surely_after(later.t, earlier.t) and surely_after(later.child.born, earlier.child.born):
            tally.fail(
                later.t,
                f"{mine[earlier.child.order]} got SIGQUIT before {mine[later.child.order]}, which is newer",
                story,
                f"SIGQUIT {when(earlier.t)} to the child forked {when(earlier.child.born)}",
                f"SIGQUIT {when(later.t)} to the child forked {when(later.child.born)}",
            )


def _judge_groups(reign: Reign, volley: _Volley, story: str, tally: Tally) -> None:
    """Each child that led a process group got the signal twice: by its pid, and as a member of the group."""
    for child in volley.alive:
        sent = volley.first.get(child.process.order)
        session = child.process.session_t
        if sent is None or session is None or not surely_after(sent.t, session):
            continue
        times = sum(s.child is child.process for s in reign.quits_between(sent.t, volley.until))
        if times < 2:
            tally.fail(sent.t, f"SIGQUIT went to {child} but not to its process group", story, lived(child))


def _judge_escalation(reign: Reign, volley: _Volley, story: str, tally: Tally) -> None:
    begin = volley.begin
    if begin is None:
        return
    due = begin + LATEST_KILL_NS
    if due > min(reign.end, reign.account.end):
        return
    killed = {kill.child.order for kill in reign.kills if begin <= kill.t <= due}
    for child in reign.children:
        process = child.process
        there = process.born < begin + EARLIEST_KILL_NS and (process.exit_t is None or process.exit_t > due)
        if there and process.order not in killed and process.born < volley.until:
            tally.fail(due, f"{child} outlived SIGQUIT by 8 s and got no SIGKILL", story, lived(child))


def _judge_kills(reign: Reign, tally: Tally) -> None:
    """SIGKILL, after a crash or in an immediate shutdown, only 5 s after the SIGQUIT of that generation."""
    told: set[tuple[int, int]] = set()
    for kill in reign.kills:
        begin = reign.generation_begin(kill.t)
        if (begin, kill.child.order) in told or not reign.account.whole(begin, kill.t):
            continue
        told.add((begin, kill.child.order))
        tally.trial()
        quits = [sent.t for sent in reign.quits_between(begin, kill.t)]
        who = next(child for child in reign.children if child.process is kill.child)
        if not quits:
            tally.fail(kill.t, f"{who} got SIGKILL from the postmaster and nobody had got SIGQUIT", lived(who))
        elif kill.t - quits[0] < EARLIEST_KILL_NS - TICK_NS:
            late_ms = (kill.t - quits[0]) / 1e6
            tally.fail(kill.t, f"{who} got SIGKILL {late_ms:.0f} ms after the first SIGQUIT, not 5 s", lived(who))
