"""Faults that are signals: SIGKILL to one child, to a chosen kind, to several at once; SIGQUIT by hand."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from chaos.faults.fault import Blow
from chaos.plan import Victims, pick
from chaos.targets.process import ServerProcess

_CRASH = "a crash cycle: SIGQUIT to all others, new shared memory, replay of the WAL"


def _strike(number: signal.Signals, victims: Victims, live: Sequence[ServerProcess]) -> list[Blow]:
    by_pid = {process.pid: process for process in live}
    blows = []
    for pid in pick(victims, [(process.pid, process.role) for process in live]):
        process = by_pid[pid]
        t = time.monotonic_ns()
        blows.append(Blow(t, pid, process.role, int(number), process.signal(number)))
    return blows


class SigkillRandom:
    """SIGKILL of any live child."""

    name = "sigkill-random"
    causes = _CRASH

    def inject(self, victims: Victims, live: Sequence[ServerProcess]) -> list[Blow]:
        """See `Fault.inject`."""
        return _strike(signal.SIGKILL, victims, live)


class SigkillRole(SigkillRandom):
    """SIGKILL of a child of a chosen role."""

    name = "sigkill-role"


class SigkillSeveral(SigkillRandom):
    """SIGKILL of several children, as close together as one process can send it."""

    name = "sigkill-several"


class Sigquit:
    """SIGQUIT by hand: the child exits with status 2, which is a crash as well."""

    name = "sigquit"
    causes = _CRASH

    def inject(self, victims: Victims, live: Sequence[ServerProcess]) -> list[Blow]:
        """See `Fault.inject`."""
        return _strike(signal.SIGQUIT, victims, live)


class SigtermRole:
    """SIGTERM of a child of a chosen role. No fault of a plan, for it breaks nothing: it makes room for another."""

    name = "sigterm-role"
    causes = "an orderly exit, and another child of the role in its place"

    def inject(self, victims: Victims, live: Sequence[ServerProcess]) -> list[Blow]:
        """See `Fault.inject`."""
        return _strike(signal.SIGTERM, victims, live)


SIGTERM_ROLE = SigtermRole()
