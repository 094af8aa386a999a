"""Pages.

What could go wrong: a flipped bit is read as data; a page that was written to the wrong block, or to
the wrong relation, is taken for the right one; a row's line number comes to mean another row while an
index still points at it; compaction loses or mixes up rows; a page that looks full is not.
"""

from __future__ import annotations

import random
from mmap import mmap

import pytest

from supervisor.engine.storage import page

OFFSET = page.PAGE_BYTES  # not at the start of the mapping: a forgotten offset shows


@pytest.fixture
def mm() -> mmap:
    memory = mmap(-1, 3 * page.PAGE_BYTES)
    memory[:] = b"\xaa" * len(memory)
    page.init(memory, OFFSET, page.KIND_HEAP)
    return memory


def contents(mm: mmap) -> dict[int, bytes]:
    found = {}
    for line in range(1, page.line_count(mm, OFFSET) + 1):
        state, start, length = page.item(mm, OFFSET, line)
        if state == page.NORMAL:
            assert start % 8 == 0
            found[line] = mm[OFFSET + start : OFFSET + start + length]
    return found


def a_page() -> bytes:
    memory = mmap(-1, page.PAGE_BYTES)
    page.init(memory, 0, page.KIND_HEAP)
    for n in range(20):
        page.add_item(memory, 0, b"row-%d" % n)
    return memory[:]


def test_a_sealed_page_verifies_where_it_belongs() -> None:
    page.verify(page.seal(a_page(), 7, 3), 7, 3)


@pytest.mark.parametrize(("relation", "block"), [(7, 4), (8, 3), (3, 7), (0, 0)])
def test_a_page_in_the_wrong_place_does_not_verify(relation: int, block: int) -> None:
    with pytest.raises(page.InvalidPage, match="checksum"):
        page.verify(page.seal(a_page(), 7, 3), relation, block)


def test_every_flipped_bit_is_noticed() -> None:
    sealed = page.seal(a_page(), 7, 3)
    header = range(page.HEADER_BYTES * 8)
    for bit in [*header, *random.Random(1).sample(range(page.PAGE_BYTES * 8), 1000)]:
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(page.InvalidPage):
            page.verify(bytes(damaged), 7, 3)


def test_a_torn_page_is_noticed() -> None:
    old, new = bytearray(page.seal(a_page(), 7, 3)), page.seal(a_page()[:-9] + b"new bytes", 7, 3)
    old[-512:] = new[-512:]
    with pytest.raises(page.InvalidPage):
        page.verify(bytes(old), 7, 3)


def test_a_page_of_zeros_is_valid_anywhere_and_almost_zeros_is_not() -> None:
    page.verify(bytes(page.PAGE_BYTES), 1, 2)
    with pytest.raises(page.InvalidPage):
        page.verify(bytes(page.PAGE_BYTES - 1) + b"\x01", 1, 2)


def test_a_checksum_over_nonsense_does_not_make_it_a_page() -> None:
    nonsense = page.seal(b"\xff" * page.PAGE_BYTES, 1, 2)
    with pytest.raises(page.InvalidPage, match="out of order"):
        page.verify(nonsense, 1, 2)


def test_items_are_found_by_their_line(mm: mmap) -> None:
    lines = [page.add_item(mm, OFFSET, b"row-%d" % n) for n in range(50)]
    assert lines == list(range(1, 51))
    assert contents(mm) == {n + 1: b"row-%d" % n for n in range(50)}
    assert [page.line_fields(raw) for raw in page.lines(mm, OFFSET)] == [page.item(mm, OFFSET, n) for n in lines]


def test_free_space_is_exact(mm: mmap) -> None:
    while (room := page.free_space(mm, OFFSET)) > 100:
        assert page.add_item(mm, OFFSET, bytes(100))
    assert page.add_item(mm, OFFSET, bytes(room + 1)) == 0
    assert page.add_item(mm, OFFSET, bytes(room)) != 0
    assert page.free_space(mm, OFFSET) == 0


def test_the_largest_item_fits_on_an_empty_page_and_no_larger_one(mm: mmap) -> None:
    assert page.free_space(mm, OFFSET) == page.MAX_ITEM_BYTES
    assert page.add_item(mm, OFFSET, bytes(page.MAX_ITEM_BYTES + 1)) == 0
    assert page.line_count(mm, OFFSET) == 0
    assert page.add_item(mm, OFFSET, bytes(page.MAX_ITEM_BYTES)) == 1


def test_a_dead_line_keeps_its_number_and_an_unused_one_is_taken_again(mm: mmap) -> None:
    for n in range(5):
        page.add_item(mm, OFFSET, b"row-%d" % n)
    page.prune(mm, OFFSET, redirects=((2, 5),), dead=(3,), unused=(4,))
    assert [page.item(mm, OFFSET, line)[0] for line in range(1, 6)] == [
        page.NORMAL,
        page.REDIRECT,
        page.DEAD,
        page.UNUSED,
        page.NORMAL,
    ]
    assert page.item(mm, OFFSET, 2)[1] == 5
    assert page.add_item(mm, OFFSET, b"new") == 4
    assert page.add_item(mm, OFFSET, b"newer") == 6
    assert contents(mm) == {1: b"row-0", 4: b"new", 5: b"row-4", 6: b"newer"}


def test_redo_names_the_line_and_is_refused_one_that_is_taken(mm: mmap) -> None:
    page.add_item(mm, OFFSET, b"row-0")
    assert page.add_item(mm, OFFSET, b"row-1", 2) == 2
    for line in (1, 2, 4):
        with pytest.raises(ValueError, match="not free"):
            page.add_item(mm, OFFSET, b"row", line)


def test_pruning_gives_all_bytes_back_and_cuts_unused_lines_off_the_end(mm: mmap) -> None:
    room = page.free_space(mm, OFFSET)
    while page.add_item(mm, OFFSET, bytes(64)):
        pass
    page.prune(mm, OFFSET, unused=tuple(range(1, page.line_count(mm, OFFSET) + 1)))
    assert page.line_count(mm, OFFSET) == 0
    assert page.free_space(mm, OFFSET) == room


def test_a_model_of_rows_and_the_page_agree(mm: mmap) -> None:
    choice = random.Random(7)
    model: dict[int, bytes] = {}
    mm[OFFSET : OFFSET + 8] = b"the LSN!"
    for step in range(3000):
        action = choice.random()
        if action < 0.6:
            row = b"%d" % step * choice.randrange(1, 20)
            line = page.add_item(mm, OFFSET, row)
            if line:
                assert line not in model
                model[line] = row
        elif action < 0.9 and model:
            gone = choice.sample(sorted(model), min(len(model), 3))
            page.prune(mm, OFFSET, unused=tuple(gone))
            for line in gone:
                del model[line]
        else:
            page.compact(mm, OFFSET)
        assert contents(mm) == model
    assert mm[OFFSET : OFFSET + 8] == b"the LSN!"
    assert mm[:OFFSET] == mm[2 * OFFSET :] == b"\xaa" * OFFSET
    page.verify(page.seal(mm[OFFSET : 2 * OFFSET], 1, 1), 1, 1)


def test_special_bytes_survive(mm: mmap) -> None:
    page.init(mm, OFFSET, page.KIND_HEAP, special_bytes=16)
    mm[2 * OFFSET - 16 : 2 * OFFSET] = b"belongs to heap!"
    for n in range(9):
        page.add_item(mm, OFFSET, b"row-%d" % n)
    page.prune(mm, OFFSET, unused=(2, 4, 9))
    assert mm[2 * OFFSET - 16 : 2 * OFFSET] == b"belongs to heap!"
    assert len(contents(mm)) == 6
