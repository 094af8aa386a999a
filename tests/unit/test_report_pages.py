"""The report files: what a person and a build server see of a run.

What could go wrong: a failure is not what comes first; an inconclusive run looks green; a hostile message of a
server becomes markup or a script; the page fetches something; equal runs give different bytes; a torn history
or a run without times breaks the page; a panel is missing; the page grows with the run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from reports import model
from reports.charts.recovery import thinned
from reports.groups import groups
from reports.render import write_reports
from reports.rundir import RunDirectory, RunDirectoryError
from reports.verdict import Fate, Recovery, Status, Verdict
from tests.report_fixture import HOSTILE, NEVER, ORACLES, make_run

LIMIT_BYTES = 5_000_000
PANELS = (
    "oracles", "supervision", "recover", "phases", "cycles", "machine", "resources", "load", "ledger", "coverage",
    "not-judged", "environment",
)  # fmt: skip
CHARTS = {
    "chart-ecdf", "chart-cycles", "chart-groups", "chart-median", "chart-worst", "chart-states", "chart-lanes",
    "chart-lane-phases", "chart-machine", "chart-used-0",
}  # fmt: skip


class _Page(HTMLParser):
    """What the page is made of: its tags with their attributes, ids, and its text without scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self._silent = 0
        self.feed(html)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.pieces))
        self.ids = {attributes["id"] for _, attributes in self.tags if "id" in attributes}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.pieces.append(data)


def _render(tmp_path: Path, status: Status, **options: object) -> tuple[RunDirectory, _Page]:
    run = make_run(tmp_path, status, **options)  # type: ignore[arg-type]
    path = write_reports(run)
    assert path == run.report_html
    return run, _Page(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("status", list(Status))
def test_every_verdict_has_every_panel_and_fits(tmp_path: Path, status: Status) -> None:
    run, page = _render(tmp_path, status, cycles=60)
    assert set(PANELS) | {"verdict", "main"} <= page.ids
    assert ("findings" in page.ids) == (status is Status.FINDING)
    assert page.ids >= CHARTS
    for _, title, _ in ORACLES:
        assert title in page.text
    for point in NEVER:
        assert point in page.text
    assert "independent draws of this plan" in page.text
    assert "Stop rule: 60 kills" in page.text
    assert run.report_html.stat().st_size <= LIMIT_BYTES


def test_held_says_what_was_proved(tmp_path: Path) -> None:
    _, page = _render(tmp_path, Status.HELD)
    assert "No failure in 300 cycles; 298 of 300 cycles were conclusive" in page.text
    assert "at most 0.99 % of cycles fail" in page.text
    assert "Every oracle of the plan was judged" in page.text


def test_failures_come_first_with_their_commands(tmp_path: Path) -> None:
    run, page = _render(tmp_path, Status.FINDING)
    text = page.text
    command = f"crashbed replay out/{run.path.name} --cycle 17"
    assert "4 failures in 300 cycles. Broken rules: “Acknowledged work is found again” (3)" in text
    assert text.index("2 acknowledged operations are not in the recovered server") < text.index("One row per rule")
    assert text.index(command) < text.index("One row per rule")
    assert "between 0.21 % and 2.9 % of cycles fail" in text
    assert "9 wrong" in text
    assert re.search(r"9\s+lost", text)


def test_inconclusive_says_why_and_what_would_help(tmp_path: Path) -> None:
    _, page = _render(tmp_path, Status.INCONCLUSIVE, cycles=60)
    assert "too little was proved: 48 of 60 cycles were conclusive" in page.text
    assert "Without a judgement: Every child is told to quit, The postmaster reaps every child" in page.text
    assert "Commonest reason: fewer than 20 acknowledged commits before the kill (12 cycles)" in page.text
    assert "Remedy: Raise --operations" in page.text
    assert "mount tracefs" in page.text


def test_a_hostile_message_stays_text(tmp_path: Path) -> None:
    run, page = _render(tmp_path, Status.FINDING, hostile=True)
    html = run.report_html.read_text(encoding="utf-8")
    assert HOSTILE.split("\x00")[0].strip() in page.text
    assert not [attributes for tag, attributes in page.tags if tag == "img"]
    assert "<script>alert" not in html
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3
    summary = run.summary_md.read_text(encoding="utf-8")
    assert "<script>alert" not in re.sub(r"^```.*?^```", "", summary, flags=re.M | re.S)
    junit = ElementTree.parse(run.junit_xml).getroot()
    assert any("</script>" in (failure.get("message") or "") for failure in junit.iter("failure"))


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    run, page = _render(tmp_path, Status.FINDING)
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form"), tag
        assert "src" not in attributes, (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    html = run.report_html.read_text(encoding="utf-8")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a) or ""
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    """In one process, where Bokeh's counter goes on, and in others with other hash seeds."""
    names = ("report.html", "junit.xml", "summary.md")
    produced = []
    for place in ("one", "two"):
        run, _ = _render(tmp_path / place, Status.FINDING, cycles=40)
        produced.append([(run.path / name).read_bytes() for name in names])
    assert produced[0] == produced[1]
    program = (
        "import sys; from pathlib import Path; from reports.rundir import RunDirectory; "
        "from reports.render import write_reports; write_reports(RunDirectory.open(Path(sys.argv[1])))"
    )
    for seed in ("1", "2"):
        root = Path(__file__).resolve().parents[2]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        subprocess.run([sys.executable, "-c", program, str(run.path)], check=True, env=environment, timeout=60)
        assert [(run.path / name).read_bytes() for name in names] == produced[0], f"hash seed {seed}"


def test_a_run_without_times_or_points_is_still_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, Status.HELD, cycles=20, timed=False)
    bare = run.read_verdict()
    run.write_verdict(
        Verdict(
            status=Status.INCONCLUSIVE,
            exit_code=5,
            seed=1,
            target=bare.target,
            workload=bare.workload,
            cycles=0,
            conclusive_cycles=0,
        )
    )
    for path in (run.kernel_events, run.harness_events, run.details_json):
        path.unlink()
    page = _Page(write_reports(run).read_text(encoding="utf-8"))
    assert set(PANELS) <= page.ids
    assert "No cycle was timed" in page.text
    assert "No process of this run is known one by one" in page.text
    assert "No journal of this run tells of states" in page.text
    assert "took no samples" in page.text
    assert not page.ids & CHARTS


def test_a_run_that_was_not_judged_is_a_sentence(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, 1)
    with pytest.raises(RunDirectoryError, match="crashbed judge"):
        write_reports(run)


def test_torn_evidence_is_counted_and_the_witness_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, Status.HELD, cycles=20)
    with run.kernel_writer() as kernel:
        kernel.append({"t": 1, "ev": "loss", "dropped": 2, "overrun": 1, "commit_overrun": 0})
    with run.kernel_events.open("ab") as file:
        file.write(b'\n{"t":5,"ev":"ex')
    report = model.build(run)
    assert report.witness == "tracefs, self-test passed, 3 events lost"
    torn = {file.name: (file.records, file.torn) for file in report.evidence}
    assert torn["events/kernel.jsonl"] == (22, 1)
    assert torn["history/*.jsonl"] == (2, 1)
    page = _Page(write_reports(run).read_text(encoding="utf-8"))
    assert "3 events lost" in page.text


def test_the_median_and_the_worst_are_cycles_that_happened(tmp_path: Path) -> None:
    run = make_run(tmp_path, Status.HELD, cycles=31)
    report = model.build(run)
    ordered = sorted(r.first_commit or 0.0 for r in report.recoveries)
    assert report.median is not None
    assert report.worst is not None
    assert (report.median.first_commit, report.worst.first_commit) == (ordered[15], ordered[-1])
    assert report.median.fault, "the harness' record tells what was done"
    assert sum(row.in_worst or 0.0 for row in report.phases) == pytest.approx(ordered[-1])


def test_phases_bridge_what_was_not_seen_and_never_run_backwards() -> None:
    seen = Recovery(cycle=1, noticed=1.0, fan_out_done=0.9, last_child_reaped=None, redo_end=5.0, first_commit=7.0)
    spans = [(span.phase, span.start, span.end) for span in model.spans(seen)]
    assert spans == [("Notice", 0.0, 1.0), ("Fan-out", 1.0, 1.0), ("Redo", 1.0, 5.0), ("Sign of life", 5.0, 7.0)]


def test_thinning_keeps_the_slowest_and_the_order() -> None:
    cycles = [Recovery(cycle=number, first_commit=float(number * 7919 % 10_007)) for number in range(10_000)]
    kept = thinned(cycles, 400)
    assert len(kept) == 400
    assert [recovery.cycle for recovery in kept] == sorted(recovery.cycle for recovery in kept)
    slowest = sorted(cycles, key=lambda recovery: -(recovery.first_commit or 0.0))[:100]
    assert {recovery.cycle for recovery in slowest} <= {recovery.cycle for recovery in kept}
    assert thinned(cycles[:400], 400) == cycles[:400]


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    run, _ = _render(tmp_path, Status.HELD, cycles=5000)
    assert run.report_html.stat().st_size < 2_000_000


def test_junit_has_a_case_per_oracle_and_is_never_green_by_silence(tmp_path: Path) -> None:
    for status in Status:
        run, _ = _render(tmp_path / status, status, cycles=60)
        suite = ElementTree.parse(run.junit_xml).getroot()[0]
        cases = {case.get("name"): case for case in suite.iter("testcase")}
        assert list(cases) == [name for name, _, _ in ORACLES] + ["verdict"]
        for case in cases.values():
            properties = {p.get("name"): p.get("value") for p in case.iter("property")}
            assert properties == {"seed": "42", "target": "built-in server"}
        failures = {name for name, case in cases.items() if case.find("failure") is not None}
        skipped = {name for name, case in cases.items() if case.find("skipped") is not None}
        errors = {name for name, case in cases.items() if case.find("error") is not None}
        assert failures == ({"durability", "wal_replay"} if status is Status.FINDING else set())
        assert skipped == ({"fan_out", "reaped"} if status is Status.INCONCLUSIVE else set())
        assert errors == ({"verdict"} if status in (Status.INCONCLUSIVE, Status.INTERRUPTED) else set())
        counted = (suite.get("tests"), suite.get("failures"), suite.get("skipped"), suite.get("errors"))
        assert counted == tuple(map(str, (len(cases), len(failures), len(skipped), len(errors))))
        if status is Status.FINDING:
            failure = cases["durability"].find("failure")
            assert failure is not None
            assert "acknowledged operations are not in" in (failure.get("message") or "")
            assert "reproduce: crashbed replay" in (failure.text or "")


def test_the_summary_fits_a_screen_and_holds_the_essentials(tmp_path: Path) -> None:
    run, _ = _render(tmp_path, Status.FINDING)
    text = run.summary_md.read_text(encoding="utf-8")
    assert text.startswith("## ✗ Finding: crashbed, bank on built-in server")
    assert text.index("### Failures") < text.index("| Rule |")
    assert "at least" not in text
    assert "| ✗ failed | 12,300 | 3 | 0.0050 % to 0.071 % |" in text
    assert text.rstrip().endswith("crashbed run --workload bank --backends 8 --kills 300 --seed 42\n```")


def test_importing_the_run_directory_loads_no_large_library() -> None:
    """The harness imports it; scipy, Bokeh, numpy and jinja2 are for the processes that report."""
    program = (
        "import sys, reports.rundir, reports.statistics, reports.render; "
        "print(*sorted(set(sys.modules) & {'scipy', 'bokeh', 'numpy', 'jinja2', 'supervisor', 'chaos', 'workloads'}))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True, timeout=60
    )
    assert done.stdout.strip() == ""


def test_a_torn_operation_is_shown_as_torn(tmp_path: Path) -> None:
    run = make_run(tmp_path, Status.FINDING, cycles=20)
    verdict = run.read_verdict()
    from msgspec import structs

    ledger = structs.replace(verdict.ledger, unknown=Fate(committed=5, torn=7), failed=Fate(committed=3))
    run.write_verdict(structs.replace(verdict, ledger=ledger))
    text = _Page(write_reports(run).read_text(encoding="utf-8")).text
    assert re.search(r"7\s+torn", text)
    assert re.search(r"3\s+risen", text)


def test_the_load_reached_is_a_table_and_a_line_of_the_summary(tmp_path: Path) -> None:
    run, page = _render(tmp_path, Status.HELD, cycles=20)
    row = (
        r"bank 19,640 transfer 19,580 rollback 60 19,440 60 60 rolled back on purpose: 40000 140 "
        r"1,940 8 workers, 10\.0 s of 20 cycles"
    )
    assert re.search(row.replace(" ", r"\s+"), page.text), page.text
    line = (
        "- Load of bank: 19,640 asked (transfer 19,580, rollback 60), 19,440 acknowledged, 60 failed (60 rolled back on "
        "purpose: 40000), 140 unknown; 1,940 acknowledged a second with 8 workers."
    )
    assert line in run.summary_md.read_text(encoding="utf-8").splitlines()


def test_a_verdict_from_before_loads_were_counted_is_still_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, Status.HELD, cycles=20)
    before = msgspec.json.decode(run.verdict_json.read_bytes())
    del before["loads"]
    run.verdict_json.write_bytes(msgspec.json.encode(before))
    assert run.read_verdict().loads == ()
    page = _Page(write_reports(run).read_text(encoding="utf-8"))
    assert "No load was counted" in page.text
    assert "Load of" not in run.summary_md.read_text(encoding="utf-8")


def test_the_page_says_what_it_shows_of_how_many_and_why(tmp_path: Path) -> None:
    _, page = _render(tmp_path, Status.HELD, cycles=60)
    assert "2 of 60 cycles are shown process by process" in page.text
    assert "The table by role counts all of them" in page.text
    assert re.search(r"Cycle 1: [0-9.]+ ms, .* \(slowest\)", page.text)
    assert "SIGCHLD from backend 1001 at 0.40 and 2 more; 2 further signals that are not listed" in page.text
    assert "3 of 4 were taken" in page.text
    assert re.search(r"Never taken in this run: 1 .* WAIT to exit 0 made up", page.text)


def test_growth_is_shown_with_its_interval_and_judged_only_when_long_enough(tmp_path: Path) -> None:
    for cycles, judged in ((60, "too short"), (120, "held")):
        _, page = _render(tmp_path / judged.replace(" ", "-"), Status.HELD, cycles=cycles)
        assert re.search(
            rf"Postmaster: descriptors .* {cycles} cycles in 1 of 1 life 13 13 0 0 to 0 0.02 (✓ )?{judged}", page.text
        )


def test_the_time_to_recover_is_parted_by_fault_victim_and_size() -> None:
    made = [
        Recovery(cycle=1, fault="kill", victim="backend", redo_bytes=1000, first_commit=10.0),
        Recovery(cycle=2, fault="kill", victim="backend, walwriter", redo_bytes=64 * 1024, first_commit=30.0),
        Recovery(cycle=3, fault="quit", victim="backend", redo_bytes=5 << 20, first_commit=20.0),
        Recovery(cycle=4, fault="quit", victim="backend", redo_bytes=None, first_commit=40.0),
        Recovery(cycle=5, fault="quit", victim="backend"),
    ]
    by_fault, by_victim, by_size = groups(made)
    assert [(row.label, row.count, row.median, row.worst) for row in by_fault.rows] == [
        ("kill", 2, 10.0, 30.0), ("quit", 2, 20.0, 40.0),
    ]  # fmt: skip
    assert [(row.label, row.count) for row in by_victim.rows] == [("backend", 3), ("several roles", 1)]
    assert [row.label for row in by_size.rows] == [
        "under 64 KiB", "64 KiB to 256 KiB", "4 MiB to 16 MiB", "not recorded",
    ]  # fmt: skip
    assert groups(made[4:]) == (), "a cycle that did not recover has no time"


def test_a_group_of_many_parts_keeps_the_commonest_and_counts_the_rest() -> None:
    made = [Recovery(cycle=n, fault=f"fault-{min(n, 40 - n):02}", first_commit=1.0) for n in range(1, 41)]
    rows = groups(made)[0].rows
    assert (len(rows), sum(row.count for row in rows), rows[-1].label) == (12, 40, "10 others")
