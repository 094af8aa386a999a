"""Which buffer holds which page: a hash table in the region (PostgreSQL's `buf_table.c`).

Owns two dense arrays of words, tags and buffers, with open addressing at no more than half load. Every
call needs the BUFFER_MAPPING lock. It never knows whether the page in the buffer is valid: the buffer's
own tag word says that.
"""

from __future__ import annotations

from supervisor.config import Settings
from supervisor.shmem.region import Area, Region

_SPREAD = 0x9E37_79B1  # relations begin far apart; the blocks of one lie side by side


def _slots(settings: Settings) -> int:
    return 1 << (2 * settings.n_buffers - 1).bit_length()


def shmem_areas(settings: Settings) -> list[Area]:
    """Two words for each of at least twice as many slots as there are buffers."""
    return [Area(f"buffer_mapping_{field}", 8 * _slots(settings)) for field in ("tag", "buffer")]


class BufferMapping:
    """The hash table from tag to buffer."""

    def __init__(self, region: Region, settings: Settings) -> None:
        self._q = region.q
        self._tag = region.word("buffer_mapping_tag")
        self._buffer = region.word("buffer_mapping_buffer")
        self._mask = _slots(settings) - 1

    def get(self, tag: int) -> int:
        """The buffer of a page, or -1."""
        slot = self._find(tag)
        return self._q[self._buffer + slot] if self._q[self._tag + slot] else -1

    def put(self, tag: int, buffer: int) -> None:
        """Enter a page that is not there yet."""
        slot = self._find(tag)
        self._q[self._buffer + slot] = buffer
        self._q[self._tag + slot] = tag

    def delete(self, tag: int) -> None:
        """Take a page out. What follows in its run moves up, so that no slot is ever a tombstone."""
        q, tags, mask = self._q, self._tag, self._mask
        hole = self._find(tag)
        slot = hole
        while True:
            slot = (slot + 1) & mask
            moving = q[tags + slot]
            if not moving:
                break
            # It may fill the hole only if its own place is not behind it, counted around the table.
            if (slot - self._home(moving)) & mask >= (slot - hole) & mask:
                q[tags + hole] = moving
                q[self._buffer + hole] = q[self._buffer + slot]
                hole = slot
        q[tags + hole] = 0

    def _find(self, tag: int) -> int:
        q, tags, mask = self._q, self._tag, self._mask
        slot = self._home(tag)
        while True:
            found = q[tags + slot]
            if found in (tag, 0):
                return slot
            slot = (slot + 1) & mask

    def _home(self, tag: int) -> int:
        return ((tag >> 32) * _SPREAD + tag) & self._mask
