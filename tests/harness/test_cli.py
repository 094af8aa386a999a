"""The command line: every mistake gets one sentence that says what would be right, and an exit status of its own.

What could go wrong: a mistyped option that runs something else for an hour, a usage error with the status of an
interrupted run (click's own 2), a traceback instead of a sentence, a help text without an example, an example in a
help text that does not parse.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from chaos.cli.main import crashbed, run
from chaos.verdict import ExitCode
from tests.support.campaigns import bed

COMMANDS = sorted(crashbed.commands)


def examples(name: str) -> list[str]:
    """The command lines in a help text."""
    text = crashbed.commands[name].help or ""
    return [line.strip() for line in text.splitlines() if line.strip().startswith("crashbed ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert examples(name) and all(example in shown for example in examples(name)), shown


@pytest.mark.parametrize("example", [line for name in COMMANDS for line in examples(name)])
def test_every_example_parses(example: str) -> None:
    words = shlex.split(example.partition("   ")[0])[1:]
    command = crashbed.commands[words[0]]
    assert command.make_context(words[0], words[1:], resilient_parsing=False).params is not None


def test_the_exit_statuses_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "0 held, 1 finding, 2 interrupted, 3 harness error, 4 usage, 5 inconclusive" in told
    assert [status.value for status in ExitCode] == list(range(6))


MISTAKES = [
    (["run", "--workload", "bank,bonk"], "there is no workload 'bonk'; there are bank"),
    (["run", "--workload", ","], "a plan needs at least one workload"),
    (["run", "--fault", "sigkil"], "there is no fault 'sigkil'; there are sigkill-random, sigkill-role"),
    (["run", "--kills", "0"], "0 is not in the range x>=1"),
    (["run", "--kills", "many"], "'many' is not a valid integer"),
    (["run", "--duration", "soon"], "'soon' is not a duration: write 90s, 10m or 2h"),
    (["run", "--duration", "-5s"], "'-5s' is no time to run for"),
    (["run", "--duration", "nan"], "'nan' is no time to run for"),
    (["run", "--duration", "inf"], "'inf' is no time to run for"),
    (["run", "--seed", "-1"], "-1 is not in the range 0<=x<=9223372036854775807"),
    (["run", "--seed", str(1 << 63)], "9223372036854775808 is not in the range 0<=x<=9223372036854775807"),
    (["run", "--backends", "0"], "0 is not in the range 1<=x<=1000"),
    (["run", "--backends", "1001"], "1001 is not in the range 1<=x<=1000"),
    (["run", "--point", "backend/COMMIT"], "'backend/COMMIT' is not a selector: write role[#nth]/point:k"),
    (["run", "--point", "backend/TEA_TIME:1"], "there is no point 'TEA_TIME'; `crashbed points` lists them"),
    (["run", "--point", "butler/DISK_OPEN:1"], "there is no role 'butler'; there are startup, checkpointer"),
    (["run", "--point", "postmaster/DISK_OPEN:1"], "a campaign places faults at points of backend, startup"),
    (["run", "--point", "dead_end/DISK_OPEN:1"], "a campaign places faults at points of backend, startup"),
    (["run", "--point", "backend/DISK_OPEN:1", "--no-points"], "--point and --no-points contradict each other"),
    (["run", "--point", "backend/DISK_OPEN:1", "--fault", "sigquit"], "has no use for --point"),
    (["run", "--defect", "none"], "'none' is not"),
    (["run", "--require", "luck"], "'luck' is not"),
    (["run", "more"], "there is no file more, and no shipped plan of that name; there are nightly, "),
    (["replay", "somewhere"], "Missing option '--cycle'"),
    (["replay", "somewhere", "--cycle", "-1"], "-1 is not in the range x>=0"),
    (["replay", "somewhere", "--cycle", "1", "--times", "0"], "0 is not in the range x>=1"),
    (["demo", "--kills", "0"], "0 is not in the range x>=1"),
    (["judge"], "Missing argument 'DIR'"),
    (["waldump", "-D", "data", "--start", "12"], "'12' is not an LSN"),
    (["verify", "-D", "data", "more"], "unexpected extra argument"),
    (["runn"], "No such command 'runn'"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_gets_a_sentence_and_status_4(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == ExitCode.USAGE
    said = capsys.readouterr()
    assert sentence in said.err and said.out == ""
    assert len([line for line in said.err.splitlines() if sentence in line]) == 1
    assert list(tmp_path.iterdir()) == [], "a mistake makes nothing"


@pytest.mark.parametrize("verb", [["judge"], ["report"], ["replay", "--cycle", "0"]], ids=lambda verb: verb[0])
def test_what_is_no_run_directory_gets_a_hint_and_status_3(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(directory: Path) -> str:
        assert run([*verb, str(directory)]) == ExitCode.HARNESS_ERROR
        return capsys.readouterr().err

    inner = tmp_path / "20250101T000000Z-1"
    inner.mkdir()
    assert "does not exist: give the directory of a run" in said(tmp_path / "nowhere")
    assert "is not a run directory (it has no run.json)" in said(inner)
    (inner / "run.json").write_text("{}")
    assert f"did you mean {inner}?" in said(tmp_path)
    assert "run.json cannot be read" in said(inner) or verb == ["report"], "a report needs the verdict alone"
    (inner / "run.json").write_text('{"seed": 1, "started": "2025-01-01T00:00:00Z"}')
    sentence = said(inner)
    assert sentence.startswith("crashbed: ") and sentence.count("\n") == 1
    assert "holds no plan" in sentence or "was not judged" in sentence


def test_a_place_that_cannot_be_written_gets_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(["run", "--out", str(tmp_path / "file" / "out")]) == ExitCode.HARNESS_ERROR
    said = capsys.readouterr().err
    assert said.startswith("crashbed: could not make a run directory in ") and said.count("\n") == 1


def test_points_are_listed_with_their_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["points"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[0] == "COMMIT_AFTER_FLUSH" and "on disk" in line for line in lines)


def test_an_error_of_the_system_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**options: object) -> int:
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr(crashbed.commands["points"], "callback", fail)
    assert run(["points"]) == ExitCode.HARNESS_ERROR
    assert capsys.readouterr().err == "crashbed: /somewhere: Permission denied\n"


def test_ctrl_c_is_status_2_wherever_it_comes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(**options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(crashbed.commands["points"], "callback", interrupt)
    assert run(["points"]) == ExitCode.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


def test_every_verb_is_a_command() -> None:
    assert all(isinstance(command, click.Command) for command in crashbed.commands.values())
    assert {
        "run",
        "replay",
        "judge",
        "report",
        "demo",
        "init",
        "serve",
        "verify",
        "waldump",
        "controldata",
        "points",
    } <= set(COMMANDS)


REFUSED = """
import chaos.errors, chaos.start as start
def refused(*arguments):
    raise chaos.errors.CampaignError("cycle 20: a worker could not connect")
start._crash = refused
"""
NO_ROOM = REFUSED + "start.LEAST_FREE_BYTES = 1 << 60\n"


@pytest.mark.live
@pytest.mark.parametrize(("prelude", "told"), [(REFUSED, False), (NO_ROOM, True)], ids=["room", "no-room"])
def test_whatever_fails_first_on_a_full_disk_the_remedy_is_told(tmp_path: Path, prelude: str, told: bool) -> None:
    with bed(tmp_path / "out") as place:
        done = place.campaign("--kills", "1", prelude=prelude)
    assert done.status == ExitCode.HARNESS_ERROR and "cycle 20: a worker could not connect" in done.errors
    assert ("is full: free some space or choose another place with --out" in done.errors) == told


@pytest.mark.live
def test_a_limit_on_the_size_of_files_is_an_error_of_the_harness(tmp_path: Path) -> None:
    """The run directory's own files stop growing first: 64 KiB hold a few cycles of the kernel's account."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "import chaos.targets.builtin as target; start = target.BuiltinTarget.wait_ready\n"
    limit += "def limited(self, *arguments, **options):\n"
    limit += "    ready = start(self, *arguments, **options)\n"
    limit += "    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, -1))\n    return ready\n"
    limit += "target.BuiltinTarget.wait_ready = limited"
    with bed(tmp_path / "out") as place:
        done = place.campaign("--kills", "200", "--seed", "2", "--no-points", prelude=limit)
        assert done.status == 3, done
        assert done.errors.startswith("crashbed: could not append to ") and "file-size limit" in done.errors
        assert "Traceback" not in done.errors
        assert place.left_behind(done.pid) == []
