"""B-tree pages whose keys are byte strings of up to MAX_KEY_BYTES.

From byte 32: u16 offsets of the entries, in order, upwards; the entries downwards from the page's end:
u16 key length, u48 tid, above the leaves u32 child, then the key. The high key is an entry without a
child. What a removed entry used is won back when the page is next written as a whole.
"""

from __future__ import annotations

from mmap import mmap
from struct import Struct

from supervisor.engine.access.btree_page import (
    BOUNDS,
    CORRUPT,
    HEADER,
    HERE,
    LINKS,
    MAX_KEY_BYTES,
    U16,
    Node,
)
from supervisor.engine.storage import page as pages
from supervisor.engine.storage.page import HEADER_BYTES, KIND_BTREE_BYTES, LOWER_AT, PAGE_BYTES, WORD_AT

_header = HEADER.unpack_from
_put_bounds = BOUNDS.pack_into
_ENTRY = Struct("<HHI")  # key length, line, block
_CHILD = Struct("<I")
_get_u16 = U16.unpack_from
_get_entry = _ENTRY.unpack_from


class BytesLayout:
    """Keys are bytes strings of up to MAX_KEY_BYTES, in the order of their bytes."""

    kind = KIND_BTREE_BYTES
    least = b""

    def __init__(self, mm: mmap) -> None:
        self._mm = mm

    def step(self, at: int, key: bytes, tid: int) -> int:
        """See Layout."""
        _, _, _, _, kind, _, right, level, high = _header(self._mm, at + LOWER_AT)
        if kind != KIND_BTREE_BYTES:
            return CORRUPT
        if right and (key, tid) >= self._position(at + high, 0):
            return int(right)
        if not level:
            return HERE
        index, equal = self.search(at, key, tid)
        entry = at + self._offset(at, index if equal else index - 1)
        return int(_CHILD.unpack_from(self._mm, entry + 8)[0])

    def run(self, at: int, key: bytes) -> tuple[list[int], int]:
        """See Layout."""
        lower, _, _, _, _, _, right, level, high = _header(self._mm, at + LOWER_AT)
        count = (lower - HEADER_BYTES) // 2
        index, _ = self.search(at, key, 0)
        tids: list[int] = []
        while index < count:
            found, tid = self._position(at + self._offset(at, index), level)
            if found != key:
                return tids, 0
            tids.append(tid)
            index += 1
        if right and self._position(at + high, 0)[0] == key:
            return tids, right
        return tids, 0

    def search(self, at: int, key: bytes, tid: int) -> tuple[int, bool]:
        """See Layout."""
        mm = self._mm
        lower, _, _, _, _, _, _, level, _ = _header(mm, at + LOWER_AT)
        base, skip = at + HEADER_BYTES, 12 if level else 8
        low, stop, equal = 0, (lower - HEADER_BYTES) >> 1, False
        while low < stop:
            middle = (low + stop) >> 1
            entry = at + _get_u16(mm, base + 2 * middle)[0]
            length, line, block = _get_entry(mm, entry)
            entry += skip
            found = mm[entry : entry + length]
            if found < key or (found == key and (block << 16 | line) < tid):
                low = middle + 1
            else:
                stop = middle
                equal = found == key and (block << 16 | line) == tid
        return low, equal

    def fits(self, at: int, key: bytes) -> bool:
        """See Layout."""
        return self._fits(at, len(key))

    def has_room(self, at: int) -> bool:
        """See Layout."""
        return self._fits(at, MAX_KEY_BYTES)

    def insert(self, at: int, index: int, key: bytes, tid: int, child: int) -> None:
        """See Layout."""
        mm = self._mm
        lower, upper, _, _, _, _, _, level, _ = _header(mm, at + LOWER_AT)
        entry = _ENTRY.pack(len(key), tid & 0xFFFF, tid >> 16) + (_CHILD.pack(child) if level else b"") + key
        if upper - lower < len(entry) + 2:
            self.write(at, self.read(at))
            lower, upper, *_ = _header(mm, at + LOWER_AT)
        if upper - lower < len(entry) + 2:
            raise ValueError(f"an entry of {len(entry)} bytes does not fit on the page")
        upper -= len(entry)
        mm[at + upper : at + upper + len(entry)] = entry
        place = at + HEADER_BYTES + 2 * index
        mm.move(place + 2, place, at + lower - place)
        U16.pack_into(mm, place, upper)
        _put_bounds(mm, at + LOWER_AT, lower + 2, upper)

    def remove(self, at: int, index: int) -> None:
        """See Layout."""
        mm = self._mm
        lower, upper, *_ = _header(mm, at + LOWER_AT)
        place = at + HEADER_BYTES + 2 * index
        mm.move(place, place + 2, at + lower - place - 2)
        _put_bounds(mm, at + LOWER_AT, lower - 2, upper)

    def fault(self, at: int) -> str:
        """See Layout."""
        lower, upper, special, _, _, _, right, level, high = _header(self._mm, at + LOWER_AT)
        count, rest = divmod(lower - HEADER_BYTES, 2)
        if rest:
            return f"lower {lower} is within an entry's offset"
        places = [
            (offset, 12 if level else 8) for offset in Struct(f"<{count}H").unpack_from(self._mm, at + HEADER_BYTES)
        ]
        if right:
            places.append((high, 8))
        end = upper
        for offset, header_bytes in sorted(places):
            if offset < end or offset + header_bytes > special:
                return f"an entry at {offset} where none can be, entries lie at {upper} to {special}"
            end = offset + header_bytes + int(_get_u16(self._mm, at + offset)[0])
        return f"an entry ends at {end}, behind {special}" if end > special else ""

    def read(self, at: int) -> Node:
        """See Layout."""
        mm = self._mm
        lower, _, _, _, _, _, right, level, high = _header(mm, at + LOWER_AT)
        keys, tids, children = [], [], []
        for offset in Struct(f"<{(lower - HEADER_BYTES) // 2}H").unpack_from(mm, at + HEADER_BYTES):
            key, tid = self._position(at + offset, level)
            keys.append(key)
            tids.append(tid)
            if level:
                children.append(_CHILD.unpack_from(mm, at + offset + 8)[0])
        return Node(level, right, self._position(at + high, 0) if right else None, keys, tids, children)

    def write(self, at: int, node: Node) -> None:
        """See Layout."""
        mm = self._mm
        upper = PAGE_BYTES
        parts: list[bytes] = []
        high = 0
        if node.high is not None:
            key, tid = node.high
            parts.append(_ENTRY.pack(len(key), tid & 0xFFFF, tid >> 16) + key)
            upper -= len(parts[-1])
            high = upper
        offsets = []
        for index, (key, tid) in enumerate(zip(node.keys, node.tids, strict=True)):
            child = _CHILD.pack(node.children[index]) if node.level else b""
            parts.append(_ENTRY.pack(len(key), tid & 0xFFFF, tid >> 16) + child + key)
            upper -= len(parts[-1])
            offsets.append(upper)
        lower = HEADER_BYTES + 2 * len(offsets)
        if lower > upper:
            raise ValueError(f"{len(offsets)} entries do not fit on a page")
        pages.init(mm, at, self.kind)
        _put_bounds(mm, at + LOWER_AT, lower, upper)
        LINKS.pack_into(mm, at + WORD_AT, node.right, node.level, high)
        Struct(f"<{len(offsets)}H").pack_into(mm, at + HEADER_BYTES, *offsets)
        parts.reverse()
        mm[at + upper : at + PAGE_BYTES] = b"".join(parts)

    def middle(self, node: Node) -> int:
        """See Layout."""
        half = sum(map(len, node.keys)) // 2 + 5 * len(node.keys)
        size = index = 0
        while size < half:
            size += len(node.keys[index]) + 10
            index += 1
        return min(max(index, 1), len(node.keys) - 1)

    def key_bytes(self, key: bytes) -> bytes:
        """See Layout."""
        return key

    def key_from(self, data: bytes) -> bytes:
        """See Layout."""
        return data

    def _fits(self, at: int, key_bytes: int) -> bool:
        lower, upper, _, _, _, _, right, level, high = _header(self._mm, at + LOWER_AT)
        needed = 2 + _ENTRY.size + (_CHILD.size if level else 0) + key_bytes
        if upper - lower >= needed:
            return True
        mm = self._mm
        count = (lower - HEADER_BYTES) // 2
        used = count * (_ENTRY.size + (_CHILD.size if level else 0))
        for offset in Struct(f"<{count}H").unpack_from(mm, at + HEADER_BYTES):
            used += U16.unpack_from(mm, at + offset)[0]
        if right:
            used += _ENTRY.size + U16.unpack_from(mm, at + high)[0]
        return bool(PAGE_BYTES - lower - used >= needed)

    def _offset(self, at: int, index: int) -> int:
        return int(U16.unpack_from(self._mm, at + HEADER_BYTES + 2 * index)[0])

    def _position(self, entry: int, level: int) -> tuple[bytes, int]:
        length, line, block = _ENTRY.unpack_from(self._mm, entry)
        start = entry + (12 if level else 8)
        return self._mm[start : start + length], block << 16 | line
