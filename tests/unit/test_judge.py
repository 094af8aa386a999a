"""The judge over run directories made by hand: what it takes for proof, and what it does not.

What could go wrong: a cycle that proves nothing counted as proof, a kill that nobody saw, an oracle without a witness
called held, a run cut short called held, a bound over cycles that were not conclusive, a reproducing command that
repeats something else. The run here is one of the built-in server without a witness: a bank of six accounts, two
cycles of 30 acknowledged transfers and one under way, a SIGKILL in each, and a look at the data.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos.judge import WITNESS_REMEDY, judge_run
from chaos.phases import end_of_whole_cycles
from chaos.plan import CampaignPlan
from chaos.verdict import Reason
from chaos.witness.records import Closed, Opened, Unwitnessed, encode
from reports.records import RecordWriter
from reports.rundir import RunDirectory, RunDirectoryError
from reports.statistics import bound
from reports.verdict import Status, Verdict
from supervisor.engine.verify.corruption import RelationChecked, Verification
from tests.support.bank_history import BANK, Asked, World
from workloads.workload import last_operation_of

MS = 1_000_000
CYCLE_MS = 1000
KILL_MS, READY_MS, COMMIT_MS, END_MS = 500, 600, 650, 700
WORKER = 7
PLAN = {"workload": "bank", "worker_seeds": [1, 2]}


def asked(cycle: int, acknowledged: int = 30, in_flight: int = 1, failed: int = 1) -> list[Asked]:
    """The operations of a cycle, in their order."""
    told = ["ok"] * acknowledged + ["fail"] * failed + ["nothing"] * in_flight
    return [
        Asked(number, 1 + number % 5, 6, 1 + number, outcome, outcome == "ok", rollback=outcome == "fail", cycle=cycle)
        for number, outcome in enumerate(told)
    ]


def lost_one(cycle: int) -> list[Asked]:
    """The same, the first of which was acknowledged and is gone."""
    first, *others = asked(cycle)
    return [dataclasses.replace(first, kept=False), *others]


class Recorded:
    """A run while it is being written."""

    def __init__(self, base: Path, *, finished: bool = True, **plan: Any) -> None:
        self.run = RunDirectory.create(base, 7)
        info = self.run.read_info()
        campaign = msgspec.to_builtins(CampaignPlan(seed=7, backends=2, epoch_cycles=2))
        stop = {"cycles": 2, "duration_s": None}
        info.plan = {"campaign": campaign, "defect": None, "require": None, "first_cycle": 0, "stop": stop, **plan}
        info.finished = "2025-01-01T00:00:10Z" if finished else None
        self.run.write_info(info)
        self.world = World([])
        self.previous: dict[str, Any] | None = None
        self._last = -1
        self._begin_ns = self._ended_ns = 0

    def resumed(self, at_cycle: int) -> None:
        """Another harness goes on, at the time of a cycle of its own, on a fresh cluster."""
        self._begin_ns += CYCLE_MS * MS
        just_before = self._begin_ns + at_cycle * CYCLE_MS * MS - MS
        with self.run.harness_writer() as writer:
            writer.append({"t": just_before, "ev": "resumed", "cycle": at_cycle})
        self.world = World([])
        self.previous = None
        self._last = -1

    def exited(self, code: int) -> None:
        info = self.run.read_info()
        info.exit_code = code
        self.run.write_info(info)

    def cycle(
        self,
        cycle: int,
        operations: list[Asked],
        *,
        blows: tuple[dict[str, Any], ...] = ({},),
        ready: bool = True,
        observed: bool = True,
        ended: bool = True,
    ) -> None:
        """One cycle, from its begin to its end."""
        begin = self._begin_ns + cycle * CYCLE_MS * MS
        self._ended_ns = begin + CYCLE_MS * MS - 1
        events: list[dict[str, Any]] = [
            {"t": begin, "ev": "cycle_begin", "cycle": cycle, "epoch": cycle // 2, "plan": PLAN}
        ]
        for blow in blows:
            events.append(
                {"t": begin + KILL_MS * MS, "ev": "fault", "cycle": cycle, "fault": "sigkill-role", "child": WORKER,
                 "role": "backend", "sig": 9, "outcome": "landed", **blow}
            )  # fmt: skip
        if ready:
            events.append({"t": begin + READY_MS * MS, "ev": "ready", "cycle": cycle, "gen": cycle + 2})
            events.append({"t": begin + COMMIT_MS * MS, "ev": "first_commit", "cycle": cycle})
        if ended:
            events.append({"t": begin + END_MS * MS, "ev": "cycle_end", "cycle": cycle, "acknowledged": 0, "notes": []})
        with self.run.harness_writer() as writer:
            writer.extend(events)
        with RecordWriter(self.run.history / f"{WORKER + cycle}-{begin}.jsonl") as writer:
            for operation in operations:
                for record in operation.records():
                    writer.append({**record, "t": begin + (1 + record["t"]) * MS, "pid": WORKER + cycle})
        redo = {"pid": 1, "lsn": 100, "records": 50, "pages_changed": 3, "end_reason": "zero"}
        with RecordWriter(self.run.server_events) as writer:
            writer.append({"t": begin + (KILL_MS + 10) * MS, "ev": "redo_begin", "pid": 1, "lsn": 1})
            writer.append({"t": begin + (KILL_MS + 20) * MS, "ev": "redo_end", **redo})
            writer.append({"t": begin + READY_MS * MS, "ev": "ready", "pid": 1, "gen": cycle + 2})
        for operation in operations:
            if operation.kept:
                self.world.apply(operation)
        if observed:
            self._observe(cycle, begin + END_MS * MS)

    def _observe(self, cycle: int, t: int) -> None:
        observation = self.world.observe(self._last, self.previous)
        with self.run.observed_writer() as writer:
            writer.append({"t": t, "cycle": cycle, "workload": "bank", "everything": False, "observation": observation})
        self.previous, self._last = observation, last_operation_of(cycle)

    def witness(self, *records: Any) -> None:
        with self.run.kernel_writer() as writer:
            writer.append_encoded(encode(list(records)))

    def judged(self) -> Verdict:
        """The verdict on all of it; the last epoch's files were sound."""
        checked = RelationChecked("base/16", "bank_account", "heap", 1, 6, 0)
        found = msgspec.to_builtins(Verification("shut down", False, 512, (checked,), ()))
        with self.run.harness_writer() as writer:
            writer.append({"t": self._ended_ns, "ev": "files_checked", "cycle": 0, "epoch": 0, "verification": found})
        return judge_run(self.run)


@pytest.fixture(autouse=True)
def small_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.sitting.WORKLOADS", {"bank": BANK})


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Recorded]:
    return lambda **plan: Recorded(tmp_path, **plan)


def two_cycles(recorded: Recorded, **second: Any) -> Verdict:
    """The run of the story, its second cycle changed."""
    operations = second.pop("operations", asked(1))
    recorded.cycle(0, asked(0))
    recorded.cycle(1, operations, **second)
    return recorded.judged()


def test_the_run_of_the_story_is_held(record: Callable[..., Recorded]) -> None:
    verdict = two_cycles(record())
    assert (verdict.status, verdict.exit_code) == (Status.HELD, 0), verdict.inconclusive
    assert (verdict.cycles, verdict.conclusive_cycles, verdict.epochs) == (2, 2, 1)
    assert verdict.ledger.ok.committed == 60 and verdict.ledger.wrong == 0
    assert {row.name for row in verdict.oracles if row.required} == {
        "durability", "atomicity", "resurrection", "invariant", "wal_replay", "observable", "internal_error",
        "storage",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"operations": asked(1, acknowledged=19)}, Reason.FEW_ACKNOWLEDGED),
        ({"operations": asked(1, in_flight=0)}, Reason.NOTHING_IN_FLIGHT),
        ({"ready": False}, Reason.NOT_READY),
        ({"observed": False}, Reason.NOT_JUDGED),
        ({"blows": ({"outcome": "missed"},)}, Reason.FAULT_MISSED),
        ({"blows": ({"fault": "trigger"}, {"outcome": "missed", "child": 0})}, Reason.FAULT_MISSED),
    ],
    ids=lambda value: value.name if isinstance(value, Reason) else "",
)
def test_a_cycle_that_proves_nothing_says_why(
    record: Callable[..., Recorded], change: dict[str, Any], reason: Reason
) -> None:
    verdict = two_cycles(record(), **change)
    assert (verdict.status, verdict.exit_code) == (Status.INCONCLUSIVE, 5)
    assert [(why.reason, why.cycles, why.remedy) for why in verdict.inconclusive] == [(reason.value, 1, reason.remedy)]
    assert verdict.conclusive_cycles == 1
    assert all(row.bounds[0].trials == 1 for row in verdict.oracles if row.trials), "of conclusive cycles alone"


def test_of_several_victims_one_that_was_hit_will_do(record: Callable[..., Recorded]) -> None:
    verdict = two_cycles(record(), blows=({"outcome": "missed"}, {"child": 8}))
    assert verdict.status is Status.HELD


def test_an_operation_used_twice_is_an_error_of_the_harness(record: Callable[..., Recorded]) -> None:
    recorded = record()
    recorded.cycle(0, asked(0))
    recorded.cycle(1, asked(1))
    with RecordWriter(recorded.run.history / f"99-{CYCLE_MS * MS}.jsonl") as writer:
        again = asked(1)[0].records()
        writer.extend({**one, "t": CYCLE_MS * MS + 2 + number, "pid": 99} for number, one in enumerate(again))
    verdict = recorded.judged()
    assert [why.reason for why in verdict.inconclusive] == [Reason.CONTRADICTION.value]


# Findings.


def lost(recorded: Recorded) -> Verdict:
    """The second cycle loses an acknowledged transfer whole."""
    recorded.cycle(0, asked(0))
    operations = asked(1)
    recorded.cycle(1, [dataclasses.replace(operations[0], kept=False), *operations[1:]])
    return recorded.judged()


def test_a_lost_operation_is_a_finding_with_the_cycle_that_repeats_it(record: Callable[..., Recorded]) -> None:
    recorded = record()
    verdict = lost(recorded)
    assert (verdict.status, verdict.exit_code) == (Status.FINDING, 1)
    (finding,) = verdict.findings
    assert (finding.oracle, finding.cycle) == ("durability", 1)
    assert shlex.split(finding.reproduce) == ["crashbed", "replay", str(recorded.run.path.absolute()), "--cycle", "1"]
    rows = {row.name: row for row in verdict.oracles}
    assert rows["durability"].bounds == (bound("cycle", 2, 1),)
    assert rows["atomicity"].bounds == (bound("cycle", 2, 0),)
    assert verdict.bounds == (bound("cycle", 2, 1), bound("epoch", 1, 1))


def test_data_that_cannot_be_read_are_a_finding_also_where_the_cycle_came_to_no_end(
    record: Callable[..., Recorded],
) -> None:
    recorded = record()
    recorded.cycle(0, asked(0))
    recorded.cycle(1, asked(1), ready=False, observed=False, ended=False)
    with recorded.run.harness_writer() as writer:
        writer.append(
            {
                "t": 1,
                "ev": "unobservable",
                "cycle": 1,
                "workload": "bank",
                "error": "no such table",
                "sqlstate": "42P01",
            }
        )
    verdict = recorded.judged()
    assert verdict.status is Status.FINDING
    assert [(finding.oracle, finding.cycle) for finding in verdict.findings] == [("observable", 1)]


# Runs that did not come to their end.


@pytest.mark.parametrize("how", ["killed", "interrupted", "error"])
def test_a_run_that_was_cut_short_is_not_held(record: Callable[..., Recorded], how: str) -> None:
    recorded = record(finished=how != "killed")
    if how != "killed":
        recorded.exited(2 if how == "interrupted" else 3)
    recorded.cycle(0, asked(0))
    recorded.cycle(1, asked(1), ready=False, observed=False, ended=False)
    verdict = recorded.judged()
    assert (verdict.status, verdict.exit_code) == (Status.INTERRUPTED, 2)
    assert (verdict.cycles, verdict.conclusive_cycles) == (1, 1), "the cycle that was under way is nobody's fault"


def test_a_run_whose_judge_was_killed_is_judged_in_full(record: Callable[..., Recorded]) -> None:
    """run.json knows that the campaign came to its end, and not yet an exit status."""
    recorded = record()
    assert recorded.run.read_info().exit_code is None
    assert two_cycles(recorded).status is Status.HELD


def test_a_run_that_ended_before_it_began_is_no_traceback(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, 1)
    with pytest.raises(RunDirectoryError, match="holds no plan"):
        judge_run(run)


def test_nothing_run_is_nothing_proved(record: Callable[..., Recorded]) -> None:
    verdict = record().judged()
    assert (verdict.status, verdict.cycles) == (Status.INCONCLUSIVE, 0)
    assert any(item.reason == "no cycle was run" for item in verdict.not_judged)


# The witness.


def supervision(verdict: Verdict) -> dict[str, bool]:
    """Required or not, of the oracles that the kernel feeds."""
    kernel = {"fan_out", "reaping", "slots", "drained", "memory", "recovery_order", "exit_status"}
    return {row.name: row.required for row in verdict.oracles if row.name in kernel and not row.trials}


@pytest.mark.parametrize("told", [True, False], ids=["said why", "no word"])
def test_without_a_witness_supervision_is_not_judged_and_never_held(
    record: Callable[..., Recorded], told: bool
) -> None:
    recorded = record()
    if told:
        recorded.witness(Unwitnessed(t=1, reason="no tracefs", remedy="mount it"))
    verdict = two_cycles(recorded)
    assert verdict.status is Status.HELD, "what could be judged was"
    assert len(supervision(verdict)) == 7 and not any(supervision(verdict).values())
    (item,) = [item for item in verdict.not_judged if item.what == "supervision"]
    why = "no tracefs" if told else "the run has no account of the kernel"
    assert (item.reason, item.remedy) == (f"no kernel witness: {why}", "mount it" if told else WITNESS_REMEDY)


def test_supervision_that_was_required_makes_the_run_inconclusive(record: Callable[..., Recorded]) -> None:
    recorded = record(require="supervision")
    recorded.witness(Unwitnessed(t=1, reason="no tracefs", remedy="mount it"))
    verdict = two_cycles(recorded)
    assert (verdict.status, verdict.exit_code) == (Status.INCONCLUSIVE, 5)
    assert all(supervision(verdict).values())
    (item,) = [item for item in verdict.not_judged if item.what == "the run as a whole"]
    assert "supervision was required" in item.reason and item.remedy == "mount it"
    assert verdict.reproduce.endswith("--require supervision --seed 7")


def test_a_kill_that_the_witness_did_not_see_proves_nothing(record: Callable[..., Recorded]) -> None:
    recorded = record()
    recorded.witness(Opened(t=1, kind="tracefs", selftest="passed", pid=1), Closed(t=10 * CYCLE_MS * MS))
    verdict = two_cycles(recorded)
    assert verdict.status is Status.INCONCLUSIVE
    assert [(why.reason, why.cycles) for why in verdict.inconclusive] == [(Reason.NOT_WITNESSED.value, 2)]


# Faults that are no crash.


def test_an_orderly_end_excuses_no_commit_that_was_not_flushed(record: Callable[..., Recorded]) -> None:
    """Without synchronous commit a crash may take the last acknowledgements; a shutdown may not."""
    campaign = msgspec.to_builtins(
        CampaignPlan(seed=7, backends=2, epoch_cycles=2, synchronous_commit=False, faults=("shutdown-fast", "sigquit"))
    )
    last_lost = [*asked(1)[:29], dataclasses.replace(asked(1)[29], kept=False), *asked(1)[30:]]
    at = {"t": (CYCLE_MS + 100) * MS}
    crashed = two_cycles(record(campaign=campaign), operations=last_lost, blows=(at,))
    assert not crashed.findings
    ended = two_cycles(record(campaign=campaign), operations=last_lost, blows=({**at, "fault": "shutdown-fast"},))
    assert "was acknowledged and is lost" in ended.findings[0].message


def test_an_oracle_that_no_fault_of_the_run_feeds_is_not_asked_of_it(record: Callable[..., Recorded]) -> None:
    campaign = msgspec.to_builtins(CampaignPlan(seed=7, backends=2, epoch_cycles=2, faults=("shutdown-fast",)))
    rows = {row.name: row.required for row in two_cycles(record(campaign=campaign)).oracles}
    assert rows["durability"] and not rows["wal_replay"] and not rows["fan_out"]


# The command that repeats the run.


@pytest.mark.parametrize(
    ("plan", "options", "words"),
    [
        ({}, {}, "--kills 2"),
        ({"stop": {"cycles": None, "duration_s": 90.0}}, {}, "--duration 90s"),
        ({}, {}, "--epoch 2"),
        ({}, {"point_one_in": 0}, "--no-points"),
        ({}, {"points": ("backend#2/DISK_OPEN:5",), "point_one_in": 1}, "--point 'backend#2/DISK_OPEN:5'"),
        ({}, {"synchronous_commit": False}, "--synchronous-commit off"),
        ({"defect": "acknowledged-before-wal"}, {}, "--defect acknowledged-before-wal"),
    ],
    ids=["kills", "duration", "short epochs", "no points", "a point", "asynchronous commit", "a defect"],
)
def test_the_reproducing_command_says_what_was_run(
    record: Callable[..., Recorded], plan: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    campaign = msgspec.to_builtins(CampaignPlan(seed=7, backends=2, epoch_cycles=2, **options))
    verdict = two_cycles(record(campaign=campaign, **plan))
    assert verdict.reproduce.startswith("crashbed run --workload bank --backends 2 ")
    assert words in verdict.reproduce and verdict.reproduce.endswith(" --seed 7")


def test_a_replay_is_repeated_by_a_replay(record: Callable[..., Recorded]) -> None:
    recorded = record(first_cycle=50, stop={"cycles": 4, "duration_s": None})
    assert recorded.judged().reproduce == f"crashbed replay {recorded.run.path.absolute()} --cycle 53"


# A run that was resumed.


def test_a_cycle_that_was_cut_off_and_begun_again_counts_once(record: Callable[..., Recorded]) -> None:
    """The cluster is a fresh one, so nothing of the first sitting is in what the second looks at."""
    recorded = record()
    recorded.cycle(0, asked(0))
    recorded.cycle(1, asked(1), ready=False, observed=False, ended=False)
    recorded.resumed(1)
    recorded.cycle(1, asked(1))
    verdict = recorded.judged()
    assert (verdict.status, verdict.cycles, verdict.conclusive_cycles) == (Status.HELD, 2, 2), verdict.findings
    assert (verdict.epochs, verdict.ledger.ok.committed) == (1, 60)
    assert "resumed" in verdict.exactness


def test_what_was_found_before_a_run_was_resumed_stays_found(record: Callable[..., Recorded]) -> None:
    recorded = record()
    recorded.cycle(0, lost_one(0))
    recorded.cycle(1, asked(1), ready=False, observed=False, ended=False)
    recorded.resumed(1)
    recorded.cycle(1, asked(1))
    verdict = recorded.judged()
    assert (verdict.status, [finding.cycle for finding in verdict.findings]) == (Status.FINDING, [0])
    durability = next(row for row in verdict.oracles if row.name == "durability")
    assert (durability.trials, durability.failures) == (60, 1), "of both sittings"


def test_a_loss_after_a_run_was_resumed_is_found(record: Callable[..., Recorded]) -> None:
    recorded = record()
    recorded.cycle(0, asked(0))
    recorded.resumed(1)
    recorded.cycle(1, lost_one(1))
    verdict = recorded.judged()
    assert [finding.cycle for finding in verdict.findings] == [1]


def test_what_was_recorded_once_the_disk_was_full_is_not_judged(record: Callable[..., Recorded]) -> None:
    """The second cycle looks like a loss, because what was recorded of it has holes."""
    recorded = record(finished=False)
    recorded.cycle(0, asked(0))
    recorded.cycle(1, lost_one(1), ended=False)
    assert recorded.judged().status is Status.FINDING
    until_ns = end_of_whole_cycles(recorded.run)
    assert until_ns == CYCLE_MS * MS, "where the cycle was begun that did not end"
    info = recorded.run.read_info()
    info.judged_until_ns = until_ns
    recorded.run.write_info(info)
    verdict = recorded.judged()
    assert (verdict.status, verdict.cycles, verdict.findings) == (Status.INTERRUPTED, 1, ())


def test_a_run_without_a_whole_cycle_is_judged_up_to_its_first_record(record: Callable[..., Recorded]) -> None:
    recorded = record(finished=False)
    assert end_of_whole_cycles(recorded.run) == 0
    recorded.cycle(3, asked(3), ended=False)
    assert end_of_whole_cycles(recorded.run) == 3 * CYCLE_MS * MS


@pytest.mark.parametrize("resumed", [False, True])
def test_the_load_of_all_sittings_is_one(record: Callable[..., Recorded], resumed: bool) -> None:
    recorded = record()
    recorded.cycle(0, asked(0))
    if resumed:
        recorded.resumed(1)
    recorded.cycle(1, asked(1, acknowledged=40))
    (load,) = recorded.judged().loads
    assert (load.workload, load.asked) == ("bank", {"transfer": 72, "rollback": 2})
    assert (load.acknowledged, load.failed, load.unknown) == (70, 2, 2)
    (rate,) = load.rates
    # One transfer is under way at each blow, 500 ms into the cycle; the first invoke is at 1 ms.
    assert (rate.workers, rate.cycles, rate.acknowledged) == (2, 2, 70)
    assert rate.seconds == pytest.approx(2 * 0.499) and rate.per_second == pytest.approx(70 / (2 * 0.499))
