"""The postmaster's state machine with what this run took of it, as an arc diagram.

The states stand under each other in the machine's own order; a way forward is an arc on the right, a way back one on
the left. So nothing is placed by hand, and a state more needs no new drawing. A way that was taken is solid, thicker
the oftener, with its count; one that was not is dashed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from reports.charts.figure import FONT, base, hover, ink, rows
from reports.details import Edge, Machine
from reports.model import Report

if TYPE_CHECKING:
    from bokeh.plotting import figure


def charts(report: Report) -> dict[str, tuple[figure, str]]:
    """The diagram by its element, with its sentence; none when no journal told of states."""
    machine = report.details.machine
    if not machine.states:
        return {}
    taken = sum(edge.taken > 0 for edge in machine.edges)
    said = (
        f"{len(machine.states)} states; {taken} of {len(machine.edges)} ways between them were taken, as listed below."
    )
    return {"chart-machine": (_machine(machine), said)}


def _machine(machine: Machine) -> figure:
    from bokeh.core.properties import value
    from bokeh.models import ColumnDataSource, FixedTicker, Range1d
    from bokeh.models.annotations import LabelSet

    place = {state: index for index, state in enumerate(machine.states)}
    last = len(machine.states) - 1
    reach = [_bow(place, edge) / 2 for edge in machine.edges]
    plot = base(
        "",
        "",
        40 + 34 * len(place),
        x_range=Range1d(start=min(0.0, *reach) - 0.9, end=max(0.0, *reach) + 1.1),
        y_range=Range1d(start=last + 0.6, end=-0.6),
    )
    plot.xaxis.visible = False
    plot.xgrid.visible = False
    plot.yaxis.ticker = FixedTicker(ticks=list(range(last + 1)), minor_ticks=[])
    plot.yaxis.major_label_overrides = {index: state for state, index in place.items()}
    rows(plot)
    marks = []
    for name in ("muted", "accent"):  # what was taken lies on top
        edges = [edge for edge in machine.edges if bool(edge.taken) == (name == "accent")]
        source = _columns(place, edges)
        arcs = plot.quadratic(
            x0="x", y0="from", x1="x", y1="to", cx="bow", cy="middle", source=source, line_width="width",
            line_dash="solid" if name == "accent" else "dashed", line_alpha=0.9,
        )  # fmt: skip
        ink(arcs, name)
        mark = plot.scatter("half", "middle", source=source, marker="head", size=8 if name == "accent" else 6)
        ink(mark, name)
        marks.append(mark)
    counts = LabelSet(
        x="half", y="middle", text="taken", source=ColumnDataSource(source), x_offset=7, y_offset=-6,
        text_font=value(FONT), text_font_size="11px", tags=["ink:ink"],
    )  # fmt: skip
    plot.add_layout(counts)
    dots = plot.scatter([0.0] * len(place), list(place.values()), size=9)
    ink(dots, "ink")
    hover(plot, marks, [("", "@source to @target"), ("taken", "@taken"), ("when", "@causes")])
    return plot


def _bow(place: dict[str, int], edge: Edge) -> float:
    """How far an arc reaches out: right for a way forward, left for one back."""
    return float(place[edge.target] - place[edge.source])


def _columns(place: dict[str, int], edges: list[Edge]) -> dict[str, list[object]]:
    return {
        "source": [edge.source for edge in edges],
        "target": [edge.target for edge in edges],
        "causes": ["; ".join(edge.causes) for edge in edges],
        "taken": [f"{edge.taken:,}" for edge in edges],
        "x": [0.0] * len(edges),
        "from": [place[edge.source] for edge in edges],
        "to": [place[edge.target] for edge in edges],
        "bow": [_bow(place, edge) for edge in edges],
        "half": [_bow(place, edge) / 2 for edge in edges],
        "head": ["inverted_triangle" if _bow(place, edge) > 0 else "triangle" for edge in edges],
        "middle": [(place[edge.source] + place[edge.target]) / 2 for edge in edges],
        "width": [1.0 if not edge.taken else 1.6 + 0.5 * math.log10(edge.taken) for edge in edges],
    }
