"""A table's two files against each other: each row has its entry, each entry its row (amcheck's heapallindexed).

Owns the rules between heap and index of a cluster that was shut down:

- Every entry leads to where a row begins, first version or redirect, and the row has the entry's key. No entry outlives
  its row: it is removed, and that logged, before the row's line is freed (`heap.Heap.clean_up`).
- Every row with a version that lives has exactly one entry. A row without one may have none: its transaction was cut
  off before it had entered it, or a clean-up before it had freed the line.
- No two versions that live have the same key.

What cannot be told because of damage that is told already is not told again as damage of the other file.
"""

from __future__ import annotations

from collections.abc import Callable

from supervisor.engine.access.btree import Key
from supervisor.engine.access.tuple import Row
from supervisor.engine.disk.disk import Disk
from supervisor.engine.storage.files import relation_path
from supervisor.engine.storage.page import KIND_HEAP
from supervisor.engine.verify.btree import BtreeCheck, Entries
from supervisor.engine.verify.corruption import Findings, Kind
from supervisor.engine.verify.definition import Definition
from supervisor.engine.verify.heap import HeapPageCheck, RowRoot
from supervisor.engine.verify.pages import LogBounds, PageFile, Progress
from supervisor.engine.verify.transactions import Transactions


class TableCheck:
    """The check of one table whose files are both there."""

    def __init__(
        self, disk: Disk, table: Definition, transactions: Transactions, bounds: LogBounds, progress: Progress
    ) -> None:
        self._disk = disk
        self._table = table
        self._transactions = transactions
        self._bounds = bounds
        self._progress = progress
        self.heap = Findings(relation_path(table.heap), table.name, "heap")
        self.index = Findings(relation_path(table.index), table.index_name, "index")
        self._roots: dict[int, RowRoot] = {}
        self._unreadable: set[int] = set()

    def run(self, on_live: Callable[[Row, int, int], None] | None = None) -> None:
        """Check heap, index, and that they agree; `on_live` is given every row that lives, its block and its line."""
        self._check_heap(on_live)
        file = PageFile(self._disk, self._table.index, self._bounds, self.index, self._progress)
        entries = BtreeCheck(file, has_word_keys=self._table.has_word_keys, findings=self.index).run()
        file.close()
        self._check_entries(entries)

    def _check_heap(self, on_live: Callable[[Row, int, int], None] | None) -> None:
        file = PageFile(self._disk, self._table.heap, self._bounds, self.heap, self._progress)
        live: dict[Key, int] = {}
        for block in range(file.blocks):
            told = len(self.heap.corruptions)
            if not file.read(block, KIND_HEAP):
                if len(self.heap.corruptions) > told:
                    self._unreadable.add(block)
                continue
            page = HeapPageCheck(file, block, self._table, self._transactions, self.heap)
            for line, root in page.run().items():
                self._roots[block << 16 | line] = root
                if not root.lives or root.key is None:
                    continue
                other = live.setdefault(root.key, block << 16 | line)
                if other != block << 16 | line:
                    self.heap.add(
                        Kind.UNIQUE_KEY,
                        f"a row with key {root.key!r} lives here, and another at ({other >> 16},{other & 0xFFFF})",
                        block=block,
                        offset=line,
                    )
                if on_live is not None and line in page.live_rows:
                    on_live(page.live_rows[line], block, line)
        file.close()

    def _check_entries(self, entries: Entries) -> None:
        entered: set[int] = set()
        for entry in entries.found:
            block, line = entry.tid >> 16, entry.tid & 0xFFFF
            root = self._roots.get(entry.tid)
            wrong = ""
            if entry.tid in entered:
                wrong = "to which another entry leads as well"
            elif root is None:
                wrong = "" if block in self._unreadable else "where no row begins"
            elif root.certain and root.key != entry.key:
                wrong = f"where the row has key {root.key!r}"
            if wrong:
                message = f"the entry of {entry.key!r} leads to ({block},{line}), {wrong}"
                self.index.add(Kind.INDEX_ENTRY, message, block=entry.block, offset=entry.offset)
            entered.add(entry.tid)
        if not entries.whole:
            return
        for tid, root in self._roots.items():
            if root.lives and tid not in entered:
                self.heap.add(
                    Kind.MISSING_ENTRY,
                    f"a row with key {root.key!r} lives here, and {self._table.index_name} has no entry of it",
                    block=tid >> 16,
                    offset=tid & 0xFFFF,
                )
