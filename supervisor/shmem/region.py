"""One generation of shared memory.

A `Region` is one memfd, mapped once by the postmaster and inherited by every child through fork. It
owns every view of the mapping, so that closing it really unmaps: a forgotten memoryview would keep
the old generation alive, and `mmap.close` says so with BufferError. Its name, `crashbed:<run>:gen<N>`,
shows in /proc/PID/maps, which is how an outside witness tells generations apart.

It never knows what its areas mean: each subsystem asks for its own through `shmem_areas`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Area:
    """A named run of bytes that a subsystem asks for; zeroed at first."""

    name: str
    size_bytes: int
    alignment: int = 64


class Region:
    """The shared memory of one generation: `mm` for bytes, `q` for single aligned words.

    A word that is read without a lock is stored through `q` only: `Struct.pack_into` zeroes its
    destination first, and a reader could see that.
    """

    def __init__(self, mm: mmap.mmap, offsets: dict[str, int], *, name: str, generation: int, inode: int) -> None:
        self.mm = mm
        self.q = memoryview(mm).cast("q")
        self.name = name
        self.generation = generation
        self.inode = inode
        # The address is taken through a ctypes object that is dropped at once: it would be a view.
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(mm))
        self._offsets = offsets
        self._closed = False

    @classmethod
    def create(cls, areas: Sequence[Area], *, name: str = "crashbed:test", generation: int = 1) -> Region:
        """Make and map a new, zeroed region with room for every area; raises OSError."""
        offsets: dict[str, int] = {}
        end = 0
        for area in areas:
            if area.name in offsets:
                raise ValueError(f'two areas of shared memory are named "{area.name}"')
            end = -(-end // area.alignment) * area.alignment
            offsets[area.name] = end
            end += area.size_bytes
        size = -(-max(end, 1) // _PAGE_BYTES) * _PAGE_BYTES
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            inode = os.fstat(descriptor).st_ino
            mm = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        return cls(mm, offsets, name=name, generation=generation, inode=inode)

    def offset(self, area: str) -> int:
        """Where an area begins, in bytes."""
        return self._offsets[area]

    def word(self, area: str) -> int:
        """Where an area begins, as an index into `q`."""
        return self._offsets[area] // 8

    def has(self, area: str) -> bool:
        """Whether the region was made with this area."""
        return area in self._offsets

    def close(self) -> None:
        """Release every view and unmap; raises BufferError when somebody kept a view."""
        if not self._closed:
            self.q.release()
            self.mm.close()
            self._closed = True
