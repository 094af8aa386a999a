"""PGPROC: one entry per process that uses the engine (PostgreSQL's `proc.c` and `procarray.c`).

The fields lie as dense arrays of words, one array a field, so that a snapshot reads all xids with one
slice and a lock release sees with one comparison that nobody waits. Attributes such as `xid` are the
word index of entry 0: `region.q[procs.xid + procno]`.

Client backends take any free entry of theirs, background workers any of theirs; each auxiliary process has
its own, so that a connection flood never keeps one from starting. This module owns who holds an entry. It never decides visibility.
"""

from __future__ import annotations

from supervisor import errors
from supervisor.config import Settings
from supervisor.roles import Role
from supervisor.shmem.region import Area, Region

AUXILIARY_ROLES = (Role.STARTUP, Role.CHECKPOINTER, Role.BGWRITER, Role.WALWRITER)
FIELDS = (
    "pid",
    "role",
    "slot",
    "latch",
    "xid",  # the running transaction, 0 when none
    "xmin",  # the oldest xid that this process's snapshot may still see as running, 0 when none
    "wait_xid",  # the transaction whose end this process waits for, 0 when none
    "wait_lock",  # number of the lightweight lock that it waits for plus one, 0 when none
    "wait_since",  # when that wait began, ns
    "flush_lsn",  # the LSN that it waits to see flushed, 0 when none
    "flush_state",  # what the flush leader has told it
)


def process_count(settings: Settings) -> int:
    """How many PGPROC entries there are."""
    return settings.max_connections + len(AUXILIARY_ROLES) + settings.max_worker_processes


def shmem_areas(settings: Settings) -> list[Area]:
    """One word per process and field."""
    size = 8 * process_count(settings)
    return [Area(f"proc_{field}", size) for field in FIELDS]


class ProcArray:
    """The PGPROC entries of a region."""

    def __init__(self, region: Region, settings: Settings) -> None:
        self._q = region.q
        self.count = process_count(settings)
        self._backends = settings.max_connections
        self._first_worker = settings.max_connections + len(AUXILIARY_ROLES)
        self.pid = region.word("proc_pid")
        self.role = region.word("proc_role")
        self.slot = region.word("proc_slot")
        self.latch = region.word("proc_latch")
        self.xid = region.word("proc_xid")
        self.xmin = region.word("proc_xmin")
        self.wait_xid = region.word("proc_wait_xid")
        self.wait_lock = region.word("proc_wait_lock")
        self.wait_since = region.word("proc_wait_since")
        self.flush_lsn = region.word("proc_flush_lsn")
        self.flush_state = region.word("proc_flush_state")

    def auxiliary(self, role: Role) -> int:
        """The entry of an auxiliary process."""
        return self._backends + AUXILIARY_ROLES.index(role)

    def claim(self, role: Role, pid: int, slot: int) -> int:
        """Take an entry; the caller holds the free list's lock.

        Raises SessionFatal 53300 when all entries of its kind are taken (`InitProcess`).
        """
        q = self._q
        if role in AUXILIARY_ROLES:
            procno = self.auxiliary(role)
        else:
            worker = role is Role.BGWORKER
            for procno in range(self._first_worker, self.count) if worker else range(self._backends):
                if q[self.pid + procno] == 0:
                    break
            else:
                raise errors.SessionFatal("sorry, too many clients already", sqlstate=errors.TOO_MANY_CONNECTIONS)
        for base in (
            self.latch,
            self.xid,
            self.xmin,
            self.wait_xid,
            self.wait_lock,
            self.flush_lsn,
            self.flush_state,
        ):
            q[base + procno] = 0
        q[self.role + procno] = int(role)
        q[self.slot + procno] = slot
        q[self.pid + procno] = pid
        return procno

    def release(self, procno: int) -> None:
        """Give an entry back; its transaction must be over."""
        q = self._q
        q[self.xid + procno] = 0
        q[self.xmin + procno] = 0
        q[self.pid + procno] = 0

    def find(self, role: Role) -> int | None:
        """The entry of a live process of a role, or None: whom to wake for a checkpoint, say."""
        procno = self.auxiliary(role)
        return procno if self._q[self.pid + procno] else None
