"""report.html: one self-contained page, readable from a file, offline, in light and dark, on paper and phone.

Lays out a `reports.model.Report`; every figure comes from there. All text of the run is escaped (jinja2 does
it), and beyond that the page carries a Content-Security-Policy that lets the browser load nothing and run
nothing but the two scripts whose hashes it names: a hostile message in a server log stays text.

The tables say what the charts say, so the page is whole without scripts. Equal reports give equal bytes: no
time, random id or path of the machine that makes the report is in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from reports import loads
from reports.charts import swimlane
from reports.charts.draw import Charts, draw
from reports.charts.figure import milliseconds
from reports.charts.recovery import INKS, MOST_CYCLES
from reports.details import Lane
from reports.model import COMMAND, Report
from reports.statistics import Percentile, percent
from reports.verdict import Bound, Fate, Ledger, OracleStatus, Status, Verdict

MOST_FINDINGS = 25
MOST_EVIDENCE_LINES = 60

WORDS = {
    Status.HELD: ("Held", "✓"),
    Status.FINDING: ("Finding", "✗"),
    Status.INCONCLUSIVE: ("Inconclusive", "?"),
    Status.INTERRUPTED: ("Interrupted", "‖"),
}


@dataclass(frozen=True, slots=True)
class LedgerCell:
    """One cell of the durability ledger; `broken` names the promise that a count in it breaks."""

    count: int
    broken: str


@dataclass(frozen=True, slots=True)
class LedgerRow:
    told: str
    cells: tuple[LedgerCell, ...]
    total: int


def render(report: Report) -> str:
    """The whole page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    charts = draw(report)
    script, style = _own("report.js"), _own("report.css")
    scripts = [script] if charts is None else [charts.runtime, script]
    environment = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        thousands=lambda value: f"{value:,}",
        ms=milliseconds,
        rate=rate,
        interval=interval,
        percentname=lambda share: "median" if share == 0.5 else f"p{share * 100:.0f}",
        sentence=sentence,
        duration=duration,
        moment=moment,
        heard=heard,
        kinds=loads.kinds,
        failures=loads.failures,
        per_second=loads.per_second,
        basis=loads.basis,
        fine=lambda value: f"{value:,.3f}",
        role_ink=swimlane.role_ink,
    )
    return environment.get_template("report.html.j2").render(
        **_values(report),
        charts=charts,
        charts_json="" if charts is None else charts.document.replace("<", "\\u003c"),
        licence="" if charts is None else _comment(charts),
        runtime="" if charts is None else charts.runtime,
        inks=INKS,
        state_inks=swimlane.STATE_INKS,
        most_cycles=MOST_CYCLES,
        policy=_policy(scripts),
        script=script,
        style=style,
    )


def headline(report: Report) -> str:
    """The verdict as a sentence: what a reader who stops here should know."""
    verdict = report.verdict
    cycles = f"{verdict.cycles:,} cycle{'s' if verdict.cycles != 1 else ''}"
    conclusive = f"{verdict.conclusive_cycles:,} of {cycles} were conclusive"
    if verdict.status is Status.FINDING:
        failed = [row for row in verdict.oracles if row.failures or row.status is OracleStatus.FAILED]
        failures = sum(row.failures for row in failed)
        text = f"{failures:,} failure{'s' if failures != 1 else ''} in {cycles}. "
        text += f"Broken rule{'s' if len(failed) > 1 else ''}: "
        return text + ", ".join(f"“{row.title}” ({row.failures:,})" for row in failed) + "."
    if verdict.status is Status.HELD:
        return f"No failure in {cycles}; {conclusive}, and every rule that the plan asks for was judged."
    if verdict.status is Status.INTERRUPTED:
        return f"Stopped after {cycles}; no failure until then."
    text = f"No failure, but too little was proved: {conclusive}."
    unjudged = [row.title for row in verdict.oracles if row.required and (not row.trials or not _held(row.status))]
    if unjudged:
        text += f" Without a judgement: {', '.join(unjudged)}."
    if verdict.inconclusive:
        commonest = max(verdict.inconclusive, key=lambda item: item.cycles)
        text += f" Commonest reason: {commonest.reason} ({commonest.cycles:,} cycles)."
        if commonest.remedy:
            text += f" Remedy: {sentence(commonest.remedy)}"
    return text


def _held(status: OracleStatus) -> bool:
    return status is OracleStatus.HELD


def ledger_rows(ledger: Ledger) -> tuple[LedgerRow, ...]:
    """The ledger with the promise that each cell would break."""

    def row(told: str, fate: Fate, committed: str, absent: str) -> LedgerRow:
        cells = (
            LedgerCell(fate.committed, committed),
            LedgerCell(fate.absent, absent),
            LedgerCell(fate.torn, "torn"),
        )
        return LedgerRow(told, cells, fate.total)

    unflushed = row("ok (not yet flushed, and not promised)", ledger.unflushed, "", "")
    return (
        row("ok", ledger.ok, "", "lost"),
        *([unflushed] if unflushed.total else []),
        row("failed", ledger.failed, "risen", ""),
        row("nothing (killed before the answer)", ledger.unknown, "", ""),
    )


def rate(bound: Bound) -> str:
    """The interval of a failure rate, short enough for a table."""
    if bound.trials == 0:
        return "unknown"
    if bound.failures == 0:
        return f"≤ {percent(bound.upper)}"
    if bound.failures == bound.trials:
        return f"≥ {percent(bound.lower)}"
    return f"{percent(bound.lower)} to {percent(bound.upper)}"


def interval(value: Percentile, scale: float) -> str:
    """Where the true percentile lies; an open end where the sample is too small to tell."""
    low = "" if value.low is None else milliseconds(value.low, scale)
    high = "" if value.high is None else milliseconds(value.high, scale)
    if low and high:
        return f"{low} to {high}"
    return f"{low} or more" if low else f"up to {high}" if high else "unknown"


def sentence(text: str) -> str:
    """`text` with a capital letter and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(text: str) -> str:
    """A moment of the run directory (ISO 8601 in UTC), for people."""
    return text.replace("T", " ").replace("Z", " UTC")


def heard(lane: Lane) -> str:
    """The signals that a process received, those alike together, each with the first time."""
    alike: dict[tuple[str, str], list[float]] = {}
    for mark in lane.marks:
        alike.setdefault((mark.signal, mark.sender), []).append(mark.ms)
    said = [
        f"{name} from {sender} at {times[0]:.2f}" + (f" and {len(times) - 1} more" if len(times) > 1 else "")
        for (name, sender), times in alike.items()
    ]
    if lane.marks_left_out:
        said.append(f"{lane.marks_left_out:,} further signals that are not listed")
    return "; ".join(said)


def _values(report: Report) -> dict[str, Any]:
    verdict = report.verdict
    word, glyph = WORDS[verdict.status]
    order = {OracleStatus.FAILED: 0, OracleStatus.HELD: 1, OracleStatus.NOT_JUDGED: 2}
    statuses = [row.status for row in verdict.oracles]
    commit = report.to_first_commit
    return {
        "report": report,
        "command_target": verdict.target == COMMAND,
        "verdict": verdict,
        "status_word": word,
        "status_glyph": glyph,
        "headline": headline(report),
        "commit": commit,
        # One scale for all times of the page: its decimals follow from what is usual in this run.
        "scale": 0.0 if commit is None else commit.percentiles[0].value,
        "held": statuses.count(OracleStatus.HELD),
        "failed": statuses.count(OracleStatus.FAILED),
        "unjudged": statuses.count(OracleStatus.NOT_JUDGED),
        # Failures first; otherwise in the order of the judge.
        "oracles": sorted(verdict.oracles, key=lambda row: order[row.status]),
        "measured": [row for row in verdict.oracles if row.worst_slack_ms is not None or row.longest_ms is not None],
        "machine": report.details.machine,
        "taken": [edge for edge in report.details.machine.edges if edge.taken],
        "untaken": [edge for edge in report.details.machine.edges if not edge.taken],
        "seen_roles": list(dict.fromkeys(lane.role for one in report.timelines for lane in one.timeline.lanes)),
        "titles": {row.name: row.title for row in verdict.oracles},
        "shown_findings": verdict.findings[:MOST_FINDINGS],
        "evidence_lines": MOST_EVIDENCE_LINES,
        "ledger": ledger_rows(verdict.ledger),
        "reached": len(report.coverage),
        "inconclusive": sorted(verdict.inconclusive, key=lambda item: -item.cycles),
        "environment": _environment(verdict, report),
        "more": [
            ("Plan", _facts(report.info.plan)),
            ("Settings of the server", _facts(report.info.settings)),
            ("Versions", _facts({**report.info.versions, **verdict.environment.versions})),
        ],
    }


def _environment(verdict: Verdict, report: Report) -> list[tuple[str, str]]:
    there = verdict.environment
    processors = f"{there.cpu_count} x {there.cpu}" if there.cpu_count and there.cpu else there.cpu
    if there.cpu_count and not there.cpu:
        processors = str(there.cpu_count)
    disk = ", ".join(filter(None, (there.disk, there.filesystem)))
    python = there.python + (f" ({there.python_build})" if there.python_build else "")
    facts = [
        ("Target", verdict.target),
        ("Workload", verdict.workload),
        ("Started", moment(verdict.started)),
        ("Finished", moment(verdict.finished)),
        ("Kernel", there.kernel),
        ("Processors", processors),
        ("Disk", disk),
        ("Python", python),
        ("Witness", report.witness),
        ("Command", " ".join(report.info.command)),
    ]
    return [(name, value) for name, value in facts if value]


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str))
        for name, value in sorted(values.items())
    ]


def _own(name: str) -> str:
    return files("reports").joinpath("templates", name).read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """A policy under which the browser fetches nothing and runs these scripts and no other."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _comment(charts: Charts) -> str:
    """Bokeh's licence, which asks to travel with it; two hyphens would end or spoil an HTML comment."""
    return f"Bokeh {charts.version}\n{charts.licence}".replace("--", "- -").replace(">", "")
