"""The oracle of the answer: after a blow the server is whole and answers its probe again, in time.

What the harness saw, and no more: that the probe was answered at a time when the promised processes were there. Which
of them answered the probe does not say, and under restart-one the others may have answered all along.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos.oracles.command.service import NOT_REPLACED, SECOND_NS, Strike, seconds, services
from chaos.oracles.evidence import Evidence, HarnessRecord
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import lived, when


@dataclass(frozen=True, slots=True)
class ReadyAgain:
    """The server answers within a bound of the first victim's end."""

    bound_s: float
    name: str = "ready_again"
    needs: tuple[Source, ...] = ("kernel", "harness")

    @property
    def title(self) -> str:
        return f"the server is whole and answers again within {self.bound_s:g} s"

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        answers = {record.cycle: record for record in evidence.harness if record.ev == "ready"}
        for service in services(evidence):
            for strike in service.strikes:
                if not strike.hits_main:
                    self._judge_strike(strike, answers.get(strike.cycle), tally)
        return tally.result(self, slack="from the answer to its bound", longest="from the victim's end to the answer")

    def _judge_strike(self, strike: Strike, answer: HarnessRecord | None, tally: Tally) -> None:
        ended = strike.ended_t
        if ended is None:
            tally.leave("the victim did not end")
            return
        if not tally.whole(strike.t, ended):
            return
        if answer is None:
            tally.trial()
            tally.fail(
                strike.t,
                f"the server did not answer again within {seconds(strike.until - ended)}",
                lived(strike.victims[0]),
            )
            return
        if answer.outcome == NOT_REPLACED:
            tally.leave("the server answered, but it was not whole, which the policy's rule judges")
            return
        took = answer.t - ended
        slack = round(self.bound_s * SECOND_NS) - took
        tally.trial(slack_ns=slack, longest_ns=took)
        if slack < 0:
            tally.fail(
                strike.t,
                f"the server answered {seconds(took)} after the death",
                lived(strike.victims[0]),
                f"the probe was answered {when(answer.t)}",
            )
