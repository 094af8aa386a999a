"""The B-tree, one process at a time.

What could go wrong: a split loses an entry or makes it unreachable; a search that was overtaken by a
split misses what moved; keys sort differently from their values; two rows get one primary key; redo of
a record that the page already has does it twice; half of a split survives a crash.

Where two processes meet, the second one's step is put into the first one's middle by hand, through a
point or a callback, so that the moment is exact. Live processes are in process/test_buffers_shared.py.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest

from supervisor.engine.access.btree import MAX_KEY_BYTES, Btree, Key, describe, encode_key, word_keys
from supervisor.engine.access.btree_redo import INSERT_LEAF, NEWROOT, SPLIT
from supervisor.engine.access.tuple import TYPES
from supervisor.errors import (
    INDEX_CORRUPTED,
    NUMERIC_VALUE_OUT_OF_RANGE,
    PROGRAM_LIMIT_EXCEEDED,
    UNIQUE_VIOLATION,
    Panic,
    ServerError,
)
from supervisor.points import Point
from tests.support.btree_checks import check_tree
from tests.support.redo import redo_btree
from tests.support.storage_fixtures import Server

RELATION = 9


def a_tree(server: Server, *, words: bool = True) -> Btree:
    server.pool.create_relation(RELATION)
    tree = Btree(server.pool, server.wal, RELATION, word_keys=words)
    tree.create(3)
    return tree


def reopen(server: Server, tree: Btree) -> Btree:
    return Btree(server.pool, server.wal, RELATION, word_keys=isinstance(tree._layout.least, int))


def tid(n: int) -> int:
    return n << 16 | 1


def text_key(n: int) -> bytes:
    return b"%06d-" % (n * 7919 % 1_000_000) + b"x" * (n % 300)


@pytest.fixture(params=["words", "bytes"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def key_of(kind: str, n: int) -> Key:
    return n if kind == "words" else text_key(n)


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_what_was_put_in_is_found(kind: str, order: str) -> None:
    server = Server(16)
    tree = a_tree(server, words=kind == "words")
    numbers = list(range(3000))
    if order == "descending":
        numbers.reverse()
    elif order == "shuffled":
        random.Random(1).shuffle(numbers)
    for n in numbers:
        tree.insert(key_of(kind, n), tid(n), 3)
    assert check_tree(tree) == sorted((key_of(kind, n), tid(n)) for n in numbers)
    assert list(tree.scan()) == check_tree(tree)
    for n in range(3000):
        assert tree.lookup(key_of(kind, n)) == [tid(n)]
    assert tree.lookup(key_of(kind, 3001)) == []
    assert server.attachment.locks.held == []


def test_ascending_keys_fill_their_pages() -> None:
    server = Server(64)
    tree = a_tree(server)
    for n in range(5000):
        tree.insert(n, tid(n), 3)
    assert server.pool.relation_size(RELATION) <= 5000 / (509 * 0.9) + 3


def test_a_key_with_more_versions_than_a_page_holds(kind: str) -> None:
    server = Server(16)
    tree = a_tree(server, words=kind == "words")
    for n in range(5):
        tree.insert(key_of(kind, n), tid(n), 3)
    versions = list(range(10, 2000))
    random.Random(2).shuffle(versions)
    for n in versions:
        tree.insert(key_of(kind, 2), tid(n), 3)
    assert tree.lookup(key_of(kind, 2)) == [tid(2), *map(tid, range(10, 2000))]
    assert tree.lookup(key_of(kind, 3)) == [tid(3)]
    for n in versions:
        assert tree.remove(key_of(kind, 2), tid(n))
    assert tree.lookup(key_of(kind, 2)) == [tid(2)]
    check_tree(tree)


def test_removed_entries_are_gone_and_their_room_is_used_again(kind: str) -> None:
    server = Server(16)
    tree = a_tree(server, words=kind == "words")
    for n in range(1000):
        tree.insert(key_of(kind, n), tid(n), 3)
    blocks = server.pool.relation_size(RELATION)
    for generation in range(1, 4):
        for n in range(1000):
            assert tree.remove(key_of(kind, n), tid(n + 10_000 * (generation - 1)))
            assert not tree.remove(key_of(kind, n), tid(n))
        assert check_tree(tree) == []
        assert list(tree.scan()) == []
        for n in range(1000):
            tree.insert(key_of(kind, n), tid(n + 10_000 * generation), 3)
    assert server.pool.relation_size(RELATION) <= blocks * 2
    assert len(check_tree(tree)) == 1000


def test_a_scan_begins_in_the_middle(kind: str) -> None:
    tree = a_tree(Server(16), words=kind == "words")
    keys = sorted(key_of(kind, n) for n in range(2000))
    for n, key in enumerate(keys):
        tree.insert(key, tid(n), 3)
    for start in (0, 1, 777, 1999):
        assert [key for key, _ in tree.scan(keys[start])] == keys[start:]


def test_a_scan_survives_splits_in_front_of_and_behind_it(kind: str) -> None:
    tree = a_tree(Server(16), words=kind == "words")
    keys = sorted(key_of(kind, n) for n in range(0, 4000, 2))
    for n, key in enumerate(keys):
        tree.insert(key, tid(n), 3)
    seen = []
    added = iter(range(1, 4000, 2))
    for key, _ in tree.scan():
        seen.append(key)
        for n, _ in zip(added, range(2), strict=False):
            tree.insert(key_of(kind, n), tid(n + 100_000), 3)
    assert seen == sorted(set(seen)), "an entry was seen twice or out of order"
    assert set(keys) <= set(seen), "an entry that was there all the time was missed"


@pytest.mark.parametrize("n", [0, 100, 300, 400, 500, 598])
def test_a_search_that_a_split_overtakes_goes_right(kind: str, n: int) -> None:
    """Between the root and the leaf the searcher holds nothing: the leaf is split just then."""
    server = Server(16)
    tree = a_tree(server, words=kind == "words")
    other = reopen(server, tree)

    def key(n: int) -> Key:
        return n if kind == "words" else b"%05d" % n

    for even in range(0, 1200, 2):
        tree.insert(key(even), tid(even), 3)
    blocks = server.pool.relation_size(RELATION)
    lock = tree._lock
    done: list[int] = []

    def split_first(relation: int, block: int) -> int:
        if block and not done:
            done.append(block)
            for odd in range(1, 1200, 2):
                other.insert(key(odd), tid(odd), 3)
        return lock(relation, block)

    tree._lock = split_first
    assert tree.lookup(key(n)) == [tid(n)]
    assert server.pool.relation_size(RELATION) > blocks, "nothing was split"
    tree._lock = lock
    assert len(check_tree(tree)) == 1200


@pytest.mark.parametrize("meddling", range(4))
def test_a_split_that_another_split_overtakes_begins_again(kind: str, meddling: int) -> None:
    """Between deciding to split and locking the pages, another process splits them, their parent, or the root."""
    server = Server(16)
    tree = a_tree(server, words=kind == "words")
    other_pool = server.another_process()
    other = Btree(other_pool, server.wal, RELATION, word_keys=kind == "words")

    def key(n: int) -> Key:
        return n if kind == "words" else b"%08d" % n + b"k" * 150

    lock_many = server.pool.lock_many
    calls, present = [0], set()

    def meddle_first(pages: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        calls[0] += 1
        if calls[0] % 4 == meddling:
            for n in range(700):
                at = calls[0] * 1000 + n if meddling % 2 else n * 1009 + calls[0]
                if at not in present:
                    present.add(at)
                    other.insert(key(at), tid(at), 3)
        return lock_many(pages)

    server.pool.lock_many = meddle_first  # type: ignore[method-assign]
    for n in range(6000 if kind == "words" else 2000):
        at = n * 317 + 7
        if at not in present:
            present.add(at)
            tree.insert(key(at), tid(at), 3)
    assert calls[0] > 8
    assert check_tree(tree) == sorted((key(n), tid(n)) for n in present)


def test_keys_are_in_the_order_of_their_values() -> None:
    doubles = [-math.inf, -1e300, -1.5, -1e-310, 0.0, 1e-310, 0.1, 1.0, 2.0**60, math.inf, math.nan]
    assert [encode_key("double precision", value) for value in doubles] == sorted(
        encode_key("double precision", value) for value in doubles
    )
    assert encode_key("double precision", -0.0) == encode_key("double precision", 0.0)
    assert encode_key("double precision", 3) == encode_key("double precision", 3.0)
    assert encode_key("double precision", math.nan) == encode_key("double precision", -math.nan)
    texts = ["", "\x00", "A", "a", "aa", "ab", "b", "é", "中", "\U0001f600"]
    encoded = [encode_key("text", value) for value in texts]
    assert encoded == sorted(encoded, key=lambda key: bytes(key) if isinstance(key, bytes) else b"")
    assert [encode_key("bool", value) for value in (False, True)] == [0, 1]
    assert encode_key("bigint", -(1 << 63)) == -(1 << 63)
    assert [name for name in TYPES if not word_keys(name)] == ["text", "bytea", "numeric"]


def test_keys_that_cannot_be_are_refused() -> None:
    for value, sqlstate in ((1 << 63, NUMERIC_VALUE_OUT_OF_RANGE), ("é" * 501, PROGRAM_LIMIT_EXCEEDED)):
        with pytest.raises(ServerError) as caught:
            encode_key("text", value)
        assert caught.value.sqlstate == sqlstate
    with pytest.raises(ServerError, match="cannot be a key"):
        encode_key("json", None)


def test_the_longest_keys_and_the_extreme_words() -> None:
    tree = a_tree(Server(16), words=False)
    keys = [bytes([n]) * MAX_KEY_BYTES for n in range(200)]
    for n, key in enumerate(reversed(keys)):
        tree.insert(key, tid(n), 3)
    assert [key for key, _ in check_tree(tree)] == list(keys)
    words = a_tree(Server(16))
    extremes = [-(1 << 63), -(1 << 63) + 1, -1, 0, (1 << 63) - 1]
    for n in range(600):
        for extreme in extremes:
            words.insert(extreme, tid(n) + (0xFFFF_0000 << 16), 3)
    for extreme in extremes:
        assert len(words.lookup(extreme)) == 600
    check_tree(words)


def test_the_same_entry_twice_is_an_error() -> None:
    tree = a_tree(Server(16))
    tree.insert(1, tid(1), 3)
    with pytest.raises(ServerError, match=r"already has an entry for row \(1,1\)") as caught:
        tree.insert(1, tid(1), 3)
    assert caught.value.sqlstate == INDEX_CORRUPTED
    assert tree._pool._locks.held == []


# Uniqueness.


def never(tids: Sequence[int]) -> int:
    raise AssertionError(f"nobody had the key, yet {tids} were to be checked")


def test_a_free_key_is_taken_without_a_question(kind: str) -> None:
    tree = a_tree(Server(16), words=kind == "words")
    for n in range(2000):
        assert tree.insert_unique(key_of(kind, n), tid(n), 3, never) == 0
    assert len(check_tree(tree)) == 2000


def test_a_taken_key_is_asked_about_with_no_lock_held() -> None:
    server = Server(16)
    tree = a_tree(server)
    tree.insert(5, tid(5), 3)
    asked: list[list[int]] = []

    def check(tids: Sequence[int]) -> int:
        assert server.attachment.locks.held == []
        asked.append(list(tids))
        return 0

    assert tree.insert_unique(5, tid(6), 4, check) == 0
    assert tree.insert_unique(5, tid(7), 4, check) == 0
    assert asked == [[tid(5)], [tid(5), tid(6)]]


def test_whoever_must_wait_or_gives_up_changes_nothing() -> None:
    server = Server(16)
    tree = a_tree(server)
    tree.insert(5, tid(5), 3)
    records = len(server.wal.records)

    def refuse(tids: Sequence[int]) -> int:
        raise ServerError("duplicate key value violates unique constraint", sqlstate=UNIQUE_VIOLATION)

    assert tree.insert_unique(5, tid(6), 4, lambda tids: 1234) == 1234
    with pytest.raises(ServerError, match="duplicate key"):
        tree.insert_unique(5, tid(6), 4, refuse)
    assert tree.lookup(5) == [tid(5)]
    assert len(server.wal.records) == records
    assert server.attachment.locks.held == []


@pytest.mark.parametrize("versions", [1, 600])
def test_of_two_that_add_a_key_one_sees_the_other(versions: int) -> None:
    """The other process adds its entry after our check and before our insert; also when the key's
    entries fill more than one leaf, and theirs goes to another leaf than ours."""
    server = Server(16)
    tree = a_tree(server)
    other = Btree(server.another_process(), server.wal, RELATION, word_keys=True)
    for n in range(versions):
        tree.insert(5, tid(2 * n), 3)
    asked: list[int] = []

    def check(tids: Sequence[int]) -> int:
        asked.append(len(tids))
        if len(asked) == 1:
            assert other.insert_unique(5, tid(1), 4, lambda tids: 0) == 0
            return 0
        assert tid(1) in tids
        return 4

    assert tree.insert_unique(5, tid(100_000), 5, check) == 4
    assert asked == [versions, versions + 1]


def test_an_entry_that_came_and_went_between_is_noticed() -> None:
    """The same tid, but another row: only the page's LSN tells."""
    server = Server(16)
    tree = a_tree(server)
    tree.insert(5, tid(5), 3)
    asked: list[int] = []

    def check(tids: Sequence[int]) -> int:
        asked.append(len(tids))
        if len(asked) == 1:
            tree.remove(5, tid(5))
            tree.insert(5, tid(5), 4)
            return 0
        return 4

    assert tree.insert_unique(5, tid(6), 5, check) == 4


# Redo.


def replay(server: Server, first: int = 0, last: int | None = None) -> None:
    redo_btree(server.disk, server.pool, server.wal.records[first:last])


def test_the_log_alone_makes_the_tree_again(kind: str) -> None:
    server = Server(64)
    tree = a_tree(server, words=kind == "words")
    for n in range(2000):
        tree.insert(key_of(kind, n), tid(n), 3)
        if n % 3 == 0:
            tree.remove(key_of(kind, n), tid(n))
    entries = check_tree(tree)
    after = server.crash()
    replay(after)
    assert check_tree(reopen(after, tree)) == entries
    replay(after)
    assert check_tree(reopen(after, tree)) == entries, "replayed twice"


def test_every_prefix_of_the_log_is_a_whole_tree() -> None:
    """A crash may end the log anywhere: after each record every rule of the tree holds."""
    server = Server(32)
    tree = a_tree(server, words=False)
    for n in range(60):
        tree.insert(bytes([n * 37 % 251]) * 800, tid(n), 3)
    assert sum(record.info == SPLIT for record in server.wal.records) > 5
    after = server.crash()
    copy = reopen(after, tree)
    inserted = 0
    for record in server.wal.records:
        redo_btree(after.disk, after.pool, [record])
        inserted += record.info == INSERT_LEAF
        assert len(check_tree(copy)) == inserted


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("images", [True, False])
def test_redo_over_pages_of_any_age(kind: str, seed: int, images: bool) -> None:
    """Some pages were written shortly before the crash, some long ago, some never: redo makes one tree of them.

    The redo point lies in the middle; records behind it find pages that are older, as new, and newer. With page images
    the first record of a page settles it; without them everything hangs on the page's LSN.
    """
    choice = random.Random(seed)
    server = Server(12)
    server.wal.full_page_writes = images
    tree = a_tree(server, words=kind == "words")
    checkpoint = 0
    for n in range(1500):
        tree.insert(key_of(kind, choice.randrange(1 << 30)), tid(n), 3)
        if n == 700:
            server.wal.redo = server.wal.end
            checkpoint = len(server.wal.records)
            server.pool.write_dirty()
            server.pool.sync()
    entries = check_tree(tree)
    after = server.crash()
    replay(after, checkpoint)
    assert check_tree(reopen(after, tree)) == entries


def test_a_record_that_does_not_fit_its_page_is_a_panic() -> None:
    server = Server(16)
    tree = a_tree(server)
    tree.insert(1, tid(1), 3)
    record = server.wal.records[-1]
    assert record.blocks[0].image is None
    with pytest.raises(Panic, match="does not fit block 0 of relation 9"):
        after = server.crash()
        redo_btree(after.disk, after.pool, [record])


def test_an_error_between_change_and_record_is_a_panic(kind: str) -> None:
    server = Server(16)
    tree = a_tree(server, words=kind == "words")

    def fail_at(wanted: Point) -> Callable[[Point], None]:
        def point(point: Point) -> None:
            if point == wanted:
                raise RuntimeError("an arm was hit")

        return point

    tree._point = fail_at(Point.BTREE_INSERT_UNDER_LOCK)
    with pytest.raises(Panic, match="an arm was hit"):
        tree.insert(key_of(kind, 1), tid(1), 3)
    assert server.attachment.locks.held, "the page must stay locked: nobody may write it"
    server.attachment.locks.release_all()
    tree._point = fail_at(Point.BTREE_SPLIT_UNDER_LOCK)
    with pytest.raises(Panic, match="an arm was hit"):
        for n in range(10, 5000):
            tree.insert(key_of(kind, n), tid(n), 3)


def test_records_are_described() -> None:
    server = Server(16)
    tree = a_tree(server)
    for n in range(600):
        tree.insert(n, tid(n), 3)
    tree.remove(0, tid(0))
    texts = [describe(record) for record in server.wal.records]
    assert texts[0] == "NEWROOT"
    assert texts[1] == "INSERT_LEAF off: 0, row: (0,1)"
    assert "NEWROOT halves: 2, 1" in texts or "NEWROOT halves: 1, 2" in texts
    assert texts[-1] == "DELETE off: 0, row: (0,1)"
    assert {record.info for record in server.wal.records} >= {INSERT_LEAF, NEWROOT}


def test_a_page_of_something_else_is_refused() -> None:
    server = Server(16)
    tree = a_tree(server, words=False)
    wrong = Btree(server.pool, server.wal, RELATION, word_keys=True)
    with pytest.raises(ServerError, match="contains unexpected page at block 0") as caught:
        wrong.lookup(1)
    assert caught.value.sqlstate == INDEX_CORRUPTED
    assert server.attachment.locks.held == []
    with pytest.raises(ServerError, match="is not empty"):
        tree.create(3)
