"""What kind of server a run is of, as far as a judge must know: what it promises, and what it keeps an account of.

Owns the differences, from PostgreSQL's sources, so that no oracle asks for a name or a version. The rules that hold for
every server of PostgreSQL's shape stand in the oracles and are the same for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from chaos.targets.choice import TargetKind

NEWEST_FIRST_SINCE: Final = 18
"""From this major version on all children are in one list, the newest at its head (`ActiveChildList`, pmchild.c).

Before, background workers and backends came first, each newest first, and the auxiliary processes followed in the order
of `HandleChildCrash` (postmaster.c)."""
DEAD_END_KILLED_SINCE: Final = 18
"""From this major version on children that only refuse a client are told to go like all others.

Before, `SignalSomeChildren` left them out, and one that was forked after the round of SIGQUIT was waited for, as long as
its client was silent: up to authentication_timeout (`PM_WAIT_DEAD_END`, postmaster.c)."""

_NO_JOURNAL: Final = "PostgreSQL keeps no journal of"


@dataclass(frozen=True, slots=True)
class ServerKind:
    """What oracles hold a server to.

    `journal`: it writes events/server.jsonl. `newest_first`: it sends SIGQUIT to its children in the reverse order of
    their forks. `not_judged`: the oracles that such a run cannot feed, by name, and why; they are not asked for.
    """

    journal: bool = True
    newest_first: bool = True
    not_judged: Mapping[str, str] = field(default_factory=dict)


BUILTIN: Final = ServerKind()


def kind_of(target: str, versions: Mapping[str, str]) -> ServerKind:
    """The kind of the server of a run, by the target and the versions in its run.json."""
    if target != TargetKind.POSTGRES:
        return BUILTIN
    found = re.search(r"[0-9]+", versions.get("server", ""))
    major = int(found[0]) if found else 0
    return ServerKind(
        journal=False,
        newest_first=major >= NEWEST_FIRST_SINCE,
        not_judged={
            "wal_replay": f"{_NO_JOURNAL} what redo did",
            "slots": f"{_NO_JOURNAL} which child got which slot",
            "transitions": f"{_NO_JOURNAL} its state machine",
            "background_workers": f"{_NO_JOURNAL} who registered which worker",
            "storage": "only the built-in server's files are known here",
        },
    )
