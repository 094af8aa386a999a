"""Deadlocks: finding the cycle that a process waits in, and saying so (PostgreSQL's `deadlock.c`).

Pure functions over what the PGPROC array says. A process waits for one transaction at a time and a transaction is one
process's, so the graph of waits has at most one edge out of each process, and looking for a cycle is a walk.

An edge appears only when a process begins to wait, so the process whose wait closes a cycle finds it, if it looks at
any time after: one look a wait is enough. A walk that runs into a cycle which does not come back to where it began
finds nothing: that one's own members will see to it, and nobody outside a cycle is ever its victim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from supervisor import errors
from supervisor.errors import ServerError


@dataclass(frozen=True, slots=True)
class Wait:
    """An edge of the graph: a process, and the transaction that it waits for."""

    procno: int
    pid: int
    xid: int


def find_cycle(me: int, xids: Sequence[int], waits: Sequence[int]) -> tuple[int, ...]:
    """The processes of the cycle that process `me` waits in, `me` first and each waiting for the next; () if none.

    `xids` and `waits` say of each process which transaction it runs and for which one it waits, 0 for none. They must
    be of one moment, or a cycle may be seen that never was.
    """
    running = {xid: procno for procno, xid in enumerate(xids) if xid}
    path = [me]
    while (holder := running.get(waits[path[-1]])) is not None:
        if holder == me:
            return tuple(path)
        if holder in path:
            break
        path.append(holder)
    return ()


def deadlock_error(cycle: Sequence[Wait], statement_of: Callable[[int], str]) -> ServerError:
    """ServerError 40P01 for the first process of a cycle (`DeadLockReport`). The statements, which `statement_of`
    knows by process number, are for the server log alone: they are other clients'."""
    blockers = [*cycle[1:], cycle[0]]
    waits = [
        f"Process {wait.pid} waits for ShareLock on transaction {wait.xid}; blocked by process {blocker.pid}."
        for wait, blocker in zip(cycle, blockers, strict=True)
    ]
    statements = [f"Process {wait.pid}: {statement_of(wait.procno)}" for wait in cycle]
    return ServerError(
        "deadlock detected",
        sqlstate=errors.DEADLOCK_DETECTED,
        detail="\n".join(waits),
        detail_log="\n".join(waits + statements),
        hint="See server log for query details.",
    )
