"""Any command as a target: a supervisor that keeps its policy is held, one that breaks a rule is found, by that rule.

What could go wrong: an oracle that no real supervisor can make fail, or that a sound one fails; a verdict of held
without a witness; a report with panels of what a command has not; a line that does not reproduce the run; a process of
the command that outlives the campaign. The supervisors are real programs that fork, tiny so that each can be wrong in
one way, and then two that people use.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from reports.verdict import OracleStatus, Status, Verdict
from tests.support.campaigns import Bed, bed
from tests.support.toy_supervisor import DEFECTS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
TOY = ROOT / "tests" / "support" / "toy_supervisor.py"
EXAMPLES = ROOT / "docs" / "examples"

BLIND = (
    "import chaos.start\n"
    "from chaos.witness.witness import Unavailable\n"
    "chaos.start.open_witness = lambda name: Unavailable('this test has none', 'none needed')\n"
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Bed]:
    with bed(tmp_path / "out") as made:
        yield made


def toy_plan(directory: Path, policy: str, defect: str = "none", faults: str = "sigkill-random") -> Path:
    """A plan for a toy, with bounds that a loaded machine keeps."""
    path = directory / "toy.toml"
    path.write_text(
        f"""
target = "command"
seed = 7
pause_s = 0.1
faults = {json.dumps(faults.split(","))}

[command]
start = ["{{python}}", "{TOY}", "{policy}", "{defect}", "{{scratch}}/ready"]

[roles]
child = "^toy-child$"

[ready]
command = ["test", "-e", "{{scratch}}/ready"]

[expect]
policy = "{policy}"
reaped_s = 1
replaced_s = 1
ready_s = 2
drained_s = 1
hung_s = 2
stopped_s = 1
orphaned_s = 0.5
"""
    )
    return path


def failed_rules(verdict: Verdict) -> set[str]:
    return {row.name for row in verdict.oracles if row.status is OracleStatus.FAILED}


@pytest.mark.parametrize("policy", ["restart-one", "restart-all", "drain"])
def test_a_supervisor_that_keeps_its_policy_is_held(place: Bed, tmp_path: Path, policy: str) -> None:
    faults = "sigkill-random,sigkill-role,sigstop" + (",sigkill-several" if policy != "drain" else "")
    ended = place.campaign(str(toy_plan(tmp_path, policy, faults=faults)), "--kills", "6", "--seed", "3")
    assert ended.status == 0, ended
    verdict = ended.directory.read_verdict()
    assert (verdict.status, verdict.target, verdict.cycles, verdict.conclusive_cycles) == (Status.HELD, "command", 6, 6)
    assert [row.name for row in verdict.oracles if not row.trials] == []
    assert place.left_behind(ended.pid) == []


BROKEN = {
    "never-reaps": ("restart-one", "sigkill-random", {"child_reaping"}),
    "does-not-replace": ("restart-one", "sigkill-random", {"restart_one"}),
    "ends-all": ("restart-one", "sigkill-random", {"bystanders"}),
    "leaves-one-alone": ("restart-all", "sigkill-random", {"restart_all"}),
    "begins-too-early": ("restart-all", "sigkill-random", {"restart_all"}),
    "replaces": ("drain", "sigkill-random", {"drain"}),
    "lives-on": ("drain", "sigkill-random", {"drain"}),
    "leaves-an-orphan": ("restart-one", "sigkill-random,sigkill-main", {"orphans"}),
    "ignores-the-stop": ("restart-one", "sigkill-random", {"stop"}),
    "never-asks": ("restart-one", "sigstop", {"hang"}),
    "goes-deaf": ("restart-one", "sigkill-random", {"ready_again"}),
}


def test_every_defect_of_the_toys_is_tried() -> None:
    assert set(BROKEN) == set(DEFECTS)


IN_THE_GATE = frozenset({"never-reaps", "does-not-replace", "begins-too-early", "lives-on", "leaves-an-orphan"})
"""The others take minutes together and are of `make long`; each rule is shown to fail on forged accounts as well."""


@pytest.mark.parametrize(
    "defect", [pytest.param(name, marks=[] if name in IN_THE_GATE else pytest.mark.long) for name in DEFECTS]
)
def test_a_supervisor_that_breaks_a_rule_is_found_by_it(place: Bed, tmp_path: Path, defect: str) -> None:
    policy, faults, rules = BROKEN[defect]
    ended = place.campaign(str(toy_plan(tmp_path, policy, defect, faults)), "--kills", "2")
    assert ended.status == 1, ended
    verdict = ended.directory.read_verdict()
    # Whom SIGTERM does not end, it does not end within its time either.
    consequences = {"stop"} if defect in ("leaves-an-orphan", "never-asks") else set()
    assert rules <= failed_rules(verdict) <= rules | consequences, ended
    assert all(finding.evidence and finding.reproduce for finding in verdict.findings)
    assert place.left_behind(ended.pid) == []


def test_without_a_witness_nothing_is_held(place: Bed, tmp_path: Path) -> None:
    ended = place.campaign(str(toy_plan(tmp_path, "restart-one")), "--kills", "1", prelude=BLIND)
    assert ended.status == 5, ended
    assert "no kernel witness: this test has none" in ended.output
    assert {row.status for row in ended.directory.read_verdict().oracles} == {OracleStatus.NOT_JUDGED}


def test_the_reports_say_what_a_command_has_and_nothing_of_what_it_has_not(place: Bed, tmp_path: Path) -> None:
    ended = place.campaign(str(toy_plan(tmp_path, "restart-one")), "--kills", "3")
    assert ended.status == 0, ended
    run = ended.directory
    page = run.report_html.read_text()
    assert "Kill to first answer" in page and "a child that dies is replaced within 1 s" in page
    for absent in (
        "Durability ledger",
        "State machine",
        "Coverage of points",
        "Acknowledged, then found",
        "new commit",
    ):
        assert absent not in page.partition('<script type="application/json"')[0], absent
    assert "Kill to first answer: median" in run.summary_md.read_text()
    cases = re.findall(r'<testcase classname="crashbed.command" name="(\w+)"', run.junit_xml.read_text())
    assert cases == [row.name for row in run.read_verdict().oracles] + ["verdict"]
    for recovery in run.read_verdict().recoveries:
        assert recovery.noticed is not None and recovery.replaced is not None and recovery.first_commit is not None
        assert 0 < recovery.replaced <= recovery.first_commit


def test_the_last_line_and_a_replay_run_the_same_plan_again(place: Bed, tmp_path: Path) -> None:
    first = place.campaign(
        str(toy_plan(tmp_path, "restart-one", faults="sigkill-role,sigkill-several")), "--kills", "3"
    )
    again = place.paste(first.last_line.removeprefix("reproduce: "))
    replayed = place.run("replay", str(first.directory.path), "--cycle", "2")
    plans = [
        [record["plan"] for record in ended.directory.harness_records() if record["ev"] == "cycle_begin"]
        for ended in (first, again, replayed)
    ]
    assert plans[0] == plans[1] == plans[2] and len(plans[0]) == 3
    assert (again.status, replayed.status) == (0, 0), (again, replayed)


def test_a_harness_that_is_interrupted_or_killed_leaves_nobody(place: Bed, tmp_path: Path) -> None:
    plan = str(toy_plan(tmp_path, "restart-one"))
    for number, status in ((signal.SIGINT, 2), (signal.SIGKILL, -9)):
        running = place.start("run", "--out", str(place.out), plan, "--duration", "1h")
        wait_until("a cycle", lambda running=running: "sigkill-random" in running.output, deadline_s=30)  # type: ignore[misc]
        scratch = next(place.temporary.glob("crashbed-*"))
        assert processes_with(str(scratch))
        running.signal(number)
        ended = running.end()
        assert ended.status == status, ended
        wait_until("everybody's end", lambda scratch=scratch: not processes_with(str(scratch)))  # type: ignore[misc]
        judged = place.run("judge", str(running.directory.path))
        assert judged.status == 2, judged
    # What no process could remove any more, the next start does.
    assert place.campaign(plan, "--kills", "1").status == 0
    assert list(place.temporary.glob("crashbed-*")) == []


def processes_with(word: str) -> list[int]:
    """The processes that have this in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_plan_that_makes_no_sense_is_a_usage_error_with_its_line(place: Bed, tmp_path: Path) -> None:
    path = toy_plan(tmp_path, "restart-one")
    path.write_text(path.read_text().replace('policy = "restart-one"', 'policy = "restart-none"'))
    ended = place.campaign(str(path))
    assert ended.status == 4
    assert "toy.toml, line 17: expect.policy: Invalid enum value 'restart-none'; there are restart-one" in ended.errors
    assert place.campaign(str(path), "--backends", "3").status == 4


def test_a_command_that_never_answers_is_an_error_that_says_where_to_look(place: Bed, tmp_path: Path) -> None:
    path = toy_plan(tmp_path, "restart-one")
    path.write_text(path.read_text().replace('"-e", "{scratch}/ready"]', '"-e", "{scratch}/never"]\ndeadline_s = 0.5'))
    ended = place.campaign(str(path), "--kills", "1")
    assert ended.status == 3
    assert "the command did not answer within 0.5 s" in ended.errors and "server.log" in ended.errors
    assert place.left_behind(ended.pid) == []


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_a_server_that_people_use_replaces_its_workers(place: Bed, server: str) -> None:
    pytest.importorskip(server)
    ended = place.campaign(str(EXAMPLES / f"{server}.toml"), "--kills", "5", "--seed", "7")
    assert ended.status == 0, ended
    assert len(ended.directory.read_verdict().recoveries) == 5
    assert place.left_behind(ended.pid) == []


@pytest.mark.parametrize(("server", "orphans"), [("gunicorn", False), ("uvicorn", True)])
def test_workers_whose_supervisor_is_killed(place: Bed, tmp_path: Path, server: str, orphans: bool) -> None:
    """gunicorn's look at their parent's pid, each half of their timeout; uvicorn's serve on, until the harness ends them."""
    pytest.importorskip(server)
    path = tmp_path / "main.toml"
    text = (EXAMPLES / f"{server}.toml").read_text()
    text = re.sub(r"^faults = .*", 'faults = ["sigkill-main"]', text, flags=re.MULTILINE)
    text = text.replace('"gunicorn", "--workers"', '"gunicorn", "--timeout", "4", "--workers"')
    path.write_text(text.replace("[command]", f'[command]\ndirectory = "{EXAMPLES}"'))
    ended = place.campaign(str(path), "--kills", "1")
    assert ended.status == (1 if orphans else 0), ended
    assert failed_rules(ended.directory.read_verdict()) == ({"orphans"} if orphans else set())
    assert place.left_behind(ended.pid) == []


def test_in_ci_both_servers_are_there() -> None:
    assert not os.environ.get("CI") or (find_spec("gunicorn") and find_spec("uvicorn"))
