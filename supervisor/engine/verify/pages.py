"""Pages as they lie in their files: checksum, header, LSN (PostgreSQL's pg_checksums, `PageIsVerified`).

Owns reading a relation's file block by block, past a buffer pool, and the rules of every page whatever it holds. What
lies between the header and the end is for the check of its structure, which is shown only pages that are whole: of one
whose checksum is wrong, every further word would be about noise.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass

from supervisor.engine.disk.disk import Disk
from supervisor.engine.storage import page as pages
from supervisor.engine.storage.files import relation_path
from supervisor.engine.storage.page import PAGE_BYTES
from supervisor.engine.verify.corruption import Findings, Kind
from supervisor.engine.wal.lsn import format_lsn

Progress = Callable[[str, int, int], None]
"""Called with file, block, and blocks of the file, before a block is read."""


@dataclass(frozen=True, slots=True)
class LogBounds:
    """Between which LSNs a page's must lie: records begin at `first` at the earliest, valid WAL ends at `end`."""

    first: int
    end: int


class PageFile:
    """One relation's file and the page of it that was read last, at offset 0 of `mm`."""

    def __init__(self, disk: Disk, relation: int, bounds: LogBounds, findings: Findings, progress: Progress) -> None:
        self.mm = mmap.mmap(-1, PAGE_BYTES)
        self.q = memoryview(self.mm).cast("q")
        self._disk = disk
        self._relation = relation
        self._bounds = bounds
        self._findings = findings
        self._progress = progress
        self._handle = disk.open(relation_path(relation))
        self.blocks = disk.size(self._handle) // PAGE_BYTES
        """Whole ones: what a torn extension left behind them counts for nobody (`RelationFiles.size`)."""

    def close(self) -> None:
        """Give the file back."""
        self._disk.close(self._handle)
        self.q.release()
        self.mm.close()

    def read(self, block: int, *kinds: int) -> bool:
        """Have a block in `mm`; whether it is a whole page of one of these kinds, so that its content can be looked at.

        A page of zeros is legal and has no content: a crash between extending and filling leaves one.
        """
        self._progress(self._findings.file, block, self.blocks)
        self._findings.pages += 1
        data = self._disk.pread(self._handle, PAGE_BYTES, block * PAGE_BYTES)
        try:
            pages.verify(data, self._relation, block)
        except pages.WrongChecksum as error:
            self._findings.add(Kind.CHECKSUM, str(error), block=block)
            return False
        except pages.InvalidPage as error:
            self._findings.add(Kind.PAGE_HEADER, str(error), block=block)
            return False
        self.mm[:] = data
        found = pages.kind(self.mm, 0)
        if found == pages.KIND_NEW and not data.strip(b"\0"):
            return False
        return self._header_is_sound(block, found, kinds)

    def _header_is_sound(self, block: int, found: int, kinds: tuple[int, ...]) -> bool:
        wrong = pages.header_fault(self.mm, 0)
        if found not in kinds:
            wrong = f"kind {found}, expected {' or '.join(map(str, kinds))}"
        lsn = self.q[pages.LSN_AT // 8] & 0xFFFF_FFFF_FFFF_FFFF
        if lsn > self._bounds.end:
            self._findings.add(
                Kind.PAGE_LSN,
                f"page LSN {format_lsn(lsn)} is beyond the end of WAL at {format_lsn(self._bounds.end)}",
                block=block,
            )
        elif lsn < self._bounds.first or lsn & 7:
            self._findings.add(Kind.PAGE_LSN, f"page LSN {format_lsn(lsn)} is no end of a record", block=block)
        if wrong:
            self._findings.add(Kind.PAGE_HEADER, wrong, block=block)
        return not wrong
