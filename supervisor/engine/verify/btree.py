"""A B-tree's own rules, page by page from the root down (PostgreSQL's `bt_index_parent_check`).

Owns what must hold of an index by itself. Every level is one chain of right siblings in ascending order; a page's
entries lie between its separator in the parent and its high key; the high key is the next page's separator; each page
of a level is the child of exactly one entry of the level above, in the same order. So every leaf can be reached by a
search and by a scan alike, and both agree. A sibling is linked to the right only (Lehman and Yao; a scan never goes
back here), so the way back that nbtree has is the parent's order.

A page that no page leads to must be one of zeros: taken for a split that another process made first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from supervisor.engine.access.btree import ROOT
from supervisor.engine.access.btree_bytes import BytesLayout
from supervisor.engine.access.btree_page import Layout, Node, Position
from supervisor.engine.access.btree_words import WordLayout
from supervisor.engine.verify.corruption import Findings, Kind
from supervisor.engine.verify.pages import PageFile


@dataclass(frozen=True, slots=True)
class Entry:
    """A leaf's entry and where it is: its block, and its number there from 1."""

    key: Any
    tid: int
    block: int
    offset: int


@dataclass(slots=True)
class Entries:
    """All entries of an index; `whole` is False when a page that may have more could not be looked at."""

    found: list[Entry] = field(default_factory=list)
    whole: bool = True


class BtreeCheck:
    """The check of one index, whose damage goes to `findings`."""

    def __init__(self, file: PageFile, *, has_word_keys: bool, findings: Findings) -> None:
        self._file = file
        self._layout: Layout = WordLayout(file.mm, file.q) if has_word_keys else BytesLayout(file.mm)
        self._findings = findings
        self._reached: set[int] = set()
        self._entries = Entries()

    def run(self) -> Entries:
        """Walk the tree, then look at the pages that no walk reaches."""
        least = (self._layout.least, 0)
        root = self._read(ROOT)
        if root is None:
            if not self._findings.corruptions:
                self._findings.add(Kind.BTREE_PAGE, "there is no root", block=ROOT)
            self._entries.whole = False
        else:
            self._walk(root, least)
        self._look_at_the_rest()
        return self._entries

    def _walk(self, root: Node, least: Position) -> None:
        level = root.level
        expected: list[tuple[Position, int]] = [(least, ROOT)]
        while expected:
            below: list[tuple[Position, int]] = []
            for number, (separator, block) in enumerate(expected):
                node = root if block == ROOT else self._read(block)
                if node is None:
                    self._entries.whole = False
                    continue
                following = expected[number + 1] if number + 1 < len(expected) else None
                self._check_links(block, node, level, following)
                self._check_order(block, node, separator)
                if node.level != level:
                    self._entries.whole = False
                elif level:
                    below += self._children(block, node)
                else:
                    self._findings.items += len(node.keys)
                    places = zip(node.keys, node.tids, strict=True)
                    self._entries.found += [Entry(*place, block, at) for at, place in enumerate(places, 1)]
            if below and below[0][0] != least:
                self._add(Kind.BTREE_ORDER, below[0][1], None, f"level {level} does not begin with the least key")
            expected = below
            level -= 1

    def _read(self, block: int) -> Node | None:
        """The page taken apart; None, told unless it was, when it is none of this tree's."""
        told = len(self._findings.corruptions)
        self._reached.add(block)
        if block < self._file.blocks and self._file.read(block, self._layout.kind):
            fault = self._layout.fault(0)
            if not fault:
                return self._layout.read(0)
            self._add(Kind.BTREE_PAGE, block, None, fault)
        elif block != ROOT and len(self._findings.corruptions) == told:
            self._add(Kind.BTREE_PAGE, block, None, "a page leads here, and nothing was ever written here")
        return None

    def _check_links(self, block: int, node: Node, level: int, following: tuple[Position, int] | None) -> None:
        if node.level != level:
            self._add(Kind.BTREE_LINK, block, None, f"its level is {node.level}, and its parent's {level + 1}")
        high, right = following or (None, 0)
        if node.right != right:
            beside = f"block {node.right}" if node.right else "none"
            says = f"block {right}" if right else "none"
            self._add(Kind.BTREE_LINK, block, None, f"its right sibling is {beside}, by the level above it is {says}")
        if node.high != high:
            self._add(Kind.BTREE_ORDER, block, None, f"its high key is {node.high}, the next page's separator {high}")

    def _check_order(self, block: int, node: Node, separator: Position) -> None:
        positions: list[Position] = list(zip(node.keys, node.tids, strict=True))
        before = separator
        for at, position in enumerate(positions, 1):
            if position < before or (at > 1 and position == before):
                what = "the entry before it" if at > 1 else "its page's separator"
                self._add(Kind.BTREE_ORDER, block, at, f"{position} is not greater than {what}, {before}")
            before = position
        if node.high is not None and positions and positions[-1] >= node.high:
            self._add(
                Kind.BTREE_ORDER, block, len(positions), f"{positions[-1]} is not less than the high key {node.high}"
            )

    def _children(self, block: int, node: Node) -> list[tuple[Position, int]]:
        children = []
        for at, (key, tid, child) in enumerate(zip(node.keys, node.tids, node.children, strict=True), 1):
            if child in self._reached or not 0 <= child < self._file.blocks:
                why = "to which another entry leads" if child in self._reached else "which the file does not have"
                self._add(Kind.BTREE_LINK, block, at, f"leads to block {child}, {why}")
                self._entries.whole = False
            else:
                self._reached.add(child)
                children.append(((key, tid), child))
        if not node.keys:
            self._add(Kind.BTREE_PAGE, block, None, f"a page of level {node.level} without entries")
            self._entries.whole = False
        return children

    def _look_at_the_rest(self) -> None:
        for block in range(self._file.blocks):
            unknown = block not in self._reached and self._file.read(block, self._layout.kind)
            if unknown and self._entries.whole:
                self._add(Kind.BTREE_LINK, block, None, "no page leads here, and it is not empty")

    def _add(self, kind: Kind, block: int, offset: int | None, message: str) -> None:
        self._findings.add(kind, message, block=block, offset=offset)
