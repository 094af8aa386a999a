"""Which generations of the server's memory a living process maps, as /proc shows it.

A generation of the built-in server is a memfd named `crashbed:<run>:gen<N>`; its inode tells it from any other memory of the same
name. One of PostgreSQL's is anonymous shared memory (`CreateAnonymousSegment`, sysv_shmem.c), which has an inode as
well. Read by the harness from outside: the server is not asked.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_MAPPING = re.compile(
    rb"^[0-9a-f]+-[0-9a-f]+ \S+ [0-9a-f]+ \S+ (\d+) +/memfd:(crashbed:.*?)(?: \(deleted\))?$", re.MULTILINE
)
_ANONYMOUS = re.compile(
    rb"^[0-9a-f]+-[0-9a-f]+ \S{3}s [0-9a-f]+ \S+ (\d+) +/(?:dev/zero|anon_hugepage) \(deleted\)$", re.MULTILINE
)


class MappedMemory(NamedTuple):
    """One memory that a process maps: the inode, and the memfd's name."""

    inode: int
    name: str

    @property
    def generation(self) -> int | None:
        """The number after `:gen` in the name; None if it has none."""
        _, _, number = self.name.rpartition(":gen")
        return int(number) if number.isdigit() else None


def mapped_memories(pid: int) -> frozenset[MappedMemory] | None:
    """The server memories that a process maps; None when it has ended. Raises PermissionError.

    A zombie maps nothing: its set is empty.
    """
    try:
        maps = Path(f"/proc/{pid}/maps").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return parse_maps(maps)


def parse_maps(maps: bytes) -> frozenset[MappedMemory]:
    """The server memories in the text of a /proc/PID/maps."""
    return frozenset(
        MappedMemory(int(inode), name.decode("utf-8", "replace")) for inode, name in _MAPPING.findall(maps)
    )


def anonymous_memories(pid: int) -> frozenset[int] | None:
    """The inodes of the anonymous shared memories that a process maps; None when it has ended.

    Raises PermissionError.
    """
    try:
        maps = Path(f"/proc/{pid}/maps").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return frozenset(int(inode) for inode in _ANONYMOUS.findall(maps))
