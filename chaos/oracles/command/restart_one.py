"""The oracle of the policy restart-one: who dies is replaced, by a process of the same role and in time.

That the others stay is `bystanders`'s to judge. Erlang/OTP calls the policy one_for_one; a pre-forking web server
follows it. The replacement may be anybody's child: whose it is, is the server's own affair.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos.oracles.command.service import SECOND_NS, Service, Strike, seconds, services, stories
from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import lived, when
from chaos.witness.account import surely_after


@dataclass(frozen=True, slots=True)
class RestartOne:
    """Every victim is replaced within a bound of its end."""

    bound_s: float
    name: str = "restart_one"
    needs: tuple[Source, ...] = ("kernel", "harness")

    @property
    def title(self) -> str:
        return f"a child that dies is replaced within {self.bound_s:g} s"

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
            slack="from the fork of the replacement to its bound",
            longest="from a victim's end to the fork of its replacement",
        )

    def _judge_strike(self, service: Service, strike: Strike, tally: Tally) -> None:
        taken: set[int] = set()
        for victim in strike.victims:
            ended = victim.process.exit_t
            if ended is None or ended > strike.until:
                tally.leave("the victim did not end")
                continue
            due = ended + round(self.bound_s * SECOND_NS)
            if not tally.whole(strike.t, min(due, strike.until)):
                continue
            fresh = service.forked_between(ended, strike.until)
            heir = next((c for c in fresh if c.role == victim.role and c.process.order not in taken), None)
            if heir is not None:
                taken.add(heir.process.order)
                took = heir.process.born - ended
                tally.trial(slack_ns=due - heir.process.born, longest_ns=took)
                if surely_after(heir.process.born, due):
                    tally.fail(
                        strike.t, f"{victim} was replaced {seconds(took)} after its end", lived(victim), lived(heir)
                    )
                continue
            gone = service.main.exit_t
            if gone is not None and gone <= strike.until:
                tally.trial()
                how = f"the main process {service.main.ended_by()} {when(gone)}"
                tally.fail(strike.t, f"{victim} was not replaced: the server ended", lived(victim), how)
            elif strike.until < due:
                tally.leave("the cycle ended before a replacement was due")
            else:
                tally.trial()
                tally.fail(
                    strike.t,
                    f"{victim} was not replaced within {seconds(strike.until - ended)}",
                    lived(victim),
                    *(stories(fresh) or ["no process with a role of the plan was forked after it"]),
                )
