"""The contract of a fault: a value that says what is done to whom, what it takes, and what it must cause.

A fault in time is a few steps, one after the other; a fault at a point is what the process that gets there does to
itself. Neither is code: `chaos.strike` carries both out, and `chaos.aftermath` waits for what they cause. A plan says
whom and when (`chaos.plan`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from signal import Signals

from supervisor.points import PointAction


@dataclass(frozen=True, slots=True)
class Blow:
    """One process that was hit, by a signal or, with `code`, by an exit of its own that cleaned nothing up.

    `landed` is False when it was gone before the blow came. Blows of one `part` are alternatives: that one landed will
    do; of a fault with several parts each must.
    """

    t: int
    pid: int
    role: str
    signal: int
    landed: bool
    part: int = 0
    code: int | None = None


class Consequence(Enum):
    """What a server that works must do about a fault, in words."""

    CRASH = "a crash cycle: SIGQUIT to all others, new shared memory, replay of the WAL"
    ESCALATION = "a crash cycle in which SIGKILL follows SIGQUIT after 5 s"
    ANOTHER_RECOVERY = "a recovery from the beginning, by a new postmaster if the startup process was hit"
    NEW_START = "the end of the postmaster and of all its children; the next start replays the WAL"
    SHUTDOWN = "an orderly end with nothing lost; the next start has nothing to replay"
    REPLACEMENT = "another child of the same role, and nothing else"


LOSES_NOTHING = frozenset({Consequence.SHUTDOWN, Consequence.REPLACEMENT})
"""What takes nothing that was acknowledged, flushed or not: no crash."""


class Whom(Enum):
    """Who a step is for. A bystander is a child that is none of the victims."""

    VICTIMS = "the plan's victims"
    BYSTANDER = "another child"
    POSTMASTER = "the postmaster"


@dataclass(frozen=True, slots=True)
class Send:
    """Send a signal."""

    whom: Whom
    number: Signals


@dataclass(frozen=True, slots=True)
class Pause:
    """Let the plan's pause pass, the load going on."""


@dataclass(frozen=True, slots=True)
class BeginCheckpoint:
    """Ask for a checkpoint, and wait until it has passed the plan's point of it."""


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """Give the victims no memory any more: the kernel's OOM killer ends them with SIGKILL."""


@dataclass(frozen=True, slots=True)
class SilentClient:
    """When the postmaster has noticed the end of the victims, connect, and say nothing until the cycle is over."""


Step = Send | Pause | BeginCheckpoint | OutOfMemory | SilentClient


class Aim(Enum):
    """How a plan chooses the victims."""

    ANY = "any live child"
    ROLE = "a child of one of the plan's roles"
    SEVERAL = "two to four children"
    BACKEND = "a backend"
    EVERY_BACKEND = "every backend"
    CHECKPOINTER = "the checkpointer"
    AUXILIARY = "the background writer or the WAL writer"
    NOBODY = "no child"


class Places(Enum):
    """The points that a plan chooses from for a fault that strikes nowhere else."""

    WORKERS = "points that every writing backend passes"
    RECOVERY = "points of a recovery, which a SIGKILL of a backend begins"


@dataclass(frozen=True, slots=True)
class AtPoint:
    """What a process does to itself at a point: so often, each time in another process.

    `only` names the points of a fault that is nothing but this.
    """

    action: PointAction
    argument: int = 0
    times: int = 1
    only: Places | None = None


class Need(Enum):
    """What a fault cannot do without."""

    POINTS = "points"
    MEMORY_CGROUP = "memory cgroup"


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break a server. `name` is as `--fault` names it; `does` says what it does, in words.

    `steps` are carried out in time and empty for a fault that strikes at points only; `at` is None for one that cannot
    strike at a point. `weight` is how often a plan draws it, beside the weights of its other faults.
    """

    name: str
    does: str
    causes: Consequence
    aim: Aim
    steps: tuple[Step, ...] = ()
    at: AtPoint | None = None
    weight: int = 8
    needs: tuple[Need, ...] = ()

    def sends(self, *numbers: Signals, to: Whom) -> bool:
        """Whether one of its steps sends such a signal (any, if none is given) to such a process."""
        return any(
            isinstance(step, Send) and step.whom is to and (not numbers or step.number in numbers)
            for step in self.steps
        )
