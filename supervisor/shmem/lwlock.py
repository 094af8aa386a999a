"""Lightweight locks (PostgreSQL's `lwlock.c`): exclusive, short, never held over I/O.

A lock is a `sem_t` in the region, used only with try-acquire and post. A waiter writes the lock's
number into its own PGPROC word, tries again, and sleeps in `Host.wait`; a release posts, then reads
the wait words and wakes the process that has waited longest. Either the waiter's second try succeeds
or the releaser sees its word, so no wake-up is lost: between store and load each side has an atomic
operation that the processor lets nothing overtake. The releaser's is its post. A try that fails is
none (`sem_trywait` only looks), so the waiter first takes and gives a semaphore of its own.

The owner word is for diagnosis: it is stored after the acquire and cleared before the release, so a
reader may see 0 while the lock is held. Nothing heals when a holder dies, on purpose.

`SemLock._rebuild` over an address is a private door of multiprocessing and the bytes of a `sem_t` are
libc's own: `check_platform` compares both with the C library at start and refuses what differs.
"""

from __future__ import annotations

import ctypes
from _multiprocessing import SemLock
from collections.abc import Callable
from enum import IntEnum, auto, unique

from supervisor.config import Settings
from supervisor.errors import StartupError
from supervisor.host import Host
from supervisor.points import Point
from supervisor.shmem.latch import Latch, Latches
from supervisor.shmem.procarray import ProcArray
from supervisor.shmem.region import Area, Region


@unique
class LWLock(IntEnum):
    """The named locks; the content lock of buffer i is `FIRST_BUFFER_LOCK + i`."""

    PROC_FREE_LIST = 0
    PROC_ARRAY = auto()
    XID_GEN = auto()
    WAL_INSERT = auto()
    WAL_FLUSH = auto()
    CONTROL_FILE = auto()
    CHECKPOINT = auto()
    CHECKPOINTER_COMM = auto()
    BUFFER_MAPPING = auto()
    BUFFER_STRATEGY = auto()
    CLOG = auto()
    CATALOG = auto()
    RELATION_EXTENSION = auto()
    ROW_LOCKS = auto()
    BACKGROUND_WORKER = auto()


FIRST_BUFFER_LOCK = len(LWLock)

_LOCK_BYTES = 64
_OWNER_WORD = 4  # within a lock's eight words
_SEM_FREE = bytes([1, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0]) + bytes(20)  # value 1, no waiters, shared
_KIND_SEMAPHORE = 1


def check_platform() -> None:
    """Raise StartupError unless this libc's `sem_t` is the one that the region writes by hand."""
    libc = ctypes.CDLL(None, use_errno=True)
    made = ctypes.create_string_buffer(32)
    if libc.sem_init(made, 1, 1) != 0:
        raise StartupError("sem_init failed: process-shared semaphores are not available here")
    written = ctypes.create_string_buffer(_SEM_FREE, 32)
    semaphore = SemLock._rebuild(ctypes.addressof(written), _KIND_SEMAPHORE, 1, None)
    taken = semaphore.acquire(False)
    refused = not semaphore.acquire(False)
    semaphore.release()
    if made.raw != _SEM_FREE or not (taken and refused) or written.raw != _SEM_FREE:
        raise StartupError(
            "this C library lays out semaphores in a way that crashbed does not know",
            hint="Run on Linux with glibc on a 64-bit little-endian machine.",
        )


def lock_count(settings: Settings) -> int:
    """How many locks a region holds."""
    return FIRST_BUFFER_LOCK + settings.n_buffers


def shmem_areas(settings: Settings) -> list[Area]:
    """One cache line per lock."""
    return [Area("lwlocks", _LOCK_BYTES * lock_count(settings))]


def shmem_init(region: Region, settings: Settings) -> None:
    """Make every lock free."""
    at = region.offset("lwlocks")
    size = _LOCK_BYTES * lock_count(settings)
    region.mm[at : at + size] = (_SEM_FREE + bytes(_LOCK_BYTES - len(_SEM_FREE))) * lock_count(settings)


class LWLocks:
    """The locks of a region, as one process uses them."""

    def __init__(self, region: Region, host: Host, procs: ProcArray, latches: Latches, procno: int, pid: int) -> None:
        self.held: list[int] = []
        self._q = region.q
        self._mm = region.mm
        self._host = host
        self._point = host.point
        self._procs = procs
        self._latches = latches
        self._latch: Latch = latches.of(region, procno)
        self._procno = procno
        self._pid = pid
        self._first_word = region.word("lwlocks")
        self._address = region.address + region.offset("lwlocks")
        self._try: dict[int, Callable[[bool], bool]] = {}
        self._post: dict[int, Callable[[], None]] = {}
        self._waiters = slice(8 * procs.wait_lock, 8 * (procs.wait_lock + procs.count))
        self._no_waiters = bytes(8 * procs.count)
        self._fence_bytes = ctypes.create_string_buffer(_SEM_FREE, len(_SEM_FREE))
        self._fence = SemLock._rebuild(ctypes.addressof(self._fence_bytes), _KIND_SEMAPHORE, 1, None)

    def acquire(self, lock: int) -> None:
        """Take a lock, waiting for it if need be. Not recursive; interrupts are not looked at."""
        attempt = self._try.get(lock) or self._open(lock)
        if not attempt(False):
            self._wait(lock, attempt)
        self._q[self._first_word + lock * 8 + _OWNER_WORD] = self._pid
        self.held.append(lock)
        self._point(Point.LWLOCK_ACQUIRED)

    def try_acquire(self, lock: int) -> bool:
        """Take a lock if it is free."""
        attempt = self._try.get(lock) or self._open(lock)
        if not attempt(False):
            return False
        self._q[self._first_word + lock * 8 + _OWNER_WORD] = self._pid
        self.held.append(lock)
        return True

    def release(self, lock: int) -> None:
        """Give a lock back and wake whoever has waited for it longest."""
        self.held.remove(lock)
        self._q[self._first_word + lock * 8 + _OWNER_WORD] = 0
        self._post[lock]()
        if self._mm[self._waiters] != self._no_waiters:
            self._wake(lock)

    def release_all(self) -> None:
        """Give everything back: what an ERROR does with the locks that it interrupted."""
        while self.held:
            self.release(self.held[-1])

    def owner(self, lock: int) -> int:
        """The pid that holds a lock, or 0; for diagnosis only."""
        return self._q[self._first_word + lock * 8 + _OWNER_WORD]

    def close(self) -> None:
        """Drop every handle: they hold raw addresses of the region, which is about to go."""
        self._try.clear()
        self._post.clear()

    def _open(self, lock: int) -> Callable[[bool], bool]:
        semaphore = SemLock._rebuild(self._address + lock * _LOCK_BYTES, _KIND_SEMAPHORE, 1, None)
        self._post[lock] = semaphore.release
        self._try[lock] = semaphore.acquire
        return self._try[lock]

    def _wait(self, lock: int, attempt: Callable[[bool], bool]) -> None:
        q, procs, me = self._q, self._procs, self._procno
        q[procs.wait_since + me] = self._host.now_ns()
        q[procs.wait_lock + me] = lock + 1
        self._fence.acquire(False)
        self._fence.release()
        while True:
            self._latch.clear()
            if attempt(False):
                break
            self._host.wait(self._latch, None)
        q[procs.wait_lock + me] = 0
        # The latch may have been set for something else that this process waits for outside.
        self._latch.set_own()

    def _wake(self, lock: int) -> None:
        q, procs = self._q, self._procs
        longest, since = -1, 0
        for procno in range(procs.count):
            if q[procs.wait_lock + procno] == lock + 1:
                began = q[procs.wait_since + procno]
                if longest < 0 or began < since:
                    longest, since = procno, began
        if longest >= 0:
            self._latches.set(longest)
