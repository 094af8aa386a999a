"""junit.xml: the verdict for build servers, one test case per oracle.

A rule that was broken is a failure with every finding of its; one that was not judged is skipped, with the
reason. A run that proved too little would be all green that way, so a last case, `verdict`, is an error when
the run is inconclusive or was interrupted. Seed and target are properties of the suite and of each case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from reports.model import Report
from reports.page import headline
from reports.verdict import Finding, OracleRow, OracleStatus, Status

# What XML 1.0 cannot say at all (section 2.2), surrogates included.
_UNSAYABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    """The whole file."""
    verdict = report.verdict
    failed = [row for row in verdict.oracles if _failed(row)]
    skipped = [row for row in verdict.oracles if row.status is OracleStatus.NOT_JUDGED and not _failed(row)]
    unproved = verdict.status in (Status.INCONCLUSIVE, Status.INTERRUPTED)
    suite = ET.Element(
        "testsuite",
        name="crashbed",
        tests=str(len(verdict.oracles) + 1),
        failures=str(len(failed)),
        errors=str(int(unproved)),
        skipped=str(len(skipped)),
        time=f"{verdict.seconds:.3f}",
        timestamp=verdict.started.removesuffix("Z"),
    )
    properties = {
        "seed": str(verdict.seed),
        "target": verdict.target,
        "workload": verdict.workload,
        "run": report.name,
        "verdict": str(verdict.status),
        "cycles": str(verdict.cycles),
        "conclusive_cycles": str(verdict.conclusive_cycles),
        "reproduce": verdict.reproduce,
    }
    _properties(suite, properties)
    for row in verdict.oracles:
        case = _case(suite, row.name, properties)
        if _failed(row):
            findings = [finding for finding in verdict.findings if finding.oracle == row.name]
            first = findings[0].message if findings else f"{row.failures} failures"
            failure = ET.SubElement(case, "failure", message=_say(first), type=row.name)
            failure.text = _say("\n\n".join(_told(findings)) or first)
        elif row.status is OracleStatus.NOT_JUDGED:
            ET.SubElement(case, "skipped", message=_say(row.reason or "not judged"))
    last = _case(suite, "verdict", properties)
    if unproved:
        ET.SubElement(last, "error", message=_say(headline(report)), type=str(verdict.status))
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _failed(row: OracleRow) -> bool:
    return bool(row.failures) or row.status is OracleStatus.FAILED


def _case(suite: ET.Element, name: str, properties: dict[str, str]) -> ET.Element:
    case = ET.SubElement(suite, "testcase", classname=f"crashbed.{_say(properties['target'])}", name=_say(name))
    _properties(case, {key: properties[key] for key in ("seed", "target")})
    return case


def _properties(parent: ET.Element, values: dict[str, str]) -> None:
    properties = ET.SubElement(parent, "properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", name=name, value=_say(value))


def _told(findings: Iterable[Finding]) -> Iterable[str]:
    for finding in findings:
        where = "" if finding.cycle is None else f"cycle {finding.cycle}: "
        lines = [where + finding.message, *finding.evidence]
        if finding.reproduce:
            lines.append(f"reproduce: {finding.reproduce}")
        yield "\n".join(lines)


def _say(text: str) -> str:
    """`text` with what XML has no way to write replaced."""
    return _UNSAYABLE.sub("\N{REPLACEMENT CHARACTER}", text)
