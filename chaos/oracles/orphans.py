"""The oracle of orphans: children do not outlive their postmaster, and never meet the next one.

A postmaster that exits has nobody left. One that was killed leaves its children to themselves: each notices at its next
wait, through a pipe that ends with the postmaster, and exits 1 (specification 7.1). What an orphan still writes, nobody
supervises; so no new postmaster on the same data directory may fork before the last of them has gone (specification 7.3),
whatever became of the lock file. Judged from the kernel's account. The history excuses a backend that was at work: one that
never waits cannot notice, so its time counts from the last operation that it is seen to begin.

A child that somebody else ended, or holds up, before its time was over proves nothing. A trial is a child that was
there when its postmaster was killed, a postmaster that exited, and a postmaster that was started over orphans.
"""

from __future__ import annotations

from collections.abc import Sequence
from signal import SIGABRT, SIGINT, SIGKILL, SIGQUIT, SIGSEGV, SIGTERM, SIGUSR2

from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import Child, Reign, lived, outlived, reigns, stood_still, when
from chaos.witness.account import Process, surely_after

LONGEST_NS = 10_000_000_000
"""Within this time every orphan reaches a wait. Idle ones take milliseconds, one in a checkpoint or in redo as long as
its longest step between two waits."""

EXIT_OF_ORPHANS = frozenset({"checkpointer", "bgwriter", "walwriter"})
"""Roles that can only exit 1 when nobody asked them to go: their work has no end of its own."""

_DEADLY = frozenset({SIGTERM, SIGINT, SIGQUIT, SIGKILL, SIGABRT, SIGSEGV, SIGUSR2})


class Orphans:
    name = "orphans"
    title = "a postmaster's children end soon after it, and before the next one forks"
    needs: tuple[Source, ...] = ("kernel",)

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        all_reigns = reigns(evidence)
        working = _last_operations(evidence)
        for place, reign in enumerate(all_reigns):
            if reign.postmaster.code is not None:
                _judge_exit(reign, tally)
            elif reign.postmaster.signal is not None:
                for child in _left(reign):
                    _judge_orphan(reign, child, working.get(child.process.order, []), tally)
                _judge_successor(reign, all_reigns[place + 1 :], tally)
        return tally.result(
            self,
            slack="from the last orphan's exit to the first fork of the next postmaster",
            longest="from the end of a killed postmaster to an orphan's own exit",
        )


def _last_operations(evidence: Evidence) -> dict[int, list[int]]:
    """When each process began its operations, by its place in the account."""
    begun: dict[int, list[int]] = {}
    for invoke in evidence.invokes:
        process = evidence.account.at(invoke.pid, invoke.t)
        if process is not None:
            begun.setdefault(process.order, []).append(invoke.t)
    return begun


def _left(reign: Reign) -> list[Child]:
    """The children that certainly lived when their postmaster had ended."""
    return [child for child in reign.children if outlived(child, reign.end)]


def _judge_exit(reign: Reign, tally: Tally) -> None:
    """A postmaster that exits of its own accord has reaped everybody. A logger outlives it to tell of its end, and it
    has no name that is known here; nor has anybody been told to go when the startup process could not be forked."""
    if not tally.whole(reign.end, reign.end):
        return
    if reign.other_reason(reign.begin, reign.end):
        tally.leave("the postmaster exited for a reason that ends it at once")
        return
    tally.trial()
    for child in _left(reign):
        if child.role != "unknown":
            tally.fail(reign.end, f"the postmaster {reign.postmaster.ended_by()} and {child} still lived", lived(child))


def _judge_orphan(reign: Reign, child: Child, operations: list[int], tally: Tally) -> None:
    process, account = child.process, reign.account
    # The invokes of an orphan end with it; those within its time move the end of that time.
    due = max([reign.end, *operations]) + LONGEST_NS
    known = min(account.end, process.exit_t or account.end)
    if not tally.whole(reign.end, min(due, known)):
        return
    if _interfered(process, reign.end, min(due, known)):
        tally.leave("somebody else ended or stopped an orphan before its time was over")
        return
    story = f"kernel: the postmaster (PID {reign.postmaster.pid}) {reign.postmaster.ended_by()} {when(reign.end)}"
    if known < due and process.exit_t is None:
        tally.leave("the account ended before an orphan's time was over")
        return
    if process.exit_t is None or surely_after(process.exit_t, due):
        tally.trial()
        tally.fail(due, f"{child} outlived its postmaster by {LONGEST_NS / 1e9:.0f} s", story, lived(child))
        return
    tally.trial(longest_ns=process.exit_t - reign.end)
    begun = process.end_begun_t
    if begun is None or not surely_after(begun, reign.end) or any(r.sig in _DEADLY for r in process.received):
        return  # its end is no answer to the postmaster's
    expected = (1,) if child.role in EXIT_OF_ORPHANS else (0, 1)
    if process.code not in expected and (process.code, process.signal) != (None, None):
        tally.fail(
            process.exit_t, f"{child} {process.ended_by()} when its postmaster was gone, not 1", story, lived(child)
        )


def _interfered(process: Process, since_ns: int, until_ns: int) -> bool:
    """Whether somebody ended an orphan in a span, or had stopped it for a part of it."""
    ended = any(signal.sig in _DEADLY and since_ns <= signal.t <= until_ns for signal in process.received)
    return ended or stood_still(process, since_ns, until_ns)


def _judge_successor(old: Reign, later: Sequence[Reign], tally: Tally) -> None:
    """The next postmaster on the data directory forks when the last orphan has gone: the interlock held."""
    left = _left(old)
    successors = (new for new in later if new.begin >= old.end and new.children)
    new = next((new for new in successors if new.data_directory == old.data_directory), None)
    if not left or new is None:
        return
    fork = new.children[0].process.born
    if not tally.whole(old.end, fork):
        return
    alive = [child for child in left if outlived(child, fork)]
    last = max((child.process.exit_t or 0 for child in left), default=0)
    tally.trial(slack_ns=None if alive else fork - last)
    for child in alive:
        tally.fail(
            fork,
            f"{child} of the postmaster before still lived when the new one (PID {new.postmaster.pid}) forked",
            lived(child),
            f"kernel: {new.children[0]} forked {when(fork)}",
        )
