"""The oracle of a child that hangs: its supervisor notices, and ends it, in time.

A stopped process (SIGSTOP) is the plainest hang: it holds its sockets, answers nothing, and no SIGCHLD says that it
died. A supervisor finds it by asking, or by a heartbeat that stays away.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos.command.plan import CommandFault
from chaos.oracles.command.service import SECOND_NS, Service, Strike, seconds, services
from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import lived
from chaos.witness.account import surely_after


@dataclass(frozen=True, slots=True)
class Hang:
    """Who was stopped has been ended by its supervisor within a bound."""

    bound_s: float
    name: str = "hang"
    needs: tuple[Source, ...] = ("kernel", "harness")

    @property
    def title(self) -> str:
        return f"a child that hangs is ended within {self.bound_s:g} s"

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for service in services(evidence):
            for strike in service.strikes:
                if strike.fault == CommandFault.SIGSTOP:
                    self._judge_strike(service, strike, tally)
        return tally.result(self, slack="from the end of who hangs to its bound", longest="from SIGSTOP to the end")

    def _judge_strike(self, service: Service, strike: Strike, tally: Tally) -> None:
        due = strike.t + round(self.bound_s * SECOND_NS)
        for victim in strike.victims:
            gone = victim.process.exit_t
            if not tally.whole(strike.t, due if gone is None else min(gone, due)):
                continue
            if gone is not None and gone <= strike.until:
                tally.trial(slack_ns=due - gone, longest_ns=gone - strike.t)
                if surely_after(gone, due):
                    tally.fail(
                        strike.t, f"{victim} hung for {seconds(gone - strike.t)} before it was ended", lived(victim)
                    )
            elif strike.until < due:
                tally.leave("the cycle ended before the hang had to be noticed")
            else:
                tally.trial()
                tally.fail(
                    strike.t, f"{victim} hung for {seconds(strike.until - strike.t)} and nobody ended it", lived(victim)
                )
