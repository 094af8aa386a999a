"""The oracle of the crash fan-out: one crash ends everybody, in the prescribed way.

After a child's crash every child of the postmaster then alive gets SIGQUIT from the postmaster, newest first,
to the process and to its group, within a second and before a new startup process is forked (specification 5.1,
checklist 21-23). Judged from the kernel's account alone.

The order is asked of servers that promise it (`chaos.oracles.server_kind`): PostgreSQL since 18.

A child whose end had begun before its turn came may have been passed over. A crash while another is being
handled obliges to nothing. What follows for whoever does not go is `escalation`'s to judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import (
    PENDING_NS,
    PROMPT_NS,
    Child,
    Crash,
    Reign,
    Sent,
    lived,
    reigns,
    surely_alive,
    when,
)
from chaos.witness.account import TICK_NS, surely_after


@dataclass(frozen=True, slots=True)
class _Volley:
    """What the postmaster sent after one crash: the first SIGQUIT to each child, in order of sending."""

    crash: Crash
    alive: list[Child]
    first: dict[int, Sent]
    """By the child's place in the account."""
    until: int

    @property
    def end(self) -> int:
        """When the last of those who were alive at the crash was told."""
        return max(
            (self.first[c.process.order].t for c in self.alive if c.process.order in self.first), default=self.crash.t
        )


class FanOut:
    name = "fan_out"
    title = "after a crash every child gets SIGQUIT within a second, newest first"
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
        return tally.result(
            self,
            slack="left of the second between the reaping of the crashed child and the last SIGQUIT",
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
    took = volley.end - crash.t if first else None
    timed = took is not None and not reign.stood_still(crash.t, volley.end)
    tally.trial(slack_ns=PROMPT_NS - took if timed and took is not None else None, longest_ns=took)
    story = lived(crash.child)
    if timed:
        _judge_time(volley, story, tally)
    for child in passed_over:
        tally.fail(crash.t, f"{child} got no SIGQUIT after the crash of {crash.child}", story, lived(child))
    if reign.evidence.kind.newest_first:
        _judge_order(volley, story, tally)
    if reign.account.sessions:
        _judge_groups(reign, volley, story, tally)


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


def _judge_time(volley: _Volley, story: str, tally: Tally) -> None:
    for child in volley.alive:
        sent = volley.first.get(child.process.order)
        if sent is not None and surely_after(sent.t, volley.crash.t + PROMPT_NS):
            late_ms = (sent.t - volley.crash.t) / 1e6
            tally.fail(
                sent.t,
                f"{child} got SIGQUIT {late_ms:.0f} ms after the postmaster knew of the crash of {volley.crash.child}",
                story,
                lived(child),
            )


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
