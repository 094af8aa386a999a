"""The oracle of the policy drain: after a child's death nobody is replaced, and the whole server ends, in time.

It is the policy of a server whose restart is somebody else's business: a container, a unit of a service manager. A
main process that lives on without its children is what they then do not notice.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos.oracles.command.service import SECOND_NS, Service, Strike, seconds, services
from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import Child, lived
from chaos.witness.account import surely_after


@dataclass(frozen=True, slots=True)
class Drain:
    """Nobody is forked after a death, and all have ended within a bound of it."""

    bound_s: float
    name: str = "drain"
    needs: tuple[Source, ...] = ("kernel", "harness")

    @property
    def title(self) -> str:
        return f"after a child's death nobody is replaced and the server ends within {self.bound_s:g} s"

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for service in services(evidence):
            for strike in service.strikes:
                if not strike.hits_main:
                    self._judge_strike(service, strike, tally)
        return tally.result(
            self, slack="from the last end to its bound", longest="from the victim's end to the last end of all"
        )

    def _judge_strike(self, service: Service, strike: Strike, tally: Tally) -> None:
        ended = strike.ended_t
        if ended is None:
            tally.leave("the victim did not end")
            return
        due = ended + round(self.bound_s * SECOND_NS)
        story = lived(strike.victims[0])
        everybody = [Child(service.main, service.title, None), *service.children]
        ends = [child.process.exit_t for child in everybody]
        last = None if None in ends else max(t for t in ends if t is not None)
        if not tally.whole(strike.t, due if last is None else last):
            return
        tally.trial(
            slack_ns=None if last is None else due - last, longest_ns=None if last is None else max(0, last - ended)
        )
        for heir in service.forked_between(ended, due):
            tally.fail(strike.t, f"{heir} was forked after the death of {strike.victims[0]}", story, lived(heir))
        for child in everybody:
            gone = child.process.exit_t
            if gone is None or surely_after(gone, due):
                tally.fail(strike.t, f"{child} lived on {seconds(due - ended)} after the death", story, lived(child))
