"""All charts of a report, as one Bokeh document.

The outcome is data (`Charts`), not HTML: one document whose roots the page puts in its own elements, so that one
runtime serves all charts. Bokeh numbers its models by a counter of the process; they are renumbered here, because equal
runs must give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from reports.charts import machine, recovery, resources, swimlane
from reports.model import Report


@dataclass(frozen=True, slots=True)
class Charts:
    """What the page embeds: Bokeh's runtime, the document, and which root goes where.

    `described` holds one sentence for each chart, for readers who cannot see it.
    """

    runtime: str
    licence: str
    version: str
    document: str
    described: Mapping[str, str]


def draw(report: Report) -> Charts | None:
    """All charts of a report, or None when there is nothing to draw."""
    panels = [recovery.charts(report), machine.charts(report), resources.charts(report)]
    timelines = report.timelines
    if timelines:
        panels.append(swimlane.charts(timelines))
    figures = {name: chart for panel in panels for name, chart in panel.items()}
    if not figures:
        return None
    import bokeh
    from bokeh.document import Document
    from bokeh.resources import Resources

    document = Document()
    with document.models.freeze():  # else every root has all models looked through again
        for plot, _ in figures.values():
            document.add_root(plot)
    placed = {str(plot.id): element for element, (plot, _) in figures.items()}
    return Charts(
        runtime=Resources(mode="inline", components=["bokeh"], minified=True).js_raw[0],
        licence=files("bokeh").joinpath("LICENSE.txt").read_text(encoding="utf-8"),
        version=bokeh.__version__,
        document=_encoded(document.to_json(deferred=False), placed, [swimlane.columns(one) for one in timelines]),
        described={name: said for name, (_, said) in figures.items()},
    )


def _encoded(document: Any, roots: Mapping[str, str], timelines: list[dict[str, Any]]) -> str:
    """The JSON of a Bokeh document and its roots, the models numbered from 1 in order of appearance.

    Only the values under "id" are names of models: a text that happens to look like one is left alone.
    """
    numbers: dict[str, str] = {}

    def renumber(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: numbers.setdefault(inner, f"m{len(numbers) + 1}")
                if key == "id" and isinstance(inner, str)
                else renumber(inner)
                for key, inner in value.items()
            }
        if isinstance(value, list | tuple):
            return [renumber(inner) for inner in value]
        return value

    embedded = {
        "doc": renumber(document),
        "roots": {numbers[root]: place for root, place in roots.items()},
        "timelines": timelines,
    }
    return json.dumps(embedded, ensure_ascii=True, separators=(",", ":"))
