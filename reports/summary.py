"""summary.md: the verdict in a screenful of Markdown, for a pull request or a build server's summary page.

Says what report.html says at its top: verdict, bounds, failures with their commands, the rules, the time to
recover. Text of the run is escaped so that it cannot become markup.
"""

from __future__ import annotations

import re

from reports import loads
from reports.charts.figure import milliseconds
from reports.model import Report
from reports.page import WORDS, headline, rate, sentence
from reports.verdict import Finding, OracleStatus

MOST_FINDINGS = 10
MOST_EVIDENCE_LINES = 12


def render(report: Report) -> str:
    """The whole file."""
    verdict = report.verdict
    word, glyph = WORDS[verdict.status]
    lines = [f"## {glyph} {word}: crashbed, {_text(verdict.workload)} on {_text(verdict.target)}", ""]
    lines += [_text(headline(report)), ""]
    lines += [f"- {_text(sentence(bound.statement))}" for bound in verdict.bounds]
    if verdict.stop_rule:
        lines.append(f"- Stop rule: {_text(sentence(verdict.stop_rule))}")
    if verdict.not_judged:
        lines.append(f"- Not judged: {_text('; '.join(item.what for item in verdict.not_judged))}.")
    commit = report.to_first_commit
    if commit is not None:
        median, p99 = commit.percentiles[0].value, commit.percentiles[-1].value
        shown = [milliseconds(value, median) for value in (median, p99, commit.worst)]
        lines.append(f"- {commit.title}: median {shown[0]} ms, p99 {shown[1]} ms, worst {shown[2]} ms.")
    lines += [f"- Load of {_text(loads.line(load))}." for load in verdict.loads]
    lines.append("")
    if verdict.findings:
        lines += ["### Failures", ""]
        for finding in verdict.findings[:MOST_FINDINGS]:
            lines += _finding(finding)
        left = len(verdict.findings) - MOST_FINDINGS
        if left > 0:
            lines += [f"{left:,} more in verdict.json.", ""]
    lines += ["| Rule | Verdict | Trials | Failures | Failure rate, 95 % |", "|---|---|---:|---:|---:|"]
    for row in verdict.oracles:
        mark = {"held": "✓ held", "failed": "✗ failed"}.get(str(row.status), "not judged")
        why = f": {row.reason}" if row.status is OracleStatus.NOT_JUDGED and row.reason else ""
        bounds = ", ".join(rate(bound) for bound in row.bounds) or "-"
        lines.append(f"| {_text(row.title)} | {_text(mark + why)} | {row.trials:,} | {row.failures:,} | {bounds} |")
    lines.append("")
    if verdict.reproduce:
        lines += [f"Repeat this run{': ' + _text(verdict.exactness) if verdict.exactness else ''}", ""]
        lines += [*_code([verdict.reproduce]), ""]
    return "\n".join(lines)


def _finding(finding: Finding) -> list[str]:
    where = "" if finding.cycle is None else f", cycle {finding.cycle}"
    lines = [f"**{_text(finding.oracle)}{where}**: {_text(finding.message)}", ""]
    if finding.reproduce:
        lines += [*_code([finding.reproduce]), ""]
    if finding.evidence:
        lines += [*_code(list(finding.evidence[:MOST_EVIDENCE_LINES])), ""]
    return lines


def _text(text: str) -> str:
    """One line of plain text: no markup of Markdown or HTML in it takes effect."""
    joined = " ".join(text.split())
    escaped = re.sub(r"([\\`*_\[\]|~])", r"\\\1", joined)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(lines: list[str]) -> list[str]:
    """A fenced block; its fence is longer than any run of backticks inside."""
    text = "\n".join(lines)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, text, fence]
