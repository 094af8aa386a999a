"""The supervision oracles of this version, in the order in which a report shows them."""

from __future__ import annotations

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
