"""The state diagram of docs/state-machine.md, drawn from the table of transitions.

Owns the part of that page between two marker comments: `python -m supervisor.postmaster.diagram` prints the
whole page with this part drawn anew, `--write` writes it. A test fails when the page is stale. Nothing of it
runs in a server.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Final

from supervisor.postmaster.child_types import CHILD_TYPES, ChildType
from supervisor.postmaster.transitions import TRANSITIONS, Transition
from supervisor.postmaster.values import PMState

PAGE: Final = Path(__file__).parents[2] / "docs" / "state-machine.md"
_BEGIN: Final = "<!-- drawn by python -m supervisor.postmaster.diagram --write: begin {part} -->\n"
_END: Final = "<!-- end {part} -->\n"


def diagram() -> str:
    """The machine as a mermaid stateDiagram, one arrow for each pair of states."""
    lines = ["stateDiagram-v2", "    [*] --> INIT"]
    rows = sorted(TRANSITIONS, key=_ends)
    for (source, target), group in groupby(rows, key=_ends):
        causes = "<br/>".join(row.cause.value for row in group)
        lines.append(f"    {PMState(source).name} --> {_name(target)}: {causes}")
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


def policy() -> str:
    """The policy table as Markdown, one column for each kind of child."""
    head = ["", *(row.log_name for row in CHILD_TYPES)]
    body: list[list[str]] = [
        ["slot pool", *(_pool(row) for row in CHILD_TYPES)],
        ["PGPROC", *(_yes(row.has_pgproc) for row in CHILD_TYPES)],
        ["counts in max_connections", *(_yes(row.counts_as_connection) for row in CHILD_TYPES)],
        ["launched by the loop in", *(_states(row.launched_in) for row in CHILD_TYPES)],
        ["waited for in a drain", *(row.stop_set.value.replace("_", " ") for row in CHILD_TYPES)],
        ["exit 0", *(row.on_exit_0.value for row in CHILD_TYPES)],
        ["exit 0 is ordinary in", *(_states(row.dismissed_in) for row in CHILD_TYPES)],
        ["exit 1", *(row.on_exit_1.value for row in CHILD_TYPES)],
        ["any other end", *(row.on_exit_other.value for row in CHILD_TYPES)],
        ["exit 0 or 1, slot not cleaned up", *(_unclean(row) for row in CHILD_TYPES)],
        ["SIGINT", *(_words(row.on_int.value) for row in CHILD_TYPES)],
        ["SIGTERM", *(_words(row.on_term.value) for row in CHILD_TYPES)],
        ["SIGQUIT", *(_words(row.on_quit.value) for row in CHILD_TYPES)],
        ["SIGUSR2", *(_words(row.on_usr2.value) for row in CHILD_TYPES)],
    ]
    rule = ["---"] * len(head)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *body))


def drawn(page: str) -> str:
    """The page with its generated parts drawn anew; ValueError if a marker is missing."""
    for part, text in (("diagram", diagram()), ("policy", policy())):
        begin, end = _BEGIN.format(part=part), _END.format(part=part)
        before, begun, rest = page.partition(begin)
        _, ended, after = rest.partition(end)
        if not (begun and ended):
            raise ValueError(f"the page has no place marked for the {part}")
        page = before + begin + text + end + after
    return page


def _ends(row: Transition) -> tuple[int, int]:
    return row.source, len(PMState) if row.target is None else row.target


def _name(target: int) -> str:
    return "[*]" if target == len(PMState) else PMState(target).name


def _pool(row: ChildType) -> str:
    if row.pool is None:
        return "none"
    if row.pool_setting is None:
        return str(row.slots_each)
    return row.pool_setting if row.slots_each == 1 else f"{row.slots_each} x {row.pool_setting}"


def _states(states: Iterable[PMState]) -> str:
    return ", ".join(state.name for state in sorted(states)) or "-"


def _unclean(row: ChildType) -> str:
    return "crash" if row.unclean_slot_is_crash else "no matter"


def _words(value: str) -> str:
    return value.replace("_", " ")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def main() -> int:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description="draw the postmaster's state diagram")
    parser.add_argument("--write", action="store_true", help="write the page instead of printing it")
    page = drawn(PAGE.read_text())
    if parser.parse_args().write:
        PAGE.write_text(page)
    else:
        sys.stdout.write(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
