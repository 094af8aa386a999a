"""The oracle of order: no operation is begun before the recovery of its generation has ended.

Each process that began an operation was forked after the exit 0 of the startup process of its generation, by
the kernel's account, and each operation that the history shows was begun after it. Operations of processes that
are no children of the postmaster (outside clients) are not this oracle's: they may knock at any time.
"""

from __future__ import annotations

from chaos.oracles.evidence import Evidence, Invoke
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import Child, Reign, lived, reigns, when
from chaos.witness.account import surely_after


class RecoveryOrder:
    name = "recovery_order"
    title = "no operation is begun before recovery has ended"
    needs: tuple[Source, ...] = ("kernel", "history")

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        workers: dict[int, tuple[Reign, Child]] = {
            child.process.order: (reign, child) for reign in reigns(evidence) for child in reign.children
        }
        seen: dict[int, list[Invoke]] = {}
        for invoke in evidence.invokes:
            process = evidence.account.at(invoke.pid, invoke.t)
            if process is not None and process.order in workers:
                seen.setdefault(process.order, []).append(invoke)
        for order, invokes in seen.items():
            _judge_worker(*workers[order], invokes, tally)
        return tally.result(self, slack="from the startup process' exit 0 to the first operation of its generation")


def _judge_worker(reign: Reign, child: Child, invokes: list[Invoke], tally: Tally) -> None:
    process = child.process
    startup = reign.startup_before(process.born)
    since = startup.process.born if startup is not None else reign.begin
    # The workers of a harness that was killed went on a while after its account ended.
    invokes = [invoke for invoke in invokes if invoke.t <= reign.account.end] or invokes[:1]
    if not tally.whole(since, invokes[-1].t):
        return
    first = invokes[0]
    begun = f"first operation {when(first.t)} by {lived(child)}"
    if startup is None:
        tally.trial()
        tally.fail(first.t, f"{child} began an operation and no startup process had run", begun)
        return
    over = startup.process.exit_t
    if startup.process.code != 0 or over is None or surely_after(over, first.t):
        tally.trial()
        tally.fail(
            first.t,
            f"{child} began an operation before recovery had ended with exit 0",
            lived(startup),
            begun,
        )
    elif surely_after(over, process.born):
        tally.trial()
        tally.fail(process.born, f"{child} was forked before recovery had ended", lived(startup), begun)
    else:
        for invoke in invokes:
            tally.trial(slack_ns=invoke.t - over)
