"""The charts of a report, drawn by Bokeh (docs/decisions/0003-charts.md says why).

`draw` makes one Bokeh document of them all; `figure` is what every chart has in common, and each other module draws one
panel's. The numbers come from `reports.model`, and everything drawn is said by a table of the page as well. Importing
this loads no Bokeh; drawing does.
"""
