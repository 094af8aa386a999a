"""The oracle of orphans: no child outlives the main process for long, however that ended.

A child that does holds the server's sockets and files, and a server that is started again meets it. Judged after each
end of the main process: the stop signal, an end of its own, a SIGKILL of it. Its guardian adopts and ends orphans, but
only after their time.
"""

from __future__ import annotations

from dataclasses import dataclass
from signal import SIGKILL

from chaos.oracles.command.service import SECOND_NS, Service, lives, seconds, services
from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import lived, when
from chaos.witness.account import Process, surely_after


@dataclass(frozen=True, slots=True)
class Orphans:
    """Whoever lives when the main process ends has ended within a bound."""

    bound_s: float
    name: str = "orphans"
    needs: tuple[Source, ...] = ("kernel", "harness")

    @property
    def title(self) -> str:
        return f"no child outlives the main process by more than {self.bound_s:g} s"

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for service in services(evidence):
            self._judge_service(service, tally)
        return tally.result(
            self,
            slack="from the last child's end to its bound",
            longest="from the main process's end to the last child's",
        )

    def _judge_service(self, service: Service, tally: Tally) -> None:
        gone = service.main.exit_t
        if gone is None:
            tally.leave("the main process did not end")
            return
        due = gone + round(self.bound_s * SECOND_NS)
        left = [child for child in service.children if lives(child.process, gone) or child.process.born > gone]
        ends = [child.process.exit_t for child in left]
        last = None if None in ends else max((t for t in ends if t is not None), default=gone)
        if not tally.whole(gone, due if last is None else last):
            return
        tally.trial(slack_ns=None if last is None else due - last, longest_ns=None if last is None else last - gone)
        story = f"the main process (PID {service.main.pid}) {service.main.ended_by()} {when(gone)}"
        for child in left:
            end = child.process.exit_t
            if end is None or surely_after(end, due):
                span = "and lives" if end is None else f"by {seconds(end - gone)}"
                by = ", until the harness killed it" if _killed_by(child.process, service.main.parent) else ""
                tally.fail(gone, f"{child} outlived the main process {span}{by}", story, lived(child))


def _killed_by(process: Process, guardian: int | None) -> bool:
    return process.signal == SIGKILL and any(r.sig == SIGKILL and r.by == guardian for r in process.received)
