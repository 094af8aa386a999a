"""The time to recover as charts: its distribution, its phases, cycle by cycle, and by what was done to whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.charts.figure import FONT, base, few_ticks, hover, ink, milliseconds, plain_numbers, rows, wide
from reports.groups import Group
from reports.model import Report, Span, spans
from reports.statistics import ecdf
from reports.verdict import Recovery

if TYPE_CHECKING:
    from bokeh.plotting import figure

MOST_CYCLES = 4000
"""Cycles drawn one by one; of more, the slowest are kept and the rest are thinned evenly."""

INKS = {"ready": "muted", "first_commit": "accent"}
"""The colour of each milestone, by the name of the page's custom property."""


def charts(report: Report) -> dict[str, tuple[figure, str]]:
    """Charts by the element they go to, each with its sentence; none when no cycle was timed."""
    commit = report.to_first_commit
    if commit is None or report.median is None or report.worst is None:
        return {}
    p50, p99 = commit.percentiles[0].value, commit.percentiles[-1].value
    return {
        "chart-ecdf": (
            _ecdf(report),
            f"Share of cycles recovered by time since the kill: half within {p50:.1f} "
            f"milliseconds, 99 percent within {p99:.1f}, all within {commit.worst:.1f}.",
        ),
        "chart-median": (
            _waterfall(spans(report.median), "accent"),
            f"Phases of the median cycle, {report.median.cycle}, in order of time.",
        ),
        "chart-worst": (
            _waterfall(spans(report.worst), "second"),
            f"Phases of the worst cycle, {report.worst.cycle}, in order of time.",
        ),
        "chart-cycles": (
            _cycles(report.recoveries),
            f"Time to {report.sign_of_life} of {len(commit.ordered)} cycles in the order they ran, "
            f"the slowest {commit.worst:.1f} milliseconds.",
        ),
        "chart-groups": (
            _groups(report.groups),
            f"Time to {report.sign_of_life} by fault, victim and size of the WAL replayed: median, 95th percentile and "
            "longest of each group, as in the table below.",
        ),
    }


def _groups(groups: Sequence[Group]) -> figure:
    import numpy as np
    from bokeh.models import Range1d

    labels = Counter(row.label for group in groups for row in group.rows)
    named = [
        (row.label if labels[row.label] == 1 else f"{group.title}: {row.label}", row)
        for group in groups
        for row in group.rows
    ]
    least, most = min(row.median for _, row in named), max(row.worst for _, row in named)
    log = wide((least, most))
    plot = base(
        "milliseconds to recover",
        "",
        64 + 22 * len(named),
        y_range=[name for name, _ in reversed(named)],
        x_axis_type="log" if log else "linear",
        x_range=Range1d(start=least / 1.3, end=most * 1.15) if log else Range1d(start=0, end=most * 1.06),
    )
    source = {
        "name": [name for name, _ in named],
        "n": np.array([row.count for _, row in named], dtype=np.int32),
        "median": np.array([row.median for _, row in named]),
        "p95": np.array([row.p95 for _, row in named]),
        "worst": np.array([row.worst for _, row in named]),
    }
    reach = plot.hbar(y="name", left="median", right="worst", height=0.12, source=source, line_color=None)
    body = plot.hbar(y="name", left="median", right="p95", height=0.44, source=source, line_color=None)
    middle = plot.scatter("median", "name", source=source, size=9, marker="circle")
    for renderer, name in ((reach, "muted"), (body, "muted"), (middle, "accent")):
        ink(renderer, name)
    rows(plot)
    plain_numbers(plot.xaxis[0])
    few_ticks(plot)
    said = [("", "@name"), ("cycles", "@n"), ("median", "@median{0,0.0} ms"), ("p95", "@p95{0,0.0} ms")]
    hover(plot, [body, middle], [*said, ("worst", "@worst{0,0.0} ms")])
    return plot


def _ecdf(report: Report) -> figure:
    import numpy as np
    from bokeh.models import FixedTicker, NumeralTickFormatter, Range1d

    every = [times.ordered for times in report.times]
    low, high = min(values[0] for values in every), max(values[-1] for values in every)
    log = wide((low, high))
    plot = base(
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
        ink(line, INKS[times.key])
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
    ink(marks, "accent")
    plot.yaxis.ticker = FixedTicker(ticks=[0, 0.25, 0.5, 0.75, 0.9, 0.99], minor_ticks=[])
    plot.yaxis.formatter = NumeralTickFormatter(format="0%")
    plot.ygrid.ticker = FixedTicker(ticks=[0.25, 0.5, 0.75, 0.9, 0.99], minor_ticks=[])
    plain_numbers(plot.xaxis[0])
    hover(plot, [marks], [("", "@name: @x{0,0.00} ms")])
    return plot


def _waterfall(phases: Sequence[Span], colour: str) -> figure:
    import numpy as np
    from bokeh.core.properties import value
    from bokeh.models import Range1d
    from bokeh.models.annotations import LabelSet

    end = phases[-1].end if phases else 1.0
    names = [span.phase for span in phases]
    plot = base(
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
    ink(bars, colour)
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
    rows(plot)
    plain_numbers(plot.xaxis[0])
    hover(
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
    log = wide((ordered[0], ordered[-1]))
    last = max(r.cycle for r in timed)
    first = min(r.cycle for r in timed)
    edge = max(1.0, (last - first) * 0.02)
    plot = base(
        "cycle",
        "milliseconds to recover",
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
    ink(dots, "accent")
    plot.xgrid.visible = False
    plain_numbers(plot.yaxis[0])
    plain_numbers(plot.xaxis[0])
    hover(
        plot,
        [dots],
        [("cycle", "@cycle"), ("recovered in", "@ms{0,0.00} ms"), ("fault", "@fault"), ("victim", "@victim")],
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
