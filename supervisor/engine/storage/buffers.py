"""The buffer pool: pages in shared memory, and the way between them and their files (PostgreSQL's `bufmgr.c`).

Owns the page bytes and the buffer descriptors in the region. It never changes a page's contents, never
decides what is logged, and never holds a lock over I/O.

How it stays correct:

- Holding a buffer's content lock is the pin: a page leaves its buffer only under that lock. A second
  page is needed at times, and reading it under the first one's lock would be I/O under a lock. So a
  process that holds any lock may not ask for a page (RuntimeError), and several pages are locked only
  by `lock_many`, which reads them in first, keeps them there by a pin count, and then locks them in
  ascending (relation, block) order: no deadlock either.
- A process remembers in a dict of its own where it saw a page; the buffer's tag word, read under the
  content lock, says whether it is still there. A stale memory costs a look into the shared mapping and
  is never wrong.
- While a buffer's io word is set the page stays in it and nobody else writes it, so two writes of a
  page cannot change places; a page that is being read is found by nobody, its tag word is not set yet.
- A writer copies page and change count under the lock, writes without it, and stores the count that it
  wrote: a change in between leaves the page dirty.
- WAL before data: the WAL is flushed up to the copy's LSN before the copy is written.
- After the write and before the page counts as clean, its relation is marked for the next sync.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from supervisor.config import Settings
from supervisor.engine.disk.disk import Disk
from supervisor.engine.storage import descriptors, mapping, relations
from supervisor.engine.storage.descriptors import MAX_USAGE, Descriptors
from supervisor.engine.storage.files import RelationFiles, relation_path
from supervisor.engine.storage.mapping import BufferMapping
from supervisor.engine.storage.page import PAGE_BYTES
from supervisor.engine.storage.relations import RelationTable
from supervisor.engine.storage.writeback import POLL_MS, WalFlush, WriteBack
from supervisor.errors import DATA_CORRUPTED, OUT_OF_MEMORY, ServerError
from supervisor.points import Point
from supervisor.shmem.attachment import Attachment
from supervisor.shmem.lwlock import FIRST_BUFFER_LOCK, LWLock
from supervisor.shmem.region import Area, Region

VICTIM_WAIT_MS = 10_000  # how long to look for a buffer before giving up
_ZEROS = bytes(PAGE_BYTES)
_BLOCK_MASK = 0xFFFF_FFFF
_MAPPING = int(LWLock.BUFFER_MAPPING)


def shmem_areas(settings: Settings) -> list[Area]:
    """The pages, a word per buffer and descriptor field, the mapping, the relation table."""
    return [
        *descriptors.shmem_areas(settings),
        *mapping.shmem_areas(settings),
        *relations.shmem_areas(settings),
        Area("buffer_pages", PAGE_BYTES * settings.n_buffers, alignment=PAGE_BYTES),
    ]


def shmem_init(region: Region, settings: Settings) -> None:
    """Nothing: zeros are an empty pool."""


class BufferPool:
    """The buffers of a region, as one process uses them; `mm` and `q` are the region's, `host` is its host."""

    def __init__(self, disk: Disk, attachment: Attachment, wal: WalFlush, settings: Settings) -> None:
        region = attachment.region
        self.mm = region.mm
        self.q = region.q
        self.n_buffers = settings.n_buffers
        self.host = attachment.host
        self._point = attachment.host.point
        self._locks = attachment.locks
        self._acquire = attachment.locks.acquire
        self._release = attachment.locks.release
        self._pid = attachment.pid
        self._files = RelationFiles(disk, fsync=settings.fsync)
        self._relations = RelationTable(region, attachment.locks, self._files)
        self._mapping = BufferMapping(region, settings)
        self._pages = region.offset("buffer_pages")
        self._descriptors = Descriptors(region, settings)
        # Copies of the word indexes: these are read for every lock.
        self._tag, self._io, self._usage = self._descriptors.tag, self._descriptors.io, self._descriptors.usage
        self._pins, self._changes = self._descriptors.pins, self._descriptors.changes
        self._written = self._descriptors.written
        self._write_back = WriteBack(disk, attachment, wal, self._descriptors, self._files, self._relations)
        self._seen: dict[int, int] = {}

    # Getting at a page.

    def lock(self, relation: int, block: int) -> int:
        """The buffer of a page, content-locked; the page is read in if need be.

        ServerError XX001 for a block that the relation does not have or a page that does not verify,
        58030 when it cannot be read, 53200 when every buffer stays in use.
        """
        if self._locks.held:
            self._require_no_lock()
        tag = relation << 32 | block
        buffer = self._seen.get(tag, -1)
        if buffer >= 0:  # `_lock_seen`, written out: nearly every access ends here
            self._acquire(FIRST_BUFFER_LOCK + buffer)
            q = self.q
            if q[self._tag + buffer] == tag:
                usage = q[self._usage + buffer]
                if usage < MAX_USAGE:
                    q[self._usage + buffer] = usage + 1
                return buffer
            self._release(FIRST_BUFFER_LOCK + buffer)
        buffer = self._lock_resident(tag)
        while buffer < 0:
            if block >= self._relations.size(relation):
                raise ServerError(
                    f'could not read block {block} in file "{relation_path(relation)}": '
                    f"it has {self._relations.size(relation)} blocks",
                    sqlstate=DATA_CORRUPTED,
                )
            buffer = self._load(tag)
            if buffer < 0:
                buffer = self._lock_resident(tag)
        return buffer

    def lock_many(self, pages: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """The buffers of several different pages, all content-locked, in the order asked for.

        They are locked in ascending order of (relation, block), whatever order is asked for, and no
        lock may be held before. Whatever the caller knew of the pages it must check again.
        """
        self._require_no_lock()
        tags = [relation << 32 | block for relation, block in pages]
        ordered = sorted(tags)
        locked: dict[int, int] = {}
        for tag in ordered:
            # Only the first may be waited for: where this process remembers a page there may be another one by
            # now, and to wait for that one would be out of order.
            buffer = self._lock_seen(tag, wait=not locked)
            if buffer < 0:
                break
            locked[tag] = buffer
        else:
            return tuple([locked[tag] for tag in tags])
        for buffer in locked.values():
            self.unlock(buffer)
        pinned: dict[int, int] = {}
        try:
            for tag in ordered:
                buffer = self.lock(tag >> 32, tag & _BLOCK_MASK)
                self.q[self._pins + buffer] += 1
                self._release(FIRST_BUFFER_LOCK + buffer)
                pinned[tag] = buffer
        except Exception:
            for buffer in pinned.values():
                self._acquire(FIRST_BUFFER_LOCK + buffer)
                self.q[self._pins + buffer] -= 1
                self._release(FIRST_BUFFER_LOCK + buffer)
            raise
        for tag in ordered:
            self._acquire(FIRST_BUFFER_LOCK + pinned[tag])
            self.q[self._pins + pinned[tag]] -= 1
        return tuple([pinned[tag] for tag in tags])

    def lock_new(self, relation: int) -> tuple[int, int]:
        """Extend a relation by one page of zeros: (buffer, block), content-locked, not dirty.

        Hold no lock. The file is not touched; the page gets there when it is written, and until then
        reads as zeros. Another process that trusts `relation_size` may lock the page first.
        """
        self._require_no_lock()
        block = self._relations.extend(relation)
        buffer = self._load(relation << 32 | block, zero=True)
        return (buffer if buffer >= 0 else self.lock(relation, block)), block

    def new_block(self, relation: int) -> int:
        """As `lock_new`, but the page is not locked: for `lock_many` with another page."""
        buffer, block = self.lock_new(relation)
        self.unlock(buffer)
        return block

    def lock_for_redo(self, relation: int, block: int, *, zero: bool) -> int:
        """A page for redo, content-locked. File and block are made if they are missing.

        `zero` neither reads nor keeps what was there: the caller overwrites the whole page, which may
        be torn on disk. Only redo, where nobody else writes, may hold other locks.
        """
        tag = relation << 32 | block
        buffer = self._seen.get(tag, -1)
        if buffer >= 0:  # `_lock_seen`, written out: nearly every record ends here
            self._acquire(FIRST_BUFFER_LOCK + buffer)
            if self.q[self._tag + buffer] == tag:
                usage = self.q[self._usage + buffer]
                if usage < MAX_USAGE:
                    self.q[self._usage + buffer] = usage + 1
            else:
                self._release(FIRST_BUFFER_LOCK + buffer)
                buffer = -1
        if buffer < 0:
            self._relations.ensure(relation, block + 1)
            while (buffer := self._lock_resident(tag)) < 0:
                buffer = self._load(tag, zero=zero)
                if buffer >= 0:
                    return buffer
        if zero:
            at = self.page_offset(buffer)
            self.mm[at : at + PAGE_BYTES] = _ZEROS
        return buffer

    def unlock(self, buffer: int) -> None:
        """Give the content lock back; the page may leave its buffer from now on."""
        self._release(FIRST_BUFFER_LOCK + buffer)

    def mark_dirty(self, buffer: int) -> None:
        """Say that the page changes: under its lock, before the WAL record is inserted.

        Before, because a checkpoint that sets its redo point between record and mark would neither
        write the page nor replay the record. Hint bits must not call this: a page that was dirtied
        without WAL has no image in it, and if its write is torn nothing mends it. An unmarked hint
        goes to disk with the next logged change or is lost, which is harmless.
        """
        self.q[self._changes + buffer] += 1

    def page_offset(self, buffer: int) -> int:
        """Where the page of a buffer begins in `mm`, in bytes; a multiple of 8192."""
        return self._pages + buffer * PAGE_BYTES

    def tag(self, buffer: int) -> tuple[int, int]:
        """(relation, block) of the page in a buffer, (0, 0) if none is valid."""
        tag = self.q[self._tag + buffer]
        return tag >> 32, tag & _BLOCK_MASK

    def is_dirty(self, buffer: int) -> bool:
        """Whether the page changed since its file was written."""
        return self.q[self._changes + buffer] != self.q[self._written + buffer]

    # Relations.

    def relation_size(self, relation: int) -> int:
        """Blocks of a relation. The first call reads the file's size: hold no lock."""
        return self._relations.size(relation)

    def create_relation(self, relation: int) -> None:
        """Make the empty file `base/<relation>`, durable on return; ServerError if it is there."""
        self._files.create(relation)

    def create_relation_again(self, relation: int) -> None:
        """Redo: see to it that the file is there, durably. Who made it may have been killed before its name was."""
        self._files.create(relation, missing_only=True)
        self._files.sync_names()

    def drop_relation(self, relation: int) -> None:
        """Forget every page of a relation and remove its file. Nobody may use it any more."""
        for buffer in range(self._descriptors.ever_used()):
            while self.q[self._tag + buffer] >> 32 == relation and not self._discard(buffer, relation):
                self.host.wait(None, POLL_MS)
        self._relations.forget(relation)
        self._files.unlink(relation)

    def close(self) -> None:
        """Close this process's file handles."""
        self._files.close()

    # Writing.

    def write_dirty(self, progress: Callable[[int, int], None] | None = None) -> int:
        """Checkpoint: write every page that is dirty now; returns how many. See `WriteBack.write_dirty`."""
        return self._write_back.write_dirty(progress)

    def sync(self) -> int:
        """Checkpoint: make what was written durable; returns how many files. See `WriteBack.sync`."""
        return self._write_back.sync()

    def background_write(self, max_pages: int) -> int:
        """Write pages that will be replaced soon; returns how many. See `WriteBack.background_write`."""
        return self._write_back.background_write(max_pages)

    # Finding and filling buffers.

    def _require_no_lock(self) -> None:
        if self._locks.held:
            raise RuntimeError(f"a page is asked for while locks {self._locks.held} are held")

    def _lock_seen(self, tag: int, *, wait: bool = True) -> int:
        """The buffer of a page, locked, if it is where this process last saw it; else -1."""
        buffer = self._seen.get(tag, -1)
        if buffer < 0:
            return -1
        if wait:
            self._acquire(FIRST_BUFFER_LOCK + buffer)
        elif not self._locks.try_acquire(FIRST_BUFFER_LOCK + buffer):
            return -1
        q = self.q
        if q[self._tag + buffer] != tag:
            self._release(FIRST_BUFFER_LOCK + buffer)
            return -1
        usage = q[self._usage + buffer]
        if usage < MAX_USAGE:
            q[self._usage + buffer] = usage + 1
        return buffer

    def _lock_resident(self, tag: int) -> int:
        """The buffer of a page, locked, if the page is in memory or on its way; else -1. Never reads."""
        q = self.q
        while True:
            self._acquire(_MAPPING)
            buffer = self._mapping.get(tag)
            self._release(_MAPPING)
            if buffer < 0:
                return -1
            self._acquire(FIRST_BUFFER_LOCK + buffer)
            if q[self._tag + buffer] == tag:
                usage = q[self._usage + buffer]
                if usage < MAX_USAGE:
                    q[self._usage + buffer] = usage + 1
                self._remember(tag, buffer)
                return buffer
            busy = q[self._io + buffer]
            self._release(FIRST_BUFFER_LOCK + buffer)
            if busy:
                self.host.wait(None, POLL_MS)

    def _remember(self, tag: int, buffer: int) -> None:
        seen = self._seen
        if len(seen) >= self.n_buffers:
            seen.clear()
        seen[tag] = buffer

    def _load(self, tag: int, *, zero: bool = False) -> int:
        """Bring a page into a buffer and lock it; -1 when another process was faster."""
        q = self.q
        buffer = self._take_victim()
        self._acquire(_MAPPING)
        if self._mapping.get(tag) >= 0:
            self._release(_MAPPING)
            self._release(FIRST_BUFFER_LOCK + buffer)
            return -1
        old = q[self._tag + buffer]
        if old:
            self._mapping.delete(old)
            q[self._tag + buffer] = 0
        self._mapping.put(tag, buffer)
        q[self._io + buffer] = self._pid
        self._release(_MAPPING)
        data = _ZEROS
        if not zero:
            self._release(FIRST_BUFFER_LOCK + buffer)
            try:
                self._point(Point.BUFFER_READ)
                data = self._files.read(tag >> 32, tag & _BLOCK_MASK)
            except Exception:
                self._acquire(FIRST_BUFFER_LOCK + buffer)
                self._unmap(buffer, tag)
                self._release(FIRST_BUFFER_LOCK + buffer)
                raise
            self._acquire(FIRST_BUFFER_LOCK + buffer)
        at = self._pages + buffer * PAGE_BYTES
        self.mm[at : at + PAGE_BYTES] = data
        q[self._usage + buffer] = 1
        q[self._tag + buffer] = tag
        q[self._io + buffer] = 0
        self._remember(tag, buffer)
        return buffer

    def _unmap(self, buffer: int, tag: int) -> None:
        self._acquire(_MAPPING)
        self._mapping.delete(tag)
        self._release(_MAPPING)
        q = self.q
        q[self._tag + buffer] = 0
        q[self._usage + buffer] = 0
        q[self._written + buffer] = q[self._changes + buffer]
        q[self._io + buffer] = 0

    def _discard(self, buffer: int, relation: int) -> bool:
        """Throw a page away unless somebody reads or writes it just now."""
        q = self.q
        self._acquire(FIRST_BUFFER_LOCK + buffer)
        tag = q[self._tag + buffer]
        busy = q[self._io + buffer] != 0
        if tag >> 32 == relation and not busy:
            self._unmap(buffer, tag)
        self._release(FIRST_BUFFER_LOCK + buffer)
        return not busy

    def _take_victim(self) -> int:
        """A buffer whose page may be replaced: clean, locked, not in use. ServerError 53200 if none turns up."""
        q = self.q
        deadline_ns = 0
        while True:
            buffer = self._descriptors.sweep(self._locks)
            if buffer < 0:
                if not deadline_ns:
                    deadline_ns = self.host.now_ns() + VICTIM_WAIT_MS * 1_000_000
                elif self.host.now_ns() > deadline_ns:
                    raise ServerError("no unpinned buffers available", sqlstate=OUT_OF_MEMORY)
                self.host.wait(None, POLL_MS)
                continue
            if not self._locks.try_acquire(FIRST_BUFFER_LOCK + buffer):
                continue
            if not q[self._io + buffer] and not q[self._pins + buffer]:
                if self.is_dirty(buffer):
                    self._write_back.write(buffer, evicting=True)
                if not self.is_dirty(buffer) and not q[self._pins + buffer] and not q[self._usage + buffer]:
                    return buffer
            self._release(FIRST_BUFFER_LOCK + buffer)
