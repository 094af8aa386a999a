"""Every planted defect is found, by the oracle that was made for it.

An oracle that has never been seen to fail on a real run proves nothing, and a defect that no longer fits the code it
was written for would plant nothing and make the demo green. So each defect is planted into a copy of today's code, run
for a few cycles, and found; what the run prints last, pasted into a shell, finds it again; and an edit that does not
fit is refused loudly.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.cli.demo import CYCLES
from chaos.defects import DEFECTS
from chaos.defects.defect import Defect, Edit, StaleDefectError
from chaos.oracles import observable
from chaos.oracles.data import NAMES
from chaos.oracles.registry import SUPERVISION
from chaos.targets.builtin import CODE_ROOT
from reports.verdict import Status
from tests.support.campaigns import Bed, Ended, bed, plans_of

ORACLES = {*NAMES, observable.NAME, *(oracle.name for oracle in SUPERVISION)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with bed(tmp_path_factory.mktemp("runs") / "out") as made:
        yield made


@pytest.fixture(scope="module", params=sorted(DEFECTS))
def defect(request: pytest.FixtureRequest) -> Defect:
    return DEFECTS[request.param]


@pytest.fixture(scope="module")
def red(place: Bed, defect: Defect) -> Ended:
    return place.campaign("--kills", str(CYCLES), "--seed", "1", "--defect", defect.name)


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
