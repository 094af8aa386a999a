"""A run that was cut off goes on where it was cut off.

What could go wrong: a cycle that is judged twice, or against the cluster of another; a finding of the first sitting
that the second hides; two harnesses that write one directory; times of before a restart of the machine laid beside
those of after it; a run that goes on for ever because it forgot how much of it was done; a reproducing line that names
what was done last instead of the run.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reports.rundir import RunDirectory, RunInfo
from tests.support.campaigns import Bed, Running, bed, processes_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

CYCLES = 12
PLAN = ("--kills", str(CYCLES), "--seed", "9", "--backends", "4")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Bed]:
    with bed(tmp_path / "out") as made:
        yield made


def cycles_ended(run: RunDirectory) -> list[int]:
    return [record["cycle"] for record in run.harness_records() if record["ev"] == "cycle_end"]


def cut_off(place: Bed, number: signal.Signals, *arguments: str) -> Running:
    """A run of which two cycles have ended, told to end or killed."""
    running = place.start("run", "--out", str(place.out), *PLAN, *arguments)
    wait_until("the run directory", lambda: "run directory: " in running.output, deadline_s=30)
    wait_until("two cycles", lambda: len(cycles_ended(running.directory)) >= 2, deadline_s=30)
    running.signal(number)
    done = running.end()
    assert done.status in (-signal.SIGKILL, 2), done
    return running


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_a_run_that_was_cut_off_goes_on_to_its_planned_end(place: Bed, number: signal.Signals) -> None:
    run = cut_off(place, number).directory
    before = cycles_ended(run)
    assert len(before) < CYCLES, "it was cut off"
    done = place.run("run", "--resume", str(run.path))
    assert done.status in (0, 5), done
    assert f"going on with cycle {len(before)}, on a fresh cluster" in done.output
    assert Counter(cycles_ended(run)) == dict.fromkeys(range(CYCLES), 1), "each cycle has ended once"
    verdict = run.read_verdict()
    assert (verdict.cycles, verdict.findings) == (CYCLES, ()), done
    (load,) = verdict.loads
    assert sum(rate.cycles for rate in load.rates) >= CYCLES - 1, "of both sittings"
    assert f"--kills {CYCLES}" in done.last_line and done.last_line.endswith("--seed 9")
    assert place.left_behind(done.pid) == [] and not run.template.exists() and not run.pgdata.exists()


def test_a_run_that_ended_as_planned_goes_on_only_if_the_plan_is_raised(place: Bed) -> None:
    run = place.campaign("--kills", "2", "--seed", "9", "--backends", "4").directory
    again = place.run("run", "--resume", str(run.path))
    assert again.status == 3 and "ended as planned, after 2 cycles" in again.errors, again
    lower = place.run("run", "--resume", str(run.path), "--kills", "1")
    assert lower.status == 4 and "can only be raised" in lower.errors, lower
    unplanned = place.run("run", "--resume", str(run.path), "--duration", "1h")
    assert unplanned.status == 4 and "planned without it" in unplanned.errors, unplanned
    more = place.run("run", "--resume", str(run.path), "--kills", "3")
    assert more.status in (0, 5), more
    assert cycles_ended(run) == [0, 1, 2] and run.read_verdict().cycles == 3 and "--kills 3" in more.last_line
    assert "resumed with cycle 2; before: after 2 cycles" in run.read_info().stop_rule


def test_a_finding_stays_and_keeps_its_evidence(place: Bed) -> None:
    run = cut_off(place, signal.SIGKILL, "--defect", "acknowledged-before-wal", "--no-points").directory
    place.run("judge", str(run.path))
    before = {finding.cycle for finding in run.read_verdict().findings}
    done = place.run("run", "--resume", str(run.path))
    assert done.status == 1, done
    assert before <= {finding.cycle for finding in run.read_verdict().findings}
    again = place.run("run", "--resume", str(run.path), "--kills", "20")
    assert again.status == 3 and "ended with a finding" in again.errors and run.pgdata.exists()


def test_two_harnesses_never_write_one_run(place: Bed) -> None:
    running = place.start("run", "--out", str(place.out), "--kills", "1000", "--seed", "9", "--backends", "4")
    wait_until("a run directory", lambda: "run directory: " in running.output, deadline_s=30)
    refused = place.run("run", "--resume", str(running.directory.path))
    assert refused.status == 3 and "is being written by a run that has not ended" in refused.errors, refused
    assert running.process.poll() is None
    running.signal(signal.SIGKILL)
    running.process.wait()
    path = running.directory.path
    wait_until("the server's end", lambda: not processes_of([path]))


def of_another_version(info: RunInfo) -> None:
    info.versions["crashbed"] = "0.0.1"


def of_another_boot(info: RunInfo) -> None:
    info.host["boot_id"] = "another"


def without_a_plan(info: RunInfo) -> None:
    info.plan = {}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (of_another_version, "was recorded by crashbed 0.0.1"),
        (of_another_boot, "before this one was started anew"),
        (without_a_plan, "the run ended before it had begun"),
    ],
)
def test_a_run_that_cannot_go_on_says_why(place: Bed, change: Callable[[RunInfo], None], sentence: str) -> None:
    done = place.campaign("--kills", "1", "--seed", "9", "--backends", "4")
    info = done.directory.read_info()
    change(info)
    done.directory.write_info(info)
    refused = place.run("run", "--resume", str(done.directory.path), "--kills", "2")
    assert refused.status == 3 and sentence in refused.errors, refused
    assert refused.errors.count("\n") == 1
    assert len(cycles_ended(done.directory)) == 1, "nothing was done"


@pytest.mark.parametrize("option", [("--seed", "3"), ("--backends", "2"), ("--defect", "acknowledged-before-wal")])
def test_what_a_run_is_cannot_be_changed(place: Bed, option: tuple[str, str]) -> None:
    refused = place.run("run", "--resume", str(place.out), *option)
    assert refused.status == 4 and f"{option[0]} cannot be changed by --resume" in refused.errors, refused
