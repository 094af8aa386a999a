"""Buffer descriptors and the clock (PostgreSQL's `buf_internals.h` and `freelist.c`).

Owns a dense array of words per field, indexed by buffer, and the clock hand. All fields but `usage` are
stored under the buffer's content lock only.

    tag      relation << 32 | block of the page that is valid in the buffer, 0 while none is
    io       pid of the one process that reads or writes the buffer, 0 when nobody does
    usage    how lately the page was used: counted up by use and down by the clock, at most MAX_USAGE
    pins     processes that want the page to stay while they do not hold its lock
    changes  how often the page was changed; it never goes back, whatever page is in the buffer
    written  the count of changes that the page's file has; dirty is that the two differ
"""

from __future__ import annotations

from supervisor.config import Settings
from supervisor.shmem.lwlock import FIRST_BUFFER_LOCK, LWLock, LWLocks
from supervisor.shmem.region import Area, Region

MAX_USAGE = 5
_STRATEGY = int(LWLock.BUFFER_STRATEGY)
_FIELDS = ("tag", "io", "usage", "pins", "changes", "written")
_HAND = 0  # words of the area "buffer_strategy"
_EVER_USED = 1


def shmem_areas(settings: Settings) -> list[Area]:
    """A word per buffer and field, and the clock."""
    return [
        *(Area(f"buffer_{field}", 8 * settings.n_buffers) for field in _FIELDS),
        Area("buffer_strategy", 64),
    ]


class Descriptors:
    """The descriptors of a region; the attributes are word indexes of buffer 0's fields."""

    def __init__(self, region: Region, settings: Settings) -> None:
        self._q = region.q
        self._n = settings.n_buffers
        self.tag, self.io, self.usage, self.pins, self.changes, self.written = (
            region.word(f"buffer_{field}") for field in _FIELDS
        )
        self._clock = region.word("buffer_strategy")

    def is_dirty(self, buffer: int) -> bool:
        """Whether the page changed since its file was written."""
        return self._q[self.changes + buffer] != self._q[self.written + buffer]

    def ever_used(self) -> int:
        """Buffers from this number on never held a page."""
        return self._q[self._clock + _EVER_USED]

    def hand(self) -> int:
        """The buffer that the clock looks at next."""
        return self._q[self._clock + _HAND]

    def sweep(self, locks: LWLocks) -> int:
        """A buffer that was not used lately, or -1 after a round that found all of them in use.

        Nothing is held on return: the caller locks the buffer and looks again. Buffers that never held a
        page come first, from number 0 up, so that a small working set touches little memory. Usage is
        counted down without the content lock: a lost count is a page that stays a round longer.
        """
        q, n = self._q, self._n
        locks.acquire(_STRATEGY)
        fresh = q[self._clock + _EVER_USED]
        if fresh < n:
            q[self._clock + _EVER_USED] = fresh + 1
            locks.release(_STRATEGY)
            return fresh
        chosen, in_use = -1, 0
        buffer = q[self._clock + _HAND]
        while chosen < 0 and in_use < n:
            if q[self.io + buffer] or q[self.pins + buffer] or locks.owner(FIRST_BUFFER_LOCK + buffer):
                in_use += 1
            elif q[self.usage + buffer]:
                q[self.usage + buffer] -= 1
                in_use = 0
            else:
                chosen = buffer
            buffer = buffer + 1 if buffer + 1 < n else 0
        q[self._clock + _HAND] = buffer
        locks.release(_STRATEGY)
        return chosen
