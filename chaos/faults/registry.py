"""The faults there are: one table, which plans draw from, `crashbed faults` lists and oracles look names up in.

Owns the table and nothing else. The signals that a postmaster takes for a request to shut down are PostgreSQL's
(postmaster.c, process_pm_shutdown_request): SIGTERM smart, SIGINT fast, SIGQUIT immediate.
"""

from __future__ import annotations

from collections.abc import Mapping
from signal import SIGABRT, SIGINT, SIGKILL, SIGQUIT, SIGSEGV, SIGSTOP, SIGTERM, Signals
from types import MappingProxyType
from typing import Final

from chaos.faults.fault import (
    Aim,
    AtPoint,
    BeginCheckpoint,
    Consequence,
    Fault,
    Need,
    OutOfMemory,
    Pause,
    Places,
    Send,
    SilentClient,
    Step,
    Whom,
)
from supervisor.points import PointAction

RARELY: Final = 1
"""The weight of a fault whose cycles take 5 s."""
SOMETIMES: Final = 3
"""The weight of a fault after which a server is started anew."""

_SIGKILL_THERE: Final = AtPoint(PointAction.SIGKILL)


def _hit(number: Signals) -> tuple[Step, ...]:
    return (Send(Whom.VICTIMS, number),)


def _tell_postmaster(number: Signals) -> tuple[Step, ...]:
    return (Send(Whom.POSTMASTER, number),)


def _hit_while_draining(number: Signals) -> tuple[Step, ...]:
    return (*_tell_postmaster(number), Pause(), *_hit(SIGKILL))


_TABLE: Final = (
    Fault("sigkill-random", "SIGKILL of any child", Consequence.CRASH, Aim.ANY, _hit(SIGKILL), _SIGKILL_THERE),
    Fault("sigkill-role", "SIGKILL of a child of a chosen role", Consequence.CRASH, Aim.ROLE, _hit(SIGKILL),
          _SIGKILL_THERE),
    Fault("sigkill-several", "SIGKILL of two to four children at once", Consequence.CRASH, Aim.SEVERAL, _hit(SIGKILL),
          _SIGKILL_THERE),
    Fault("sigkill-backends", "SIGKILL of all backends at once", Consequence.CRASH, Aim.EVERY_BACKEND, _hit(SIGKILL)),
    Fault("sigquit", "SIGQUIT to any child, sent by hand", Consequence.CRASH, Aim.ANY, _hit(SIGQUIT)),
    Fault("sigsegv", "SIGSEGV to any child, sent by hand", Consequence.CRASH, Aim.ANY, _hit(SIGSEGV)),
    Fault("sigabrt", "SIGABRT to any child, sent by hand", Consequence.CRASH, Aim.ANY, _hit(SIGABRT)),
    Fault("sigterm-auxiliary", "SIGTERM to the background writer or the WAL writer", Consequence.REPLACEMENT,
          Aim.AUXILIARY, _hit(SIGTERM), weight=SOMETIMES),
    Fault("exit-0", "a backend exits with 0 at a point and cleans nothing up", Consequence.CRASH, Aim.BACKEND,
          at=AtPoint(PointAction.EXIT, 0, only=Places.WORKERS), needs=(Need.POINTS,)),
    Fault("exit-1", "a backend exits with 1 at a point and cleans nothing up", Consequence.CRASH, Aim.BACKEND,
          at=AtPoint(PointAction.EXIT, 1, only=Places.WORKERS), needs=(Need.POINTS,)),
    Fault("sigstop-victim", "SIGSTOP of any child, and some milliseconds later SIGKILL", Consequence.CRASH, Aim.ANY,
          (*_hit(SIGSTOP), Pause(), *_hit(SIGKILL))),
    Fault("sigstop-survivor", "SIGSTOP of one child and SIGKILL of another: the stopped one cannot quit",
          Consequence.ESCALATION, Aim.ANY, (Send(Whom.BYSTANDER, SIGSTOP), *_hit(SIGKILL)), weight=RARELY),
    Fault("silent-client", "sigstop-survivor, and a client that connects meanwhile and says nothing",
          Consequence.ESCALATION, Aim.ANY, (Send(Whom.BYSTANDER, SIGSTOP), *_hit(SIGKILL), SilentClient()),
          weight=RARELY),
    Fault("oom-kill", "a backend gets no memory any more, and the kernel's OOM killer ends it", Consequence.CRASH,
          Aim.BACKEND, (OutOfMemory(),), needs=(Need.MEMORY_CGROUP,)),
    Fault("sigkill-checkpoint", "SIGKILL of the checkpointer during a checkpoint", Consequence.CRASH, Aim.CHECKPOINTER,
          (BeginCheckpoint(), *_hit(SIGKILL)), needs=(Need.POINTS,)),
    Fault("sigkill-recovery", "SIGKILL of a backend, and of a process of the recovery after it",
          Consequence.ANOTHER_RECOVERY, Aim.BACKEND,
          at=AtPoint(PointAction.SIGKILL, only=Places.RECOVERY), needs=(Need.POINTS,)),
    Fault("sigkill-recovery-twice", "SIGKILL of a backend, and in each of the two recoveries after it",
          Consequence.ANOTHER_RECOVERY, Aim.BACKEND,
          at=AtPoint(PointAction.SIGKILL, times=2, only=Places.RECOVERY), needs=(Need.POINTS,)),
    Fault("sigkill-postmaster", "SIGKILL of the postmaster: its children must notice and go", Consequence.NEW_START,
          Aim.NOBODY, _tell_postmaster(SIGKILL), weight=SOMETIMES),
    Fault("sigkill-postmaster-orphan", "SIGKILL of the postmaster while a child is stopped: no start beside it",
          Consequence.NEW_START, Aim.NOBODY, (Send(Whom.BYSTANDER, SIGSTOP), *_tell_postmaster(SIGKILL)),
          weight=SOMETIMES),
    Fault("shutdown-smart", "a smart shutdown (SIGTERM): clients finish first", Consequence.SHUTDOWN, Aim.NOBODY,
          _tell_postmaster(SIGTERM), weight=SOMETIMES),
    Fault("shutdown-fast", "a fast shutdown (SIGINT): clients are sent away", Consequence.SHUTDOWN, Aim.NOBODY,
          _tell_postmaster(SIGINT), weight=SOMETIMES),
    Fault("shutdown-immediate", "an immediate shutdown (SIGQUIT): everybody quits at once", Consequence.NEW_START,
          Aim.NOBODY, _tell_postmaster(SIGQUIT), weight=SOMETIMES),
    Fault("shutdown-smart-kill", "SIGKILL of a child while a smart shutdown waits for the clients",
          Consequence.NEW_START, Aim.ANY, _hit_while_draining(SIGTERM), weight=SOMETIMES),
    Fault("shutdown-fast-kill", "SIGKILL of the checkpointer while a fast shutdown drains", Consequence.NEW_START,
          Aim.CHECKPOINTER, _hit_while_draining(SIGINT), weight=SOMETIMES),
    Fault("shutdown-immediate-kill", "SIGKILL of any child as an immediate shutdown begins", Consequence.NEW_START,
          Aim.ANY, _hit_while_draining(SIGQUIT), weight=SOMETIMES),
)  # fmt: skip

FAULTS: Final[Mapping[str, Fault]] = MappingProxyType({fault.name: fault for fault in _TABLE})

DEFAULT: Final = ("sigkill-random", "sigkill-role", "sigkill-several", "sigquit")
"""What a run does that names no fault: one postmaster lives through a whole epoch of them."""
