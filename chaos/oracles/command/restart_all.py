"""The oracle of the policy restart-all: who dies takes the others along, and only then a new generation begins.

A server whose children share memory must not let one of the old generation meet one of the new: that is why
PostgreSQL's postmaster waits for all (`PostmasterStateMachine`, PM_NO_CHILDREN, in postmaster.c). Erlang/OTP calls the
policy one_for_all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from chaos.oracles.command.service import SECOND_NS, Service, Strike, seconds, services, stories
from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import Child, lived, when
from chaos.witness.account import surely_after


@dataclass(frozen=True, slots=True)
class RestartAll:
    """All others end, nobody of the new generation lives before, and it is complete within a bound."""

    bound_s: float
    name: str = "restart_all"
    needs: tuple[Source, ...] = ("kernel", "harness")

    @property
    def title(self) -> str:
        return f"after a child's death the others end, and then a new generation stands within {self.bound_s:g} s"

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
            self,
            slack="from the last fork of the new generation to its bound",
            longest="from the first victim's end to the last fork of the new generation",
        )

    def _judge_strike(self, service: Service, strike: Strike, tally: Tally) -> None:
        ended = strike.ended_t
        if ended is None:
            tally.leave("the victim did not end")
            return
        due = ended + round(self.bound_s * SECOND_NS)
        if not tally.whole(strike.t, strike.until):
            return
        fresh = service.forked_between(ended, strike.until)
        complete = _complete_t([*strike.victims, *strike.others], fresh)
        tally.trial(
            slack_ns=None if complete is None else due - complete,
            longest_ns=None if complete is None else complete - ended,
        )
        story = lived(strike.victims[0])
        for child in strike.others:
            if child.process.exit_t is None or child.process.exit_t > strike.until:
                tally.fail(
                    strike.t, f"{child} was left alone after the death of {strike.victims[0]}", story, lived(child)
                )
        old = [c for c in (*strike.victims, *strike.others) if c.process.exit_t is not None]
        last = max(old, key=lambda child: child.process.exit_t or 0)
        for child in fresh:
            if surely_after(last.process.exit_t or 0, child.process.born):
                tally.fail(
                    strike.t, f"{child} was forked while {last} of the old generation lived", lived(last), lived(child)
                )
                break
        if complete is None:
            gone = service.main.exit_t
            how = [] if gone is None else [f"the main process {service.main.ended_by()} {when(gone)}"]
            tally.fail(strike.t, "no whole new generation was forked within the cycle", story, *stories(fresh), *how)
        elif surely_after(complete, due):
            tally.fail(strike.t, f"the new generation stood {seconds(complete - ended)} after the death", story)


def _complete_t(old: Sequence[Child], fresh: Sequence[Child]) -> int | None:
    """When as many of each role had been forked as there were before; None when they were not."""
    wanted = Counter(child.role for child in old)
    complete = 0
    for child in sorted(fresh, key=lambda child: child.process.born):
        if wanted[child.role] > 0:
            wanted[child.role] -= 1
            complete = child.process.born
    return complete if not any(wanted.values()) else None
