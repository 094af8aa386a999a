"""What lies on every B-tree page; the two layouts are in `btree_words.py` and `btree_bytes.py`.

Owns the links of a page and what a layout must offer. Nothing here or in the layouts locks or logs:
every function works on the page at a byte offset of the region whose content lock the caller holds.

An entry is (key, tid) and, above the leaves, the block of the child whose entries are not less. Entries
are in ascending order of (key, tid). A page that has a right sibling also has a high key (key, tid): all
its entries are less, the sibling's are not. The first entry of the leftmost page of an inner level has
the least key of all, so that every search finds a child.

The header's own word (page.py) holds u32 right sibling (0 is none: block 0 is the root, which has no
siblings), u16 level (0 is a leaf), and u16 offset of the high key's entry (byte keys only).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from mmap import mmap
from struct import Struct
from typing import Any, Protocol

from supervisor.engine.storage.page import WORD_AT

Key = int | bytes
Position = tuple[Any, int]  # (key, tid)

MAX_KEY_BYTES = 1000  # eight or more to a page, so that a split always helps
CORRUPT = -2
HERE = -1

HEADER = Struct("<HHHHHHIHH")
"""lower, upper, special, flags, kind, version, right, level, high: the page from LOWER_AT on."""
BOUNDS = Struct("<HH")
LINKS = Struct("<IHH")
U16 = Struct("<H")
_LEVEL_AT = WORD_AT + 4


@dataclass(frozen=True, slots=True)
class Node:
    """A page taken apart: columns of equal length; `children` is empty on a leaf."""

    level: int
    right: int
    high: Position | None
    keys: list[Any]
    tids: list[int]
    children: list[int]

    def split(self, at: int, right_block: int) -> tuple[Node, Node]:
        """The entries before and from index `at`, linked: the second half will be `right_block`."""
        left = replace(
            self,
            right=right_block,
            high=(self.keys[at], self.tids[at]),
            keys=self.keys[:at],
            tids=self.tids[:at],
            children=self.children[:at],
        )
        right = replace(self, keys=self.keys[at:], tids=self.tids[at:], children=self.children[at:])
        return left, right


class Layout(Protocol):
    """One way to keep entries on a page. `at` is always the page's byte offset."""

    kind: int
    least: Any  # no key is less

    def step(self, at: int, key: Any, tid: int) -> int:
        """Where (key, tid) belongs: HERE for this leaf, else the block to go on with; CORRUPT if it is no such page."""
        ...

    def run(self, at: int, key: Any) -> tuple[list[int], int]:
        """The tids of a key on a leaf, and the right sibling if there may be more on it, else 0."""
        ...

    def search(self, at: int, key: Any, tid: int) -> tuple[int, bool]:
        """Index of the first entry that is not less than (key, tid), and whether it is equal."""
        ...

    def fits(self, at: int, key: Any) -> bool:
        """Whether an entry with this key has room."""
        ...

    def has_room(self, at: int) -> bool:
        """Whether an entry with any key has room."""
        ...

    def insert(self, at: int, index: int, key: Any, tid: int, child: int) -> None:
        """Put an entry that fits before the one at `index`; `child` counts above the leaves only."""
        ...

    def remove(self, at: int, index: int) -> None:
        """Take an entry out."""
        ...

    def fault(self, at: int) -> str:
        """Why the page's own bytes are not a node that `read` could take apart, in words; "" if they are."""
        ...

    def read(self, at: int) -> Node:
        """The page taken apart."""
        ...

    def write(self, at: int, node: Node) -> None:
        """Make the page this node; its LSN stays. The node must fit."""
        ...

    def middle(self, node: Node) -> int:
        """The index that splits a node into two of about equal size."""
        ...

    def key_bytes(self, key: Any) -> bytes:
        """A key as WAL records carry it."""
        ...

    def key_from(self, data: bytes) -> Any:
        """The key that `key_bytes` made `data` from."""
        ...


def level_of(mm: mmap, at: int) -> int:
    """The level of a B-tree page, 0 for a leaf."""
    return int(U16.unpack_from(mm, at + _LEVEL_AT)[0])
