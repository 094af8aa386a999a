"""B-tree pages whose keys are int64.

From byte 32: the high key's two words, then the keys upwards as one sorted array; downwards from the
page's end, in the same order, one word for a leaf entry (tid) and two for an inner one (tid, child). So
`bisect` runs in C on the mapping itself, and inserting is two memmoves; nothing is decoded.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from mmap import mmap
from struct import Struct
from typing import cast

from supervisor.engine.access.btree_page import BOUNDS, CORRUPT, HEADER, HERE, LINKS, Node
from supervisor.engine.storage import page as pages
from supervisor.engine.storage.page import (
    HEADER_BYTES,
    KIND_BTREE_WORD,
    LOWER_AT,
    PAGE_BYTES,
    PAGE_WORDS,
    WORD_AT,
)

_header = HEADER.unpack_from
_put_bounds = BOUNDS.pack_into
_step = cast(Callable[[mmap, int], tuple[int, int, int, int]], Struct("<H6xH2xIH").unpack_from)
"""lower, kind, right, level: what a search needs of the header."""
_KEYS_AT = HEADER_BYTES + 16
_KEYS = _KEYS_AT // 8
_HIGH = HEADER_BYTES // 8
_WORD = Struct("<q")


class WordLayout:
    """Keys are int64."""

    kind = KIND_BTREE_WORD
    least = -(1 << 63)

    def __init__(self, mm: mmap, q: memoryview) -> None:
        self._mm = mm
        self._q = q

    def step(self, at: int, key: int, tid: int) -> int:
        """See Layout."""
        q = self._q
        lower, kind, right, level = _step(self._mm, at + LOWER_AT)
        if kind != KIND_BTREE_WORD:
            return CORRUPT
        word = at >> 3
        if right:
            high = q[word + _HIGH]
            if key > high or (key == high and tid >= q[word + _HIGH + 1]):
                return right
        if not level:
            return HERE
        first = word + _KEYS
        end = (at + lower) >> 3
        payload = word + PAGE_WORDS - 2 * end  # payload + 2 * place is the tid of the key at a place
        # The last entry that is not greater: the leftmost page of a level begins with the least of all.
        place = bisect_left(q, key, first, end)
        while place < end and q[place] == key and q[payload + 2 * place] <= tid:
            place += 1
        return q[payload + 2 * place - 1]

    def run(self, at: int, key: int) -> tuple[list[int], int]:
        """See Layout."""
        q = self._q
        lower, _, right, _ = _step(self._mm, at + LOWER_AT)
        word = at >> 3
        first = word + _KEYS
        end = (at + lower) >> 3
        begin = bisect_left(q, key, first, end)
        payload = word + PAGE_WORDS - end  # payload + place is the tid of the key at a place
        if begin < end and q[begin] == key:
            stop = begin + 1
            if stop < end and q[stop] == key:
                stop = bisect_right(q, key, stop, end)
            tids = q[payload + begin : payload + stop].tolist()
        else:
            stop, tids = begin, []
        if stop == end and right and q[word + _HIGH] == key:
            return tids, right
        return tids, 0

    def search(self, at: int, key: int, tid: int) -> tuple[int, bool]:
        """See Layout."""
        q = self._q
        lower, upper, _, _, _, _, _, level, _ = _header(self._mm, at + LOWER_AT)
        first = (at >> 3) + _KEYS
        end = (at + lower) >> 3
        stride = 2 if level else 1
        payload = (at + upper) >> 3
        low = bisect_left(q, key, first, end) - first
        if low + first == end or q[first + low] != key:
            return low, False
        past = bisect_right(q, key, first + low, end) - first
        stop = past
        while low < stop:
            middle = (low + stop) // 2
            if q[payload + stride * middle] < tid:
                low = middle + 1
            else:
                stop = middle
        return low, low < past and q[payload + stride * low] == tid

    def fits(self, at: int, key: int) -> bool:
        """See Layout."""
        return self.has_room(at)

    def has_room(self, at: int) -> bool:
        """See Layout."""
        lower, upper, _, _, _, _, _, level, _ = _header(self._mm, at + LOWER_AT)
        return bool(upper - lower >= (24 if level else 16))

    def insert(self, at: int, index: int, key: int, tid: int, child: int) -> None:
        """See Layout."""
        mm, q = self._mm, self._q
        lower, upper, _, _, _, _, _, level, _ = _header(mm, at + LOWER_AT)
        place = at + _KEYS_AT + 8 * index
        mm.move(place + 8, place, at + lower - place)
        q[place >> 3] = key
        stride = 16 if level else 8
        top = at + upper
        mm.move(top - stride, top, stride * index)
        payload = (top - stride + stride * index) >> 3
        q[payload] = tid
        if level:
            q[payload + 1] = child
        _put_bounds(mm, at + LOWER_AT, lower + 8, upper - stride)

    def remove(self, at: int, index: int) -> None:
        """See Layout."""
        mm = self._mm
        lower, upper, _, _, _, _, _, level, _ = _header(mm, at + LOWER_AT)
        place = at + _KEYS_AT + 8 * index
        mm.move(place, place + 8, at + lower - place - 8)
        stride = 16 if level else 8
        top = at + upper
        mm.move(top + stride, top, stride * index)
        _put_bounds(mm, at + LOWER_AT, lower - 8, upper + stride)

    def fault(self, at: int) -> str:
        """See Layout."""
        lower, upper, special, _, _, _, _, level, high = _header(self._mm, at + LOWER_AT)
        entries, rest = divmod(lower - _KEYS_AT, 8)
        if lower < _KEYS_AT or rest or special - upper != entries * (16 if level else 8):
            return f"keys up to {lower}, what they lead to from {upper} to {special}: not as many of both"
        if high:
            return f"a high key at {high}, where none is kept"
        return ""

    def read(self, at: int) -> Node:
        """See Layout."""
        q = self._q
        lower, upper, _, _, _, _, right, level, _ = _header(self._mm, at + LOWER_AT)
        word = at >> 3
        keys = q[word + _KEYS : (at + lower) >> 3].tolist()
        payload = q[(at + upper) >> 3 : word + PAGE_WORDS].tolist()
        high = (q[word + _HIGH], q[word + _HIGH + 1]) if right else None
        if level:
            return Node(level, right, high, keys, payload[0::2], payload[1::2])
        return Node(level, right, high, keys, payload, [])

    def write(self, at: int, node: Node) -> None:
        """See Layout."""
        mm, n = self._mm, len(node.keys)
        payload = node.tids
        if node.level:
            payload = [word for pair in zip(node.tids, node.children, strict=True) for word in pair]
        lower, upper = _KEYS_AT + 8 * n, PAGE_BYTES - 8 * len(payload)
        if lower > upper:
            raise ValueError(f"{n} entries do not fit on a page")
        pages.init(mm, at, self.kind)
        _put_bounds(mm, at + LOWER_AT, lower, upper)
        LINKS.pack_into(mm, at + WORD_AT, node.right, node.level, 0)
        high_key, high_tid = node.high or (0, 0)
        Struct(f"<{n + 2}q").pack_into(mm, at + HEADER_BYTES, high_key, high_tid, *node.keys)
        Struct(f"<{len(payload)}q").pack_into(mm, at + upper, *payload)

    def middle(self, node: Node) -> int:
        """See Layout."""
        return len(node.keys) // 2

    def key_bytes(self, key: int) -> bytes:
        """See Layout."""
        return _WORD.pack(key)

    def key_from(self, data: bytes) -> int:
        """See Layout."""
        return int(_WORD.unpack(data)[0])
