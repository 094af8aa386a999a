"""A run that does not come to its end: interrupted, killed, without a server, without room on the disk.

What could go wrong: Ctrl-C that loses what was proved so far, a server that outlives its harness, a data directory,
a trace instance or a socket that nobody ever removes, a directory that cannot be judged because its last line is
torn, a verdict "held" on half a run, a traceback where a sentence would do, and a full disk taken for a lost commit.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.oracles import storage
from chaos.witness.tracefs import PREFIX
from reports.verdict import OracleStatus, Status
from tests.support.campaigns import Bed, Running, bed, processes_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

FOREVER = ("run", "--kills", "100000", "--seed", "9", "--no-points", "--backends", "4")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Bed]:
    with bed(tmp_path / "out") as made:
        yield made


def under_way(place: Bed, cycles: int, *arguments: str, prelude: str = "") -> Running:
    """A run without an end, so many cycles of which are over."""
    running = place.start(*FOREVER, "--out", str(place.out), *arguments, prelude=prelude)

    def cycles_told() -> int:
        assert running.process.poll() is None, f"the run ended: {running.end()}"
        return running.output.count("\n") - 3

    wait_until(f"{cycles} cycles", lambda: cycles_told() >= cycles, deadline_s=30)
    return running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_run_judges_what_there_is(place: Bed, number: signal.Signals) -> None:
    running = under_way(place, 2)
    running.signal(number)
    done = running.end()
    assert done.status == 2, done
    assert "interrupted: judging what there is" in done.output and "INTERRUPTED" in done.output
    run = done.directory
    verdict = run.read_verdict()
    assert verdict.status is Status.INTERRUPTED and verdict.cycles >= 2
    (stored,) = [row for row in verdict.oracles if row.name == storage.NAME]
    assert stored.status is OracleStatus.NOT_JUDGED and "no epoch came to its end" in stored.reason
    assert verdict.conclusive_cycles == verdict.cycles, "the cycle that was under way is no inconclusive one"
    assert run.read_info().exit_code == 2 and run.report_html.exists()
    assert place.left_behind(done.pid) == []
    again = place.run("judge", str(run.path))
    assert again.status == 2, again


def told_of(running: Running) -> bool:
    return "run directory: " in running.output


MOMENTS = {
    "at the beginning": told_of,
    "before the first cycle": lambda running: "cycle  fault" in running.output,
    "in a cycle": lambda running: told_of(running) and running.directory.harness_events.exists(),
    "while judging": lambda running: told_of(running) and running.directory.read_info().finished is not None,
    "while reporting": lambda running: told_of(running) and running.directory.verdict_json.exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_ends_a_run_cleanly_at_any_moment(place: Bed, moment: str) -> None:
    """As a terminal sends it: to everybody in the foreground, the judge among them."""
    running = place.start("run", "--kills", "3", "--seed", "9", "--backends", "4", "--out", str(place.out))
    wait_until(moment, lambda: running.process.poll() is not None or MOMENTS[moment](running), deadline_s=60)
    if running.process.poll() is None:
        os.killpg(running.process.pid, signal.SIGINT)
    done = running.end()
    over = done.directory.read_info().exit_code in (0, 5)
    assert done.status == 2 or (over and moment == "while reporting"), done
    assert "Traceback" not in done.errors + done.output, done
    assert place.left_behind(done.pid) == []
    judged = place.run("judge", str(done.directory.path))
    if moment == "at the beginning" and "the run ended before it had begun" in judged.errors:
        return
    assert judged.status in (0, 2, 5), judged
    assert place.run("report", str(done.directory.path)).status == 0


def test_ctrl_c_while_the_command_is_loading_is_no_traceback(place: Bed) -> None:
    slow = "import signal, sys, importlib.abc\n"
    slow += "class Interrupting(importlib.abc.MetaPathFinder):\n"
    slow += "    def find_spec(self, name, path, target=None):\n"
    slow += "        if name == 'chaos.cli.run': signal.raise_signal(signal.SIGINT)\n"
    slow += "sys.meta_path.insert(0, Interrupting())\nfrom chaos.__main__ import main\nmain()"
    done = place.run("run", prelude=slow)
    assert (done.status, done.errors, done.output) == (2, "interrupted\n", "")


def test_a_second_interrupt_ends_the_judging_and_says_how_to_judge(place: Bed) -> None:
    """The judge waits for a pipe that nobody writes, so that the second signal finds it at work."""
    slow = 'import chaos.start, sys\nchaos.start.JUDGE = [sys.executable, "-c", "import os; os.read(os.pipe()[0], 1)"]'
    running = under_way(place, 1, prelude=slow)
    running.signal(signal.SIGINT)
    wait_until("the judging", lambda: "judging what there is" in running.output)
    run = running.directory
    wait_until("the campaign's end in run.json", lambda: run.read_info().finished, deadline_s=20)
    running.signal(signal.SIGINT)
    done = running.end()
    assert done.status == 2, done
    assert done.output.endswith(f"what was recorded can be judged: crashbed judge {run.path}\n")
    assert (done.errors.strip(), run.read_info().exit_code) == ("interrupted", 2)
    assert not run.verdict_json.exists()
    assert place.left_behind(done.pid) == []


def test_a_killed_harness_leaves_no_server_and_a_run_that_can_be_judged(place: Bed) -> None:
    running = under_way(place, 2)
    pid, path = running.process.pid, running.directory.path
    there = {what.partition(" ")[0] for what in place.left_behind(pid)}
    assert there >= {"process", "socket"}, "what every test here looks for would be found"
    running.signal(signal.SIGKILL)
    assert running.process.wait(10) == -signal.SIGKILL
    wait_until("the server's processes to go", lambda: not processes_of([path]), deadline_s=10)

    run = running.directory
    judged = place.run("judge", str(run.path))
    assert judged.status == 2, judged
    verdict = run.read_verdict()
    assert verdict.status is Status.INTERRUPTED and verdict.cycles >= 2 and verdict.ledger.total > 0
    assert run.read_info().finished is None, "judging does not change what the run was"

    # What no process could remove any more, the next start removes (the trace instance, that of any harness here).
    assert list(place.temporary.glob(f"{PREFIX}{pid}-*"))
    foreign = place.temporary / f"{PREFIX}of-somebody.else"
    foreign.mkdir()
    done = place.campaign("--kills", "1", "--seed", "9", "--backends", "4")
    assert done.status in (0, 5), done
    assert foreign.exists(), "what is named by no harness is let alone"
    foreign.rmdir()
    assert place.left_behind(pid) == place.left_behind(done.pid) == []


NO_SERVER = 'import chaos.tested\nchaos.tested.MODULES = {"bank": "workloads.nobody_wrote_this"}'


def test_a_server_that_cannot_start_ends_the_run_with_its_last_words(place: Bed) -> None:
    done = place.campaign("--kills", "1", prelude=NO_SERVER)
    assert done.status == 3, done
    run = done.directory
    assert done.errors.startswith("crashbed: the server exited with status 1; see ")
    assert str(run.server_log) in done.errors and "FATAL" in done.errors and "nobody_wrote_this" in done.errors
    assert "Traceback" not in done.errors
    assert run.read_info().exit_code == 3
    assert place.left_behind(done.pid) == []
    judged = place.run("judge", str(run.path))
    assert judged.status == 2, "what was not run was not held"


NO_RECOVERY = """
import pathlib
import chaos.aftermath as aftermath
recover = aftermath.Aftermath._recover
def lose_the_log(self, *arguments):
    for path in (self._target.data_directory / "global").iterdir():
        path.write_bytes(b"gone")
    recover(self, *arguments)
aftermath.Aftermath._recover = lose_the_log
"""


def test_a_server_that_does_not_recover_is_a_finding(place: Bed) -> None:
    """It cannot be started again, so nothing of what it acknowledged can be read: no error of the harness."""
    done = place.campaign("--kills", "2", "--seed", "1", "--point", "startup/REDO_BEGIN:1", prelude=NO_RECOVERY)
    assert done.status == 1, done
    run = done.directory
    (finding,) = [finding for finding in run.read_verdict().findings if finding.oracle == "observable"]
    assert "cannot be started again" in finding.message and finding.cycle == 0
    assert run.pgdata.exists()
    assert place.left_behind(done.pid) == []


NO_WITNESS = """
import chaos.start
from chaos.witness.witness import Unavailable
chaos.start.open_witness = lambda name: Unavailable("there is none in this test", "run another test")
"""


@pytest.mark.parametrize(
    ("required", "status"), [((), 0), (("--require", "supervision"), 5)], ids=["asked", "insisted"]
)
def test_without_a_witness_supervision_is_not_judged(place: Bed, required: tuple[str, ...], status: int) -> None:
    done = place.campaign("--kills", "2", "--seed", "5", *required, prelude=NO_WITNESS)
    assert done.status == status, done
    assert "no kernel witness: there is none in this test" in done.output
    verdict = done.directory.read_verdict()
    assert verdict.conclusive_cycles == 2, "the data were judged"
    supervision = [row for row in verdict.oracles if not row.trials and row.name != "leak"]
    assert {row.name for row in supervision} >= {"fan_out", "reaping", "exit_status"}
    assert all(row.required == bool(required) for row in supervision)
    whole = [item for item in verdict.not_judged if item.what == "the run as a whole"]
    assert [item.remedy for item in whole] == (["run another test"] if required else []), whole
    assert done.last_line.endswith(f"{' '.join(('', *required)).rstrip()} --seed 5")


@pytest.mark.parametrize("size_mb", [2, 5])
def test_a_full_disk_is_an_error_of_the_harness_and_no_finding(place: Bed, size_mb: int) -> None:
    """Full when the cluster is made, and full in the middle of the run. What was recorded stays whole."""
    place.out.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "crashbed-test", str(place.out)], capture_output=True
    )
    if mounted.returncode != 0:
        if os.environ.get("CI"):
            pytest.fail("no small file system can be mounted: the tests need root in CI")
        pytest.skip("a small file system can be mounted by root alone")
    try:
        done = place.campaign("--kills", "1000", "--seed", "1", "--no-points")
        assert done.status == 3, done
        assert "Traceback" not in done.errors
        assert "No space left on device" in done.errors or "disk" in done.errors, done
        assert "--out" in done.errors, "the remedy"
        assert place.left_behind(done.pid) == []
        # With room again, what was recorded can be judged, and the run goes on where it met the full disk.
        subprocess.run(["mount", "-o", "remount,size=100m", str(place.out)], check=True)
        run = done.directory
        ended = [record["cycle"] for record in run.harness_records() if record["ev"] == "cycle_end"]
        judged = place.run("judge", str(run.path))
        assert judged.status == 2 and run.read_verdict().cycles == len(ended), judged
        resumed = place.start("run", "--resume", str(run.path))
        wait_until(
            "another cycle",
            lambda: any(
                record["cycle"] == len(ended) for record in run.harness_records() if record["ev"] == "cycle_end"
            ),
            deadline_s=30,
        )
        resumed.signal(signal.SIGINT)
        again = resumed.end()
        assert again.status == 2 and run.read_verdict().findings == (), again
    finally:
        subprocess.run(["umount", "--lazy", str(place.out)], check=True)
        shutil.rmtree(place.out)


NOBODY = 65534
READING = "-all,+dac_read_search"
BE_NOBODY = f"""
import os, sys
if os.geteuid() == 0:
    os.execvp("setpriv", [
        "setpriv", "--reuid", "{NOBODY}", "--regid", "{NOBODY}", "--clear-groups", "--bounding-set", "{READING}",
        "--inh-caps", "{READING}", "--ambient-caps", "{READING}", sys.executable, *sys.orig_argv[1:],
    ])
"""
"""Reading is the one privilege left: interpreter or checkout may lie in a home directory."""


def test_without_root_everything_but_the_kernel_s_witness_works(place: Bed) -> None:
    """A person without privileges: the campaign runs, the data are judged, and the run says what was not."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        if os.environ.get("CI"):
            pytest.fail("privileges can be given up by root with setpriv alone: the tests need both in CI")
        pytest.skip("privileges can be given up by root with setpriv alone")
    place.temporary.chmod(0o777)
    with tempfile.TemporaryDirectory(prefix="cb-nobody-") as directory:
        Path(directory).chmod(0o777)
        done = place.run("run", "--out", directory, "--kills", "3", "--seed", "5", "--backends", "4", prelude=BE_NOBODY)
        assert done.status in (0, 5), done
        assert "no kernel witness: " in done.output and "supervision is not judged" in done.output
        verdict = done.directory.read_verdict()
        assert (verdict.cycles, verdict.findings) == (3, ()) and verdict.ledger.total > 0
        assert done.directory.path.stat().st_uid == NOBODY
        unjudged = next(item for item in verdict.not_judged if item.what == "supervision")
        assert unjudged.reason.startswith("no kernel witness: ") and unjudged.remedy
        looked = place.run("doctor", "--out", directory, prelude=BE_NOBODY)
        assert looked.status == 1, looked
        assert looked.output.endswith("prove less than they could: tracefs, trace clock, kernel witness degraded.\n")
        assert place.left_behind(done.pid) == []
