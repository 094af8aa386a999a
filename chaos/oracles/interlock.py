"""The oracle of the interlock: no server recovers a data directory while a process of the one before it lives.

A process that outlives its postmaster may still write to the files. So a new postmaster that forks its startup process
beside one has two writers on one directory; one that ends without having forked any while one lives has been kept out.
Judged from the kernel's account alone (specification 7).

A start after which everybody of the server before is gone is a trial too, for it could have come too soon.
"""

from __future__ import annotations

from collections.abc import Sequence

from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import Child, Reign, lived, reigns, when
from chaos.witness.account import surely_after


class Interlock:
    name = "interlock"
    title = "no server starts while a process of the one before it lives"
    needs: tuple[Source, ...] = ("kernel",)

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        known = reigns(evidence)
        for number, reign in enumerate(known):
            if reign.startups:
                _judge_start(reign, known[:number], tally)
        return tally.result(self, slack="from the end of the last process of a server to the next one's recovery")


def _judge_start(reign: Reign, earlier: Sequence[Reign], tally: Tally) -> None:
    children = [child for before in earlier for child in before.children]
    start = reign.startups[0].process.born
    if not children or not tally.whole(min(child.process.born for child in children), start):
        return
    beside = [child for child in children if _lived_at(child, start)]
    last = max((child.process.exit_t or 0 for child in children), default=0)
    tally.trial(slack_ns=None if beside else max(0, start - last))
    for child in beside:
        tally.fail(
            start,
            f"the postmaster (PID {reign.postmaster.pid}) began to recover while {child} of the server before it lived",
            lived(child),
            f"startup process forked {when(start)}",
        )


def _lived_at(child: Child, t_ns: int) -> bool:
    exited = child.process.exit_t
    return child.process.born < t_ns and (exited is None or surely_after(exited, t_ns))
