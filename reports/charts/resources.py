"""What processes used, cycle by cycle: a small chart for each quantity, a line for each postmaster's life."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from reports.charts.figure import base, hover, ink, plain_numbers
from reports.details import Series
from reports.model import Report

if TYPE_CHECKING:
    from bokeh.plotting import figure

MOST_SAMPLES = 1000
"""Samples of one series that are drawn; of more, an even selection."""


def charts(report: Report) -> dict[str, tuple[figure, str]]:
    """One chart a series by its element, each with its sentence; none when nothing was sampled."""
    return {
        f"chart-used-{index}": (
            _series(series),
            f"{series.quantity} of the {series.owner}, {len(series.cycles)} cycles: {min(series.values):,.0f} to "
            f"{max(series.values):,.0f} {series.unit}.",
        )
        for index, series in enumerate(report.details.resources.series)
    }


def _series(series: Series) -> figure:
    import numpy as np
    from bokeh.models import BasicTicker, Range1d

    low, high = min(series.values), max(series.values)
    room = max(0.15 * (high - low), 0.02 * high, 1.0)
    plot = base("cycle", series.unit, 150, y_range=Range1d(start=max(0.0, low - room), end=high + room))
    plot.xgrid.visible = False
    samples = list(zip(series.lives, series.cycles, series.values, strict=True))
    if len(samples) > MOST_SAMPLES:
        samples = [samples[len(samples) * slot // MOST_SAMPLES] for slot in range(MOST_SAMPLES)]
    # A gap between two lives: nothing grew from one postmaster to the next.
    cycles: list[float] = []
    values: list[float] = []
    for _, some in groupby(samples, key=lambda sample: sample[0]):
        for _, cycle, value in some:
            cycles.append(cycle)
            values.append(value)
        cycles.append(cycles[-1])
        values.append(float("nan"))
    source = {"cycle": np.array(cycles), "value": np.array(values)}
    line = plot.line("cycle", "value", source=source, line_width=1.5)
    dots = plot.scatter("cycle", "value", source=source, size=3, line_color=None)
    ink(line, "accent")
    ink(dots, "accent")
    for axis in plot.axis:
        axis.major_label_text_font_size = axis.axis_label_text_font_size = "11px"
        axis.axis_label_standoff = 4
    plot.yaxis.ticker = BasicTicker(desired_num_ticks=4)
    plain_numbers(plot.yaxis[0])
    plain_numbers(plot.xaxis[0])
    hover(plot, [dots], [("cycle", "@cycle"), (series.quantity, f"@value{{0,0.[0]}} {series.unit}")])
    return plot
