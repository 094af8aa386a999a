"""What every chart has in common: a figure without a frame, hovering, colours by name, numbers as text.

Colours are not chosen here: axes, grids and labels take theirs from the page's CSS custom properties (Bokeh reads
`--bk-*`), and a glyph names its colour by a tag, `ink:accent`, that the page's script resolves, again when the reader
turns to dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bokeh.plotting import figure

FONT = "system-ui, sans-serif"

LOG_RATIO = 20.0
"""Times that span more than this are drawn on a logarithmic axis."""


def base(title_x: str, title_y: str, height: int, **options: Any) -> figure:
    """A figure without a frame, a toolbar or a title of its own: the page has those."""
    from bokeh.plotting import figure

    plot = figure(
        **{
            "height": height,
            "sizing_mode": "stretch_width",
            "toolbar_location": None,
            "tools": "",
            "x_axis_label": title_x,
            "y_axis_label": title_y,
            "background_fill_color": None,
            "border_fill_color": None,
            "outline_line_color": None,
            "min_border_left": 8,
            "min_border_right": 14,
            **options,
        }
    )
    for axis in plot.axis:
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
        axis.axis_label_standoff = 8
    return plot


def rows(plot: figure) -> None:
    """Let the y axis be names of rows: no grid, no ticks, no line."""
    plot.ygrid.visible = False
    plot.yaxis.major_tick_line_alpha = 0
    plot.yaxis.axis_line_alpha = 0


def few_ticks(plot: figure) -> None:
    """So few numbers along the time that they fit on a phone beside long names of rows."""
    from bokeh.models import BasicTicker

    if isinstance(plot.xaxis[0].ticker, BasicTicker):
        plot.xaxis[0].ticker.desired_num_ticks = 5


def ink(renderer: Any, name: str) -> None:
    """Have the page colour a renderer's glyph by one of its custom properties."""
    renderer.glyph.tags = [f"ink:{name}"]


def hover(plot: figure, renderers: Sequence[Any], tooltips: list[tuple[str, str]], **options: Any) -> None:
    """Say something of what the pointer is over."""
    from bokeh.models import HoverTool

    plot.add_tools(HoverTool(renderers=list(renderers), tooltips=tooltips, **options))


def plain_numbers(axis: Any) -> None:
    """Numbers as the tables write them."""
    from bokeh.models import NumeralTickFormatter

    axis.formatter = NumeralTickFormatter(format="0,0.[00]")


def wide(values: Sequence[float]) -> bool:
    """Whether values, in order, span so much that their axis should be logarithmic."""
    return values[0] > 0 and values[-1] / values[0] > LOG_RATIO


def milliseconds(value: float, scale: float) -> str:
    """A time with as many decimals as its scale deserves, so that the numbers of one table line up."""
    decimals = 2 if scale < 100 else 1 if scale < 10_000 else 0
    return f"{value:,.{decimals}f}"
