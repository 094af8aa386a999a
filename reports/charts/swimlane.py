"""One cycle in full: the postmaster's states, a lane for each process, the phases of the recovery, on one axis of time.

Owns three linked figures that show one cycle at a time, and the columns of every cycle that can be shown: the page's
script puts those of the chosen cycle in. Each colour and each sign has a source of its own, because the page colours
glyphs and not rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reports.charts.figure import FONT, base, few_ticks, hover, ink, plain_numbers, rows
from reports.model import PHASES, Shown, spans

if TYPE_CHECKING:
    from bokeh.models import Range1d
    from bokeh.plotting import figure

ROLES = ("postmaster", "startup", "checkpointer", "bgwriter", "walwriter", "backend", "dead_end", "bgworker")
"""Roles with a colour of their own; any other is shown in the colour of OTHER."""

OTHER = "other"
STATE_INKS: Mapping[str, str] = {"serving": "good", "starting": "accent", "stopping": "second"}
SIGNS: Mapping[str, tuple[str, str, int]] = {
    "SIGKILL": ("x", "bad", 9),
    "SIGQUIT": ("inverted_triangle", "second", 8),
    OTHER: ("circle", "ink", 4),
}
"""Signal: its sign, colour and size."""

LEFT = 142
"""Pixels left of every frame, so that the three axes of time lie under each other."""

Columns = dict[str, list[Any]]


def role_ink(role: str) -> str:
    """The custom property that a role is coloured by."""
    return f"role-{role if role in ROLES else OTHER}"


def columns(shown: Shown) -> dict[str, Any]:
    """What the page's script needs to show one cycle: the columns of each source, rows, and extents of the axis."""
    timeline = shown.timeline
    sources: dict[str, Columns] = {name: {key: [] for key in keys} for name, keys in _SOURCES.items()}
    names = {lane.pid: f"{lane.role} {lane.pid}" for lane in timeline.lanes}
    for lane in timeline.lanes:
        name = names[lane.pid]
        mine = sources[f"lanes-{lane.role if lane.role in ROLES else OTHER}"]
        told = lane.ended or "lives on"
        _add(mine, lane=name, left=lane.begin, right=lane.end, ended=told, reaped=_ms(lane.reaped))
        for mark in lane.marks:
            said = f"{mark.signal} from {mark.sender}"
            _add(sources[f"marks-{mark.signal if mark.signal in SIGNS else OTHER}"], lane=name, ms=mark.ms, said=said)
    for blow in timeline.blows:
        if blow.pid in names:
            said = blow.fault + ("" if blow.landed else ", missed")
            _add(sources["blows"], lane=names[blow.pid], ms=blow.ms, said=said)
    for state in timeline.states:
        _add(sources[f"states-{state.kind}"], state=state.state, left=state.begin, right=state.end)
    for phase in spans(shown.recovery) if shown.recovery is not None else ():
        _add(sources["phases"], phase=phase.phase, left=phase.start, right=phase.end)
    recovered = shown.recovery.first_commit if shown.recovery is not None else None
    until = timeline.end if recovered is None else recovered
    margin = max(1.0, 0.12 * until)
    return {
        "cycle": timeline.cycle,
        "sources": sources,
        "rows": {
            "lanes": list(reversed(names.values())),
            "states": list(reversed(dict.fromkeys(span.state for span in timeline.states))),
        },
        "view": [max(timeline.begin, -margin), min(timeline.end, until + margin)],
        "whole": [timeline.begin, timeline.end],
    }


def charts(shown: Sequence[Shown]) -> dict[str, tuple[figure, str]]:
    """The three figures with the first cycle in them, by the element that each goes to, with its sentence; none without cycles."""
    if not shown:
        return {}
    from bokeh.models import ColumnDataSource, Range1d, WheelZoomTool
    from bokeh.models.annotations import Span

    first = columns(shown[0])
    axis = Range1d(name="time", start=first["view"][0], end=first["view"][1])
    sources = {name: ColumnDataSource(first["sources"][name], name=name) for name in _SOURCES}
    figures = {
        "states": _states(axis, first["rows"]["states"], sources),
        "lanes": _lanes(axis, first["rows"]["lanes"], sources),
        "phases": _phases(axis, sources),
    }
    for plot in figures.values():
        zero = Span(location=0, dimension="height", line_dash="dotted", line_width=1.5, tags=["ink:bad"])
        plot.add_layout(zero)
        wheel = WheelZoomTool(dimensions="width", modifiers="ctrl")
        plot.add_tools(wheel)
        plot.toolbar.active_scroll = wheel
    return {
        "chart-states": (figures["states"], "The postmaster's states over the time of the chosen cycle."),
        "chart-lanes": (
            figures["lanes"],
            "One lane for each server process of the chosen cycle, from fork to exit, with the signals it received; "
            "the table of the cycle below says the same.",
        ),
        "chart-lane-phases": (figures["phases"], "The phases of the chosen cycle's recovery on the same axis."),
    }


def _states(axis: Range1d, names: Sequence[str], sources: Mapping[str, Any]) -> figure:
    plot = _strip("states", axis, names, 19)
    plot.xaxis.visible = False
    drawn = []
    for kind, colour in STATE_INKS.items():
        bars = plot.hbar(y="state", left="left", right="right", height=0.66, source=sources[f"states-{kind}"])
        ink(bars, colour)
        drawn.append(bars)
    hover(plot, drawn, [("", "@state"), ("from", "@left{0,0.00} ms"), ("to", "@right{0,0.00} ms")])
    return plot


def _lanes(axis: Range1d, names: Sequence[str], sources: Mapping[str, Any]) -> figure:
    plot = _strip("lanes", axis, names, 19)
    plot.xaxis.visible = False
    bars = []
    for role in (*ROLES, OTHER):
        lane = plot.hbar(
            y="lane", left="left", right="right", height=0.5, source=sources[f"lanes-{role}"],
            fill_alpha=0.7, line_alpha=0,
        )  # fmt: skip
        ink(lane, role_ink(role))
        bars.append(lane)
    marks = []
    for signal, (sign, colour, size) in SIGNS.items():
        mark = plot.scatter("ms", "lane", source=sources[f"marks-{signal}"], marker=sign, size=size, line_width=1.5)
        ink(mark, colour)
        marks.append(mark)
    blows = plot.scatter("ms", "lane", source=sources["blows"], marker="star", size=15, line_width=1)
    ink(blows, "bad")
    hover(
        plot,
        bars,
        [("", "@lane"), ("from", "@left{0,0.00} ms"), ("to", "@right{0,0.00} ms"), ("end", "@ended, reaped @reaped")],
        point_policy="follow_mouse",
    )
    hover(plot, [*marks, blows], [("", "@said"), ("at", "@ms{0,0.00} ms")])
    return plot


def _phases(axis: Range1d, sources: Mapping[str, Any]) -> figure:
    plot = _strip("phases", axis, [title for _, title, _ in reversed(PHASES)], 20, axis_height=46)
    bars = plot.hbar(y="phase", left="left", right="right", height=0.56, source=sources["phases"], line_width=1.5)
    ink(bars, "accent")
    plain_numbers(plot.xaxis[0])
    hover(plot, [bars], [("", "@phase"), ("from", "@left{0,0.00} ms"), ("to", "@right{0,0.00} ms")])
    return plot


def _strip(name: str, axis: Range1d, names: Sequence[str], row: int, axis_height: int = 12) -> figure:
    plot = base(
        "milliseconds since the kill" if axis_height > 12 else "",
        "",
        axis_height + row * len(names),
        name=f"figure-{name}",
        x_range=axis,
        y_range=list(names),
        min_border_left=LEFT,
        min_border_top=4,
    )
    plot.tags = [row, axis_height]
    rows(plot)
    few_ticks(plot)  # in all three, so that their grids are one
    plot.yaxis.major_label_text_font_size = "11px"
    plot.yaxis.major_label_text_font = FONT
    return plot


def _add(source: Columns, **values: Any) -> None:
    for key, value in values.items():
        source[key].append(value)


def _ms(value: float | None) -> str:
    return "outside this cycle or never" if value is None else f"{value:,.2f} ms"


_LANE = ("lane", "left", "right", "ended", "reaped")
_MARK = ("lane", "ms", "said")
_SOURCES: Mapping[str, tuple[str, ...]] = {
    **{f"lanes-{role}": _LANE for role in (*ROLES, OTHER)},
    **{f"marks-{signal}": _MARK for signal in SIGNS},
    "blows": _MARK,
    **{f"states-{kind}": ("state", "left", "right") for kind in STATE_INKS},
    "phases": ("phase", "left", "right"),
}
