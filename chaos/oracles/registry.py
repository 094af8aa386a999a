"""The supervision oracles of this version, in the order in which a report shows them, and what feeds an oracle.

Owns the rule of what is asked of a run: an oracle whose situation no fault of the plan can make is shown as not judged,
and does not make the run inconclusive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from chaos.faults import FAULTS, Consequence
from chaos.faults.fault import BeginCheckpoint
from chaos.oracles import wal_replay
from chaos.oracles.background_workers import BackgroundWorkers
from chaos.oracles.escalation import Escalation
from chaos.oracles.exit_status import ExitStatus
from chaos.oracles.fan_out import FanOut
from chaos.oracles.memory import Drained, Memory
from chaos.oracles.oracle import Oracle
from chaos.oracles.orphans import Orphans
from chaos.oracles.reaping import Reaping
from chaos.oracles.recovery_order import RecoveryOrder
from chaos.oracles.shutdown import Shutdowns
from chaos.oracles.slots import Slots
from chaos.oracles.transitions import Transitions

SUPERVISION: tuple[Oracle, ...] = (
    FanOut(),
    Escalation(),
    Reaping(),
    Orphans(),
    Slots(),
    Drained(),
    Memory(),
    RecoveryOrder(),
    ExitStatus(),
    Shutdowns(),
    BackgroundWorkers(),
    Transitions(),
)

_OUTLIVED: Final = frozenset({Consequence.CRASH, Consequence.ESCALATION, Consequence.ANOTHER_RECOVERY})
"""What a postmaster lives through, and reinitialises."""

FED_BY: Final[Mapping[str, frozenset[Consequence]]] = {
    FanOut.name: _OUTLIVED,
    Escalation.name: _OUTLIVED,
    Drained.name: _OUTLIVED,
    wal_replay.NAME: _OUTLIVED | {Consequence.NEW_START},
}
"""The oracles that are not fed by every campaign, with the faults that feed them by what these cause."""


def is_fed(oracle: str, faults: Iterable[str]) -> bool:
    """Whether one of these faults makes what an oracle judges. One that is not known may make anything.

    A checkpoint under way may have moved the redo point past every commit, so a kill during one is no trial of redo.
    """
    if oracle not in FED_BY:
        return True
    known = [FAULTS.get(name) for name in faults]
    return any(
        fault is None
        or (fault.causes in FED_BY[oracle] and not (oracle == wal_replay.NAME and BeginCheckpoint() in fault.steps))
        for fault in known
    )
