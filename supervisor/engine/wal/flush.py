"""Group commit: one leader writes and syncs for everybody.

Who wants its records on disk becomes the leader if there is none, else a follower: it stores the LSN it needs and its
state in its own PGPROC words, under LWLock.WAL_FLUSH, and sleeps on its latch. The leader writes everything inserted so
far, syncs, publishes the flushed position, then under the lock tells the followers that are covered and makes one that
is not the next leader, who need not compete for it. So one fdatasync acknowledges as many commits as came in during the
one before, and nobody is woken without reason.

The lock is held for words only, never over I/O; leadership is the mutex that is held over I/O. It is not a lock,
because it is handed over. Whoever must be alone with the segment files takes it too (`enter_alone`).

A leader that dies leaves its followers asleep for ever, as it must be: the memory they share is no longer trusted, and
the postmaster ends them and throws it away. A failed write or sync is a Panic, never an error: the kernel may have
dropped the pages, so a second try could seem to succeed (PostgreSQL's data_sync_retry = off).
"""

from __future__ import annotations

from typing import NoReturn

from supervisor import errors
from supervisor.config import Settings
from supervisor.engine.disk.disk import Disk
from supervisor.engine.wal.files import SegmentFiles
from supervisor.engine.wal.lsn import format_lsn
from supervisor.engine.wal.segment import Identity
from supervisor.engine.wal.words import (
    FLUSHED,
    INSERT,
    LEADER,
    RING_AREA,
    SYNCS,
    WORDS_AREA,
    WRITES,
    WRITTEN,
    ring_bytes,
)
from supervisor.points import Point
from supervisor.shmem.attachment import Attachment
from supervisor.shmem.lwlock import LWLock

_IDLE, _WAITING, _LEAD = 0, 1, 2  # flush_state of a process: the leader's word to its followers
_NEVER_COVERED = (1 << 63) - 1
_WAL_FLUSH = int(LWLock.WAL_FLUSH)
_COMMIT_SIBLINGS = 5  # PostgreSQL's default: with less company nobody is worth waiting for


class Flusher:
    """One process's part in group commit."""

    def __init__(
        self,
        disk: Disk,
        attachment: Attachment,
        settings: Settings,
        identity: Identity,
        files: SegmentFiles,
    ) -> None:
        self._disk = disk
        self._files = files
        self._segment_size = identity.segment_size
        self._fsync = settings.fsync
        self.settings = settings
        self._host = attachment.host
        self._point = attachment.host.point
        self._locks = attachment.locks
        self._latches = attachment.latches
        self._latch = attachment.latch
        self._procno = attachment.procno
        self._mm = attachment.region.mm
        self._q = attachment.region.q
        words = attachment.region.word(WORDS_AREA)
        self._insert = words + INSERT
        self._written = words + WRITTEN
        self._flushed = words + FLUSHED
        self._leader = words + LEADER
        self._writes = words + WRITES
        self._syncs = words + SYNCS
        self._ring_at = attachment.region.offset(RING_AREA)
        self._ring_bytes = ring_bytes(settings)
        procs = attachment.procs
        self._n_procs = procs.count
        self._xid = procs.xid
        self._flush_lsn = procs.flush_lsn
        self._flush_state = procs.flush_state
        self._states = slice(8 * procs.flush_state, 8 * (procs.flush_state + procs.count))
        self._all_idle = bytes(8 * procs.count)

    def flush(self, lsn: int) -> None:
        """Return when everything before `lsn` is on disk.

        Raises Panic if writing or syncing fails, ServerError XX000 if no such position was ever inserted (a page
        with a wrong LSN).
        """
        if self._q[self._flushed] >= lsn or not self._lead_or_wait(lsn):
            return
        self._write_and_sync()
        self._hand_over()
        flushed = self._q[self._flushed]
        if flushed < lsn:
            raise errors.ServerError(
                f"xlog flush request {format_lsn(lsn)} is not satisfied --- flushed only to {format_lsn(flushed)}",
                sqlstate=errors.INTERNAL_ERROR,
            )

    def enter_alone(self) -> None:
        """Take leadership without anything to flush: until `leave_alone` nobody else touches segment files."""
        self._lead_or_wait(_NEVER_COVERED)

    def leave_alone(self) -> None:
        """Hand leadership over."""
        self._hand_over()

    def _lead_or_wait(self, lsn: int) -> bool:
        """True: this process leads. False: somebody else has flushed `lsn`."""
        q = self._q
        mine = self._flush_state + self._procno
        self._locks.acquire(_WAL_FLUSH)
        if q[self._flushed] >= lsn:
            self._locks.release(_WAL_FLUSH)
            return False
        if q[self._leader] == 0:
            q[self._leader] = self._procno + 1
            self._locks.release(_WAL_FLUSH)
            return True
        q[self._flush_lsn + self._procno] = lsn
        q[mine] = _WAITING
        self._locks.release(_WAL_FLUSH)
        # Only the leader's word ends this: a look at the flushed position could return while the leader is about
        # to name this process its successor.
        while True:
            self._latch.clear()
            if q[mine] != _WAITING:
                break
            self._host.wait(self._latch, None)
        # The latch may have been set for something else that this process waits for outside.
        self._latch.set_own()
        lead = q[mine] == _LEAD
        q[mine] = _IDLE
        return lead

    def _write_and_sync(self) -> None:
        q = self._q
        commit_delay_ms = -(-self.settings.commit_delay // 1000)
        if commit_delay_ms and self._fsync and self._company() >= _COMMIT_SIBLINGS:
            self._host.wait(None, commit_delay_ms)
        target = q[self._insert]
        if target == q[self._flushed]:
            return
        self._point(Point.WAL_FLUSH_BEFORE_WRITE)
        unsynced = self._write(target)
        self._point(Point.WAL_FLUSH_BEFORE_FSYNC)
        if unsynced >= 0:
            self._sync(unsynced)
        self._point(Point.WAL_FLUSH_AFTER_FSYNC)
        q[self._flushed] = target

    def _write(self, target: int) -> int:
        """Write the ring up to `target` to the segments; the number of the one still to be synced, or -1.

        A segment that is full is synced before the next is begun, so that only the last segment that has anything
        in it can hold what is not on disk.
        """
        q, segment_size, ring = self._q, self._segment_size, self._ring_bytes
        position = q[self._written]
        unsynced = -1
        while position < target:
            segno, offset = divmod(position, segment_size)
            at = position % ring
            length = min(target - position, segment_size - offset, ring - at)
            data = self._mm[self._ring_at + at : self._ring_at + at + length]
            try:
                self._disk.pwrite(self._files.open(segno), data, offset)
            except OSError as error:
                self._panic(
                    f'could not write to log file "{self._files.name(segno)}" at offset {offset}, length {length}',
                    error,
                )
            position += length
            unsynced = segno
            if offset + length == segment_size:
                self._sync(segno)
                unsynced = -1
            q[self._written] = position
            q[self._writes] += 1
        return unsynced

    def _sync(self, segno: int) -> None:
        if not self._fsync:
            return
        try:
            self._disk.fdatasync(self._files.open(segno))
        except OSError as error:
            self._panic(f'could not fdatasync file "{self._files.name(segno)}"', error)
        self._q[self._syncs] += 1

    def _hand_over(self) -> None:
        """Tell the followers that are covered, make one that is not the leader, or leave the place empty."""
        q = self._q
        flushed = q[self._flushed]
        wake = []
        self._locks.acquire(_WAL_FLUSH)
        successor = -1
        if self._mm[self._states] != self._all_idle:
            # In a circle from here, so that under load everybody's turn comes, whatever its LSN.
            for step in range(1, self._n_procs):
                procno = (self._procno + step) % self._n_procs
                if q[self._flush_state + procno] != _WAITING:
                    continue
                if q[self._flush_lsn + procno] <= flushed:
                    q[self._flush_state + procno] = _IDLE
                    wake.append(procno)
                elif successor < 0:
                    successor = procno
        if successor >= 0:
            q[self._flush_state + successor] = _LEAD
            wake.append(successor)
        q[self._leader] = successor + 1
        self._locks.release(_WAL_FLUSH)
        for procno in wake:
            self._latches.set(procno)

    def _company(self) -> int:
        """How many other transactions are running."""
        xids = self._q[self._xid : self._xid + self._n_procs].tolist()
        return self._n_procs - xids.count(0) - (xids[self._procno] != 0)

    def _panic(self, what: str, error: OSError) -> NoReturn:
        # Leadership is kept on purpose: nobody may write after a write that failed.
        raise errors.Panic(f"{what}: {error.strerror or error}") from error
