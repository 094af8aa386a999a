"""SQL: text to parse tree, parse tree to plan, plan to rows.

`parse` is the only module that calls the parser, `analyse` the only one that reads parse trees, `execute` the only one
that does anything. `types` is what values look like outside, `procedures` what CALL may call. Nothing here knows the
wire protocol.
"""
