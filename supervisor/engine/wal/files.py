"""The segment files: making them, taking them into use, reusing them.

A segment is made under a temporary name, filled with zeros, synced, renamed, and its name synced, so that a file with a
segment's name is whole: appending to a file costs twice what overwriting costs, at every commit. An old segment is
renamed to a future number rather than removed, with its old content: wal/insert.py says why that is never read as new.

Whoever gives a file a segment's name must be the flush leader (wal/flush.py), which makes it the only one: rename
replaces silently, and would replace a segment that was just written. OSError passes; the caller decides.
"""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.engine.disk.disk import Disk
from supervisor.engine.wal.lsn import WAL_DIRECTORY, parse_segment_name, segment_name, segment_path
from supervisor.engine.wal.segment import Identity
from supervisor.errors import Panic
from supervisor.host import Host
from supervisor.points import Point

_TEMPORARY = "xlogtemp."
_FILL = 1 << 20


class SegmentFiles:
    """The segments of one log, as one process sees them: at most one open, the one written last."""

    def __init__(self, disk: Disk, host: Host, identity: Identity, *, fsync: bool, pid: int) -> None:
        self._disk = disk
        self._point = host.point
        self._timeline = identity.timeline
        self._segment_size = identity.segment_size
        self._fsync = fsync
        self._temporary = f"{WAL_DIRECTORY}/{_TEMPORARY}{pid}"
        self._segno = -1
        self._handle = -1

    def name(self, segno: int) -> str:
        """The file name of a segment."""
        return segment_name(self._timeline, segno, self._segment_size)

    def path(self, segno: int) -> str:
        """The path of a segment."""
        return segment_path(self._timeline, segno, self._segment_size)

    def open(self, segno: int) -> int:
        """A handle for writing the segment, which is made if it is missing. The flush leader only."""
        if segno == self._segno:
            return self._handle
        self._point(Point.WAL_SEGMENT_SWITCH)
        self.close()
        if not self._disk.exists(self.path(segno)):
            self.prepare()
            self.install(segno)
        self._handle = self._disk.open(self.path(segno))
        self._segno = segno
        return self._handle

    def close(self) -> None:
        """Give the open segment back."""
        if self._handle >= 0:
            self._disk.close(self._handle)
        self._handle = self._segno = -1

    def exists(self, segno: int) -> bool:
        """Whether the segment has a file."""
        return self._disk.exists(self.path(segno))

    def prepare(self) -> None:
        """Make a whole segment of zeros, synced, under the temporary name. No leadership is needed."""
        handle = self._disk.open(self._temporary, create=True)
        try:
            self._disk.truncate(handle, 0)
            for offset in range(0, self._segment_size, _FILL):
                self._disk.pwrite(handle, bytes(_FILL), offset)
            if self._fsync:
                self._disk.fsync(handle)
        finally:
            self._disk.close(handle)

    def install(self, segno: int) -> None:
        """Give the prepared file its segment's name, durably. The flush leader only."""
        self._disk.rename(self._temporary, self.path(segno))
        self.sync_names()

    def discard_prepared(self) -> None:
        """Remove the prepared file: somebody else has made that segment."""
        self._disk.unlink(self._temporary)

    def recycle(self, old: int, new: int) -> None:
        """Give an old segment a future number; durable after `sync_names`. The flush leader only."""
        self._point(Point.WAL_SEGMENT_RECYCLE)
        self._disk.rename(self.path(old), self.path(new))

    def remove(self, segno: int) -> None:
        """Remove an old segment; durable after `sync_names`."""
        self._point(Point.WAL_SEGMENT_RECYCLE)
        self._disk.unlink(self.path(segno))

    def sync_names(self) -> None:
        """Make renames and removals durable.

        Raises Panic if it fails: commits would go into a segment whose name may vanish.
        """
        if not self._fsync:
            return
        try:
            self._disk.sync_directory(WAL_DIRECTORY)
        except OSError as error:
            raise Panic(f'could not fsync file "{WAL_DIRECTORY}": {error.strerror or error}') from error

    def segnos(self) -> list[int]:
        """The numbers of all segment files of this timeline, ascending."""
        found = []
        for name in self._disk.list(WAL_DIRECTORY):
            parsed = parse_segment_name(name, self._segment_size)
            if parsed is not None and parsed[0] == self._timeline:
                found.append(parsed[1])
        return sorted(found)

    def make_durable(self, segnos: Iterable[int]) -> None:
        """Before going on after a crash: what was read as the log may so far be in the kernel only.

        So may their names: a segment may have been renamed into use by a process that was killed before it synced
        that. Also removes temporary files of processes that died.
        """
        for name in self._disk.list(WAL_DIRECTORY):
            if name.startswith(_TEMPORARY):
                self._disk.unlink(f"{WAL_DIRECTORY}/{name}")
        self.sync_names()
        if not self._fsync:
            return
        for segno in segnos:
            if self.exists(segno):
                handle = self._disk.open(self.path(segno))
                try:
                    self._disk.fdatasync(handle)
                finally:
                    self._disk.close(handle)
