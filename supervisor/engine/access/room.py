"""Where there is room for a row: hints about pages, and free lines on one page.

Owns a few words of shared memory per relation: blocks that a clean-up left with much room. They are read and written
without a lock, because whoever takes a hint looks at the page under its lock anyway; a lost hint costs a page that is
used again only when somebody meets it. PostgreSQL's free space map, cut down to what small tables need.
"""

from __future__ import annotations

from mmap import mmap

from supervisor.config import Settings
from supervisor.engine.storage import page as pages
from supervisor.shmem.region import Area, Region

_RELATIONS = 256
_ENTRY_WORDS = 8
_UNUSED_LINE = bytes(pages.LINE_BYTES)


def shmem_areas(settings: Settings) -> list[Area]:
    """Per relation (by a hash): its number, then a few blocks, each plus one."""
    return [Area("heap_room", 8 * _ENTRY_WORDS * _RELATIONS)]


def shmem_init(region: Region, settings: Settings) -> None:
    """No hints: zeroed memory is right."""


class RoomHints:
    """The hints of a region."""

    def __init__(self, region: Region) -> None:
        self._q = region.q
        self._base = region.word("heap_room")

    def take(self, relation: int) -> int:
        """A block that may have room, whose hint is then gone; -1 if none is known."""
        q = self._q
        entry = self._base + (relation % _RELATIONS) * _ENTRY_WORDS
        if q[entry] == relation:
            for word in range(entry + 1, entry + _ENTRY_WORDS):
                block = q[word]
                if block:
                    q[word] = 0
                    return int(block - 1)
        return -1

    def leave(self, relation: int, block: int) -> None:
        """Say that a block has room; forgotten when there are enough such hints, or another relation needs them."""
        q = self._q
        entry = self._base + (relation % _RELATIONS) * _ENTRY_WORDS
        if q[entry] != relation:
            for word in range(entry + 1, entry + _ENTRY_WORDS):
                q[word] = 0
            q[entry] = relation
        for word in range(entry + 1, entry + _ENTRY_WORDS):
            if q[word] in (0, block + 1):
                q[word] = block + 1
                return


def free_line(mm: mmap, page: int) -> int:
    """The first unused line, or the one after the last: a search of the raw bytes, for an unused line is four zeros."""
    start = page + pages.HEADER_BYTES
    end = start + pages.LINE_BYTES * pages.line_count(mm, page)
    at = mm.find(_UNUSED_LINE, start, end)
    while at >= 0 and (at - start) % pages.LINE_BYTES:
        at = mm.find(_UNUSED_LINE, at + 1, end)
    return ((at if at >= 0 else end) - start) // pages.LINE_BYTES + 1
