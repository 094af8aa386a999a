"""The oracle of the bystanders: nobody was ended who was not meant to be.

Under restart-one whoever was not hit lives on: a supervisor that ends a healthy child throws away its work. Under the
other policies the others must end, but by their own supervisor: a signal from outside the server, the harness
included, would make the run's other answers worthless.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos.command.plan import Policy
from chaos.oracles.command.service import Service, Strike, services
from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import Child, lived, when
from chaos.witness.account import Received
from chaos.witness.parse import HARMLESS


@dataclass(frozen=True, slots=True)
class Bystanders:
    """Who was not hit is not ended (restart-one), or by nobody outside the server (the other policies)."""

    policy: Policy
    name: str = "bystanders"
    needs: tuple[Source, ...] = ("kernel", "harness")

    @property
    def title(self) -> str:
        if self.policy is Policy.RESTART_ONE:
            return "the other children live on"
        return "nobody outside the server signals the other children"

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for service in services(evidence):
            for strike in service.strikes:
                if strike.others and not strike.hits_main and tally.whole(strike.t, strike.until):
                    tally.trial()
                    for child in strike.others:
                        self._judge_child(service, strike, child, tally)
        return tally.result(self)

    def _judge_child(self, service: Service, strike: Strike, child: Child, tally: Tally) -> None:
        process = child.process
        hits = [r for r in process.received if r.sig not in HARMLESS and strike.t <= r.t <= strike.until]
        ended = process.exit_t is not None and process.exit_t <= strike.until
        if self.policy is Policy.RESTART_ONE:
            if ended:
                tally.fail(strike.t, f"{child} was not hit and {process.ended_by()}", lived(child), *map(_said, hits))
            return
        inside = {service.main.pid, *(other.process.pid for other in service.children)}
        strangers = [hit for hit in hits if hit.by not in inside]
        if strangers:
            tally.fail(strike.t, f"{child} was signalled from outside the server", lived(child), *map(_said, strangers))


def _said(hit: Received) -> str:
    return f"it got signal {hit.sig} from process {hit.by} {when(hit.t)}"
