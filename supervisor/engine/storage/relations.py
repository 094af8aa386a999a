"""What all processes know of the relations: how long each is, and whose file must be synced.

Owns a table in the region: relation number, blocks, and whether its file was written since it was
last synced. The length in memory is the truth while the server runs: a relation grows here first, and
its file follows when the new pages are written. It is seeded from the file's size.

The sync marks are what makes a checkpoint mean something. Whoever writes a page marks the relation
after the write and before the buffer counts as clean; a checkpoint takes the mark away before it
syncs. So a page that a checkpoint finds clean was either synced already or its file is still marked.
(A mark made only before the write could be taken by a checkpoint whose fsync came before the write.)
The marks are lost with the region: after a crash every file counts as written, and must be synced before
the checkpoint that ends recovery counts (`recovery.leftovers`).
"""

from __future__ import annotations

from supervisor.config import Settings
from supervisor.engine.storage.files import RelationFiles
from supervisor.errors import INSUFFICIENT_RESOURCES, PROGRAM_LIMIT_EXCEEDED, ServerError
from supervisor.shmem.lwlock import LWLock, LWLocks
from supervisor.shmem.region import Area, Region

MAX_RELATIONS = 2048
MAX_BLOCKS = 0xFFFF_FFFF
_GONE = -1
_EXTENSION = int(LWLock.RELATION_EXTENSION)


def shmem_areas(settings: Settings) -> list[Area]:
    """One word per relation and field."""
    return [Area(f"relation_{field}", 8 * MAX_RELATIONS) for field in ("number", "blocks", "unsynced")]


class RelationTable:
    """The table of relations in a region, as one process uses it."""

    def __init__(self, region: Region, locks: LWLocks, files: RelationFiles) -> None:
        self._q = region.q
        self._locks = locks
        self._files = files
        self._number = region.word("relation_number")
        self._blocks = region.word("relation_blocks")
        self._unsynced = region.word("relation_unsynced")
        self._slots: dict[int, int] = {}

    def size(self, relation: int) -> int:
        """Blocks of a relation. Reads its file's size the first time: call it without locks."""
        return self._q[self._blocks + self._slot(relation)]

    def extend(self, relation: int) -> int:
        """Reserve the next block and return its number; it is a page of zeros until somebody fills it."""
        slot = self._slot(relation)
        self._locks.acquire(_EXTENSION)
        block = self._q[self._blocks + slot]
        if block < MAX_BLOCKS:
            self._q[self._blocks + slot] = block + 1
        self._locks.release(_EXTENSION)
        if block >= MAX_BLOCKS:
            raise ServerError(
                f'cannot extend relation "{relation}" beyond {MAX_BLOCKS} blocks', sqlstate=PROGRAM_LIMIT_EXCEEDED
            )
        return block

    def ensure(self, relation: int, blocks: int) -> None:
        """Redo: make the relation at least this long, and its file if it is missing."""
        if relation not in self._slots:
            self._files.create(relation, missing_only=True)
        slot = self._slot(relation)
        if self._q[self._blocks + slot] < blocks:
            self._q[self._blocks + slot] = blocks

    def forget(self, relation: int) -> None:
        """Take a dropped relation out of the table."""
        self._slots.pop(relation, None)
        self._locks.acquire(_EXTENSION)
        slot = self._find(relation)
        if slot >= 0:
            self._q[self._blocks + slot] = 0
            self._q[self._unsynced + slot] = 0
            self._q[self._number + slot] = _GONE
        self._locks.release(_EXTENSION)

    def mark_unsynced(self, relation: int) -> None:
        """Say that the file was written: after the write, before the buffer counts as clean."""
        self._q[self._unsynced + self._slot(relation)] = 1

    def take_unsynced(self) -> list[int]:
        """The relations whose files were written, marks taken away: the caller syncs each of them now.

        Under the lock, whose release is a fence: the marks are gone before any fsync begins.
        """
        q = self._q
        self._locks.acquire(_EXTENSION)
        taken = []
        for slot, mark in enumerate(q[self._unsynced : self._unsynced + MAX_RELATIONS].tolist()):
            if mark:
                q[self._unsynced + slot] = 0
                taken.append(q[self._number + slot])
        self._locks.release(_EXTENSION)
        return taken

    def exists(self, relation: int) -> bool:
        """Whether the relation is in the table: false for one that was dropped."""
        self._locks.acquire(_EXTENSION)
        found = self._find(relation) >= 0
        self._locks.release(_EXTENSION)
        return found

    def _slot(self, relation: int) -> int:
        slot = self._slots.get(relation, -1)
        if slot >= 0 and self._q[self._number + slot] == relation:
            return slot
        self._locks.acquire(_EXTENSION)
        slot = self._find(relation)
        self._locks.release(_EXTENSION)
        if slot < 0:
            # No lock is held over the look at the file. It may be stale by the time it is stored only
            # if somebody else stored an entry meanwhile, and then that one counts.
            blocks = self._files.size(relation)
            self._locks.acquire(_EXTENSION)
            slot = self._find(relation)
            if slot < 0:
                slot = self._add(relation, blocks)
            self._locks.release(_EXTENSION)
            if slot < 0:
                raise ServerError(f"more than {MAX_RELATIONS} relations in use", sqlstate=INSUFFICIENT_RESOURCES)
        self._slots[relation] = slot
        return slot

    def _find(self, relation: int) -> int:
        q, number = self._q, self._number
        for step in range(MAX_RELATIONS):
            slot = (relation + step) % MAX_RELATIONS
            found = q[number + slot]
            if found == relation:
                return slot
            if found == 0:
                return -1
        return -1

    def _add(self, relation: int, blocks: int) -> int:
        q, number = self._q, self._number
        for step in range(MAX_RELATIONS):
            slot = (relation + step) % MAX_RELATIONS
            if q[number + slot] in (0, _GONE):
                q[self._blocks + slot] = blocks
                q[self._unsynced + slot] = 0
                q[number + slot] = relation  # last: it is read without the lock
                return slot
        return -1
