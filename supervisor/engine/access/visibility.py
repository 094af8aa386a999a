"""Who sees which version of a row (PostgreSQL's `heapam_visibility.c`).

Functions over the header of a version on a locked page. They never read another page: what became of a transaction
is asked of `known`, which answers from this process's memory; an xid that it does not know is raised as `Unknown`,
and the caller lets the page go, asks the commit log and begins again.

Answers are left in the header as hint bits. A hint never marks the page dirty and is never logged: it is true by
itself (a transaction is asked about only after its end, a committed one ended after its record was flushed, or, with
`synchronous_commit` off, is flushed before the page is written: `wal.asynchronous`), the checksum is computed over
the copy that is written, and a write of the page happens only for a logged change, whose page image covers a torn
write. A hint that is lost is found again.
"""

from __future__ import annotations

from collections.abc import Callable
from mmap import mmap
from struct import Struct

from supervisor.engine.access.tuple import (
    FLAGS_AT,
    HEADER,
    HEAP_ONLY,
    HOT_UPDATED,
    LOCK_ONLY,
    XMAX_COMMITTED,
    XMAX_INVALID,
    XMIN_COMMITTED,
    XMIN_INVALID,
)
from supervisor.engine.storage import page as pages
from supervisor.engine.transam.snapshot import Snapshot
from supervisor.engine.transam.xid import FIRST_NORMAL_XID, HALF, precedes

Known = Callable[[int], bool | None]
IsRunning = Callable[[int], bool]

LINE_BASE = pages.HEADER_BYTES - pages.LINE_BYTES
_STATE_BITS = 3 << 15
_NORMAL = pages.NORMAL << 15
_REDIRECT = pages.REDIRECT << 15
_line = Struct("<I").unpack_from
_lower = Struct("<H").unpack_from
_header = HEADER.unpack_from
_put_flags = Struct("<H").pack_into

LIVE = 0
"""The version stands for everybody who may look now."""
DEAD = -1
"""Nobody will see it again, or nobody ever did."""
RECENTLY_DEAD = -2
"""It is over for new snapshots, and an older one may still see it."""


class Unknown(Exception):
    """What became of `xid` must be asked of the commit log, without the page's lock."""

    def __init__(self, xid: int) -> None:
        super().__init__(xid)
        self.xid = xid


def find_visible(
    mm: mmap, page: int, line: int, snapshot: Snapshot, me: int, known: Known
) -> tuple[int, int, int, int, int] | None:
    """(line, byte offset in `mm`, length, xmax that does not count as its end or 0, versions passed over) of the
    version that a snapshot sees, of the row whose first line is `line`; None if it sees none.

    At most one version is visible. `me` is the own transaction's number, 0 for none. Raises Unknown.
    """
    count = (_lower(mm, page + pages.LOWER_AT)[0] - pages.HEADER_BYTES) // pages.LINE_BYTES
    if not 0 < line <= count:
        return None
    raw = _line(mm, page + LINE_BASE + 4 * line)[0]
    if raw & _STATE_BITS == _REDIRECT:
        line = raw & 0x7FFF
        raw = _line(mm, page + LINE_BASE + 4 * line)[0]
    elif raw & _STATE_BITS == _NORMAL and _header(mm, page + (raw & 0x7FFF))[4] & HEAP_ONLY:
        return None  # The line was given to a later version of another row: a stale index entry.
    xmax_seen, running = snapshot.xmax, snapshot.running
    before = steps = 0
    while raw & _STATE_BITS == _NORMAL:
        at = page + (raw & 0x7FFF)
        xmin, xmax, _, next_line, flags = _header(mm, at)
        if before and (xmin != before or not flags & HEAP_ONLY):
            return None  # The line was given away since: the row ended with the version before it.
        if not xmax and flags & XMIN_COMMITTED and (xmin - xmax_seen) & HALF and xmin not in running:
            return line, at, raw >> 17, 0, steps
        # The two shortest ways, before and after this line, are what nearly every version takes.
        if not (flags & XMAX_COMMITTED and (xmax - xmax_seen) & HALF and xmax not in running) and is_visible(
            mm, at, xmin, xmax, flags, snapshot, me, known
        ):
            return line, at, raw >> 17, xmax, steps
        if not flags & HOT_UPDATED or not 0 < next_line <= count:
            return None
        before = xmax
        line = next_line
        steps += 1
        raw = _line(mm, page + LINE_BASE + 4 * line)[0]
    return None


def is_visible(mm: mmap, at: int, xmin: int, xmax: int, flags: int, snapshot: Snapshot, me: int, known: Known) -> bool:
    """Whether a snapshot sees one version (`HeapTupleSatisfiesMVCC`; without command numbers: a statement sees
    what earlier statements of its own transaction did)."""
    if flags & XMIN_INVALID:
        return False
    if xmin == me and me:
        return not xmax or bool(flags & (LOCK_ONLY | XMAX_INVALID)) or xmax != me
    if snapshot.sees_as_running(xmin):
        return False
    if not flags & XMIN_COMMITTED:
        if not did_commit(xmin, known):
            set_hint(mm, at, XMIN_INVALID)
            return False
        set_hint(mm, at, XMIN_COMMITTED)
        flags |= XMIN_COMMITTED
    if not xmax or flags & (LOCK_ONLY | XMAX_INVALID):
        return True
    if xmax == me:
        return False
    if snapshot.sees_as_running(xmax):
        return True
    if flags & XMAX_COMMITTED:
        return False
    if did_commit(xmax, known):
        set_hint(mm, at, XMAX_COMMITTED)
        return False
    set_hint(mm, at, XMAX_INVALID)
    return True


def state(mm: mmap, at: int, horizon: int, is_running: IsRunning, known: Known) -> int:
    """LIVE, DEAD or RECENTLY_DEAD for everybody (`HeapTupleSatisfiesVacuum`); what runs counts as LIVE.

    Raises Unknown.
    """
    xmin, xmax, _, _, flags = _header(mm, at)
    if flags & XMIN_INVALID:
        return DEAD
    if not flags & XMIN_COMMITTED:
        # What is known is over; only of the others must be asked whether they run.
        if known(xmin) is None and is_running(xmin):
            return LIVE
        if not did_commit(xmin, known):
            set_hint(mm, at, XMIN_INVALID)
            return DEAD
        set_hint(mm, at, XMIN_COMMITTED)
        flags |= XMIN_COMMITTED
    if not xmax or flags & (LOCK_ONLY | XMAX_INVALID):
        return LIVE
    if not flags & XMAX_COMMITTED:
        if known(xmax) is None and is_running(xmax):
            return LIVE
        if not did_commit(xmax, known):
            set_hint(mm, at, XMAX_INVALID)
            return LIVE
        set_hint(mm, at, XMAX_COMMITTED)
    return DEAD if precedes(xmax, horizon) else RECENTLY_DEAD


def conflict(mm: mmap, page: int, line: int, me: int, is_running: IsRunning, known: Known) -> tuple[int, int]:
    """(xid, offset): whether the row whose first line is `line` stands in the way of a new row with its key
    (`HeapTupleSatisfiesDirty`). (0, 0): no. (0, offset of the version): yes. (xid, offset): only that
    transaction's end will tell. Raises Unknown."""
    if not 0 < line <= pages.line_count(mm, page):
        return 0, 0
    raw = _line(mm, page + LINE_BASE + 4 * line)[0]
    before = 0
    if raw >> 15 & 3 == pages.REDIRECT:
        line = raw & 0x7FFF
        raw = _line(mm, page + LINE_BASE + 4 * line)[0]
    elif raw >> 15 & 3 == pages.NORMAL and _header(mm, page + (raw & 0x7FFF))[4] & HEAP_ONLY:
        return 0, 0
    while raw >> 15 & 3 == pages.NORMAL:
        at = page + (raw & 0x7FFF)
        xmin, xmax, _, next_line, flags = _header(mm, at)
        if before and (xmin != before or not flags & HEAP_ONLY):
            return 0, 0
        if xmin != me and not flags & (XMIN_COMMITTED | XMIN_INVALID):
            if is_running(xmin):
                return xmin, at
            set_hint(mm, at, XMIN_COMMITTED if did_commit(xmin, known) else XMIN_INVALID)
            flags = _header(mm, at)[4]
        if flags & XMIN_INVALID:
            return 0, 0
        if not xmax or flags & (LOCK_ONLY | XMAX_INVALID):
            return 0, at
        if xmax != me and not flags & XMAX_COMMITTED:
            if is_running(xmax):
                return xmax, at
            if not did_commit(xmax, known):
                set_hint(mm, at, XMAX_INVALID)
                return 0, at
            set_hint(mm, at, XMAX_COMMITTED)
        if not flags & HOT_UPDATED or not 0 < next_line <= pages.line_count(mm, page):
            return 0, 0
        before = xmax
        raw = _line(mm, page + LINE_BASE + 4 * next_line)[0]
    return 0, 0


def did_commit(xid: int, known: Known) -> bool:
    """What `known` says of a transaction that is over; raises Unknown."""
    if xid < FIRST_NORMAL_XID:
        return True
    answer = known(xid)
    if answer is None:
        raise Unknown(xid)
    return answer


def set_hint(mm: mmap, at: int, hint: int) -> None:
    """Leave an answer in a version's header."""
    flags = _header(mm, at)[4]
    _put_flags(mm, at + FLAGS_AT, flags | hint)
