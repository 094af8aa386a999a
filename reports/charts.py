"""The charts of a report, drawn by Bokeh (docs/decisions/0003-charts.md says why).

Owns what is plotted and how; the numbers come from `reports.model`. Colours are not chosen here: axes, grids
and labels take theirs from the page's CSS custom properties (Bokeh reads `--bk-*`), and a glyph names its
colour by a tag, `ink:accent`, that the page's script resolves, again when the reader turns to dark.

The outcome is data (`Charts`), not HTML: one Bokeh document whose roots the page puts in its own elements, so
that one runtime serves all charts. Bokeh numbers its models by a counter of the process; they are renumbered
here, because equal runs must give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from reports.model import Report, Span, spans
from reports.statistics import ecdf
from reports.verdict import Recovery

if TYPE_CHECKING:
    from bokeh.plotting import figure

MOST_CYCLES = 4000
"""Cycles drawn one by one; of more, the slowest are kept and the rest are thinned evenly."""

FONT = "system-ui, sans-serif"
INKS = {"ready": "muted", "first_commit": "accent"}
"""The colour of each milestone, by the name of the page's custom property."""

LOG_RATIO = 20.0
"""Times that span more than this are drawn on a logarithmic axis."""


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
    """All charts of a report, or None when no cycle was timed and there is nothing to draw."""
    commit = report.to_first_commit
    if commit is None or report.median is None or report.worst is None:
        return None
    import bokeh
    from bokeh.document import Document
    from bokeh.resources import Resources

    figures: dict[str, figure] = {
        "chart-ecdf": _ecdf(report),
        "chart-median": _waterfall(spans(report.median), "accent"),
        "chart-worst": _waterfall(spans(report.worst), "second"),
        "chart-cycles": _cycles(report.recoveries),
    }
    document = Document()
    for plot in figures.values():
        document.add_root(plot)
    runtime = Resources(mode="inline", components=["bokeh"], minified=True).js_raw[0]
    placed = {str(plot.id): element for element, plot in figures.items()}
    p50, p99 = commit.percentiles[0].value, commit.percentiles[-1].value
    return Charts(
        runtime=runtime,
        licence=files("bokeh").joinpath("LICENSE.txt").read_text(encoding="utf-8"),
        version=bokeh.__version__,
        document=_renumbered(document.to_json(deferred=False), placed),
        described={
            "chart-ecdf": f"Share of cycles recovered by time since the kill: half within {p50:.1f} "
            f"milliseconds, 99 percent within {p99:.1f}, all within {commit.worst:.1f}.",
            "chart-median": f"Phases of the median cycle, {report.median.cycle}, in order of time.",
            "chart-worst": f"Phases of the worst cycle, {report.worst.cycle}, in order of time.",
            "chart-cycles": f"Time to first new commit of {len(commit.ordered)} cycles in the order they ran, "
            f"the slowest {commit.worst:.1f} milliseconds.",
        },
    )


def _base(title_x: str, title_y: str, height: int, **ranges: Any) -> figure:
    """A figure without a frame, a toolbar or a title of its own: the page has those."""
    from bokeh.plotting import figure

    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        x_axis_label=title_x,
        y_axis_label=title_y,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border_left=8,
        min_border_right=14,
        **ranges,
    )
    for axis in plot.axis:
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
        axis.axis_label_standoff = 8
    return plot


def _hover(plot: figure, renderers: Sequence[Any], tooltips: list[tuple[str, str]], **options: Any) -> None:
    from bokeh.models import HoverTool

    plot.add_tools(HoverTool(renderers=list(renderers), tooltips=tooltips, **options))


def _plain_numbers(axis: Any) -> None:
    from bokeh.models import NumeralTickFormatter

    axis.formatter = NumeralTickFormatter(format="0,0.[00]")


def _wide(values: Sequence[float]) -> bool:
    return values[0] > 0 and values[-1] / values[0] > LOG_RATIO


def _ecdf(report: Report) -> figure:
    import numpy as np
    from bokeh.models import FixedTicker, NumeralTickFormatter, Range1d

    every = [times.ordered for times in report.times]
    low, high = min(values[0] for values in every), max(values[-1] for values in every)
    log = _wide((low, high))
    plot = _base(
        "milliseconds since the kill",
        "share of cycles",
        300,
        x_axis_type="log" if log else "linear",
        y_range=Range1d(start=0, end=1.02),
        x_range=Range1d(start=low / 1.15, end=high * 1.15) if log else Range1d(start=0, end=high * 1.04),
    )
    # The key to the two colours is in the page, so that it is text.
    for times in report.times:
        steps = ecdf(times.ordered)
        x = np.array([steps[0][0], *(value for value, _ in steps)])
        y = np.array([0.0, *(share for _, share in steps)])
        line = plot.step("x", "y", source={"x": x, "y": y}, mode="after", line_width=2)
        line.glyph.tags = [f"ink:{INKS[times.key]}"]
    commit = report.times[-1]
    marks = plot.scatter(
        "x",
        "y",
        source={
            "x": np.array([p.value for p in commit.percentiles]),
            "y": np.array([p.share for p in commit.percentiles]),
            "name": [f"p{p.share * 100:.0f}" for p in commit.percentiles],
        },
        size=7,
    )
    marks.glyph.tags = ["ink:accent"]
    plot.yaxis.ticker = FixedTicker(ticks=[0, 0.25, 0.5, 0.75, 0.9, 0.99], minor_ticks=[])
    plot.yaxis.formatter = NumeralTickFormatter(format="0%")
    plot.ygrid.ticker = FixedTicker(ticks=[0.25, 0.5, 0.75, 0.9, 0.99], minor_ticks=[])
    _plain_numbers(plot.xaxis[0])
    _hover(plot, [marks], [("", "@name: @x{0,0.00} ms")])
    return plot


def _waterfall(phases: Sequence[Span], ink: str) -> figure:
    import numpy as np
    from bokeh.core.properties import value
    from bokeh.models import Range1d
    from bokeh.models.annotations import LabelSet

    end = phases[-1].end if phases else 1.0
    names = [span.phase for span in phases]
    plot = _base(
        "milliseconds since the kill",
        "",
        60 + 27 * len(names),
        y_range=list(reversed(names)),
        x_range=Range1d(start=0, end=end * 1.16),
    )
    lengths = [span.length for span in phases]
    source = {
        "phase": names,
        "left": np.array([span.start for span in phases]),
        "right": np.array([span.end for span in phases]),
        "length": np.array(lengths),
        "text": [milliseconds(length, end) for length in lengths],
    }
    bars = plot.hbar(y="phase", left="left", right="right", height=0.56, source=source, line_width=1.5)
    bars.glyph.tags = [f"ink:{ink}"]
    labels = LabelSet(
        x="right",
        y="phase",
        text="text",
        source=bars.data_source,
        x_offset=6,
        text_baseline="middle",
        text_font=value(FONT),
        text_font_size="11px",
        tags=["ink:soft"],
    )
    plot.add_layout(labels)
    plot.ygrid.visible = False
    plot.yaxis.major_tick_line_alpha = 0
    plot.yaxis.axis_line_alpha = 0
    _plain_numbers(plot.xaxis[0])
    _hover(
        plot,
        [bars],
        [("@phase", "@length{0,0.00} ms"), ("from", "@left{0,0.00} ms"), ("to", "@right{0,0.00} ms")],
    )
    return plot


def _cycles(recoveries: Sequence[Recovery]) -> figure:
    import numpy as np
    from bokeh.models import Range1d

    timed = thinned([r for r in recoveries if r.first_commit is not None], MOST_CYCLES)
    values = [r.first_commit or 0.0 for r in timed]
    ordered = sorted(values)
    log = _wide((ordered[0], ordered[-1]))
    last = max(r.cycle for r in timed)
    first = min(r.cycle for r in timed)
    edge = max(1.0, (last - first) * 0.02)
    plot = _base(
        "cycle",
        "milliseconds to first commit",
        260,
        y_axis_type="log" if log else "linear",
        x_range=Range1d(start=first - edge, end=last + edge),
        y_range=Range1d(start=ordered[0] / 1.3, end=ordered[-1] * 1.3)
        if log
        else Range1d(start=0, end=ordered[-1] * 1.08),
    )
    source = {
        "cycle": np.array([r.cycle for r in timed], dtype=np.int32),
        "ms": np.array(values, dtype=np.float32),
        "fault": [r.fault or "-" for r in timed],
        "victim": [r.victim or "-" for r in timed],
    }
    dots = plot.scatter(
        "cycle", "ms", source=source, size=5 if len(timed) < 1500 else 3, fill_alpha=0.65, line_color=None
    )
    dots.glyph.tags = ["ink:accent"]
    plot.xgrid.visible = False
    _plain_numbers(plot.yaxis[0])
    _plain_numbers(plot.xaxis[0])
    _hover(
        plot,
        [dots],
        [("cycle", "@cycle"), ("first commit", "@ms{0,0.00} ms"), ("fault", "@fault"), ("victim", "@victim")],
    )
    return plot


def thinned(recoveries: Sequence[Recovery], most: int) -> list[Recovery]:
    """At most `most` of `recoveries`, in their order: the slowest quarter of that whole, the others evenly."""
    if len(recoveries) <= most:
        return list(recoveries)
    by_time = sorted(range(len(recoveries)), key=lambda i: (-(recoveries[i].first_commit or 0.0), i))
    kept = set(by_time[: most // 4])
    others = [i for i in range(len(recoveries)) if i not in kept]
    room = most - len(kept)
    kept.update(others[len(others) * slot // room] for slot in range(room))
    return [recoveries[i] for i in sorted(kept)]


def milliseconds(value: float, scale: float) -> str:
    """A time with as many decimals as its scale deserves, so that the numbers of one table line up."""
    decimals = 2 if scale < 100 else 1 if scale < 10_000 else 0
    return f"{value:,.{decimals}f}"


def _renumbered(document: Any, roots: Mapping[str, str]) -> str:
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

    embedded = {"doc": renumber(document), "roots": {numbers[root]: place for root, place in roots.items()}}
    return json.dumps(embedded, ensure_ascii=True, separators=(",", ":"))
