"""The harness itself is killed, at any moment from its exec to its report: the run was not for nothing, and it is gone.

What could go wrong: a postmaster that was stopped, or not yet told with whom to die, and runs for ever; a judge that
goes on for a run that nobody waits for; a directory that no command can read because its harness was just writing it;
a cluster to copy, a half copied server, a socket or a trace instance that nobody ever removes. Each happens in a window
of its own, some of them milliseconds long, so the moments are many and drawn from a seed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.witness.tracefs import PREFIX
from reports.rundir import RunDirectory, RunDirectoryError
from tests.support.campaigns import Bed, Ended, bed
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

MOMENTS = 5
"""In one test: a tenth of what `make long` goes through."""
SHORT = ("run", "--kills", "2", "--backends", "4", "--seed", "9", "--stop-on-finding")
NOTHING_RECORDED = ("holds no plan: the run ended before it had begun", "ended before anything was recorded")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Bed]:
    with bed(tmp_path / "out") as made:
        yield made


def processes_in(place: Bed) -> list[str]:
    """Every living process that was started here, whoever its parent is now: the directory for temporary files is
    inherited with the environment."""
    mark = f"TMPDIR={place.temporary}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes():
                found.append(f"{path.name} {(path / 'stat').read_text().rpartition(')')[0]})")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is none of ours
    return found


def kill_after(place: Bed, moment_s: float, *arguments: str) -> int | None:
    """SIGKILL a run so long after its exec; its pid, None when it had ended by itself before."""
    running = place.start(*SHORT, "--out", str(place.out), *arguments)
    try:
        running.process.wait(moment_s)
        return None
    except subprocess.TimeoutExpired:
        running.signal(signal.SIGKILL)
        running.process.wait()
    return running.process.pid


def assert_readable(place: Bed, directory: Path) -> None:
    """`judge` and `report` work, or say in one sentence that there is nothing."""
    judged = place.run("judge", str(directory))
    said = f"{sorted(path.name for path in directory.iterdir())}: {judged}"
    if judged.status == 3:
        assert judged.errors.count("\n") == 1 and any(words in judged.errors for words in NOTHING_RECORDED), said
        assert not list((directory / "events").glob("harness*")), f"something was recorded: {said}"
        return
    # A run with the planted defect may have got so far that it shows.
    assert judged.status in ((0, 1, 2, 5) if (directory / "code").exists() else (0, 2, 5)), said
    reported = place.run("report", str(directory))
    assert reported.status == 0, reported
    run = RunDirectory.open(directory)
    begun = any(record["ev"] == "cycle_end" for record in run.harness_records())
    assert run.read_verdict().cycles > 0 or not begun, said


def assert_clean(place: Bed, pids: list[int], done: Ended) -> None:
    """After one more run, nothing of the killed ones is left beside what they recorded."""
    assert done.status in (0, 5), done
    assert [left for pid in [*pids, done.pid] for left in place.left_behind(pid)] == []
    assert not list(place.temporary.glob(f"{PREFIX}*"))
    assert not [path for path in place.out.glob("*/*") if path.name in ("template", "code.new")]
    assert not list(place.out.glob("*/.*.new"))


def survive_kills(place: Bed, seed: int) -> None:
    """Some moments drawn from the seed, over the time that a whole run takes here."""
    whole = place.start(*SHORT, "--out", str(place.out))
    begun = float(Path(f"/proc/{whole.process.pid}/stat").read_text().rpartition(")")[2].split()[19])
    assert whole.end().status in (0, 5)
    took_s = float(Path("/proc/uptime").read_text().split()[0]) - begun / os.sysconf("SC_CLK_TCK")
    draw = random.Random(seed)
    pids = []
    for number in range(MOMENTS):
        before = set(place.out.iterdir())
        moment_s = draw.uniform(0, took_s)
        # Every other run has a planted defect, so that the copying is met as well.
        pid = kill_after(place, moment_s, *(("--defect", "acknowledged-before-wal") if number % 2 else ()))
        if pid is None:
            continue
        pids.append(pid)
        wait_until(
            f"seed {seed}, killed after {moment_s:.3f} s: the end of {processes_in(place)}",
            lambda: not processes_in(place),
            deadline_s=10,
        )
        for directory in set(place.out.iterdir()) - before:
            assert_readable(place, directory)
    assert pids, "no run was killed"
    assert_clean(place, pids, place.campaign("--kills", "1", "--seed", "9", "--backends", "4"))


def test_a_harness_killed_at_any_moment_leaves_a_readable_run_and_no_process(place: Bed) -> None:
    survive_kills(place, 0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_a_harness_killed_at_fifty_moments(place: Bed, seed: int) -> None:
    survive_kills(place, seed)


def test_a_directory_without_a_run_json_says_that_nothing_was_recorded(tmp_path: Path) -> None:
    """The window between making the directory and writing the file is too short to hit."""
    (tmp_path / "20250101T000000Z-7" / "events").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match="ended before anything was recorded"):
        RunDirectory.open(tmp_path / "20250101T000000Z-7")
