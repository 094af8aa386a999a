"""The B-tree: from a key to the tids of its row versions (PostgreSQL's `nbtree`, after Lehman and Yao).

Owns the entries of an index and the WAL that restores them. It never looks at a row: what a tid means,
and whether two versions of a key conflict, is for the heap to say. A tid is `block << 16 | line`.

How it stays correct:

- Every page knows its right sibling and a high key. A search holds one lock at a time; what moved
  right by a split between two locks is found by following right links.
- The root is always block 0: its split moves its entries to two new pages, so no pointer to a root can
  be stale and there is no other page to keep in step with it.
- A split is one WAL record over the page, its new sibling and their parent, so no crash leaves half of
  one. Room is made from the root down: a parent that could not take one more separator is split before
  its child. The pages are locked together (`BufferPool.lock_many`) and everything that was known of
  them is looked at again.
- Pages are never merged or given back. An empty leaf stays, and is filled again by keys of its range.
- Between the first change of a page and the store of its LSN an error is a Panic.

Several versions of a row with one key are several entries, in the order of their tids. Uniqueness is
asked of the caller, see `insert_unique`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from supervisor.engine.access.btree_bytes import BytesLayout
from supervisor.engine.access.btree_keys import encode_key, word_keys
from supervisor.engine.access.btree_page import CORRUPT, HERE, MAX_KEY_BYTES, Key, Layout, Node, level_of
from supervisor.engine.access.btree_redo import (
    DELETE,
    INSERT_LEAF,
    NEWROOT,
    SPLIT,
    apply,
    describe,
    insert_data,
    split_data,
)
from supervisor.engine.access.btree_words import WordLayout
from supervisor.engine.storage.buffers import BufferPool
from supervisor.engine.storage.critical import CRITICAL
from supervisor.engine.storage.page import LSN_AT
from supervisor.engine.wal.insert import PageRef
from supervisor.engine.wal.rmgr import Rmgr
from supervisor.errors import INDEX_CORRUPTED, ServerError
from supervisor.points import Point

__all__ = ["Btree", "Key", "MAX_KEY_BYTES", "apply", "describe", "encode_key", "word_keys"]

ROOT = 0
# Bound once: in Python 3.11 a look at an enum's member costs as much as a call.
_BTREE = Rmgr.BTREE
_INSERTED = Point.BTREE_INSERT_UNDER_LOCK
_WAS_SPLIT = Point.BTREE_SPLIT_UNDER_LOCK
APPEND_FILL = 0.9  # how full a page stays that is split at its right end, by keys that only grow


class WalInsert(Protocol):
    """What the tree needs of the WAL."""

    def insert(self, rmgr: Rmgr, info: int, xid: int, body: bytes, pages: Sequence[PageRef] = ()) -> tuple[int, int]:
        """Insert a record about pages that were changed; (its start, its end)."""
        ...


class Btree:
    """One index. Errors: those of `BufferPool.lock`, and ServerError XX002 for a page that is no page of it.

    An object belongs to one process; the tree is the bytes of the relation.
    """

    def __init__(self, pool: BufferPool, wal: WalInsert, relation: int, *, word_keys: bool) -> None:
        self.relation = relation
        self._pool = pool
        self._wal = wal
        self._lock = pool.lock
        self._unlock = pool.unlock
        self._page_offset = pool.page_offset
        self._point: Callable[[Point], None] = pool.host.point
        self._layout: Layout = WordLayout(pool.mm, pool.q) if word_keys else BytesLayout(pool.mm)
        # Blocks taken for a split that turned out not to be needed. Lost with the process: pages of zeros.
        self._spare: list[int] = []

    # Reading.

    def lookup(self, key: Key) -> list[int]:
        """The tids of a key, ascending; empty when there is none."""
        buffer = self._leaf(key, 0)
        tids, more = self._layout.run(self._page_offset(buffer), key)
        self._unlock(buffer)
        if more:
            tids = self._collect(key)[1]
        return tids

    def scan(self, start: Key | None = None) -> Iterator[tuple[Key, int]]:
        """(key, tid) in ascending order, from the first entry whose key is not less than `start`.

        A leaf is copied at a time and no lock is held while the consumer runs. Entries that come or go
        meanwhile may or may not be seen; every other one is seen exactly once.
        """
        key = self._layout.least if start is None else start
        buffer = self._leaf(key, 0)
        while True:
            node = self._layout.read(self._page_offset(buffer))
            self._unlock(buffer)
            first = bisect_left(node.keys, key)
            yield from zip(node.keys[first:], node.tids[first:], strict=True)
            if not node.right:
                return
            buffer = self._lock_node(node.right)

    def node(self, block: int) -> Node:
        """A page taken apart: for checks and tools."""
        buffer = self._lock_node(block)
        node = self._layout.read(self._page_offset(buffer))
        self._unlock(buffer)
        return node

    # Changing.

    def create(self, xid: int) -> None:
        """Make the root of a new, empty relation."""
        buffer, block = self._pool.lock_new(self.relation)
        if block != ROOT:
            self._unlock(buffer)
            raise ServerError(f'index "{self.relation}" is not empty', sqlstate=INDEX_CORRUPTED)
        at = self._page_offset(buffer)
        self._pool.mark_dirty(buffer)
        with CRITICAL:
            self._layout.write(at, Node(0, 0, None, [], [], []))
            self._log(NEWROOT, xid, [(buffer, ROOT, b"", True)])
        self._unlock(buffer)

    def insert(self, key: Key, tid: int, xid: int) -> None:
        """Add an entry. The same (key, tid) twice is an error: the heap gave out a tid that is still indexed."""
        while True:
            buffer = self._leaf(key, tid)
            if self._put(buffer, key, tid, xid):
                return
            self._make_room(key, tid, xid)

    def insert_unique(self, key: Key, tid: int, xid: int, check: Callable[[Sequence[int]], int]) -> int:
        """Add an entry unless its key is taken: 0 when it was added, else the xid to wait for.

        `check` is asked when there are entries with the key. It is given their tids, holds no lock and may
        read rows; it returns 0 when none of them stands in the way for good (deleted by a committed
        transaction, made by an aborted one), the xid whose end decides, or raises. The entry goes in
        only under the locks of all leaves that have the key, and only if none of them changed since the
        tids were read; otherwise they are read and checked again. So of two processes that add the same
        key, one sees the other's entry. When an xid is returned nothing was changed: wait, call again.
        """
        buffer = self._leaf(key, 0)
        tids, more = self._layout.run(self._page_offset(buffer), key)
        if not tids and not more:
            if self._put(buffer, key, tid, xid):
                return 0
            self._make_room(key, tid, xid)
        else:
            self._unlock(buffer)
        while True:
            leaves, tids = self._collect(key)
            if tids and (waited_for := check(tids)):
                return waited_for
            locked = self._lock_unchanged(leaves)
            if not locked:
                continue
            target = self._cover(locked, key, tid)
            for buffer in locked:
                if buffer != target:
                    self._unlock(buffer)
            if self._put(target, key, tid, xid):
                return 0
            self._make_room(key, tid, xid)

    def remove(self, key: Key, tid: int, xid: int = 0) -> bool:
        """Take an entry out; False when it is not there. The heap may reuse the tid only after this."""
        buffer = self._leaf(key, tid)
        at = self._page_offset(buffer)
        index, found = self._layout.search(at, key, tid)
        if found:
            self._pool.mark_dirty(buffer)
            with CRITICAL:
                self._layout.remove(at, index)
                self._log(DELETE, xid, [(buffer, self._block(buffer), insert_data(index, 0, tid, b""), False)])
        self._unlock(buffer)
        return found

    # One leaf.

    def _leaf(self, key: Key, tid: int) -> int:
        """The buffer of the leaf that (key, tid) belongs on, locked."""
        block = ROOT
        while True:
            buffer = self._lock(self.relation, block)
            step = self._layout.step(self._page_offset(buffer), key, tid)
            if step == HERE:
                return buffer
            self._unlock(buffer)
            if step == CORRUPT:
                raise self._corrupt(block)
            block = step

    def _lock_node(self, block: int) -> int:
        buffer = self._lock(self.relation, block)
        if self._layout.step(self._page_offset(buffer), self._layout.least, 0) == CORRUPT:
            self._unlock(buffer)
            raise self._corrupt(block)
        return buffer

    def _collect(self, key: Key) -> tuple[list[tuple[int, int]], list[int]]:
        """(block, LSN) of each leaf that has, or would have, entries with a key; and all their tids."""
        leaves: list[tuple[int, int]] = []
        tids: list[int] = []
        buffer = self._leaf(key, 0)
        while True:
            at = self._page_offset(buffer)
            found, more = self._layout.run(at, key)
            tids += found
            leaves.append((self._block(buffer), self._pool.q[(at + LSN_AT) // 8]))
            self._unlock(buffer)
            if not more:
                return leaves, tids
            buffer = self._lock_node(more)

    def _lock_unchanged(self, leaves: list[tuple[int, int]]) -> tuple[int, ...]:
        """Lock pages, in the order given; nothing is locked and () returned if one has another LSN by now."""
        buffers = self._pool.lock_many([(self.relation, block) for block, _ in leaves])
        for buffer, (_, lsn) in zip(buffers, leaves, strict=True):
            if self._pool.q[(self._page_offset(buffer) + LSN_AT) // 8] != lsn:
                self._unlock_all(buffers)
                return ()
        return buffers

    def _cover(self, locked: tuple[int, ...], key: Key, tid: int) -> int:
        for buffer in locked:
            if self._layout.step(self._page_offset(buffer), key, tid) == HERE:
                return buffer
        raise self._corrupt(self._block(locked[-1]))

    def _put(self, buffer: int, key: Key, tid: int, xid: int) -> bool:
        """Add an entry to a locked leaf and unlock it; False when there is no room."""
        layout = self._layout
        at = self._page_offset(buffer)
        if not layout.fits(at, key):
            self._unlock(buffer)
            return False
        index, found = layout.search(at, key, tid)
        if found:
            self._unlock(buffer)
            raise ServerError(
                f'index "{self.relation}" already has an entry for row ({tid >> 16},{tid & 0xFFFF})',
                sqlstate=INDEX_CORRUPTED,
            )
        self._pool.mark_dirty(buffer)
        with CRITICAL:
            layout.insert(at, index, key, tid, 0)
            self._point(_INSERTED)
            data = insert_data(index, 0, tid, layout.key_bytes(key))
            self._log(INSERT_LEAF, xid, [(buffer, self._block(buffer), data, False)])
        self._unlock(buffer)
        return True

    # Splits.

    def _make_room(self, key: Key, tid: int, xid: int) -> None:
        """Split what is full on the way down to (key, tid). Others may undo it at once: the caller looks again."""
        if not self._room(ROOT, key):
            self._split_root(key, xid)
            return
        parent = ROOT
        while (child := self._child(parent, key, tid)) >= 0:
            if self._room(child, key):
                parent = child
            elif not self._split(parent, child, key, tid, xid):
                return

    def _room(self, block: int, key: Key) -> bool:
        buffer = self._lock_node(block)
        room = self._buffer_has_room(buffer, key)
        self._unlock(buffer)
        return room

    def _buffer_has_room(self, buffer: int, key: Key) -> bool:
        """On a leaf for this key, above for any separator: what is split below it may be any entry."""
        at = self._page_offset(buffer)
        return self._layout.has_room(at) if self._level(buffer) else self._layout.fits(at, key)

    def _child(self, block: int, key: Key, tid: int) -> int:
        """The page below, or beside, `block` on the way to (key, tid); HERE when `block` is its leaf."""
        buffer = self._lock(self.relation, block)
        step = self._layout.step(self._page_offset(buffer), key, tid)
        self._unlock(buffer)
        if step == CORRUPT:
            raise self._corrupt(block)
        return step

    def _split(self, parent: int, child: int, key: Key, tid: int, xid: int) -> bool:
        """Split `child`, if it still is a full child of `parent` and the parent has room."""
        layout = self._layout
        new = self._take_spare()
        buffers = self._pool.lock_many([(self.relation, block) for block in (child, new, parent)])
        left_buffer, right_buffer, parent_buffer = buffers
        parent_at = self._page_offset(parent_buffer)
        if (
            self._level(parent_buffer) != self._level(left_buffer) + 1
            or layout.step(parent_at, key, tid) != child
            or not layout.has_room(parent_at)
            or self._buffer_has_room(left_buffer, key)
        ):
            self._unlock_all(buffers)
            self._spare.append(new)
            return False
        node = layout.read(self._page_offset(left_buffer))
        at = self._split_point(node, key, tid)
        left, right = node.split(at, new)
        separator, separator_tid = right.keys[0], right.tids[0]
        index, _ = layout.search(parent_at, separator, separator_tid)
        for buffer in buffers:
            self._pool.mark_dirty(buffer)
        with CRITICAL:
            layout.write(self._page_offset(left_buffer), left)
            layout.write(self._page_offset(right_buffer), right)
            layout.insert(parent_at, index, separator, separator_tid, new)
            self._point(_WAS_SPLIT)
            parent_data = insert_data(index, new, separator_tid, layout.key_bytes(separator))
            self._log(
                SPLIT,
                xid,
                [
                    (left_buffer, child, split_data(at, new), False),
                    (right_buffer, new, b"", True),
                    (parent_buffer, parent, parent_data, False),
                ],
            )
        self._unlock_all(buffers)
        return True

    def _split_root(self, key: Key, xid: int) -> None:
        """Move the root's entries to two new pages, if it still is full; the tree is one level higher."""
        layout = self._layout
        blocks = [ROOT, self._take_spare(), self._take_spare()]
        buffers = self._pool.lock_many([(self.relation, block) for block in blocks])
        if self._buffer_has_room(buffers[0], key):
            self._unlock_all(buffers)
            self._spare += blocks[1:]
            return
        node = layout.read(self._page_offset(buffers[0]))
        left, right = node.split(self._split_point(node, key, 0), blocks[2])
        root = Node(
            node.level + 1,
            0,
            None,
            [layout.least, right.keys[0]],
            [0, right.tids[0]],
            blocks[1:],
        )
        for buffer in buffers:
            self._pool.mark_dirty(buffer)
        with CRITICAL:
            for buffer, made in zip(buffers, (root, left, right), strict=True):
                layout.write(self._page_offset(buffer), made)
            self._point(_WAS_SPLIT)
            changes = [(buffer, block, b"", True) for buffer, block in zip(buffers, blocks, strict=True)]
            self._log(NEWROOT, xid, changes)
        self._unlock_all(buffers)

    def _split_point(self, node: Node, key: Key, tid: int) -> int:
        # A key beyond the last page's last one: keys that only grow would leave every page half full.
        if not node.right and key >= node.keys[-1]:
            return max(1, min(len(node.keys) - 1, int(len(node.keys) * APPEND_FILL)))
        return self._layout.middle(node)

    def _take_spare(self) -> int:
        return self._spare.pop() if self._spare else self._pool.new_block(self.relation)

    # Small things.

    def _log(self, info: int, xid: int, changes: list[tuple[int, int, bytes, bool]]) -> None:
        """Insert the record about (buffer, block, data, whole page) and store its end as the pages' LSN."""
        pages = [
            PageRef(self.relation, block, self._page_offset(buffer), data, image)
            for buffer, block, data, image in changes
        ]
        _, end_lsn = self._wal.insert(_BTREE, info, xid, b"", pages)
        for reference in pages:
            self._pool.q[(reference.page_offset + LSN_AT) // 8] = end_lsn

    def _block(self, buffer: int) -> int:
        return self._pool.tag(buffer)[1]

    def _level(self, buffer: int) -> int:
        return level_of(self._pool.mm, self._page_offset(buffer))

    def _unlock_all(self, buffers: Sequence[int]) -> None:
        for buffer in buffers:
            self._unlock(buffer)

    def _corrupt(self, block: int) -> ServerError:
        return ServerError(
            f'index "{self.relation}" contains unexpected page at block {block}', sqlstate=INDEX_CORRUPTED
        )
