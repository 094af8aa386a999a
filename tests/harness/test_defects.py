"""Every planted defect is found, by the oracle that was made for it.

An oracle that has never been seen to fail on a real run proves nothing, and a defect that no longer fits the code it
was written for would plant nothing and make the demo green. So each defect is planted into a copy of today's code, run
for a few cycles, and found; what the run prints last, pasted into a shell, finds it again; and an edit that does not
fit is refused loudly. Of each loss a story can be told that ends with the right reason, for the defect is known.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from chaos.cli.demo import CYCLES
from chaos.defects import DEFECTS
from chaos.defects.defect import Defect, Edit, StaleDefectError
from chaos.explain.story import LINES
from chaos.oracles import observable, storage
from chaos.oracles.data import NAMES
from chaos.oracles.registry import SUPERVISION
from chaos.targets.builtin import CODE_ROOT
from reports.verdict import Status
from tests.support.campaigns import Bed, Ended, bed, plans_of

ORACLES = {*NAMES, observable.NAME, storage.NAME, *(oracle.name for oracle in SUPERVISION)}

ALONE = frozenset({storage.NAME})
"""Oracles whose defect no other may find: what the server shows is right."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with bed(tmp_path_factory.mktemp("runs") / "out") as made:
        yield made


@pytest.fixture(scope="module", params=sorted(DEFECTS))
def defect(request: pytest.FixtureRequest) -> Defect:
    return DEFECTS[request.param]


@pytest.fixture(scope="module")
def red(place: Bed, defect: Defect) -> Ended:
    return campaign_with(place, defect)


@pytest.fixture(scope="module")
def lost(place: Bed) -> Ended:
    """A red run that lost an operation, of which a story can be told."""
    return campaign_with(place, DEFECTS["acknowledged-before-wal"])


@lru_cache
def campaign_with(place: Bed, defect: Defect) -> Ended:
    """The run with a defect, once. A mistake of supervision shows in each crash or shutdown, whichever way it falls."""
    cycles = 2 if defect.caught_by in {oracle.name for oracle in SUPERVISION} else CYCLES
    return place.campaign("--kills", str(cycles), "--seed", "1", "--defect", defect.name)


def test_a_defect_fits_the_code_and_touches_what_it_says_alone(defect: Defect, tmp_path: Path) -> None:
    copy = defect.plant(CODE_ROOT, tmp_path / "code")
    changed = {edit.path for edit in defect.edits}
    assert defect.caught_by in ORACLES and changed
    for path in copy.rglob("*.py"):
        name = str(path.relative_to(copy))
        assert (path.read_bytes() != (CODE_ROOT / name).read_bytes()) == (name in changed), name
        ast.parse(path.read_text(), name)


@pytest.mark.live
def test_a_defect_is_found_by_the_oracle_made_for_it(defect: Defect, red: Ended) -> None:
    assert red.status == 1, red
    verdict = red.directory.read_verdict()
    assert verdict.status is Status.FINDING
    failed = {row.name: row.failures for row in verdict.oracles if row.failures}
    assert failed.get(defect.caught_by), f"found by {failed} alone"
    assert defect.caught_by not in ALONE or set(failed) == {defect.caught_by}
    found = [finding for finding in verdict.findings if finding.oracle == defect.caught_by]
    assert found and all(finding.evidence for finding in found), "a finding without the lines that show it"


@pytest.mark.live
def test_a_red_run_keeps_what_explains_it(defect: Defect, red: Ended) -> None:
    run = red.directory
    assert (run.pgdata / "global" / "pg_control").exists()
    tested = (run.path / "code" / defect.edits[0].path).read_text()
    assert defect.edits[0].replace in tested
    assert run.read_info().plan["defect"] == defect.name
    assert "FAILED" in red.output and "FINDING" in red.output


@pytest.mark.live
def test_the_story_of_a_lost_operation_names_it_its_acknowledgement_the_kill_and_the_reason(
    place: Bed, lost: Ended
) -> None:
    told = place.run("explain", str(lost.directory.path))
    assert told.status == 0, told
    lines = told.output.splitlines()
    assert len(lines) <= LINES, told
    finding = lost.directory.read_verdict().findings[0]
    number = re.search(r"operation (\d+)", finding.message)
    assert number is not None and lines[0].startswith(f"operation {number[1]}, cycle ")
    assert lines[0].endswith("told ok, found absent")
    steps = [
        (r"history .* \d+ \(source \d+, target \d+, amount \d+\) is begun", "asked"),
        (r"history .* is told ok", "acknowledged"),
        (r"\+0\.000 ms  (kernel .* gets SIG(KILL|QUIT) from (the harness|itself)|harness .*: landed)", "killed"),
        (r"journal  redo starts at 0/", "redo"),
        (r"journal  redo ends at 0/", "redo's end"),
        (r"wal      no (COMMIT of transaction|record of the row)", "the WAL"),
        (r"journal  ready to accept connections", "ready"),
        (rf"observed .* no row of operation {number[1]} ", "found"),
    ]
    at = {what: next((n for n, line in enumerate(lines) if re.search(step, line)), None) for step, what in steps}
    assert None not in at.values(), f"{at} in {told}"
    after = ["killed", "redo", "redo's end", "the WAL", "ready", "found"]
    assert [at[what] for what in after] == sorted(at[what] or 0 for what in after), told
    assert re.match(r"why: it was acknowledged before (its commit|any) record", lines[-1]), told


@pytest.mark.live
def test_a_story_without_the_data_directory_says_what_is_missing(place: Bed, lost: Ended, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(lost.directory.path, copy, ignore=shutil.ignore_patterns("pgdata", "code"))
    told = place.run("explain", str(copy))
    assert told.status == 0 and "wal      not there to be read: the data directory was not kept" in told.output, told
    last = told.output.splitlines()[-1]
    assert last.startswith("why: not known: redo read the WAL to 0/") and "was not kept" in last


@pytest.mark.live
def test_any_operation_and_any_cycle_can_be_explained(place: Bed, lost: Ended) -> None:
    run = str(lost.directory.path)
    records = [record for reader in lost.directory.history_records() for record in reader]
    answered = {record["op"] for record in records if record["ev"] != "invoke"}
    unanswered = next(
        record["op"] for record in records if record["op"] not in answered and record["kind"] == "transfer"
    )
    told = place.run("explain", run, "--op", f"transfer {unanswered}")
    assert told.output.startswith(f"operation {unanswered}, cycle ") and ": no answer, found " in told.output, told
    assert told.output.splitlines()[-1].startswith("why: nothing is wrong: no answer came, so both fates are right")
    cycle = place.run("explain", run, "--cycle", "2")
    assert cycle.status == 0 and "ms since the kill of cycle " in cycle.output, cycle
    assert len(cycle.output.splitlines()) <= LINES


@pytest.mark.live
@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--cycle", "77"), f"has no cycle 77: it ran cycles 0 to {CYCLES - 1}"),
        (("--op", str(77 << 32)), f"it would be of cycle 77, and it ran cycles 0 to {CYCLES - 1}"),
        (("--op", "1048575"), "cycle 0 has "),
        (("--op", "sixteen"), "'sixteen' is no operation: write its number"),
        (("--op", "16", "--cycle", "0"), "--cycle and --op are two questions"),
    ],
    ids=["cycle", "operation of no cycle", "operation", "no number", "both"],
)
def test_what_the_run_does_not_have_is_refused_with_what_it_has(
    place: Bed, lost: Ended, arguments: tuple[str, ...], said: str
) -> None:
    refused = place.run("explain", str(lost.directory.path), *arguments)
    assert refused.status == 4 and said in refused.errors and not refused.output, refused


@pytest.mark.live
def test_the_demo_ends_with_the_story_and_then_the_command_that_repeats_it(place: Bed) -> None:
    done = place.run("demo", "--out", str(place.out), "--kills", "2")
    assert done.status == 1, done
    story = place.run("explain", str(done.directory.path)).output
    assert story in done.output
    assert done.last_line.startswith("reproduce: ")
    assert done.output.index(story) < done.output.index("\nreport: ")


@pytest.mark.live
def test_the_last_line_finds_it_again(place: Bed, defect: Defect, red: Ended) -> None:
    label, _, command = red.last_line.partition(": ")
    assert label == "reproduce" and f"--defect {defect.name}" in command
    again = place.paste(f"{command} --out '{place.out}'")
    assert again.status == 1, again
    assert again.directory.path != red.directory.path
    assert plans_of(again.directory) == plans_of(red.directory)
    assert again.last_line == red.last_line
    assert any(row.failures for row in again.directory.read_verdict().oracles if row.name == defect.caught_by)


@pytest.mark.parametrize("find", ["what nobody ever wrote", "import"], ids=["gone", "several times"])
def test_a_stale_defect_is_refused_loudly(tmp_path: Path, find: str) -> None:
    stale = Defect("stale", "of another time", "durability", (Edit("supervisor/engine/transam/clog.py", find, "x"),))
    with pytest.raises(StaleDefectError, match=r"clog\.py holds \d+ times what it replaces, not once"):
        stale.plant(CODE_ROOT, tmp_path / "code")


STALE = """
import chaos.start
from chaos.defects.defect import Defect, Edit
name = "acknowledged-before-wal"
edit = Edit("supervisor/engine/transam/clog.py", "what nobody ever wrote", "")
chaos.start.DEFECTS[name] = Defect(name, "stale", "durability", (edit,))
"""


@pytest.mark.live
def test_a_run_with_a_stale_defect_ends_with_one_sentence_and_nothing_left(place: Bed) -> None:
    done = place.campaign("--kills", "1", "--defect", "acknowledged-before-wal", prelude=STALE)
    assert done.status == 3, done
    assert done.errors.startswith("crashbed: defect acknowledged-before-wal: ") and done.errors.count("\n") == 1
    assert done.directory.read_info().exit_code == 3
    assert place.left_behind(done.pid) == []


@pytest.mark.live
def test_a_finding_ends_the_run_that_is_to_stop_with_it(place: Bed) -> None:
    """The judge beside the run sees the loss cycles before the end, and the run says so and ends."""
    arguments = ("--kills", "500", "--seed", "1", "--defect", "acknowledged-before-wal", "--stop-on-finding")
    done = place.campaign(*arguments)
    assert done.status == 1, done
    assert done.output.count("found in cycle ") == 1 and "was acknowledged and is lost" in done.output
    verdict = done.directory.read_verdict()
    assert verdict.status is Status.FINDING and verdict.cycles < 500
    assert verdict.stop_rule == "after 500 cycles or with the first finding"
    assert "--kills 500" in done.last_line and "--stop-on-finding" in done.last_line
    assert place.left_behind(done.pid) == []
