"""Running a recorded cycle again: what has to be run for it, and what counts as its finding come back.

Owns the order of a replay, what is sought in its verdict, and the hit rate of several. A replay is exact in plan and
placement and not in how the machine interleaves processes, so one that finds nothing refutes nothing: how often a
finding comes back is what tells whether it is rare, gone, or certain. It runs nothing. Pure but for reading the run.
"""

from __future__ import annotations

from dataclasses import dataclass

from chaos.errors import PlanError
from chaos.order import Order, StopRule, read_order
from chaos.phases import cycles_of
from reports.rundir import RunDirectory
from reports.statistics import clopper_pearson, percent
from reports.verdict import Verdict

EXACTNESS = (
    "how exact it is: seed, plan and every fault placed at a point are the same; how the machine interleaves processes "
    "between those points is not, nor the moment of a fault placed in time"
)


def replay_order(run: RunDirectory, cycle: int) -> Order:
    """The order that runs a cycle of `run` again, and before it those that its cluster saw before it.

    Raises PlanError when the run had no such cycle, RunDirectoryError when it holds no plan.
    """
    recorded = read_order(run)
    ran = [known.cycle for known in cycles_of(run.harness_records())]
    if ran and cycle not in ran:
        raise PlanError(f"{run.path} has no cycle {cycle}: it ran cycles {min(ran)} to {max(ran)}")
    first = _first_on_its_cluster(run, cycle, recorded.plan.epoch_cycles)
    stop = StopRule(cycles=cycle - first + 1)
    return Order(recorded.plan, stop, recorded.target, recorded.defect, first_cycle=first)


def _first_on_its_cluster(run: RunDirectory, cycle: int, epoch_cycles: int) -> int:
    """The first cycle that the cluster of a cycle saw: its epoch's, or the one that the run was resumed with."""
    first = cycle - cycle % epoch_cycles
    for sitting in run.sittings():
        ran = [known.cycle for known in cycles_of(sitting.harness_records())]
        if cycle in ran:
            first = max(cycle - cycle % epoch_cycles, min(ran))
    return first


@dataclass(frozen=True, slots=True)
class Sought:
    """The finding that is to come back: of which oracles, at which cycle.

    With no oracle any finding of the cycle will do. With cycle None it is one that belongs to no cycle, such as what is
    found in the files when the server has stopped.
    """

    oracles: frozenset[str]
    cycle: int | None

    def __str__(self) -> str:
        where = f"at cycle {self.cycle}" if self.cycle is not None else "outside any cycle"
        return f"a failure of {' or '.join(sorted(self.oracles)) or 'any oracle'} {where}"

    def is_in(self, verdict: Verdict) -> bool:
        """Whether a verdict has it."""
        return any(
            finding.cycle == self.cycle and (not self.oracles or finding.oracle in self.oracles)
            for finding in verdict.findings
        )


def sought(verdict: Verdict | None, cycle: int) -> Sought:
    """What is sought by replaying a cycle of a run with this verdict (None: it was never judged).

    The cycle's own findings; where it has none, those that belong to no cycle; where the run has none either, any.
    """
    for where in (cycle, None):
        oracles = (
            frozenset(f.oracle for f in verdict.findings if f.cycle == where) if verdict is not None else frozenset()
        )
        if oracles:
            return Sought(oracles, where)
    return Sought(frozenset(), cycle)


@dataclass(frozen=True, slots=True)
class HitRate:
    """How often a finding came back. `inconclusive` of the repetitions without it had a cycle that proved nothing."""

    repetitions: int = 0
    hits: int = 0
    inconclusive: int = 0

    def after(self, verdict: Verdict, finding: Sought) -> HitRate:
        """With one more repetition, which came to this verdict."""
        hit = finding.is_in(verdict)
        proved_little = not hit and verdict.conclusive_cycles < verdict.cycles
        return HitRate(self.repetitions + 1, self.hits + hit, self.inconclusive + proved_little)

    def __str__(self) -> str:
        """The rate in words, with Clopper and Pearson's interval."""
        if not self.repetitions:
            return "no repetition came to its end: nothing is known of how often the finding comes back"
        low, high = clopper_pearson(self.repetitions, self.hits)
        times = f"{self.repetitions} repetition{'' if self.repetitions == 1 else 's'}"
        rate = percent(self.hits / self.repetitions)
        if not self.hits:
            said = (
                f"the finding did not come back in {times}: at most {percent(high)} of them find it, at 95 % confidence"
            )
        elif self.hits == self.repetitions:
            said = (
                f"the finding came back in {self.hits} of {times}: {rate}, at least {percent(low)} at 95 % confidence"
            )
        else:
            said = f"the finding came back in {self.hits} of {times}: {rate}, 95 % interval {percent(low)} to {percent(high)}"
        if self.inconclusive:
            said += f"; {self.inconclusive} of those without it had a cycle that was not conclusive"
        return said
