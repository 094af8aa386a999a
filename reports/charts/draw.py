"""All charts of a report, as one Bokeh document for each panel of the page.

The outcome is data (`Charts`), not HTML: documents whose roots the page puts in its own elements, so that one runtime
serves all charts. The page draws one panel after the other, and what is linked is in one panel. Bokeh numbers its models
by a counter of the process; they are renumbered here, because equal runs must give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from reports.charts import machine, recovery, resources, swimlane
from reports.model import Report

if TYPE_CHECKING:
    from bokeh.plotting import figure


@dataclass(frozen=True, slots=True)
class Charts:
    """What the page embeds: Bokeh's runtime, the documents and which root goes where, and the cycles to choose from.

    `described` holds one sentence for each chart, for readers who cannot see it.
    """

    runtime: str
    licence: str
    version: str
    document: str
    described: Mapping[str, str]


def draw(report: Report) -> Charts | None:
    """All charts of a report, or None when there is nothing to draw."""
    timelines = report.timelines
    in_order = (
        recovery.charts(report),
        swimlane.charts(timelines),
        machine.charts(report),
        resources.charts(report),
    )
    panels = [panel for panel in in_order if panel]
    if not panels:
        return None
    import bokeh
    from bokeh.resources import Resources

    numbers: dict[str, str] = {}
    embedded = {
        "panels": [_document(panel, numbers) for panel in panels],
        "timelines": [swimlane.columns(one) for one in timelines],
    }
    return Charts(
        runtime=Resources(mode="inline", components=["bokeh"], minified=True).js_raw[0],
        licence=files("bokeh").joinpath("LICENSE.txt").read_text(encoding="utf-8"),
        version=bokeh.__version__,
        document=json.dumps(embedded, ensure_ascii=True, separators=(",", ":")),
        described={name: said for panel in panels for name, (_, said) in panel.items()},
    )


def _document(panel: Mapping[str, tuple[figure, str]], numbers: dict[str, str]) -> dict[str, Any]:
    """One panel's document, and the element of each of its roots.

    Models are numbered from 1 in order of appearance, `numbers` going on from panel to panel. Only the values under "id"
    are names of models: a text that happens to look like one is left alone.
    """
    from bokeh.document import Document

    document = Document()
    with document.models.freeze():  # else every root has all models looked through again
        for plot, _ in panel.values():
            document.add_root(plot)

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

    made = renumber(document.to_json(deferred=False))
    return {"doc": made, "roots": {numbers[str(plot.id)]: element for element, (plot, _) in panel.items()}}
