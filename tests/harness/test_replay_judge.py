"""A run can be understood, judged and repeated from its directory alone.

What could go wrong: a cycle that is replayed with another plan, or from the middle of its epoch; a verdict that
depends on who judges, and when; a reproducing command that a shell does not understand; a judge that needs a server.
"""

from __future__ import annotations

import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos.plan import CampaignPlan, encode
from chaos.replay import EXACTNESS
from reports.rundir import RunDirectory
from reports.verdict import Environment, Status, Verdict
from tests.support.campaigns import Bed, Ended, bed, plans_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    # A blank and a quote: a command that is to be pasted must survive them.
    with bed(tmp_path_factory.mktemp("runs") / "o'er there") as made:
        yield made


@pytest.fixture(scope="module")
def found(place: Bed) -> Ended:
    """A run with findings in its only cycle."""
    done = place.campaign("--kills", "1", "--seed", "5", "--backends", "6", "--defect", "acknowledged-before-wal")
    assert done.status == 1, done
    return done


@pytest.fixture(scope="module")
def campaign(place: Bed) -> Ended:
    done = place.campaign("--kills", "3", "--seed", "11", "--backends", "6")
    assert done.status == 0, done
    return done


def same(verdict: Verdict) -> Verdict:
    """What two judgements of one directory must agree on: everything but where it was judged."""
    return msgspec.structs.replace(verdict, environment=msgspec.structs.replace(verdict.environment, versions={}))


def planned(plan: CampaignPlan, cycle: int) -> Any:
    return msgspec.json.decode(encode(plan.cycle(cycle)))


def test_the_plan_follows_from_the_seed_alone(campaign: Ended) -> None:
    plan = CampaignPlan(seed=11, backends=6)
    assert plans_of(campaign.directory) == {cycle: planned(plan, cycle) for cycle in range(3)}


def test_judging_again_gives_the_same_verdict(place: Bed, campaign: Ended) -> None:
    run = campaign.directory
    before, page = run.read_verdict(), run.report_html.read_bytes()
    run.verdict_json.unlink()
    again = place.run("judge", str(run.path))
    assert again.status == 0, again
    assert same(run.read_verdict()) == same(before)
    assert again.last_line == campaign.last_line
    run.report_html.unlink()
    reported = place.run("report", str(run.path))
    assert (reported.status, reported.output) == (0, f"{run.report_html}\n")
    assert run.report_html.read_bytes() == page, "equal evidence, another page"


def test_the_reproducing_command_works_when_pasted(place: Bed, campaign: Ended) -> None:
    command = campaign.last_line.removeprefix("reproduce: ")
    again = place.paste(command)
    assert again.status == 0, again
    assert again.directory.path.parent == place.out / "out", "it goes where the command is given"
    assert plans_of(again.directory) == plans_of(campaign.directory)


def test_a_cycle_is_replayed_from_the_beginning_of_its_epoch(place: Bed, tmp_path: Path) -> None:
    """Epochs of two: cycle 3 belongs to the second, which began with cycle 2."""
    plan = CampaignPlan(seed=4, epoch_cycles=2, backends=6)
    recorded = RunDirectory.create(tmp_path / "o'er there", 4)
    info = recorded.read_info()
    info.plan = {"campaign": msgspec.to_builtins(plan), "defect": None}
    recorded.write_info(info)
    done = place.paste(f'crashbed replay "{recorded.path}" --cycle 3')
    assert done.status == 0, done
    run = done.directory
    assert run.path.parent == recorded.path.parent, "the new run goes beside the old one"
    assert plans_of(run) == {cycle: planned(plan, cycle) for cycle in (2, 3)}
    assert [record["epoch"] for record in run.harness_records() if record["ev"] == "epoch_begin"] == [1]
    verdict = run.read_verdict()
    assert (verdict.status, verdict.cycles) == (Status.HELD, 2)
    # A replay begins with its epoch, so what repeats it is a replay of itself.
    assert done.last_line.startswith("reproduce: crashbed replay ") and done.last_line.endswith(" --cycle 3")


def test_a_cycle_that_never_was_is_refused(place: Bed, campaign: Ended) -> None:
    done = place.run("replay", str(campaign.directory.path), "--cycle", "3")
    assert done.status == 4
    assert done.errors.endswith("has no cycle 3: it ran cycles 0 to 2\n")


def test_a_finding_that_comes_back_is_counted_and_the_rate_is_told(place: Bed, found: Ended) -> None:
    """Each repetition plants the defect again, and leaves a run directory of its own in one folder."""
    done = place.run("replay", str(found.directory.path), "--cycle", "0", "--times", "2")
    assert done.status == 1, done
    oracles = sorted({finding.oracle for finding in found.directory.read_verdict().findings if finding.cycle == 0})
    assert f"sought: a failure of {' or '.join(oracles)} at cycle 0\n" in done.output
    assert "repetition 1 of 2: it came back" in done.output and "repetition 2 of 2: it came back" in done.output
    assert "the finding came back in 2 of 2 repetitions: 100 %, at least 22 % at 95 % confidence\n" in done.output
    assert EXACTNESS in done.output
    folder = found.directory.path.with_name(f"{found.directory.path.name}-cycle-0")
    assert len([RunDirectory.open(path) for path in folder.iterdir()]) == 2
    assert done.last_line == f"runs: {folder}"


def test_a_finding_that_never_comes_back_is_no_failure(place: Bed, campaign: Ended, tmp_path: Path) -> None:
    done = place.run("replay", str(campaign.directory.path), "--cycle", "0", "--times", "1", "--out", str(tmp_path))
    assert done.status == 0, done
    assert "sought: a failure of any oracle at cycle 0\n" in done.output
    assert "did not come back in 1 repetition: at most 95 % of them find it" in done.output


def test_an_interrupted_replay_tells_the_rate_so_far(place: Bed, campaign: Ended, tmp_path: Path) -> None:
    running = place.start(
        "replay", str(campaign.directory.path), "--cycle", "0", "--times", "50", "--out", str(tmp_path)
    )
    wait_until("the first repetition has ended", lambda: "repetition 1 of 50" in running.output, deadline_s=60)
    running.signal(signal.SIGINT)
    done = running.end()
    assert done.status == 2, done
    assert "\ninterrupted: the finding did not come back in " in done.output


def test_an_unpacked_bundle_is_judged_explained_and_replayed_as_the_run_was(
    place: Bed, found: Ended, tmp_path: Path
) -> None:
    run, file = found.directory, tmp_path / "run.tar.gz"
    packed = place.run("bundle", str(run.path), "--data", "-o", str(file))
    assert packed.status == 0, packed
    assert "evidence: whole, it can be judged and explained" in packed.output
    with tarfile.open(file) as tar:
        tar.extractall(tmp_path / "there", filter="data")
    again = RunDirectory.open(tmp_path / "there" / run.path.name)
    story = place.run("explain", str(run.path)).output
    assert " wal " in story, "what needs the data directory is not told at all"
    assert place.run("explain", str(again.path)).output == story
    again.verdict_json.unlink()
    judged = place.run("judge", str(again.path))
    assert judged.status == 1, judged
    assert elsewhere(again.read_verdict()) == elsewhere(run.read_verdict())
    assert place.run("replay", str(again.path), "--cycle", "0", "--times", "1").status == 1


def elsewhere(verdict: Verdict) -> Verdict:
    """What two judgements of one run must agree on wherever its directory is."""
    findings = tuple(msgspec.structs.replace(finding, reproduce="") for finding in verdict.findings)
    return msgspec.structs.replace(verdict, environment=Environment(), findings=findings)
