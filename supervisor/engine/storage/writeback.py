"""How pages get to their files: eviction, background writing, checkpoints (PostgreSQL's `FlushBuffer`, `BufferSync`).

Owns the order in which a page becomes clean: copy under the content lock, WAL flushed up to the copy's
LSN, copy written without the lock, its relation marked for the next sync, count of changes stored under
the lock. It never decides which page leaves the pool, and makes nothing durable except in `sync`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from supervisor.engine.disk.disk import Disk
from supervisor.engine.storage.descriptors import Descriptors
from supervisor.engine.storage.files import RelationFiles
from supervisor.engine.storage.page import LSN_AT, PAGE_BYTES
from supervisor.engine.storage.relations import RelationTable
from supervisor.errors import Panic
from supervisor.points import Point
from supervisor.shmem.attachment import Attachment
from supervisor.shmem.lwlock import FIRST_BUFFER_LOCK

POLL_MS = 1  # other processes' reads and writes take a tenth of this; nobody wakes us
_BLOCK_MASK = 0xFFFF_FFFF


class WalFlush(Protocol):
    """What the pool needs of the WAL."""

    def flush(self, lsn: int) -> None:
        """Return when everything before `lsn` is on disk; raises Panic when it cannot be."""
        ...


class WriteBack:
    """The writing half of a `BufferPool`."""

    def __init__(
        self,
        disk: Disk,
        attachment: Attachment,
        wal: WalFlush,
        descriptors: Descriptors,
        files: RelationFiles,
        relations: RelationTable,
    ) -> None:
        self._mm = attachment.region.mm
        self._q = attachment.region.q
        self._pages = attachment.region.offset("buffer_pages")
        self._disk = disk
        self._wal = wal
        self._host = attachment.host
        self._point = attachment.host.point
        self._locks = attachment.locks
        self._acquire = attachment.locks.acquire
        self._release = attachment.locks.release
        self._pid = attachment.pid
        self._descriptors = descriptors
        self._files = files
        self._relations = relations

    def write_dirty(self, progress: Callable[[int, int], None] | None = None) -> int:
        """Checkpoint: write every page that is dirty now, in file order; returns how many it wrote.

        A page that somebody else writes meanwhile is waited for. `progress(done, total)` is called
        after each page, without locks: there the checkpointer paces itself. ServerError when a page
        cannot be written: the checkpoint has failed. Durable only after `sync`.
        """
        q, d = self._q, self._descriptors
        used = d.ever_used()
        changes = q[d.changes : d.changes + used].tolist()
        written = q[d.written : d.written + used].tolist()
        dirty = [buffer for buffer in range(used) if changes[buffer] != written[buffer]]
        dirty.sort(key=lambda buffer: q[d.tag + buffer])
        count = 0
        for done, buffer in enumerate(dirty, 1):
            count += self._write_up_to(buffer, changes[buffer])
            if progress is not None:
                progress(done, len(dirty))
        return count

    def sync(self) -> int:
        """Checkpoint: make durable what was written by anybody since the last sync; returns how many files.

        Panic when an fsync fails. What was written before this memory was made has no marks any more: `recovery.leftovers`
        sees to that.
        """
        count = 0
        for relation in self._relations.take_unsynced():
            try:
                self._files.sync(relation)
                count += 1
            except Panic:
                if self._relations.exists(relation):
                    raise
        return count

    def background_write(self, max_pages: int) -> int:
        """Write dirty pages that the clock hand will reach soon, so that a backend need not; returns how many."""
        q, d = self._q, self._descriptors
        used = d.ever_used()
        hand = d.hand()
        count = 0
        for step in range(used):
            if count >= max_pages:
                break
            buffer = (hand + step) % used
            if q[d.usage + buffer] or not d.is_dirty(buffer):
                continue
            if not self._locks.try_acquire(FIRST_BUFFER_LOCK + buffer):
                continue
            if d.is_dirty(buffer) and not q[d.io + buffer]:
                self.write(buffer)
                count += 1
            self._release(FIRST_BUFFER_LOCK + buffer)
        return count

    def _write_up_to(self, buffer: int, changes: int) -> int:
        """Return when the file has change number `changes` of a buffer; 1 if this process wrote it."""
        q, d = self._q, self._descriptors
        while True:
            self._acquire(FIRST_BUFFER_LOCK + buffer)
            # The counts only grow, whatever page the buffer holds by now.
            if q[d.written + buffer] >= changes:
                self._release(FIRST_BUFFER_LOCK + buffer)
                return 0
            if not q[d.io + buffer]:
                self.write(buffer)
                self._release(FIRST_BUFFER_LOCK + buffer)
                return 1
            self._release(FIRST_BUFFER_LOCK + buffer)
            self._host.wait(None, POLL_MS)

    def write(self, buffer: int, *, evicting: bool = False) -> None:
        """Write the page of a buffer, whose lock is held, let go over the I/O, and held again at the end.

        On an error the page is dirty as before and the lock is not held.
        """
        q, d = self._q, self._descriptors
        q[d.io + buffer] = self._pid
        at = self._pages + buffer * PAGE_BYTES
        data = self._mm[at : at + PAGE_BYTES]
        changes = q[d.changes + buffer]
        lsn = q[(at + LSN_AT) // 8]
        relation, block = q[d.tag + buffer] >> 32, q[d.tag + buffer] & _BLOCK_MASK
        self._release(FIRST_BUFFER_LOCK + buffer)
        try:
            if evicting:
                self._point(Point.BUFFER_EVICT_BEFORE_WRITE)
            self._wal.flush(lsn)
            self._files.write(relation, block, data)
            self._relations.mark_unsynced(relation)
            self._point(Point.BUFFER_WRITE_AFTER)
        except Panic:
            raise
        except Exception:
            self._acquire(FIRST_BUFFER_LOCK + buffer)
            q[d.io + buffer] = 0
            self._release(FIRST_BUFFER_LOCK + buffer)
            raise
        self._acquire(FIRST_BUFFER_LOCK + buffer)
        q[d.written + buffer] = changes
        q[d.io + buffer] = 0
