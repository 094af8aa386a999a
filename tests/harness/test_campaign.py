"""A campaign from its command to its report, small and real.

What could go wrong: a run that proves nothing and says held, an oracle that is never fed, an epoch that inherits the
one before, a run directory without what a judge needs, a harness that leaves a process, a memory, a trace instance or
a socket behind. And the faults that need two crashes: a point that only recovery passes is armed before a crash that
forks its process; the second blow must fall in recovery, and the cycle must prove as much as any other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace

import msgspec
import pytest

from chaos.plan import CampaignPlan, encode
from reports.verdict import OracleStatus, Status
from tests.support.campaigns import Bed, Ended, bed, plans_of

pytestmark = pytest.mark.live

CYCLES, EPOCH = 7, 3
POINTS = ("startup/REDO_RECORD:5", "checkpointer/CHECKPOINT_BEFORE_CONTROL:1", "walwriter/WAL_FLUSH_BEFORE_WRITE:1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with bed(tmp_path_factory.mktemp("runs") / "out") as made:
        yield made


@pytest.fixture(scope="module")
def campaign(place: Bed) -> Ended:
    return place.campaign("--kills", str(CYCLES), "--epoch", str(EPOCH), "--seed", "5")


@pytest.fixture(scope="module")
def at_points(place: Bed) -> Ended:
    arguments = [word for point in POINTS for word in ("--point", point)]
    return place.campaign("--kills", "6", "--seed", "2", *arguments)


def test_a_good_server_is_held(campaign: Ended) -> None:
    assert campaign.status == 0, campaign
    verdict = campaign.directory.read_verdict()
    assert (verdict.status, verdict.exit_code) == (Status.HELD, 0)
    assert (verdict.cycles, verdict.conclusive_cycles, verdict.epochs) == (CYCLES, CYCLES, 3)
    assert not verdict.findings
    assert "HELD" in campaign.output
    assert campaign.last_line.startswith("reproduce: crashbed run ") and campaign.last_line.endswith("--seed 5")


def test_a_run_that_held_is_explained_by_its_slowest_recovery(place: Bed, campaign: Ended) -> None:
    told = place.run("explain", str(campaign.directory.path))
    assert told.status == 0, told
    slowest = max(campaign.directory.read_verdict().recoveries, key=lambda recovery: recovery.ready or 0.0)
    lines = told.output.splitlines()
    assert lines[0].startswith(f"cycle {slowest.cycle}, {slowest.fault}: no rule was broken in this run"), told
    assert "redo ends at" in told.output and "ready to accept connections" in told.output
    assert lines[-1].startswith("recovery, in ms since the kill: ") and f"ready at {slowest.ready:.1f}" in lines[-1]


def test_every_oracle_has_trials(campaign: Ended) -> None:
    rows = campaign.directory.read_verdict().oracles
    assert len(rows) == 21
    witnessed = not any(item.what == "supervision" for item in campaign.directory.read_verdict().not_judged)
    assert witnessed or not os.environ.get("CI"), "no kernel witness in CI"
    judged = [row for row in rows if row.required]
    assert len(judged) == (20 if witnessed else 8)
    assert [row.name for row in judged if not row.trials or row.status is not OracleStatus.HELD] == []
    assert all(row.bounds[0].trials == CYCLES for row in judged)


def test_the_run_directory_is_complete(campaign: Ended) -> None:
    run = campaign.directory
    names = [
        "run.json",
        "verdict.json",
        "details.json",
        "report.html",
        "junit.xml",
        "summary.md",
        "points.map",
        "server.log",
    ]
    names += [f"events/{name}.jsonl" for name in ("kernel", "server", "harness")] + ["history/observed.jsonl"]
    assert [name for name in names if not (run.path / name).stat().st_size] == []
    # Each cycle has eight workers of its own; the outside client has one file for all.
    assert len(run.history_files()) == CYCLES * 8 + 1
    left = {path.name for path in run.path.iterdir()} - {name.partition("/")[0] for name in names}
    assert not left, "data directory and template go when nothing was found"
    info = run.read_info()
    assert (info.exit_code, info.seed) == (0, 5) and info.finished is not None
    assert info.plan["campaign"]["epoch_cycles"] == EPOCH


def test_each_epoch_begins_afresh_and_ends_with_a_look_at_everything(campaign: Ended) -> None:
    run = campaign.directory
    looks = [
        (record["cycle"], record["everything"], record["observation"]["after"]) for record in run.observed_records()
    ]
    first_of_epoch = {0: True, 3: True, 6: True}
    assert [(cycle, after == -1) for cycle, everything, after in looks if not everything] == [
        (cycle, first_of_epoch.get(cycle, False)) for cycle in range(CYCLES)
    ]
    assert [(cycle, after) for cycle, everything, after in looks if everything] == [(2, -1), (5, -1), (6, -1)]
    log = run.server_log.read_text()
    assert log.count("received fast shutdown request") == 3
    checked = [record for record in run.harness_records() if record["ev"] == "files_checked"]
    assert [(record["cycle"], record["epoch"]) for record in checked] == [(2, 0), (5, 1), (6, 2)]
    for record in checked:
        walked = {one["relation"]: one["items"] for one in record["verification"]["relations"]}
        assert walked["bank_transfer"] and walked["bank_transfer_pkey"], walked
        assert record["verification"]["state"] == "shut down" and not record["verification"]["corruptions"]


def test_a_cycle_is_seen_from_the_blow_to_the_first_commit(campaign: Ended) -> None:
    verdict = campaign.directory.read_verdict()
    assert len(verdict.recoveries) == CYCLES
    for recovery in verdict.recoveries:
        steps = [recovery.memory_reset, recovery.redo_start, recovery.redo_end, recovery.ready, recovery.first_commit]
        assert None not in steps, f"cycle {recovery.cycle} misses a phase: {recovery}"
        assert steps == sorted(steps, key=lambda ms: ms or 0), f"phases out of order: {recovery}"
        assert steps[0] is not None and steps[0] > 0, recovery


def test_nothing_is_left_behind(place: Bed, campaign: Ended) -> None:
    assert place.left_behind(campaign.pid) == []


def test_faults_at_points_of_recovery_and_of_long_lived_processes(at_points: Ended) -> None:
    assert at_points.status == 0, at_points
    run = at_points.directory
    verdict = run.read_verdict()
    assert (verdict.status, verdict.conclusive_cycles) == (Status.HELD, 6)
    faults: dict[int, list[SimpleNamespace]] = {}
    for record in run.harness_records():
        if record["ev"] == "fault":
            faults.setdefault(record["cycle"], []).append(SimpleNamespace(**record))
    selectors = {cycle: plan["placement"]["selector"] for cycle, plan in plans_of(run).items()}
    assert set(selectors.values()) == set(POINTS), "the seed must draw each point"
    for cycle, selector in selectors.items():
        role = selector.partition("/")[0]
        hit = [(blow.fault, blow.role, blow.outcome) for blow in faults[cycle]]
        trigger = [] if role == "walwriter" else [("trigger", "backend", "landed")]
        assert hit == [*trigger, ("sigkill-role", role, "landed")], f"cycle {cycle}, {selector}"


def test_a_killed_startup_process_ends_the_postmaster_and_another_is_started(at_points: Ended) -> None:
    run = at_points.directory
    startup = [c for c, plan in plans_of(run).items() if plan["placement"]["selector"].startswith("startup")]
    exits = [(r["cycle"], r["status"]) for r in run.harness_records() if r["ev"] == "postmaster_exit"]
    assert exits == [(cycle, 1) for cycle in startup]
    started = sum(record["ev"] == "postmaster" for record in run.harness_records())
    assert started == 1 + len(startup)


def test_phases_of_a_recovery_that_crashed_itself_are_in_order(at_points: Ended) -> None:
    for recovery in at_points.directory.read_verdict().recoveries:
        steps = [recovery.redo_start, recovery.redo_end, recovery.ready, recovery.first_commit]
        assert None not in steps, f"cycle {recovery.cycle} misses a phase: {recovery}"
        assert steps == sorted(steps, key=lambda ms: ms or 0), f"phases out of order: {recovery}"


def test_a_point_that_is_never_reached_is_no_proof(place: Bed) -> None:
    done = place.campaign("--kills", "2", "--seed", "1", "--point", "startup/REDO_RECORD:1000000")
    assert done.status == 5, done
    verdict = done.directory.read_verdict()
    assert [(why.reason, why.cycles) for why in verdict.inconclusive] == [("the fault did not land", 2)]
    assert "never reached" in verdict.inconclusive[0].remedy


def test_a_point_reached_while_the_workers_connect_is_no_error_of_the_harness(place: Bed) -> None:
    done = place.campaign("--kills", "1", "--seed", "1", "--point", "backend#3/BACKEND_READY:1", "--keep")
    assert done.status == 5, done
    verdict = done.directory.read_verdict()
    assert verdict.inconclusive[0].reason.startswith("fewer than 20 commits")
    assert (done.directory.pgdata / "global" / "pg_control").exists(), "--keep keeps the data directory"


def test_every_cycle_is_told_at_once_to_a_pipe(place: Bed) -> None:
    """Whoever watches through a pipe sees a cycle when it ends, not when some buffer is full; and a reader that goes
    away ends the run with a sentence, and with nothing left."""
    arguments = ["run", "--out", str(place.out), "--kills", "1000", "--seed", "3", "--no-points"]
    done = place.paste(f"crashbed {' '.join(arguments)} 2>errors | head -4; cat errors")
    lines = done.output.splitlines()
    assert lines[2].startswith("cycle"), done
    assert lines[3].split()[0] == "0", "the fourth line is the first cycle"
    assert lines[4:] == ["crashbed: nobody reads the output any more: the run was stopped"]
    (run,) = [path for path in place.out.iterdir() if path.name.endswith("-3")]
    assert '"exit_code": 3' in (run / "run.json").read_text()
    assert place.left_behind(0) == []


def test_the_plan_follows_from_the_seed_alone(campaign: Ended) -> None:
    plan = CampaignPlan(seed=5, epoch_cycles=EPOCH)
    assert plans_of(campaign.directory) == {
        cycle: msgspec.json.decode(encode(plan.cycle(cycle))) for cycle in range(CYCLES)
    }
