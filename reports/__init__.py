"""The run directory's format, and what it becomes: HTML, JUnit XML, Markdown, JSON.

Owns the layout of a run directory and the files in it that the harness writes (`rundir`, `records`), the
model of `verdict.json` (`verdict`), the bounds and percentiles (`statistics`) and the pages made from them
(`render.write_reports`). Reports are functions of the run directory: they can be made again, later, by newer
code, from what an earlier run left behind.

It imports none of the other packages and never talks to a server. Importing `reports.rundir`,
`reports.records` or `reports.verdict` loads msgspec and nothing larger; scipy, jinja2 and Bokeh load when a
report is made and not before.
"""
