"""The contract of a fault, and the record of one blow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chaos.plan import Victims
from chaos.targets.process import ServerProcess


@dataclass(frozen=True, slots=True)
class Blow:
    """One process that was hit. `landed` is False when it was gone before the signal came."""

    t: int
    pid: int
    role: str
    signal: int
    landed: bool


class Fault(Protocol):
    """One way to break a server."""

    @property
    def name(self) -> str:
        """As `--fault` names it."""
        ...

    @property
    def causes(self) -> str:
        """What a server that works must do about it, in words."""
        ...

    def inject(self, victims: Victims, live: Sequence[ServerProcess]) -> list[Blow]:
        """Do it to those of the live children that the plan means; empty when there was none."""
        ...
