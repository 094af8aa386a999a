"""A B-tree is a sorted set of (key, tid), whatever happens to the process, the memory or the power.

The model is a Python set. The pool is so small that pages come and go all the time. A crash throws the
memory away and cuts the log off where it was flushed; a power loss also decides for every page that was
written and not synced whether the old page, the new one or a torn mixture is on disk. After redo the
tree must hold exactly what the surviving records say, and obey every rule of its structure.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from supervisor.engine.access.btree import Btree, Key
from tests.support.btree_checks import check_tree
from tests.support.redo import redo_btree
from tests.support.storage_fixtures import PAGE, Server

RELATION = 4
N_BUFFERS = 5  # a split needs three at once
Entry = tuple[Key, int]


class BtreeMachine(RuleBasedStateMachine):
    """Rules for both kinds of keys; `words` is set by the subclass."""

    words = True

    def key(self, n: int) -> Key:
        return n - 50 if self.words else b"%03d" % n + b"k" * (n * 13 % 400)

    @initialize(images=st.sampled_from([True, True, False]))
    def begin(self, images: bool) -> None:
        self.server = Server(N_BUFFERS)
        self.server.wal.full_page_writes = images
        self.server.pool.create_relation(RELATION)
        self.tree = self.open()
        self.tree.create(3)
        self.model: set[Entry] = set()
        self.log: list[tuple[int, Entry, bool]] = []  # end of the record, entry, came or went
        self.next_tid = 1
        self.redo_from = 0

    def open(self) -> Btree:
        return Btree(self.server.pool, self.server.wal, RELATION, word_keys=self.words)

    def note(self, entry: Entry, *, came: bool) -> None:
        (self.model.add if came else self.model.remove)(entry)
        self.log.append((self.server.wal.end, entry, came))

    def add(self, n: int) -> None:
        # Tids that neither ascend nor descend with the order of insertion.
        tid = (self.next_tid * 7919 % 10_007) << 16 | 1
        self.next_tid += 1
        self.tree.insert(self.key(n), tid, 3)
        self.note((self.key(n), tid), came=True)

    @rule(n=st.integers(0, 99), count=st.integers(1, 3))
    def insert(self, n: int, count: int) -> None:
        for _ in range(count):
            self.add(n)

    @rule(first=st.integers(0, 99), step=st.sampled_from([-7, -1, 0, 1, 3, 11]), count=st.integers(20, 400))
    def insert_many(self, first: int, step: int, count: int) -> None:
        for i in range(count):
            self.add((first + i * step) % 100)

    @rule(n=st.integers(0, 99))
    def insert_unique(self, n: int) -> None:
        present = sorted(tid for key, tid in self.model if key == self.key(n))
        asked: list[list[int]] = []
        tid = (20_000 + self.next_tid) << 16 | 1
        self.next_tid += 1

        def check(tids: Sequence[int]) -> int:
            asked.append(list(tids))
            return len(tids)

        waited_for = self.tree.insert_unique(self.key(n), tid, 3, check)
        assert asked == ([present] if present else [])
        assert waited_for == len(present)
        if not present:
            self.note((self.key(n), tid), came=True)

    @rule(choice=st.randoms(use_true_random=False), share=st.sampled_from([0.02, 0.3, 1.0]))
    def remove(self, choice: random.Random, share: float) -> None:
        for entry in sorted(self.model):
            if choice.random() < share:
                assert self.tree.remove(*entry)
                self.note(entry, came=False)
        assert not self.tree.remove(self.key(0), 1 << 40)

    @rule(n=st.integers(0, 99))
    def lookup(self, n: int) -> None:
        assert self.tree.lookup(self.key(n)) == sorted(tid for key, tid in self.model if key == self.key(n))

    @rule(n=st.integers(0, 99))
    def scan(self, n: int) -> None:
        entries = sorted(self.model)
        assert list(self.tree.scan(self.key(n))) == entries[bisect.bisect_left(entries, (self.key(n), 0)) :]

    @rule()
    def checkpoint(self) -> None:
        wal = self.server.wal
        wal.redo = wal.end
        self.redo_from = len(wal.records)
        self.server.pool.write_dirty()
        self.server.pool.sync()

    @rule()
    def write_everything_and_sync_nothing(self) -> None:
        self.server.pool.write_dirty()

    @rule(flushed=st.booleans())
    def crash(self, flushed: bool) -> None:
        if flushed:
            self.server.wal.flush(self.server.wal.end)
        self.recover()

    @precondition(lambda self: self.server.wal.full_page_writes)  # without images a torn page stays torn
    @rule(flushed=st.booleans(), choice=st.randoms(use_true_random=False))
    def power_loss(self, flushed: bool, choice: random.Random) -> None:
        if flushed:
            self.server.wal.flush(self.server.wal.end)
        disk = self.server.disk
        for path, file in disk.files.items():
            old = disk.durable.get(path, b"").ljust(len(file), b"\0")
            for at in range(0, len(file), PAGE):
                cut = at + choice.choice([0, PAGE, 512 * choice.randrange(16)])
                file[cut : at + PAGE] = old[cut : at + PAGE]
        self.recover()

    def recover(self) -> None:
        wal = self.server.wal
        wal.records = [record for record in wal.records if record.end_lsn <= wal.flushed]
        assert len(wal.records) >= self.redo_from, "a checkpoint had not flushed its WAL"
        wal.end = max(wal.flushed, 1 << 20)
        self.log = [change for change in self.log if change[0] <= wal.flushed]
        self.model = set()
        for _, entry, came in self.log:
            (self.model.add if came else self.model.remove)(entry)
        self.server.region.close()
        self.server = self.server.crash()
        redo_btree(self.server.disk, self.server.pool, wal.records[self.redo_from :])
        self.tree = self.open()
        if not wal.records:
            self.begin(wal.full_page_writes)

    @invariant()
    def holds_exactly_what_it_should(self) -> None:
        if hasattr(self, "tree"):
            assert self.server.attachment.locks.held == []
            assert check_tree(self.tree) == sorted(self.model)

    def teardown(self) -> None:
        if hasattr(self, "server"):
            self.server.region.close()


class BytesMachine(BtreeMachine):
    """Keys of different lengths."""

    words = False


@pytest.mark.parametrize("machine", [BtreeMachine, BytesMachine])
def test_a_tree_is_a_sorted_set(machine: type[BtreeMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
