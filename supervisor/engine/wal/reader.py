"""WalReader: walks the log of a data directory and ends at the first record that fails any check.

That first failure *is* the end of the log: after a crash nothing else says where it ends. So a reader never raises for
bad content; it stops, and `end_reason` says why in the words of PostgreSQL's xlogreader.c where the check is the same.
OSError of a file that exists and cannot be read does pass: that is not the end of the log.

Checks of a sequential walk, in order: the segment's header (magic, CRC, system, size, start LSN), total length,
manager, prev-link (exactly the record before), incarnation, CRC. wal/insert.py argues why together they never take
stale bytes for a record. A lone record, read at an LSN that somebody remembered, has no record before it: its prev-link
must only point backwards.

It reads in pieces, for a segment is mostly not yet written: reading all of it would cost more than a short redo. They
grow as the walk goes on, so that a long one asks seldom and a short one not for much.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from supervisor.engine.disk.disk import Disk
from supervisor.engine.wal.lsn import format_lsn, segment_path
from supervisor.engine.wal.record import HEADER, HEADER_SIZE, WalRecord, crc32c, decode_headed
from supervisor.engine.wal.rmgr import RMGRS, Rmgr, XlogInfo
from supervisor.engine.wal.segment import SEGMENT_HEADER_SIZE, Identity, check_segment_header

FIRST_PIECE_BYTES = 16 << 10
PIECE_BYTES = 256 << 10
_CRC_BYTES = 4
_XLOG = int(Rmgr.XLOG)
_SWITCH = int(XlogInfo.SWITCH)
_START = int(XlogInfo.START)
_N_RMGRS = len(RMGRS)


class WalEnd(msgspec.Struct, frozen=True):
    """Where the valid log ends: all that `Wal.start_at` needs to go on writing there.

    `lsn` is the byte after the last valid record, or the start of the next segment if nothing more fits behind it;
    `prev_lsn` is that record's LSN (0: there is none); `incarnation` is that record's incarnation.
    """

    lsn: int
    prev_lsn: int
    incarnation: int


class WalReader:
    """One walk, or several one after the other, over the log of a data directory.

    After a walk `end` says where valid log ends and `end_reason` why. If not even the first record is valid, `end` is
    None. The reader holds one open file until `close`.
    """

    def __init__(self, disk: Disk, identity: Identity) -> None:
        self.end_reason = ""
        self._end: tuple[int, int, int] | None = None  # what `WalEnd` is made of, if anybody asks
        self._disk = disk
        self._identity = identity
        self._segment_size = identity.segment_size
        self._handle = -1
        self._records_lsn = self._segment_end = -1  # of the open segment: the first record, the byte after all
        self._buffer = b""
        self._buffer_lsn = 0
        self._piece = FIRST_PIECE_BYTES

    @property
    def end(self) -> WalEnd | None:
        """Where the last walk ended, or stands; None before its first valid record."""
        return None if self._end is None else WalEnd(*self._end)

    @property
    def end_lsn(self) -> int:
        """The byte after the last valid record; 0 if there was none."""
        return 0 if self._end is None else self._end[0]

    def close(self) -> None:
        """Give the open file back."""
        if self._handle >= 0:
            self._disk.close(self._handle)
        self._handle = self._records_lsn = self._segment_end = -1
        self._buffer = b""

    def read_record(self, lsn: int) -> WalRecord | None:
        """The record at `lsn` by itself; None if it fails a check, and `end_reason` says which."""
        for record in self.read_from(lsn):
            return record
        return None

    def read_from(self, lsn: int) -> Iterator[WalRecord]:
        """Every valid record from the one at `lsn` on, in order.

        At each record `end` already tells the end as it would be if nothing valid followed.
        """
        self._end = None
        self.end_reason = ""
        self._buffer = b""  # What was read before may have been overwritten since.
        position = lsn
        prev = -1
        incarnation = -1
        while True:
            if not self._records_lsn <= position < self._segment_end:
                position = self._next_start(position)
                if position < 0:
                    return
            header = self._verify(position, prev, incarnation)
            if isinstance(header, str):
                self.end_reason = header
                return
            try:
                record = decode_headed(header, self._buffer, position - self._buffer_lsn, position)
            except ValueError as error:
                # The CRC is right, so these are bytes that somebody meant: a record of other software, not damage.
                self.end_reason = f"invalid record content at {format_lsn(position)}: {error}"
                return
            prev = position
            incarnation = record.incarnation
            position = record.end_lsn
            switched = record.rmgr == _XLOG and record.info == _SWITCH
            if switched or self._segment_end - position < HEADER_SIZE:
                position = self._segment_end
            self._end = position, prev, incarnation
            yield record

    def _next_start(self, position: int) -> int:
        """Where the next record must start, in a segment that is not open: past its header; -1 at the end."""
        offset = position % self._segment_size
        if not self._open(position - offset):
            return -1
        return position if offset else position + SEGMENT_HEADER_SIZE

    def _open(self, start_lsn: int) -> bool:
        """Open the segment that begins at `start_lsn` and check its header; else set `end_reason`."""
        self.close()
        path = segment_path(self._identity.timeline, start_lsn // self._segment_size, self._segment_size)
        if start_lsn <= 0 or not self._disk.exists(path):
            self.end_reason = f'could not open file "{path}": No such file or directory'
            return False
        self._handle = self._disk.open(path)
        self._fill(start_lsn, SEGMENT_HEADER_SIZE)
        reason = check_segment_header(self._buffer[:SEGMENT_HEADER_SIZE], self._identity, start_lsn)
        if reason is not None:
            self.end_reason = reason
            self.close()
            return False
        self._records_lsn = start_lsn + SEGMENT_HEADER_SIZE
        self._segment_end = start_lsn + self._segment_size
        return True

    def _fill(self, lsn: int, needed: int) -> bytes:
        """Have the piece of the open segment that begins at `lsn` in the buffer, at least `needed` bytes; the buffer."""
        offset = lsn % self._segment_size
        length = min(max(self._piece, needed), self._segment_size - offset)
        self._piece = min(self._piece * 2, PIECE_BYTES)
        self._buffer = self._disk.pread(self._handle, length, offset)
        self._buffer_lsn = lsn
        return self._buffer

    def _verify(self, lsn: int, prev: int, incarnation: int) -> tuple[int, ...] | str:
        """The header of the valid record at `lsn`, which is then wholly in the buffer; else what is wrong.

        `prev` and `incarnation` are those of the record before, -1 for the first record of a walk.
        """
        buffer = self._buffer
        at = lsn - self._buffer_lsn
        if len(buffer) - at < HEADER_SIZE or at < 0:
            buffer = self._fill(lsn, HEADER_SIZE)
            at = 0
            if len(buffer) < HEADER_SIZE:
                return f"invalid record length at {format_lsn(lsn)}: expected at least {HEADER_SIZE}, got 0"
        header = HEADER.unpack_from(buffer, at)
        crc, total, prev_link, _, its_incarnation, rmgr, info, _, _, _ = header
        if total < HEADER_SIZE or total & 7:
            return f"invalid record length at {format_lsn(lsn)}: expected at least {HEADER_SIZE}, got {total}"
        if total > self._segment_end - lsn:
            return f"record length {total} at {format_lsn(lsn)} too long"
        if rmgr >= _N_RMGRS:
            return f"invalid resource manager ID {rmgr} at {format_lsn(lsn)}"
        if prev_link != prev if prev >= 0 else prev_link >= lsn:
            return f"record with incorrect prev-link {format_lsn(prev_link)} at {format_lsn(lsn)}"
        if incarnation >= 0:
            # One more at a START, which thereby also cannot be one that an earlier run left here.
            expected = incarnation + 1 if rmgr == _XLOG and info == _START else incarnation
            if its_incarnation != expected:
                return (
                    f"record with out-of-sequence incarnation {its_incarnation} (after {incarnation})"
                    f" at {format_lsn(lsn)}"
                )
        end = at + total
        if end > len(buffer):
            buffer = self._fill(lsn, total)
            at, end = 0, total
        if crc != crc32c(buffer[at + _CRC_BYTES : end]):
            return f"incorrect resource manager data checksum in record at {format_lsn(lsn)}"
        return header
