"""Each fault does what it says, by the kernel's account, and a sound server holds.

What could go wrong: a fault that is done to nobody and counts as done; a signal that is not the one that was meant; a
"second crash in recovery" that falls when recovery is over; an OOM kill that the harness sent itself; a cycle whose
postmaster ended that the oracles judge as if it had to be there still; an orphan that nobody noticed, and a server that
was let in beside it. So each fault is run by name, and what must have followed is looked for in the kernel's account.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from signal import SIGKILL, SIGSTOP
from typing import Any

import pytest

from chaos.faults import FAULTS, Blow, Consequence, Fault
from chaos.faults.availability import unavailable
from chaos.faults.fault import BeginCheckpoint, OutOfMemory, Whom
from chaos.oracles.evidence import Evidence
from chaos.oracles.supervision import Child, Reign, reigns
from chaos.phases import Cycle, cycles_of, fell_ns
from chaos.witness.account import Process
from reports.rundir import RunDirectory
from reports.verdict import Status
from tests.support.campaigns import Bed, bed

pytestmark = pytest.mark.live

CYCLES = 1
SIGKILL_AFTER_NS = 5_000_000_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with bed(tmp_path_factory.mktemp("runs") / "out") as made:
        yield made


@dataclass(frozen=True)
class Struck:
    """One cycle of a run, beside the kernel's account of it."""

    cycle: Cycle
    evidence: Evidence
    records: tuple[dict[str, Any], ...]
    server: tuple[dict[str, Any], ...]

    @property
    def landed(self) -> list[Blow]:
        return [blow for blow in self.cycle.blows if blow.landed]

    @property
    def first_ns(self) -> int:
        return min(self.at(blow) for blow in self.landed)

    def at(self, blow: Blow) -> int:
        """When the kernel saw it."""
        t = fell_ns(self.cycle, blow, self.evidence.account)
        assert t is not None, f"the kernel did not see {blow}"
        return t

    def victim(self, blow: Blow) -> Process:
        process = self.evidence.account.at(blow.pid, self.at(blow))
        assert process is not None
        return process

    def reign(self) -> Reign:
        """The postmaster's that was struck."""
        return next(reign for reign in reigns(self.evidence) if reign.begin <= self.first_ns <= reign.end)

    def recoveries(self) -> list[Child]:
        """The startup processes of any postmaster that were forked after the first blow, within the cycle."""
        children = [child for reign in reigns(self.evidence) for child in reign.startups]
        return [c for c in children if self.first_ns < c.process.born <= (self.cycle.end_ns or 0)]


def struck(run: RunDirectory) -> list[Struck]:
    (sitting,) = run.sittings()
    evidence = Evidence.of(sitting)
    records = tuple(run.harness_records())
    return [Struck(cycle, evidence, records, tuple(run.server_records())) for cycle in cycles_of(records)]


def followed(fault: Fault, one: Struck) -> None:
    """What the fault must cause."""
    recoveries = one.recoveries()
    postmaster = one.reign().postmaster
    outlived = postmaster.exit_t is None or postmaster.exit_t > (one.cycle.end_ns or 0)
    match fault.causes:
        case Consequence.CRASH:
            assert outlived and len(recoveries) == 1
        case Consequence.ESCALATION:
            assert outlived and len(recoveries) == 1
            stopped = one.victim(one.landed[0])
            kills = [kill for kill in one.reign().kills if kill.child is stopped]
            assert kills and kills[0].t - one.first_ns > SIGKILL_AFTER_NS - 1_000_000_000
        case Consequence.ANOTHER_RECOVERY:
            assert fault.at is not None
            again = 1 + fault.at.times
            assert len(one.landed) == again
            # A checkpointer that dies before the startup process is done takes that along.
            assert len(recoveries) == again
            assert [child.process.code for child in recoveries].count(0) >= 1
            assert recoveries[-1].process.code == 0
        case Consequence.NEW_START | Consequence.SHUTDOWN:
            assert not outlived and len(recoveries) == 1
            assert (
                one.evidence.account.at(recoveries[0].process.parent or 0, recoveries[0].process.born) is not postmaster
            )
            if fault.causes is Consequence.SHUTDOWN:
                assert postmaster.code == 0
        case Consequence.REPLACEMENT:
            assert outlived and recoveries == []
            assert one.victim(one.landed[0]).code == 0


def done(fault: Fault, one: Struck) -> None:
    """What the fault says that it does."""
    for blow in one.landed:
        victim = one.victim(blow)
        if blow.signal == SIGKILL:
            assert victim.signal == SIGKILL, f"{blow}: {victim.ended_by()}"
        if blow.code is not None:
            assert (victim.code, victim.signal) == (blow.code, None)
    if OutOfMemory() in fault.steps:
        by = {received.by for blow in one.landed for received in one.victim(blow).received if received.sig == SIGKILL}
        assert one.records[0]["pid"] not in by, "the harness sent it"
    if BeginCheckpoint() in fault.steps:
        checkpoints = [r["ev"] for r in one.server if r["ev"].startswith("checkpoint_") and r["t"] < one.first_ns]
        assert checkpoints[-1] == "checkpoint_begin", "the checkpoint was over"
    if fault.sends(SIGSTOP, to=Whom.BYSTANDER) and fault.causes is Consequence.NEW_START:
        beside = [r for r in one.records if r["ev"] == "start_beside" and r["cycle"] == one.cycle.cycle]
        assert [(r["outcome"], r["orphans"]) for r in beside] == [("refused", [one.landed[0].pid])]
    if fault.sends(SIGKILL, to=Whom.POSTMASTER):
        gone = [r["noticed"] for r in one.records if r["ev"] == "orphans" and r["cycle"] == one.cycle.cycle]
        assert gone == [True], "children outlived their postmaster"
        children = [c.process for c in one.reign().children if c.process.born < one.first_ns]
        orphans = [c for c in children if c.exit_t is None or c.exit_t > one.first_ns]
        assert orphans and {(c.code, c.signal) for c in orphans} == {(1, None)}, "each notices, and exits 1"


IN_THE_GATE = frozenset({
    "sigkill-several", "sigterm-auxiliary", "exit-0", "sigstop-survivor", "oom-kill", "sigkill-checkpoint",
    "sigkill-recovery", "sigkill-postmaster-orphan", "shutdown-fast", "shutdown-immediate-kill",
})  # fmt: skip
"""One for each way to strike and each consequence; the others take minutes together and are of `make long`."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in IN_THE_GATE else pytest.mark.long) for name in FAULTS]
)
def test_a_fault_does_what_it_says_and_a_sound_server_holds(place: Bed, name: str) -> None:
    fault = FAULTS[name]
    why = unavailable(fault, "builtin")
    if why is not None:
        refused = place.campaign("--kills", "1", "--fault", name)
        assert refused.status == 4 and why in refused.errors, refused
        return
    ended = place.campaign("--kills", str(CYCLES), "--no-points", "--fault", name, "--seed", "9")
    assert ended.status == 0, ended
    verdict = ended.directory.read_verdict()
    assert (verdict.status, verdict.conclusive_cycles) == (Status.HELD, CYCLES), ended
    if any(item.what == "supervision" for item in verdict.not_judged):
        pytest.skip("no kernel witness")
    for one in struck(ended.directory):
        assert one.landed, f"cycle {one.cycle.cycle}: nobody was hit"
        done(fault, one)
        followed(fault, one)
    assert place.left_behind(ended.pid) == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_everything_there_is_in_one_campaign(place: Bed) -> None:
    """Faults follow each other: what one leaves behind, the next one meets."""
    running = place.start(
        "run", "--out", str(place.out), "--kills", "100", "--fault", "all", "--workload", "bank,append", "--seed", "2"
    )
    ended = running.end(deadline_s=800)
    assert ended.status == 0, ended
    drawn = {record["fault"] for record in ended.directory.harness_records() if record["ev"] == "fault"}
    assert len(drawn & set(FAULTS)) > 18
