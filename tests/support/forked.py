"""A region with processes forked over it, for tests of shared memory: what they do, what they leave, and their end.

A process is signalled by pidfd only, and none outlives the test.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

from supervisor.config import Settings
from supervisor.host import ProcessHost, SoloHost
from supervisor.roles import Role
from supervisor.shmem import activity, cancel_keys, lwlock, pmsignal, procarray
from supervisor.shmem.attachment import Attachment, attach
from supervisor.shmem.region import Area, Region
from tests.support.waiting import wait_until

WORDS = 64


def make_region(settings: Settings, *, generation: int = 1) -> Region:
    """All of `supervisor.shmem` and an area "words" of 64 words for the test."""
    areas = [Area("words", 8 * WORDS)]
    for module in (procarray, lwlock, pmsignal, activity, cancel_keys):
        areas += module.shmem_areas(settings)
    region = Region.create(areas, name=f"crashbed:test:gen{generation}", generation=generation)
    lwlock.shmem_init(region, settings)
    return region


class Memory:
    """One region, this process attached to it on a virtual clock, and the processes forked over it."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings(max_connections=12, shared_buffers=16 * 8192)
        self.region = make_region(self.settings)
        self.words = self.region.word("words")
        self.own = attach(self.region, SoloHost(), self.settings, Role.BACKEND, 0)
        self._pidfds: dict[int, int] = {}

    def word(self, number: int) -> int:
        """A word of the test's own area."""
        return int(self.region.q[self.words + number])

    def fork(self, work: Callable[[Attachment], None]) -> int:
        """A process that attaches and works; it ends with status 0, or 1 and a traceback."""
        pid = os.fork()
        if pid:
            self._pidfds[pid] = os.pidfd_open(pid)
            return pid
        code = 1
        try:
            signal.signal(signal.SIGURG, lambda number, frame: None)
            attachment = attach(self.region, ProcessHost(), self.settings, Role.BACKEND, 1)
            work(attachment)
            attachment.detach()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Signal a process of this memory."""
        signal.pidfd_send_signal(self._pidfds[pid], number)

    def wait(self, pid: int, *, deadline_s: float = 30.0) -> int:
        """Reap a process; its exit status, negative for a signal."""

        def reaped() -> tuple[int, int] | None:
            found, status = os.waitpid(pid, os.WNOHANG)
            return (found, status) if found else None

        _, status = wait_until(f"the end of process {pid}", reaped, deadline_s=deadline_s)
        os.close(self._pidfds.pop(pid))
        return os.waitstatus_to_exitcode(status)

    def procno(self, pid: int) -> int:
        """The PGPROC of a process, waited for."""
        procs = self.own.procs

        def find() -> int | None:
            pids = self.region.q[procs.pid : procs.pid + procs.count].tolist()
            return pids.index(pid) + 1 if pid in pids else None

        return wait_until(f"process {pid} to be attached", find) - 1

    def wait_waiting(self, pid: int, lock: int) -> None:
        """Wait until a process waits for a lock."""
        procno = self.procno(pid)
        word = self.own.procs.wait_lock + procno
        wait_until(f"process {pid} to wait for lock {lock}", lambda: self.region.q[word] == lock + 1)

    def close(self) -> None:
        """End whatever still runs."""
        for pid in list(self._pidfds):
            self.signal(pid, signal.SIGKILL)
            self.wait(pid)
        self.own.locks.close()
