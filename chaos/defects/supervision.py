"""Mistakes of a supervisor, as PostgreSQL's history and its neighbours' have them.

Each is one line of the postmaster that somebody could write, and leaves the data whole: where only data are looked at,
nobody ever sees it. What it breaks is what the next crash rests on. Defects that hold up the server for ever, or need a
child that does not go, are planted in `tests/process`: a campaign only waits for such a server.
"""

from __future__ import annotations

from chaos.defects.defect import Defect, Edit

_POSTMASTER = "supervisor/postmaster/postmaster.py"

GROUP_NOT_TOLD = Defect(
    name="group-not-told",
    title="SIGQUIT goes to each child alone, and what it started lives on",
    caught_by="fan_out",
    edits=(Edit(_POSTMASTER, "_TO_GROUP_TOO = frozenset({signal.SIGQUIT, ", "_TO_GROUP_TOO = frozenset({"),),
)

OLDEST_FIRST = Defect(
    name="oldest-first",
    title="the oldest child is told to go first, while newer ones still lean on it",
    caught_by="fan_out",
    edits=(
        Edit(
            "supervisor/postmaster/children.py",
            "iter(list(reversed(self._by_pid.values())))",
            "iter(list(self._by_pid.values()))",
        ),
    ),
)
