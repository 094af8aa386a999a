"""The oracle of reaping: every child of the postmaster that ends is reaped by the postmaster, and by nobody else.

A postmaster that lets others reap for it, leaves zombies or sleeps through an end does not know who is gone;
everything it decides after a crash rests on that. Judged from the kernel's account alone: the parent by the fork, the end by the
exit, the reaper by the process whose wait4 returned the pid.
"""

from __future__ import annotations

from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import PENDING_NS, PROMPT_NS, Child, Reign, lived, reigns
from chaos.witness.account import TICK_NS, surely_after


class Reaping:
    name = "reaping"
    title = "every child that ends is reaped by the postmaster itself, within a second"
    needs: tuple[Source, ...] = ("kernel",)

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for reign in reigns(evidence):
            for child in reign.children:
                _judge_child(reign, child, tally)
        return tally.result(
            self,
            slack="left of the second between a child's exit and its reaping",
            longest="from a child's exit to its reaping",
        )


def _judge_child(reign: Reign, child: Child, tally: Tally) -> None:
    process = child.process
    if process.exit_t is None or (reign.postmaster.exit_t and process.exit_t > reign.postmaster.exit_t):
        return  # it lives, or outlived the postmaster: then init or the harness reaps it
    last = process.reaped_t or reign.account.end
    if not tally.whole(process.exit_t, last):
        return
    if process.reaped_by == reign.postmaster.pid and process.reaped_t is not None:
        took = process.reaped_t - process.exit_t
        if reign.stood_still(process.exit_t, process.reaped_t):
            tally.trial(longest_ns=took)
            return
        tally.trial(slack_ns=PROMPT_NS - took, longest_ns=took)
        if took > PROMPT_NS + TICK_NS:
            tally.fail(process.reaped_t, f"{child} was a zombie for {took / 1e6:.0f} ms", lived(child))
        return
    ended = reign.postmaster.end_begun_t
    if ended is not None and reign.postmaster.signal is not None:
        tally.leave("the postmaster was killed before it could reap")
        return
    if ended is not None and not surely_after(ended, process.exit_t):
        return  # they ended together
    if process.reaped_t is None and ended is None and reign.account.end - process.exit_t < PENDING_NS:
        tally.leave("the account ended before the postmaster could reap")
        return
    tally.trial()
    who = f"was reaped by process {process.reaped_by}" if process.reaped_t is not None else "was never reaped"
    tally.fail(process.exit_t, f"{child} {who}, not by the postmaster (PID {reign.postmaster.pid})", lived(child))
