"""Explaining a run: one operation's or one cycle's story, told from everything that the run recorded.

`line` lays lines of several sources out in time and chooses which of them are shown; `sources` makes the lines of each
source; `trace` looks an operation's records up in the WAL; `reasons` says why the operation came to what it came to;
`story` puts them together. Nothing here judges: the oracles do, and what they found is what is explained.
"""
