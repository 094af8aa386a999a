"""The heap: rows as versions on pages, changed one page at a time.

Owns inserting, finding, locking, replacing and removing versions, and their WAL records. It never waits for another
transaction: a method that cannot go on says whom to wait for, with no lock held. It knows no columns and no index
beyond the two callbacks of `clean_up`.

One page at a time. A change of two pages is two records: an update that finds no room on its page first locks the
old version (a logged lock, so that nobody else changes it), then puts the new version on another page, then links
the old one to it. A crash in between leaves a version of a transaction that never committed.

Row locks are xmax with a flag. No lock survives a crash: its holder does not run any more. But the lock must not
vanish when the page leaves its buffer, so the page has to be dirty, and then a torn write of it must be mended by an
image in the WAL. So a lock is logged only if the page has had no record since the redo point (`_lock_version`). An
unlogged lock can leave the number of a transaction on disk that the log never names, and a later transaction may be
given that number: until it ends, it seems to hold the lock, and somebody may wait in vain for a moment. Visibility
never asks who locks.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from struct import Struct

from supervisor.engine.access import prune
from supervisor.engine.access.btree import Key
from supervisor.engine.access.room import RoomHints, free_line
from supervisor.engine.access.tuple import (
    HEADER,
    HEADER_BYTES,
    HEAP_ONLY,
    HOT_UPDATED,
    LOCK_ONLY,
    XMAX_AT,
    XMAX_BITS,
    XMAX_COMMITTED,
    XMAX_INVALID,
)
from supervisor.engine.access.visibility import (
    Unknown,
    conflict,
    find_visible,
    set_hint,
)
from supervisor.engine.storage import page as pages
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.storage.critical import CRITICAL
from supervisor.engine.transam.clog import CommitLog
from supervisor.engine.transam.row_locks import RowLocks
from supervisor.engine.transam.snapshot import RunningTransactions, Snapshot
from supervisor.engine.transam.xid import FIRST_NORMAL_XID, precedes
from supervisor.engine.wal.insert import PageRef, Wal
from supervisor.engine.wal.rmgr import Rmgr
from supervisor.host import Host
from supervisor.points import Point
from supervisor.shmem.attachment import Attachment

HasKey = Callable[[bytes, Key], bool]
"""Whether the values of a row (`RowCodec` bytes) have a key."""

_USEFUL_SPACE = pages.PAGE_BYTES // 4
_LONG_CHAIN = 16
"""So many versions before the newest make every look at a much-updated row long: its page is pruned early."""
_SLACK = pages.PAGE_BYTES // 3
"""A page that has less room even after a pruning gives the row away to another page: pruning looks at every row of
the page, and must not be owed again by the next few updates."""


class HeapInfo(IntEnum):
    """The info byte of `Rmgr.HEAP` records. Each changes one page; its block data is given by the structs below."""

    INSERT = 0x00
    DELETE = 0x10
    UPDATE = 0x20
    HOT_UPDATE = 0x40
    LOCK = 0x60
    PRUNE = 0x70


INSERT = Struct("<H")
"""INSERT: line; then the version."""
AT = Struct("<H")
"""DELETE and LOCK: byte offset of the version in the page."""
MOVED = Struct("<HIH")
"""UPDATE: byte offset of the old version; block and line of the new one, which has its own INSERT record."""
HOT = Struct("<HH")
"""HOT_UPDATE: byte offset of the old version, line of the new one; then the new version."""

_header = HEADER.unpack_from
_put_end = Struct("<IIHH").pack_into

DONE = 0
MISSING = -1
CHANGED = -2
"""A newer version was committed after the snapshot was taken (`TM_Updated`)."""
DELETED = -3
"""The row was deleted, and that committed, after the snapshot was taken (`TM_Deleted`)."""
NO_ROOM = -4
"""Results below 0 and DONE; a result above 0 is the xid to wait for."""


class Heap:
    """The heap as one process works on it; stateless but for hints."""

    def __init__(
        self,
        attachment: Attachment,
        pool: BufferPool,
        wal: Wal,
        clog: CommitLog,
        running: RunningTransactions,
        row_locks: RowLocks,
    ) -> None:
        self._host: Host = attachment.host
        self._q = pool.q
        self._mm = pool.mm
        self._pool = pool
        self._wal = wal
        self._clog = clog
        self._known = clog.known
        self._running = running
        self._is_running = running.is_running
        self._row_locks = row_locks
        self._hints = RoomHints(attachment.region)
        self._target: dict[int, int] = {}

    # Reading.

    def fetch(self, relation: int, tid: int, snapshot: Snapshot, me: int) -> bytes | None:
        """The values (`RowCodec` bytes) of the version that a snapshot sees of the row at an index entry's tid."""
        pool, mm = self._pool, self._mm
        while True:
            buffer = pool.lock(relation, tid >> 16)
            page = pool.page_offset(buffer)
            try:
                found = find_visible(mm, page, tid & 0xFFFF, snapshot, me, self._known)
            except Unknown as unknown:
                pool.unlock(buffer)
                self._clog.committed(unknown.xid)
                continue
            body = None if found is None else mm[found[1] + HEADER_BYTES : found[1] + found[2]]
            pool.unlock(buffer)
            return body

    def conflicting(self, relation: int, tid: int, me: int) -> tuple[int, bytes]:
        """(xid, values): the version at a tid that stands in the way of a new row with its key; see
        `visibility.conflict`. Values are empty when nothing does."""
        pool, mm = self._pool, self._mm
        while True:
            buffer = pool.lock(relation, tid >> 16)
            page = pool.page_offset(buffer)
            try:
                xid, at = conflict(mm, page, tid & 0xFFFF, me, self._is_running, self._known)
            except Unknown as unknown:
                pool.unlock(buffer)
                self._clog.committed(unknown.xid)
                continue
            # The length is in the line, which `conflict` does not tell; a version ends where it says itself.
            body = self._values_at(page, at) if at else b""
            pool.unlock(buffer)
            return xid, body

    def _values_at(self, page: int, at: int) -> bytes:
        offset = at - page
        for raw in pages.lines(self._mm, page):
            if raw & 0x7FFF == offset and raw >> 15 & 3 == pages.NORMAL:
                return self._mm[at + HEADER_BYTES : at + (raw >> 17)]
        raise AssertionError(f"no line points to offset {offset}")

    # Changing. Each method holds the page's lock from the look to the record, and returns with no lock held.

    def insert(self, relation: int, xid: int, body: bytes, avoid: int = -1) -> int:
        """Put a new row's first version on some page (not block `avoid`); its tid."""
        item = HEADER.pack(xid, 0, 0, 0, 0) + body
        pool, mm = self._pool, self._mm
        buffer, block = self._find_room(relation, len(item), avoid)
        page = pool.page_offset(buffer)
        with CRITICAL:
            pool.mark_dirty(buffer)
            if pages.kind(mm, page) == pages.KIND_NEW:
                pages.init(mm, page, pages.KIND_HEAP)
            line = pages.add_item(mm, page, item, free_line(mm, page))
            prune.note_prunable(self._q, page, xid)
            self._host.point(Point.HEAP_INSERT_UNDER_LOCK)
            self._log(HeapInfo.INSERT, xid, relation, block, page, INSERT.pack(line) + item)
        pool.unlock(buffer)
        return block << 16 | line

    def lock_row(
        self, relation: int, tid: int, snapshot: Snapshot, xid: int, has_key: HasKey, key: Key
    ) -> tuple[int, bytes]:
        """Lock the version that a snapshot sees for transaction `xid`: (DONE, values), or (MISSING, b""),
        (CHANGED, b""), (DELETED, b""), or (xid to wait for, b"")."""
        pool, mm = self._pool, self._mm
        result, buffer, page, at, length, _, _ = self._begin_change(relation, tid, snapshot, xid, has_key, key)
        if result:
            return result, b""
        self._lock_version(relation, tid >> 16, buffer, page, at, xid)
        body = mm[at + HEADER_BYTES : at + length]
        pool.unlock(buffer)
        return DONE, body

    def delete(self, relation: int, tid: int, snapshot: Snapshot, xid: int, has_key: HasKey, key: Key) -> int:
        """End the version that a snapshot sees: DONE, MISSING, CHANGED, DELETED or the xid to wait for."""
        pool, mm = self._pool, self._mm
        result, buffer, page, at, _, _, _ = self._begin_change(relation, tid, snapshot, xid, has_key, key)
        if result:
            return result
        flags = _header(mm, at)[4]
        with CRITICAL:
            pool.mark_dirty(buffer)
            _put_end(mm, at + XMAX_AT, xid, 0, 0, flags & ~XMAX_BITS)
            prune.note_prunable(self._q, page, xid)
            self._host.point(Point.HEAP_DELETE_UNDER_LOCK)
            self._log(HeapInfo.DELETE, xid, relation, tid >> 16, page, AT.pack(at - page))
        pool.unlock(buffer)
        return DONE

    def update(
        self, relation: int, tid: int, snapshot: Snapshot, xid: int, has_key: HasKey, key: Key, body: bytes
    ) -> int:
        """Replace the version that a snapshot sees by one on the same page, which needs no index entry.

        DONE, MISSING, CHANGED, DELETED, the xid to wait for, or NO_ROOM: then the version is locked for `xid`, and the
        caller goes on with `insert` (avoiding this block), the index, and `link`.
        """
        pool, mm = self._pool, self._mm
        item_bytes = HEADER_BYTES + len(body)
        while True:
            result, buffer, page, at, _, line, steps = self._begin_change(relation, tid, snapshot, xid, has_key, key)
            if result:
                return result
            room = pages.free_space(mm, page) >= item_bytes
            if room and steps < _LONG_CHAIN:
                break
            unknown = self._prune(relation, tid >> 16, buffer, page)
            if room:
                at = page + pages.item(mm, page, line)[1]
                break
            if pages.free_space(mm, page) >= max(item_bytes, _SLACK):
                at = page + pages.item(mm, page, line)[1]
                break
            if not unknown:
                at = page + pages.item(mm, page, line)[1]
                self._lock_version(relation, tid >> 16, buffer, page, at, xid)
                pool.unlock(buffer)
                return NO_ROOM
            pool.unlock(buffer)
            for asked in unknown:
                self._clog.committed(asked)
        flags = _header(mm, at)[4]
        item = HEADER.pack(xid, 0, 0, 0, HEAP_ONLY) + body
        with CRITICAL:
            pool.mark_dirty(buffer)
            new_line = pages.add_item(mm, page, item, free_line(mm, page))
            _put_end(mm, at + XMAX_AT, xid, tid >> 16, new_line, flags & ~XMAX_BITS | HOT_UPDATED)
            prune.note_prunable(self._q, page, xid)
            self._host.point(Point.HEAP_UPDATE_UNDER_LOCK)
            self._log(HeapInfo.HOT_UPDATE, xid, relation, tid >> 16, page, HOT.pack(at - page, new_line) + item)
        pool.unlock(buffer)
        return DONE

    def link(
        self, relation: int, tid: int, snapshot: Snapshot, xid: int, has_key: HasKey, key: Key, new_tid: int
    ) -> None:
        """The last step of an update to another page: end the version that `update` locked."""
        pool, mm = self._pool, self._mm
        result, buffer, page, at, _, _, _ = self._begin_change(relation, tid, snapshot, xid, has_key, key)
        if result:
            raise AssertionError(f"row {tid >> 16}/{tid & 0xFFFF} of relation {relation} lost its lock: {result}")
        flags = _header(mm, at)[4]
        with CRITICAL:
            pool.mark_dirty(buffer)
            _put_end(mm, at + XMAX_AT, xid, new_tid >> 16, new_tid & 0xFFFF, flags & ~XMAX_BITS)
            prune.note_prunable(self._q, page, xid)
            self._host.point(Point.HEAP_UPDATE_UNDER_LOCK)
            data = MOVED.pack(at - page, new_tid >> 16, new_tid & 0xFFFF)
            self._log(HeapInfo.UPDATE, xid, relation, tid >> 16, page, data)
        pool.unlock(buffer)

    def _begin_change(
        self, relation: int, tid: int, snapshot: Snapshot, xid: int, has_key: HasKey, key: Key
    ) -> tuple[int, int, int, int, int, int, int]:
        """(0, buffer, page, offset, length, line, versions before it) with the page locked, if `xid` may change the version that the
        snapshot sees (`HeapTupleSatisfiesUpdate`); else (result, ...) with no lock held.

        A row without the key is no row: the line was given away after the index was read.
        """
        pool, mm = self._pool, self._mm
        while True:
            buffer = pool.lock(relation, tid >> 16)
            page = pool.page_offset(buffer)
            result = MISSING
            try:
                found = find_visible(mm, page, tid & 0xFFFF, snapshot, xid, self._known)
                if found is not None:
                    line, at, length, xmax, steps = found
                if found is not None and has_key(mm[at + HEADER_BYTES : at + length], key):
                    result = self._may_change(at, xmax, xid) if xmax and xmax != xid else DONE
                    if not result:
                        return 0, buffer, page, at, length, line, steps
            except Unknown as unknown:
                pool.unlock(buffer)
                self._clog.committed(unknown.xid)
                continue
            pool.unlock(buffer)
            return result, 0, 0, 0, 0, 0, 0

    def _may_change(self, at: int, xmax: int, xid: int) -> int:
        _, _, _, next_line, flags = _header(self._mm, at)
        if flags & XMAX_INVALID:
            return DONE
        if self._is_running(xmax):
            return xmax
        if flags & LOCK_ONLY:
            return DONE
        if not flags & XMAX_COMMITTED:
            committed = True if xmax < FIRST_NORMAL_XID else self._known(xmax)
            if committed is None:
                raise Unknown(xmax)
            set_hint(self._mm, at, XMAX_COMMITTED if committed else XMAX_INVALID)
            if not committed:
                return DONE
        return CHANGED if next_line else DELETED

    def _lock_version(self, relation: int, block: int, buffer: int, page: int, at: int, xid: int) -> None:
        mm = self._mm
        _, xmax, _, _, flags = _header(mm, at)
        if xmax == xid:
            return
        with CRITICAL:
            # First the mark, then the look at the redo pointer: a checkpoint that publishes its redo point after
            # the look finds the page dirty and writes it; one that did before makes the lock a logged change.
            self._pool.mark_dirty(buffer)
            _put_end(mm, at + XMAX_AT, xid, 0, 0, flags & ~XMAX_BITS | LOCK_ONLY)
            if self._q[page // 8] <= self._wal.redo_pointer():
                self._log(HeapInfo.LOCK, xid, relation, block, page, AT.pack(at - page))

    def _log(self, info: int, xid: int, relation: int, block: int, page: int, data: bytes) -> None:
        _, end = self._wal.insert(Rmgr.HEAP, info, xid, b"", (PageRef(relation, block, page, data),))
        self._q[page // 8] = end

    # Room.

    def _find_room(self, relation: int, size: int, avoid: int) -> tuple[int, int]:
        """(buffer, block) of a locked page with room for an item."""
        pool = self._pool
        tried = {avoid, -1}
        # A hint is taken only when it is needed, for taking it uses it up.
        for source in (self._last_target, self._hints.take, self._last_block):
            block = source(relation)
            if block in tried:
                continue
            tried.add(block)
            buffer = self._lock_if_room(relation, block, size)
            if buffer >= 0:
                self._target[relation] = block
                return buffer, block
        while True:
            buffer, block = pool.lock_new(relation)
            # Another process may have found the new page first and filled it.
            if pages.kind(self._mm, pool.page_offset(buffer)) == pages.KIND_NEW:
                self._target[relation] = block
                return buffer, block
            pool.unlock(buffer)
            buffer = self._lock_if_room(relation, block, size)
            if buffer >= 0:
                self._target[relation] = block
                return buffer, block

    def _lock_if_room(self, relation: int, block: int, size: int) -> int:
        pool, mm = self._pool, self._mm
        while True:
            buffer = pool.lock(relation, block)
            page = pool.page_offset(buffer)
            if pages.kind(mm, page) == pages.KIND_NEW or pages.free_space(mm, page) >= size:
                return buffer
            unknown = self._prune(relation, block, buffer, page)
            if pages.free_space(mm, page) >= size:
                return buffer
            pool.unlock(buffer)
            if not unknown:
                return -1
            for xid in unknown:
                self._clog.committed(xid)

    def _last_target(self, relation: int) -> int:
        return self._target.get(relation, -1)

    def _last_block(self, relation: int) -> int:
        return self._pool.relation_size(relation) - 1

    # Pruning.

    def _prune(self, relation: int, block: int, buffer: int, page: int) -> set[int]:
        """Drop what nobody can see from a locked page; the xids whose fate might allow more."""
        mm = self._mm
        hint = prune.prunable(mm, page)
        if not hint:
            return set()
        horizon = self._running.horizon()
        if not precedes(hint, horizon):
            return set()
        plan = prune.plan(mm, page, horizon, self._is_running, self._known)
        if plan.changes_page:
            self._carry_out(relation, block, buffer, page, plan)
        else:
            prune.set_prunable(mm, page, plan.oldest_kept)
        return plan.unknown

    def _carry_out(self, relation: int, block: int, buffer: int, page: int, plan: prune.Plan) -> None:
        with CRITICAL:
            self._pool.mark_dirty(buffer)
            prune.carry_out(self._mm, page, tuple(plan.redirects), tuple(plan.unused), plan.oldest_kept)
            self._host.point(Point.HEAP_PRUNE_UNDER_LOCK)
            data = prune.encode(plan.redirects, plan.unused, plan.oldest_kept)
            self._log(HeapInfo.PRUNE, 0, relation, block, page, data)

    def clean_up(self, relation: int, block: int, remove_entry: Callable[[bytes, int], None]) -> bool:
        """Take the rows that are dead altogether off a page, index entries first; whether anything was freed.

        `remove_entry(values, tid)` is called with no lock held. The mark of `RowLocks.try_cleanup` is what keeps a
        second process from removing an entry whose line was freed, given to a new row and entered again
        meanwhile: lines of dead rows become unused only here.
        """
        mark = self._row_locks.try_cleanup(relation, block)
        if not mark:
            return False
        pool, mm = self._pool, self._mm
        roots: dict[int, bytes] = {}
        plan, buffer, page = self._plan_with_lock(relation, block)
        for root, _, at in plan.dead_roots:
            roots[root] = self._values_at(page, at)
        pool.unlock(buffer)
        for root, values in roots.items():
            remove_entry(values, block << 16 | root)
        if roots:
            plan, buffer, page = self._plan_with_lock(relation, block)
            for root, chain, _ in plan.dead_roots:
                if root in roots:
                    plan.unused.extend(line for line in chain if line not in plan.unused)
            if plan.changes_page:
                if plan.oldest_kept < FIRST_NORMAL_XID:
                    plan.oldest_kept = 0
                self._carry_out(relation, block, buffer, page, plan)
            if pages.free_space(mm, page) >= _USEFUL_SPACE:
                self._hints.leave(relation, block)
            pool.unlock(buffer)
        self._row_locks.end_cleanup(mark)
        return bool(roots)

    def is_prunable(self, relation: int, block: int) -> bool:
        """Whether a clean-up of the page may be worth its while: by the page's hint."""
        buffer = self._pool.lock(relation, block)
        hint = prune.prunable(self._mm, self._pool.page_offset(buffer))
        self._pool.unlock(buffer)
        return hint != 0 and precedes(hint, self._running.horizon())

    def _plan_with_lock(self, relation: int, block: int) -> tuple[prune.Plan, int, int]:
        """A plan for which everything is known, the buffer, still locked, and its page."""
        pool = self._pool
        while True:
            buffer = pool.lock(relation, block)
            page = pool.page_offset(buffer)
            plan = prune.plan(self._mm, page, self._running.horizon(), self._is_running, self._known)
            if not plan.unknown:
                return plan, buffer, page
            pool.unlock(buffer)
            for xid in plan.unknown:
                self._clog.committed(xid)
