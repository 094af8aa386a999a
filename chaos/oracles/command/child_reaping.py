"""The oracle of reaping: a parent collects each of its children soon after it ended.

A child that is not collected stays a zombie: it keeps its pid, and a supervisor that leaves zombies has not noticed
the deaths that it exists to notice. The time of a wait4 is the kernel's account. A child that was collected in a way
that leaves no record (waitid, or SIGCHLD ignored) is one that a later look into /proc does not find.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos.oracles.command.service import SECOND_NS, Service, seconds, services
from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import Child, lived, when
from chaos.witness.account import surely_after


@dataclass(frozen=True, slots=True)
class ChildReaping:
    """Every child that ends is reaped by its parent within a bound."""

    bound_s: float
    name: str = "child_reaping"
    needs: tuple[Source, ...] = ("kernel", "harness")

    @property
    def title(self) -> str:
        return f"a child that ends is reaped by its parent within {self.bound_s:g} s"

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for service in services(evidence):
            for child in service.children:
                self._judge_child(service, child, tally)
        return tally.result(
            self, slack="from a child's reaping to its bound", longest="from a child's end to its reaping"
        )

    def _judge_child(self, service: Service, child: Child, tally: Tally) -> None:
        process = child.process
        if process.exit_t is None or process.parent is None:
            return
        due = process.exit_t + round(self.bound_s * SECOND_NS)
        parent = service.account.at(process.parent, process.born)
        parents_end = parent.end_begun_t if parent is not None else None
        if process.reaped_t is not None and process.reaped_by == process.parent:
            if tally.whole(process.exit_t, process.reaped_t):
                took = process.reaped_t - process.exit_t
                tally.trial(slack_ns=due - process.reaped_t, longest_ns=took)
                if surely_after(process.reaped_t, due):
                    tally.fail(process.reaped_t, f"{child} was reaped {seconds(took)} after its end", lived(child))
            return
        if parents_end is not None and parents_end <= due:
            return  # who inherits it reaps it
        look = service.looks.first_since(process, due)
        if look is None or (parents_end is not None and look[0] >= parents_end):
            tally.leave("nobody looked at a child between the end of its time and its parent's end")
            return
        t, seen = look
        if not tally.whole(process.exit_t, t):
            return
        tally.trial()
        if seen is not None and seen.state == "Z":
            tally.fail(
                process.exit_t,
                f"{child} is a zombie {seconds(t - process.exit_t)} after its end: its parent, process {process.parent}, "
                "has not reaped it",
                lived(child),
                f"/proc shows it in state Z at {when(t)}",
            )
