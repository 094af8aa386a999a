"""The cycles of a run from what its harness recorded, and the way of each from the blow to the first commit.

What could go wrong: a blow at a point, noticed a moment after it fell, that makes a recovery look shorter than it was
or the new startup process older than the blow; a recovery that crashed itself, taken for ready when its first startup
process was forked; a cycle that never came to its end, shown as if it had.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.faults import Blow
from chaos.oracles.evidence import Evidence, server_records
from chaos.oracles.supervision import reigns
from chaos.phases import became_ready_ns, cycles_of, fell_ns, recoveries, replaced_ns
from chaos.witness.account import Account
from reports.records import RecordWriter
from reports.rundir import RunDirectory
from tests.support.two_crashes import CHECKPOINTER, HARNESS, JOURNAL, MS, SURVIVOR, VICTIM, two_crashes


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = RunDirectory.create(tmp_path, 1)
    with RecordWriter(made.server_events) as writer:
        writer.extend(JOURNAL)
    return made


def test_a_cycle_is_what_the_harness_recorded_of_it() -> None:
    (cycle,) = cycles_of([{"t": 1, "ev": "epoch_begin", "epoch": 0}, *HARNESS])
    assert (cycle.cycle, cycle.epoch, cycle.fault, cycle.landed) == (0, 0, "sigkill-role", True)
    assert cycle.blows == (
        Blow(100 * MS, VICTIM, "backend", 9, True),
        Blow(104 * MS, CHECKPOINTER, "checkpointer", 9, True),
    )
    assert (cycle.struck_ns, cycle.ready_ns, cycle.first_commit_ns, cycle.end_ns) == (
        100 * MS, 151 * MS, 160 * MS, 170 * MS,
    )  # fmt: skip


def outcomes(*pairs: tuple[str, str]) -> bool:
    faults = [{**HARNESS[1], "fault": fault, "outcome": outcome} for fault, outcome in pairs]
    (cycle,) = cycles_of([HARNESS[0], *faults])
    return cycle.landed


def test_what_was_meant_landed_if_every_part_of_it_did() -> None:
    assert not outcomes()
    assert outcomes(("sigquit", "landed"))
    assert not outcomes(("sigquit", "missed"))
    assert outcomes(("sigkill-several", "missed"), ("sigkill-several", "landed"), ("sigkill-several", "missed"))
    assert not outcomes(("trigger", "landed"), ("sigkill-role", "missed")), "the point was never reached"


def test_each_part_of_a_fault_must_land() -> None:
    def cycle(*parts: tuple[int, str]) -> bool:
        faults = [{**HARNESS[1], "fault": "sigstop-victim", "part": part, "outcome": how} for part, how in parts]
        (found,) = cycles_of([HARNESS[0], *faults])
        return found.landed

    assert cycle((0, "landed"), (2, "landed"))
    assert not cycle((0, "landed"), (2, "missed"))
    assert cycle((0, "missed"), (0, "landed"))


def test_an_exit_at_a_point_is_seen_as_the_exit_that_it_was() -> None:
    """The survivor's exit 2 stands for one at a point: no signal is looked for."""
    (cycle,) = cycles_of(HARNESS)
    account = Account(two_crashes())
    assert fell_ns(cycle, Blow(100 * MS, SURVIVOR, "backend", 0, True, code=2), account) == 102_500_000
    assert fell_ns(cycle, Blow(100 * MS, SURVIVOR, "backend", 0, True, code=1), account) is None


def test_a_replacement_is_a_child_of_the_same_role_forked_after_the_blow() -> None:
    (cycle,) = cycles_of(HARNESS)
    lives = reigns(Evidence(Account(two_crashes())))
    blow = Blow(99 * MS, 999, "checkpointer", 15, True)
    assert replaced_ns(cycle, lives, blow, 99 * MS) == 105 * MS
    assert replaced_ns(cycle, lives, blow, 110 * MS) is None
    assert replaced_ns(cycle, lives, Blow(99 * MS, 999, "bgwriter", 15, True), 99 * MS) is None


def test_a_cycle_that_was_cut_short_has_no_end() -> None:
    cycles = cycles_of([*HARNESS, {"t": 200 * MS, "ev": "cycle_begin", "cycle": 1, "epoch": 0, "plan": {}}])
    assert [cycle.cycle for cycle in cycles] == [0, 1]
    assert (cycles[1].end_ns, cycles[1].struck_ns, cycles[1].ready_ns, cycles[1].landed) == (None, None, None, False)


def test_the_kernel_knows_when_a_blow_fell() -> None:
    (cycle,) = cycles_of(HARNESS)
    account = Account(two_crashes())
    assert fell_ns(cycle, cycle.blows[0], account) == 99 * MS - 10_000, "before the harness noticed"
    assert fell_ns(cycle, cycle.blows[1], account) == 120 * MS - 10_000, "after the last look that did not see it"
    assert fell_ns(cycle, Blow(100 * MS, 999, "backend", 9, True), account) is None
    assert fell_ns(cycle, Blow(100 * MS, VICTIM, "backend", 3, True), account) is None


def test_ready_is_a_startup_process_that_was_forked_after_the_last_blow_and_exited_with_0() -> None:
    (cycle,) = cycles_of(HARNESS)
    lives = reigns(Evidence(Account(two_crashes())))
    assert became_ready_ns(cycle, lives, 99 * MS) == 151 * MS, "the first startup process exited with 2"
    assert became_ready_ns(cycle, lives, 120 * MS) == 151 * MS
    assert became_ready_ns(cycle, lives, 130 * MS) is None, "forked within the resolution of the account"
    (cut_short,) = cycles_of([*HARNESS[:-1], {**HARNESS[-1], "t": 150 * MS}])
    assert became_ready_ns(cut_short, lives, 99 * MS) is None, "it was ready after the cycle"


def test_the_phases_of_a_recovery_that_crashed_itself(run: RunDirectory) -> None:
    cycles = cycles_of(HARNESS)
    evidence = Evidence(Account(two_crashes()), server_records(JOURNAL))
    (recovery,) = recoveries(cycles, evidence, run)
    assert recovery.victim == "backend, checkpointer"
    struck = 99 - 0.01
    ms = {
        "noticed": 100, "fan_out_done": 102, "last_child_reaped": 103.5, "memory_reset": 104, "redo_start": 107,
        "redo_end": 140, "ready": 151, "first_commit": 160,
    }  # fmt: skip
    assert {name: getattr(recovery, name) for name in ms} == {name: pytest.approx(t - struck) for name, t in ms.items()}


def test_without_a_witness_the_harness_tells_what_it_knows(run: RunDirectory) -> None:
    cycles = cycles_of([HARNESS[0], HARNESS[1], *HARNESS[3:]])
    (recovery,) = recoveries(cycles, Evidence(Account([])), run)
    assert (recovery.ready, recovery.first_commit) == (51, 60)
    assert (recovery.redo_start, recovery.redo_end) == (7, 40)
    assert recovery.noticed is recovery.fan_out_done is recovery.memory_reset is None


def test_a_fault_that_missed_has_no_recovery(run: RunDirectory) -> None:
    missed = [HARNESS[0], {**HARNESS[1], "outcome": "missed"}, HARNESS[-1]]
    assert list(recoveries(cycles_of(missed), Evidence(Account([])), run)) == []
