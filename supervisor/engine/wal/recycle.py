"""What becomes of segments that no redo will need: a future segment, or nothing.

Done by the checkpointer. How many to keep follows PostgreSQL (xlog.c, XLOGfileslop): enough for the log that a
checkpoint interval is expected to bring, but at least min_wal_size and at most max_wal_size. All renames happen under
flush leadership (wal/files.py says why); the slow work, filling a segment and unlinking one, does not.
"""

from __future__ import annotations

from supervisor.config import Settings
from supervisor.engine.wal.files import SegmentFiles
from supervisor.engine.wal.flush import Flusher
from supervisor.engine.wal.segment import Identity
from supervisor.engine.wal.words import DISTANCE, INSERT, RECYCLE_LSN, WORDS_AREA
from supervisor.shmem.region import Region

_PREALLOCATE_FROM = 0.75  # of the current segment used (PostgreSQL's PreallocXlogFiles)


class Recycler:
    """The segments of one log that are not in use."""

    def __init__(
        self,
        region: Region,
        settings: Settings,
        identity: Identity,
        files: SegmentFiles,
        flusher: Flusher,
    ) -> None:
        self._q = region.q
        words = region.word(WORDS_AREA)
        self._insert = words + INSERT
        self._recycle_lsn = words + RECYCLE_LSN
        self._distance = words + DISTANCE
        self.settings = settings
        self._segment_size = identity.segment_size
        self._files = files
        self._flusher = flusher

    def preallocate(self) -> bool:
        """Make the segment after the current one if that is nearly full and there is none; whether one was made.

        Saves the commit that first needs it the time of filling it. OSError passes.
        """
        last = self._q[self._insert] - 1
        segno = last // self._segment_size + 1
        if last % self._segment_size < _PREALLOCATE_FROM * self._segment_size or self._files.exists(segno):
            return False
        self._files.prepare()
        self._flusher.enter_alone()
        try:
            made = not self._files.exists(segno)
            if made:
                self._files.install(segno)
        except OSError:
            self._flusher.leave_alone()
            raise
        self._flusher.leave_alone()
        if not made:
            self._files.discard_prepared()
        return made

    def remove_or_recycle(self, before_lsn: int) -> tuple[int, int, int]:
        """Reuse or remove every segment that lies wholly before `before_lsn`; (added, removed, recycled).

        `before_lsn` is the redo pointer of a checkpoint that is complete: its control file is on disk. OSError passes.
        """
        self._estimate(before_lsn)
        keep_from = before_lsn // self._segment_size
        horizon = self._horizon(before_lsn)
        self._flusher.enter_alone()
        try:
            recycled, old = self._rename(keep_from, horizon)
        except OSError:
            self._flusher.leave_alone()
            raise
        self._flusher.leave_alone()
        for segno in old:
            self._files.remove(segno)
        if old:
            self._files.sync_names()
        return int(self.preallocate()), len(old), recycled

    def _rename(self, keep_from: int, horizon: int) -> tuple[int, list[int]]:
        """How many old segments got a future number, and the numbers of those for which there was none left."""
        present = self._files.segnos()
        taken = set(present)
        free = (self._q[self._insert] - 1) // self._segment_size + 1
        recycled = 0
        left = []
        for segno in present:
            if segno >= keep_from:
                break
            while free in taken:
                free += 1
            if free > horizon:
                left.append(segno)
                continue
            self._files.recycle(segno, free)
            taken.add(free)
            recycled += 1
        if recycled:
            self._files.sync_names()
        return recycled, left

    def _estimate(self, before_lsn: int) -> None:
        """Update the expected log per checkpoint: up at once, down slowly (UpdateCheckPointDistanceEstimate)."""
        q = self._q
        last = q[self._recycle_lsn]
        q[self._recycle_lsn] = before_lsn
        if last:
            distance = before_lsn - last
            old = q[self._distance]
            q[self._distance] = distance if distance > old else int(0.90 * old + 0.10 * distance)

    def _horizon(self, before_lsn: int) -> int:
        """The last segment number worth having in advance."""
        size = self._segment_size
        settings = self.settings
        redo_segno = before_lsn // size
        expected = 1.10 * (1.0 + settings.checkpoint_completion_target) * self._q[self._distance]
        wanted = -(-int(before_lsn + expected) // size)
        least = redo_segno + settings.min_wal_size // size - 1
        most = redo_segno + settings.max_wal_size // size - 1
        return max(least, min(wanted, most))
