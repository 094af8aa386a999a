"""Makes the report files of a judged run: report.html, junit.xml, summary.md.

A function of the run directory: the same files in give the same bytes out, so reports can be compared, and
made again from an old run by newer code. It needs no server and no network, and replaces each file whole.
"""

from __future__ import annotations

from pathlib import Path

from reports import junit, model, page, summary
from reports.rundir import RunDirectory


def write_reports(run: RunDirectory) -> Path:
    """Write all three from verdict.json and the evidence beside it; the path of report.html.

    Raises RunDirectoryError when the run was not judged, cannot be read, or the disk is full.
    """
    report = model.build(run)
    run.write_text(run.summary_md, summary.render(report))
    run.write_text(run.junit_xml, junit.render(report))
    run.write_text(run.report_html, page.render(report))
    return run.report_html
