"""What one process holds of a region: its PGPROC, its latch and its way to the locks.

Made by `attach` (PostgreSQL's `InitProcess` and `InitAuxiliaryProcess`), given back by `detach`. A
process that dies in between leaves everything as it was: its entry taken, its locks held.
"""

from __future__ import annotations

import os

from supervisor.config import Settings
from supervisor.host import Host
from supervisor.points import Point
from supervisor.roles import Role
from supervisor.shmem.latch import Latch, Latches
from supervisor.shmem.lwlock import LWLock, LWLocks
from supervisor.shmem.procarray import ProcArray
from supervisor.shmem.region import Region


class Attachment:
    """One process's hold on a region."""

    def __init__(self, region: Region, host: Host, settings: Settings, role: Role, slot: int, pid: int) -> None:
        self.region = region
        self.host = host
        self.settings = settings
        self.role = role
        self.slot = slot
        self.pid = pid
        self.procs = ProcArray(region, settings)
        self.latches = Latches(region, host, self.procs)
        self.procno = self._claim()
        self.latch: Latch = self.latches.of(region, self.procno)
        self.locks = LWLocks(region, host, self.procs, self.latches, self.procno, pid)

    def detach(self) -> None:
        """Give back every lock and the PGPROC entry: the last act of an orderly exit."""
        self.locks.release_all()
        self.procs.release(self.procno)
        self.locks.close()

    def _claim(self) -> int:
        # There is no PGPROC to wait with yet, so the free list's lock is polled for.
        free_list = LWLocks(self.region, self.host, self.procs, self.latches, 0, self.pid)
        while not free_list.try_acquire(LWLock.PROC_FREE_LIST):
            self.host.wait(None, 1)
        try:
            return self.procs.claim(self.role, self.pid, self.slot)
        finally:
            free_list.release(LWLock.PROC_FREE_LIST)
            free_list.close()


def attach(region: Region, host: Host, settings: Settings, role: Role, slot: int) -> Attachment:
    """Take a PGPROC entry for this process; raises SessionFatal 53300 when none is free."""
    attachment = Attachment(region, host, settings, role, slot, os.getpid())
    host.point(Point.PROCESS_ATTACHED)
    return attachment
