"""Wal: one process's way into the log. Insertion, redo pointer, taking up the log after recovery, recycling.

**Insertion.** One lock, LWLock.WAL_INSERT, under which a record gets its place, its prev-link and its CRC and is copied
into the ring of WAL buffers. A record that does not fit into its segment goes to the next: a SWITCH record takes the
place of the rest (or nothing does, if less than a record's header is left, where no record can start). The segment's
header is inserted with its first record, so header and records reach the disk by the same writes.

**Page images.** Whether a page needs one is decided against the redo pointer as it was before the lock was taken and
checked again under it: a record whose page LSN is not beyond the redo pointer is the page's first since the checkpoint
began, and carries the page as a whole (PostgreSQL's XLogInsert and its RedoRecPtr recheck).

**Why stale bytes are never taken for a record.** Behind the end of the log lie old bytes: of a recycled segment, or of
records that were written, lost their predecessor in a power loss, and survived it.

- A recycled segment. Its header names its old start LSN, so nothing in it is read until the header is rewritten, which
  happens in the write that begins the segment anew. Once it is: its old number was at least two less than its new one
  (only what lies wholly before the redo pointer is recycled, only to numbers beyond the insert position), so all
  prev-links in it are less than the start of the segment before the new place. The record expected here has a
  predecessor in this segment or the one before, because every segment that is passed holds a record. They differ.
- A lost predecessor. Suppose B at 200 is lost and C, which followed it, is intact at 300 with the right prev-link 200;
  the log goes on at 200, and a new record there happens to end at 300 too. Prev-link and CRC of C are right, and yet C
  must not come back. Hence the *incarnation*: each run of the log has a number, in every record, and a walk accepts
  only the number of the record before, or one more at a START record. `start_at` writes START with the last valid
  record's number plus one, and makes it and all the log before it durable before anything can be inserted behind it.
  Let G be the number of the last valid record. Behind the end lie stale records of G at most, because a run that
  inserted anything is reached through its durable START; everything new has G + 1 or more, so none of them is taken.
- An unconfirmed START. A power loss between its write and its sync may keep it, of number S + 1, and lose records
  before it, so that the log ends earlier and goes on with a number of at most S + 1. It is taken only behind a record
  of number S that ends exactly there. Then it ends the log: nothing was inserted behind it, and what else lies there
  has S or less, or is another such START. It has no effect but that the next START's number is one more.
- A torn record fails its CRC, and zeros fail the length check.

What this leaves out is what was read as valid but is only in the kernel (written, not synced, then only the process
died): `start_at` syncs the segments that recovery has read before it says that they are flushed, the last of them
together with START.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from supervisor import errors
from supervisor.config import Settings
from supervisor.engine.disk.disk import Disk
from supervisor.engine.wal.files import SegmentFiles
from supervisor.engine.wal.flush import Flusher
from supervisor.engine.wal.lsn import format_lsn
from supervisor.engine.wal.reader import WalEnd
from supervisor.engine.wal.record import (
    HEADER_SIZE,
    MAX_BLOCK_DATA,
    MAX_BLOCKS,
    PAGE_SIZE,
    encode_block,
    encode_record,
)
from supervisor.engine.wal.recycle import Recycler
from supervisor.engine.wal.rmgr import Rmgr, XlogInfo
from supervisor.engine.wal.segment import SEGMENT_HEADER_SIZE, Identity, encode_segment_header
from supervisor.engine.wal.words import (
    FLUSHED,
    INCARNATION,
    INSERT,
    PREV,
    REDO,
    RING_AREA,
    WORDS_AREA,
    WRITTEN,
    ring_bytes,
    shmem_areas,
    shmem_init,
)
from supervisor.points import Point
from supervisor.shmem.attachment import Attachment
from supervisor.shmem.lwlock import LWLock

__all__ = ["PageRef", "Wal", "shmem_areas", "shmem_init"]

# Bound once: in Python 3.11 a look at an enum's member costs as much as a call.
_WAL_INSERT = int(LWLock.WAL_INSERT)
_BEFORE_LOCK = Point.WAL_INSERT_BEFORE_LOCK
_UNDER_LOCK = Point.WAL_INSERT_UNDER_LOCK
_AFTER_COPY = Point.WAL_INSERT_AFTER_COPY


class PageRef(NamedTuple):
    """A page that was changed in its buffer, whose content lock the caller still holds.

    `page_offset` is the page's first byte in `region.mm`; `data` is what redo needs to repeat the change (at most
    65,535 bytes); `force_image` takes an image whatever the page's LSN.
    """

    relation: int
    block: int
    page_offset: int
    data: bytes = b""
    force_image: bool = False


class Wal:
    """One process's way into the shared log of one data directory."""

    def __init__(self, disk: Disk, attachment: Attachment, settings: Settings, control: Identity) -> None:
        self._disk = disk
        self._identity = control
        self._segment_size = control.segment_size
        self._full_page_writes = settings.full_page_writes
        self._fsync = settings.fsync
        self._locks = attachment.locks
        self._point = attachment.host.point
        self._mm = attachment.region.mm
        self._q = attachment.region.q
        words = attachment.region.word(WORDS_AREA)
        self._insert = words + INSERT
        self._prev = words + PREV
        self._redo = words + REDO
        self._incarnation = words + INCARNATION
        self._written = words + WRITTEN
        self._flushed = words + FLUSHED
        self._ring_at = attachment.region.offset(RING_AREA)
        self._ring_bytes = ring_bytes(settings)
        # The rest of a segment, which is less than a record, the next one's header and the record must be in the
        # ring at once.
        self._max_record = min(
            self._segment_size - SEGMENT_HEADER_SIZE, (self._ring_bytes - SEGMENT_HEADER_SIZE) // 2 & ~7
        )
        self._files = SegmentFiles(disk, attachment.host, control, fsync=settings.fsync, pid=attachment.pid)
        self._flusher = Flusher(disk, attachment, settings, control, self._files)
        self._recycler = Recycler(attachment.region, settings, control, self._files, self._flusher)

    def insert(self, rmgr: Rmgr, info: int, xid: int, body: bytes, pages: Sequence[PageRef] = ()) -> tuple[int, int]:
        """Insert a record and return its (start LSN, end LSN); nothing is on disk yet.

        Called in a critical section, after the pages were changed, with their content locks held; the caller then
        stores end LSN as their LSN. May flush first, without holding the insert lock, if the ring is full. Raises
        ServerError 54000 if the record is larger than what the ring or a segment can hold, XX000 before `start_at`.
        """
        q = self._q
        while True:
            redo = q[self._redo]
            n_pages = len(pages)
            blocks = self._encode_pages(pages, redo) if n_pages else b""
            self._point(_BEFORE_LOCK)
            start, prev = self._reserve(HEADER_SIZE + len(blocks) + len(body) + 7 & ~7)
            if n_pages and q[self._redo] != redo:
                # A checkpoint has begun since the pages were looked at: they may need images after all.
                self._locks.release(_WAL_INSERT)
                continue
            end = self._put(start, encode_record(prev, q[self._incarnation], rmgr, info, xid, body, n_pages, blocks))
            self._locks.release(_WAL_INSERT)
            self._point(_AFTER_COPY)
            return start, end

    def flush(self, lsn: int) -> None:
        """Return when everything before `lsn` is on disk (group commit; see wal/flush.py for what it raises)."""
        if self._q[self._flushed] < lsn:
            self._flusher.flush(lsn)

    def insert_lsn(self) -> int:
        """The end of the last inserted record."""
        return self._q[self._insert]

    def flushed_lsn(self) -> int:
        """Everything before it is on disk."""
        return self._q[self._flushed]

    def redo_pointer(self) -> int:
        """Where redo would start after the checkpoint that runs or ran last."""
        return self._q[self._redo]

    def begin_redo_point(self) -> int:
        """Begin an online checkpoint: insert CHECKPOINT_REDO, publish its LSN as the redo pointer and return it.

        Both happen under the insert lock, so each later record takes images against the new pointer.
        """
        start, prev = self._reserve(HEADER_SIZE)
        record = encode_record(prev, self._q[self._incarnation], Rmgr.XLOG, XlogInfo.CHECKPOINT_REDO, 0, b"")
        self._put(start, record)
        self._q[self._redo] = start
        self._locks.release(_WAL_INSERT)
        self._point(_AFTER_COPY)
        return start

    def insert_shutdown_checkpoint(self, body_at: Callable[[int], bytes], expected_insert_lsn: int) -> tuple[int, int]:
        """Insert the record of a shutdown or end-of-recovery checkpoint, whose redo pointer is itself.

        `body_at(start_lsn)` makes the body, of the same length for every LSN. `expected_insert_lsn` is what
        `insert_lsn()` was when the checkpoint began: Panic if a record slipped in since, for redo would miss it.
        Returns (start LSN, end LSN), not flushed; the start is the new redo pointer.
        """
        start, prev = self._reserve(HEADER_SIZE + len(body_at(0)) + 7 & ~7)
        if self._q[self._insert] != expected_insert_lsn:
            raise errors.Panic("concurrent write-ahead log activity while database system is shutting down")
        body = body_at(start)
        record = encode_record(prev, self._q[self._incarnation], Rmgr.XLOG, XlogInfo.CHECKPOINT_SHUTDOWN, 0, body)
        end = self._put(start, record)
        self._q[self._redo] = start
        self._locks.release(_WAL_INSERT)
        self._point(_AFTER_COPY)
        return start, end

    def start_at(self, end: WalEnd, redo_lsn: int) -> None:
        """Take the log up at its end, as recovery found it (`WalReader.end`). The startup process only, once.

        Syncs what was read, writes and syncs a START record in a new incarnation, then allows insertion. A new log
        begins at WalEnd(segment_size, 0, 0). Raises Panic if the disk fails.
        """
        lsn = end.lsn
        rest = -lsn % self._segment_size
        if rest < HEADER_SIZE:
            lsn += rest
        incarnation = end.incarnation + 1
        start = lsn
        data = b""
        if lsn % self._segment_size == 0:
            data = encode_segment_header(self._identity, lsn)
            start += len(data)
        data += encode_record(end.prev_lsn, incarnation, Rmgr.XLOG, XlogInfo.START, 0, b"")
        segno = lsn // self._segment_size
        try:
            self._files.make_durable(range(min(redo_lsn or lsn, lsn) // self._segment_size, segno))
            handle = self._files.open(segno)
            self._disk.pwrite(handle, data, lsn % self._segment_size)
            if self._fsync:
                self._disk.fdatasync(handle)  # of the segment as a whole: also of what recovery read in it
        except OSError as error:
            raise errors.Panic(
                f'could not take up the write-ahead log at {format_lsn(lsn)} in "{self._files.path(segno)}": {error}'
            ) from error
        q = self._q
        after = lsn + len(data)
        q[self._incarnation] = incarnation
        q[self._redo] = redo_lsn
        q[self._prev] = start
        q[self._written] = after
        q[self._flushed] = after
        q[self._insert] = after  # Last: it is what allows insertion.

    def write_background(self) -> bool:
        """The walwriter's round: put on disk what was inserted; whether there was anything."""
        lsn = self._q[self._insert]
        if lsn == self._q[self._flushed]:
            return False
        self._flusher.flush(lsn)
        return True

    def preallocate(self) -> bool:
        """Make the next segment ahead of need; whether one was made. See Recycler.preallocate."""
        return self._recycler.preallocate()

    def remove_or_recycle(self, before_lsn: int) -> tuple[int, int, int]:
        """(added, removed, recycled) segments after a checkpoint whose redo pointer is `before_lsn`."""
        return self._recycler.remove_or_recycle(before_lsn)

    def use(self, settings: Settings) -> None:
        """Go by other settings from now on; see Engine.use."""
        self._flusher.settings = self._recycler.settings = settings

    def close(self) -> None:
        """Give the open segment back."""
        self._files.close()

    def _encode_pages(self, pages: Sequence[PageRef], redo: int) -> bytes:
        """Block headers, then contents, with images where the redo pointer demands them."""
        q, mm = self._q, self._mm
        images = self._full_page_writes
        headers = contents = b""
        if len(pages) > MAX_BLOCKS:
            raise _too_large(f"{len(pages)} pages", f"{MAX_BLOCKS} pages")
        for relation, block, offset, data, force_image in pages:
            if len(data) > MAX_BLOCK_DATA:
                raise _too_large(f"{len(data)} bytes for one page", f"{MAX_BLOCK_DATA} bytes")
            image = None
            if force_image or (images and q[offset >> 3] <= redo):
                image = mm[offset : offset + PAGE_SIZE]
            header, content = encode_block(relation, block, data, image)
            headers += header
            contents += content
        return headers + contents

    def _reserve(self, length: int) -> tuple[int, int]:
        """(start LSN, prev-link) of the next record, of `length` bytes; returns with the insert lock held.

        What must come before it in the stream (the end of a segment, the header of the next) is already in the
        ring, but not yet published.
        """
        if length > self._max_record:
            raise _too_large(f"{length} bytes", f"{self._max_record} bytes")
        q = self._q
        while True:
            self._locks.acquire(_WAL_INSERT)
            self._point(_UNDER_LOCK)
            at = q[self._insert]
            prev = q[self._prev]
            prefix = b""
            used = at % self._segment_size
            if used == 0 or used + length > self._segment_size:
                prefix, prev = self._segment_change(at, prev)
            start = at + len(prefix)
            if start + length - q[self._written] <= self._ring_bytes:
                if prefix:
                    self._copy(at, prefix)
                return start, prev
            # The record would overwrite what is not yet written. Nobody's lock may be held over I/O.
            self._locks.release(_WAL_INSERT)
            self._flusher.flush(at)

    def _segment_change(self, at: int, prev: int) -> tuple[bytes, int]:
        """What ends the segment at `at` and begins the next, and the prev-link of what then follows."""
        if at == 0:
            self._locks.release(_WAL_INSERT)
            raise errors.ServerError("cannot make new WAL entries during recovery", sqlstate=errors.INTERNAL_ERROR)
        rest = -at % self._segment_size
        ending = b""
        if rest >= HEADER_SIZE:
            ending = encode_record(prev, self._q[self._incarnation], Rmgr.XLOG, XlogInfo.SWITCH, 0, b"")
            prev = at
        return ending.ljust(rest, b"\0") + encode_segment_header(self._identity, at + rest), prev

    def _put(self, start: int, record: bytes) -> int:
        """Copy the record to its place, then publish it; its end LSN. The insert lock is held."""
        length = len(record)
        end = start + length
        at = start % self._ring_bytes
        if at + length <= self._ring_bytes:
            at += self._ring_at
            self._mm[at : at + length] = record
        else:
            self._copy(start, record)
        q = self._q
        q[self._prev] = start
        q[self._insert] = end  # Last: the flush leader reads it without the lock.
        return end

    def _copy(self, lsn: int, data: bytes) -> None:
        """Put bytes into the ring, around its end if need be."""
        at = lsn % self._ring_bytes
        base = self._ring_at
        first = data[: self._ring_bytes - at]
        rest = data[len(first) :]
        self._mm[base + at : base + at + len(first)] = first
        self._mm[base : base + len(rest)] = rest


def _too_large(what: str, most: str) -> errors.ServerError:
    return errors.ServerError(
        f"a WAL record of {what} is too large", sqlstate=errors.PROGRAM_LIMIT_EXCEEDED, detail=f"The most is {most}."
    )
