"""The oracle of the stop: the stop signal to the main process ends everybody, in time.

What a service manager relies on: after this bound it kills, and what is killed has not been put away.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos.oracles.command.service import SECOND_NS, Service, seconds, services
from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import Child, lived, when
from chaos.witness.account import TICK_NS, surely_after


@dataclass(frozen=True, slots=True)
class Stop:
    """Within a bound of the stop signal the main process and all its descendants have ended."""

    bound_s: float
    name: str = "stop"
    needs: tuple[Source, ...] = ("kernel", "harness")

    @property
    def title(self) -> str:
        return f"the stop signal ends everybody within {self.bound_s:g} s"

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for service in services(evidence):
            self._judge_service(service, tally)
        return tally.result(
            self, slack="from the last end to its bound", longest="from the stop signal to the last end"
        )

    def _judge_service(self, service: Service, tally: Tally) -> None:
        asked = service.stop
        if asked is None:
            return
        received = service.main.received
        sent = next((r.t for r in received if r.sig == asked.sig and r.t >= asked.t - TICK_NS), None)
        if sent is None:
            tally.leave("the stop signal was not seen to arrive")
            return
        due = sent + round(self.bound_s * SECOND_NS)
        everybody = [Child(service.main, service.title, None), *service.children]
        there = [child for child in everybody if child.process.exit_t is None or child.process.exit_t > sent]
        ends = [child.process.exit_t for child in there]
        last = None if None in ends else max((t for t in ends if t is not None), default=sent)
        if not tally.whole(sent, due if last is None else last):
            return
        tally.trial(slack_ns=None if last is None else due - last, longest_ns=None if last is None else last - sent)
        for child in there:
            gone = child.process.exit_t
            if gone is None or surely_after(gone, due):
                span = "is still there" if gone is None else f"ended {seconds(gone - sent)} after"
                tally.fail(sent, f"{child} {span} the stop signal", f"signal {asked.sig} {when(sent)}", lived(child))
