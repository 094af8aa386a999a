"""The contract of a driver: it sets a workload up, runs a cycle's load, commits one operation, and observes.

Owns the protocols and what is common in their vocabulary. A campaign knows no other way to a server. Every driver runs
the same requests (`Workload.requests`, seeded by the plan) and writes the same history; where the workers live is its
own affair: inside the server's backends (`chaos.drivers.calls`) or outside (`chaos.drivers.clients`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from chaos.plan import CyclePlan
from workloads.session import Row
from workloads.workload import Workload


class Load(Protocol):
    """The running load of one cycle. `refusal` is why a connection could not be opened; empty when all could."""

    @property
    def refusal(self) -> str: ...

    def acknowledged(self) -> int:
        """Acknowledgements so far."""
        ...

    def wait(self, timeout_s: float = ...) -> None:
        """Wait for news, for a moment."""
        ...

    def over(self) -> bool:
        """Whether every connection has come to its end, one way or another."""
        ...

    def backends(self) -> Sequence[tuple[int, int]]:
        """(worker, pid of its backend) of the workers outside the server, as the server told them."""
        ...

    def refusals(self) -> Sequence[tuple[int, str, str]]:
        """(worker, SQLSTATE, message) of statements that were refused; a lost connection is no refusal."""
        ...

    def complaints(self) -> list[str]:
        """What running statements were refused with, for people."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class Driver(Protocol):
    """One way to a server. Methods raise ConnectError and CallError (`chaos.driver`)."""

    def set_up(self, workloads: Iterable[Workload], seed: int) -> None:
        """Make the workloads' tables in an empty database, and a checkpoint: what is judged begins with them. What a
        set-up needs from outside follows from the seed (`chaos.people`)."""
        ...

    def load(self, workload: Workload, plan: CyclePlan) -> Load:
        """Open a cycle's workers and let them run."""
        ...

    def commit_one(self, workload: Workload, plan: CyclePlan, *, deadline_s: float) -> bool | None:
        """Perform the cycle's probe; whether it was acknowledged, None when no answer came in time."""
        ...

    def observe(self, workload: Workload, after: int) -> Iterable[Row]:
        """`Workload.observe`, over a connection of its own."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...
