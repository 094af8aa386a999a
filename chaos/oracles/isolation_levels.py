"""The anomalies of isolation, which level forbids which, and which dependencies count at a level.

Owns the table that `isolation` judges by. The phenomena are those of Adya, Liskov and O'Neil, "Generalized
Isolation Level Definitions" (ICDE 2000), named as there. Snapshot isolation, PostgreSQL's REPEATABLE READ, allows
exactly the dependency graphs in which each cycle has two anti-dependencies in a row (Cerone and Gotsman,
"Analysing Snapshot Isolation", PODC 2016); so write skew is none of its anomalies. G-nonadjacent is the rest of
what it forbids beyond G-single; the name is Elle's.

Transactions of several levels run side by side. The rule for them is Adya's mixing-correctness (section 5.5 of the
same paper), with the snapshot level in the place of PL-3: a write dependency counts whatever the levels, a read
dependency by the level of the transaction that read, an anti-dependency by the level of the transaction that read
as well, for it is the one that is misled; and an aborted or intermediate read counts by the reader's level. Left
with the dependencies that count, the graph must have no cycle of the kind that forbids them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from workloads.session import READ_COMMITTED, REPEATABLE_READ


class Anomaly(StrEnum):
    """What went wrong, by its short name."""

    G0 = "G0"
    G1A = "G1a"
    G1B = "G1b"
    G1C = "G1c"
    INTERNAL = "internal"
    INCOMPATIBLE_ORDER = "incompatible order"
    LOST_UPDATE = "lost update"
    G_SINGLE = "G-single"
    G_NONADJACENT = "G-nonadjacent"

    @property
    def meaning(self) -> str:
        """The name in words."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    Anomaly.G0: "transactions overwrote each other in a circle",
    Anomaly.G1A: "a read saw what never committed",
    Anomaly.G1B: "a read saw a transaction's work before its end",
    Anomaly.G1C: "transactions saw or overwrote each other in a circle",
    Anomaly.INTERNAL: "a transaction did not see its own work",
    Anomaly.INCOMPATIBLE_ORDER: "a read saw elements in an order that the list does not have",
    Anomaly.LOST_UPDATE: "a transaction wrote over a version that it had not read",
    Anomaly.G_SINGLE: "a transaction saw one part of the past and missed another",
    Anomaly.G_NONADJACENT: "snapshots contradict each other about the order of commits",
}

_COMMITTED: Final = frozenset(
    {Anomaly.G0, Anomaly.G1A, Anomaly.G1B, Anomaly.G1C, Anomaly.INTERNAL, Anomaly.INCOMPATIBLE_ORDER}
)

FORBIDS: Final[Mapping[str, frozenset[Anomaly]]] = {
    READ_COMMITTED: _COMMITTED,
    REPEATABLE_READ: _COMMITTED | {Anomaly.LOST_UPDATE, Anomaly.G_SINGLE, Anomaly.G_NONADJACENT},
}
"""What each level forbids, by the name that BEGIN takes."""

COUNTS_READS: Final = frozenset(level for level, forbids in FORBIDS.items() if Anomaly.G1C in forbids)
"""The levels of a reader at which its read dependencies count."""
COUNTS_ANTI_DEPENDENCIES: Final = frozenset(level for level, forbids in FORBIDS.items() if Anomaly.G_SINGLE in forbids)
"""The levels of a reader at which its anti-dependencies count."""
