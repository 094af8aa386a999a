"""A plan file means what the same options mean, and an error in it is told with its line.

What could go wrong: a mistyped key that is silently the default for eight hours; a file that says one thing and runs
another; errors told one at a time, a run for each; a file that wins over what was typed; a shipped plan that an option
has left behind.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.cli.main import run
from chaos.cli.plan_file import KEYS, Shape
from chaos.cli.run import run_command
from chaos.cli.run_options import RunOptions, order_of
from chaos.command.plan import CommandPlan
from chaos.defects import DEFECTS
from chaos.errors import PlanError
from chaos.faults import FAULTS
from chaos.order import Order
from chaos.plan import MOST_BACKENDS, MOST_SEED
from chaos.plans import SHIPPED, find_plan
from chaos.toml_lines import line_of
from chaos.verdict import ExitCode

WORKLOADS = ("bank", "append", "tpcb", "customers")


def options_of(*words: str) -> RunOptions:
    """What `crashbed run` would go by."""
    with run_command.make_context("run", list(words)) as context:
        return RunOptions(**context.params)


def ordered(*words: str) -> Order:
    with run_command.make_context("run", list(words)) as context:
        return order_of(context, RunOptions(**context.params))[0]


def written(directory: Path, text: str) -> str:
    path = directory / "plan.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("kils = 3", ["line 1: there is no key kils, did you mean kills? There are about, target, pg-bindir"]),
        ("out = 'here'", ["line 1: there is no key out"]),
        ("\nkills = 0", ["line 2: kills: 0 is not in the range x>=1."]),
        ("kills = '3'", ["line 1: kills: takes a whole number, as in kills = 20"]),
        ("kills = true", ["line 1: kills: takes a whole number, as in kills = 20"]),
        ("duration = 'soon'", ["line 1: duration: 'soon' is not a duration: write 90s, 10m or 2h"]),
        ("duration = []", ["line 1: duration: takes a text, or a number of seconds, as in duration = \"10m\""]),
        ("workloads = 'bank'", ["line 1: workloads: takes a list of names, as in workloads = [\"bank\", \"append\"]"]),
        ("workloads = ['bonk']", ["line 1: workloads: there is no workload 'bonk'; there are bank, append"]),
        ("workloads = []", ["line 1: a plan needs at least one workload"]),
        ("faults = ['sigkil']", ["line 1: faults: there is no fault 'sigkil'; there are sigkill-random"]),
        ("faults = [1]", ["line 1: faults: takes a list of names"]),
        ("points = ['backend/TEA:1']", ["line 1: points: 'backend/TEA:1': there is no point 'TEA'; `crashbed points`"]),
        ("no-points = 1", ["line 1: no-points: takes true or false, as in no-points = true"]),
        ("backends = 1001", ["line 1: backends: 1001 is not in the range 1<=x<=1000."]),
        ("epoch = 0", ["line 1: epoch: 0 is not in the range x>=1."]),
        ("seed = -1", ["line 1: seed: -1 is not in the range 0<=x<=9223372036854775807."]),
        ("synchronous-commit = 'maybe'", ["line 1: synchronous-commit: 'maybe' is not one of 'on', 'off'."]),
        ("require = 'luck'", ["line 1: require: 'luck' is not 'supervision'."]),
        ("defect = 'none'", ["line 1: defect: 'none' is not one of 'acknowledged-before-wal'"]),
        ("target = 'mysql'", ["line 1: target: 'mysql' is not one of 'builtin', 'postgres', 'command'."]),
        ("about = 3", ["line 1: about: takes a sentence"]),
        ("[pg-set]\nfsync = []", ["line 1: pg-set: takes a table of texts, numbers, true and false", "not what fsync"]),
        ("[pg-set]\nfsync = false", ["line 1: --pg-bindir and --pg-set are of --target postgres"]),
        ("target = 'postgres'\npoints = ['backend/DISK_OPEN:1']", ["line 2: --point: points are places in"]),
        ("target = 'postgres'\ndefect = 'oldest-first'", ["line 2: --defect is planted into a copy of the built-in"]),
        ("kills = 1\nfaults = ['exit-0']\ntarget = 'postgres'", ["line 2: the fault exit-0 cannot be done here"]),
        ("kills = 1\npoints = ['backend/DISK_OPEN:1']\nfaults = ['sigquit']", ["line 2: a plan of sigquit alone has"]),
        ("points = ['backend/DISK_OPEN:1']\nno-points = true", ["line 1: --point and --no-points contradict"]),
        ("kills =", ["plan.toml is no TOML"]),
        # All of them at once, in the order of the file.
        ("kils = 3\nseed = 'x'\nepoch = 0", ["line 1: there is no key kils", "line 2: seed: takes", "line 3: epoch: 0"]),
    ],
)  # fmt: skip
def test_every_error_is_told_with_its_line_and_what_is_allowed(
    text: str, errors: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("plan", "run"):
        assert run([verb, written(tmp_path, text)]) == ExitCode.USAGE
        said = capsys.readouterr()
        places = [said.err.find(error) for error in errors]
        assert -1 not in places and places == sorted(places), said.err
        assert said.err.startswith(f"crashbed: {tmp_path}/plan.toml") and said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["plan.toml"], "a mistake makes nothing"


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_plan_is_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    order = ordered(name)
    assert not isinstance(order.plan, CommandPlan)
    assert order.stop.cycles or order.stop.duration_s
    assert "about = " in SHIPPED[name].read_text().splitlines()[0]
    (tmp_path / name).write_text("kills = 3")
    assert find_plan(name) == Path(name), "a file of that name is meant before the plan that is shipped"


def test_what_the_command_line_says_wins(tmp_path: Path) -> None:
    plan = written(tmp_path, "kills = 30\nseed = 7\nno-points = true\nfaults = ['sigquit']\n[pg-set]\nfsync = 'off'")
    target = ("--target", "postgres")
    assert options_of(plan, *target, "--seed", "8").seed == 8
    assert options_of(plan, *target, "--pg-set", "fsync=on").pg_settings == {"fsync": "on"}
    order = ordered(plan, *target, "--duration", "1m")
    assert (order.plan.faults, order.stop.cycles, order.stop.duration_s) == (("sigquit",), None, 60.0)
    assert options_of(plan, "--point", "backend/DISK_OPEN:1").no_points is False


def test_a_path_in_a_file_is_relative_to_it(tmp_path: Path) -> None:
    assert options_of(written(tmp_path, "pg-bindir = 'bin'")).pg_bindir == tmp_path / "bin"


def test_a_command_s_plan_is_not_taken_for_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = written(tmp_path, "target = 'command'")
    assert run(["run", plan, "--target", "postgres"]) == ExitCode.USAGE
    assert "plan.toml is a plan for a command" in capsys.readouterr().err
    assert run(["run", "smoke", "--target", "command"]) == ExitCode.USAGE
    assert "is a plan for the built-in server or PostgreSQL" in capsys.readouterr().err
    assert run(["run", plan]) == ExitCode.USAGE
    assert "plan.toml: command is missing" in capsys.readouterr().err


def test_a_plan_does_not_go_with_resume(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "smoke", "--resume", "somewhere"]) == ExitCode.USAGE
    assert "--resume goes on with a run as it began: leave out smoke" in capsys.readouterr().err


def test_a_plan_is_shown_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["plan", "smoke", "--seed", "7", "--cycles", "3"]) == 0
    first = capsys.readouterr().out
    assert "bank, append, tpcb, customers" in first and "after 60 cycles" in first
    assert [line.split()[0] for line in first.splitlines()[-4:]] == ["cycle", "0", "1", "2"]
    cycle = ordered("smoke", "--seed", "7").plan.cycle(2)
    assert cycle.fault in first.splitlines()[-1]
    assert run(["plan", "smoke", "--seed", "7", "--cycles", "3"]) == 0
    assert capsys.readouterr().out == first, "the same seed, the same plan"
    assert list(tmp_path.iterdir()) == []


def test_shipped_plans_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plans"]) == 0
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()}
    assert listed.keys() == SHIPPED.keys() == {"smoke", "nightly", "supervision", "silent-client"}
    assert all(about.endswith((".", "?")) for about in listed.values())


def test_each_key_is_an_option_and_each_option_but_three_is_a_key() -> None:
    parameters = {parameter.name for parameter in run_command.params}
    assert parameters - {key.parameter for key in KEYS.values()} == {"plan_file", "out", "resume"}
    assert {key.parameter for key in KEYS.values()} <= parameters


def test_a_key_in_a_table_is_found_at_its_line_or_its_table_s() -> None:
    text = "kills = 1\n\n[pg-set]\n# fsync = 3\nfsync = 'off'\n"
    found = [line_of(text, key) for key in ("kills", "pg-set", "pg-set.fsync", "pg-set.port", "seed")]
    assert found == [1, 3, 5, 3, 0]


def names(known: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(known), min_size=1, max_size=4, unique=True)


PLANS = st.fixed_dictionaries(
    {},
    optional={
        "target": st.sampled_from(["builtin", "postgres"]),
        "pg-bindir": st.just("/opt/bin"),
        "pg-set": st.dictionaries(st.sampled_from(["fsync", "wal_level"]), st.sampled_from(["on", "a b", "3"])),
        "workloads": names(WORKLOADS),
        "backends": st.integers(1, MOST_BACKENDS),
        "kills": st.integers(1, 10**6),
        "duration": st.sampled_from(["90s", "10m", "8h", "2.5"]),
        "faults": names(tuple(FAULTS)),
        "points": names(("backend/DISK_OPEN:1", "startup/REDO_RECORD:5")),
        "no-points": st.booleans(),
        "synchronous-commit": st.sampled_from(["on", "off"]),
        "epoch": st.integers(1, 1000),
        "seed": st.integers(0, MOST_SEED),
        "defect": st.sampled_from(sorted(DEFECTS)),
        "require": st.just("supervision"),
        "stop-on-finding": st.booleans(),
        "keep": st.booleans(),
    },
)
OPTION = {parameter.name: parameter.opts[0] for parameter in run_command.params}


def as_words(plan: dict[str, Any]) -> list[str]:
    """The same on the command line."""
    words: list[str] = []
    for name, value in plan.items():
        option = OPTION[KEYS[name].parameter]
        match KEYS[name].shape:
            case Shape.FLAG:
                words += [option] if value else []
            case Shape.TABLE:
                words += [word for setting in value.items() for word in (option, "=".join(setting))]
            case Shape.LIST:
                words += [word for item in value for word in (option, item)]
            case Shape.NAMES:
                words += [option, ",".join(value)]
            case _:
                words += [option, str(value)]
    return words


def as_toml(plan: dict[str, Any]) -> str:
    """JSON's texts, numbers and lists are TOML's too; the table comes last."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in plan.items() if name != "pg-set"]
    table = [f"{name} = {json.dumps(value)}" for name, value in plan.get("pg-set", {}).items()]
    return "\n".join([*lines, *(["[pg-set]", *table] if "pg-set" in plan else [])])


@given(PLANS)
def test_a_file_means_what_the_same_command_line_means(plan: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = written(Path(directory), as_toml(plan))
        from_file, typed = options_of(file), options_of(*as_words(plan))
    assert replace(from_file, plan_file=None) == typed


def test_a_missing_file_is_a_sentence() -> None:
    with pytest.raises(PlanError, match=r"there is no file none\.toml, and no shipped plan of that name; there are"):
        find_plan("none.toml")
