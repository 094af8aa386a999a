"""Damages to B-trees, and to what a heap and its index say of each other."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

from supervisor.engine.access.tuple import HEADER_BYTES, HEAP_ONLY
from supervisor.engine.storage import page as pages
from supervisor.engine.storage.page import PAGE_BYTES
from supervisor.engine.verify.corruption import Kind
from tests.support.damage import BYTES_INDEX, HEAP, HEAP_INDEX, WORDS, WORDS_INDEX, Files
from tests.support.damages import Table, Where, in_file

DAMAGES = Table()

# The B-tree by itself.


@DAMAGES.of(Kind.BTREE_PAGE)
def an_index_without_a_root(files: Files) -> Where:
    files.put(HEAP_INDEX, 0, bytes(PAGE_BYTES))
    return in_file(HEAP_INDEX, 0)


@DAMAGES.of(Kind.BTREE_PAGE)
def a_leaf_that_was_never_written(files: Files) -> Where:
    leaf = files.tree(WORDS_INDEX).node(0).children[1]
    files.put(WORDS_INDEX, leaf, bytes(PAGE_BYTES))
    return in_file(WORDS_INDEX, leaf)


@DAMAGES.of(Kind.BTREE_PAGE)
def a_leaf_with_more_keys_than_rows(files: Files) -> Where:
    files.change(WORDS_INDEX, 1, pages.UPPER_AT, "H", 8184)
    return in_file(WORDS_INDEX, 1)


@DAMAGES.of(Kind.BTREE_PAGE)
def an_entry_of_bytes_that_lies_in_another(files: Files) -> Where:
    files.change(BYTES_INDEX, 1, pages.HEADER_BYTES, "H", 8190)
    return in_file(BYTES_INDEX, 1)


def with_leaf(relation: int) -> Callable[[Callable[[Files, int], Where]], Callable[[Files], Where]]:
    """Give the second of an index's leaves to what damages it."""

    def wrap(plant: Callable[[Files, int], Where]) -> Callable[[Files], Where]:
        def planted(files: Files) -> Where:
            return plant(files, files.tree(relation).node(0).children[1])

        planted.__name__ = plant.__name__
        return planted

    return wrap


@DAMAGES.of(Kind.BTREE_ORDER)
@with_leaf(WORDS_INDEX)
def two_entries_out_of_order(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    for column in (node.keys, node.tids):
        column[3], column[4] = column[4], column[3]
    tree.put(leaf, node)
    return in_file(WORDS_INDEX, leaf, 5)


@DAMAGES.of(Kind.BTREE_ORDER)
@with_leaf(BYTES_INDEX)
def two_entries_of_bytes_out_of_order(files: Files, leaf: int) -> Where:
    tree = files.tree(BYTES_INDEX)
    node = tree.node(leaf)
    for column in (node.keys, node.tids):
        column[3], column[4] = column[4], column[3]
    tree.put(leaf, node)
    return in_file(BYTES_INDEX, leaf, 5)


@DAMAGES.of(Kind.BTREE_ORDER)
@with_leaf(WORDS_INDEX)
def a_high_key_below_the_last_entry(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    tree.put(leaf, replace(node, high=(node.keys[-2], node.tids[-2])))
    return in_file(WORDS_INDEX, leaf, len(node.keys))


@DAMAGES.of(Kind.BTREE_ORDER)
@with_leaf(WORDS_INDEX)
def a_separator_above_its_page(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    root = tree.node(0)
    root.keys[1] += 2
    tree.put(0, root)
    return in_file(WORDS_INDEX, leaf, 1)


@DAMAGES.of(Kind.BTREE_ORDER)
def an_inner_page_that_does_not_begin_with_the_least_key(files: Files) -> Where:
    tree = files.tree(WORDS_INDEX)
    root = tree.node(0)
    root.keys[0] = -5
    tree.put(0, root)
    return in_file(WORDS_INDEX, root.children[0])


@DAMAGES.of(Kind.BTREE_LINK, Kind.BTREE_ORDER)
@with_leaf(WORDS_INDEX)
def a_chain_of_siblings_that_ends_early(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    tree.put(leaf, replace(tree.node(leaf), right=0, high=None))
    return in_file(WORDS_INDEX, leaf)


@DAMAGES.of(Kind.BTREE_LINK)
@with_leaf(WORDS_INDEX)
def a_sibling_that_leads_back(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    tree.put(leaf, replace(tree.node(leaf), right=tree.node(0).children[0]))
    return in_file(WORDS_INDEX, leaf)


@DAMAGES.of(Kind.BTREE_LINK, Kind.BTREE_ORDER)
def two_downlinks_to_one_leaf(files: Files) -> Where:
    tree = files.tree(WORDS_INDEX)
    root = tree.node(0)
    root.children[1] = root.children[0]
    tree.put(0, root)
    return in_file(WORDS_INDEX, 0, 2)


@DAMAGES.of(Kind.BTREE_LINK, Kind.BTREE_ORDER)
def a_downlink_to_no_block(files: Files) -> Where:
    tree = files.tree(WORDS_INDEX)
    root = tree.node(0)
    root.children[1] = -1
    tree.put(0, root)
    return in_file(WORDS_INDEX, 0, 2)


@DAMAGES.of(Kind.BTREE_LINK)
@with_leaf(WORDS_INDEX)
def a_leaf_that_says_it_is_none(files: Files, leaf: int) -> Where:
    # An inner page has two words an entry where a leaf has one, so this one has as many of them and half the keys.
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    half = len(node.keys) // 2
    inner = replace(node, level=3, keys=node.keys[:half], tids=node.tids[:half], children=[1] * half)
    tree.put(leaf, inner)
    return in_file(WORDS_INDEX, leaf)


@DAMAGES.of(Kind.BTREE_LINK)
def a_page_used_that_no_page_leads_to(files: Files) -> Where:
    block = files.blocks(WORDS_INDEX)
    data = files.page(WORDS_INDEX, 1)
    files.put(WORDS_INDEX, block, pages.seal(data, WORDS_INDEX, block))
    return in_file(WORDS_INDEX, block)


# Heap and index against each other.


@DAMAGES.of(Kind.INDEX_ENTRY, Kind.MISSING_ENTRY)
@with_leaf(WORDS_INDEX)
def an_entry_that_leads_to_no_row(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    node.tids[2] = 9999 << 16 | 1
    tree.put(leaf, node)
    return in_file(WORDS_INDEX, leaf, 3)


@DAMAGES.of(Kind.INDEX_ENTRY)
@with_leaf(WORDS_INDEX)
def two_entries_with_each_others_rows(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    node.tids[2], node.tids[3] = node.tids[3], node.tids[2]
    tree.put(leaf, node)
    return in_file(WORDS_INDEX, leaf, 3)


@DAMAGES.of(Kind.INDEX_ENTRY, Kind.MISSING_ENTRY)
@with_leaf(WORDS_INDEX)
def two_entries_of_one_row(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    node.tids[3] = node.tids[2]
    tree.put(leaf, node)
    return in_file(WORDS_INDEX, leaf, 4)


@DAMAGES.of(Kind.INDEX_ENTRY, Kind.MISSING_ENTRY)
def an_entry_that_leads_to_a_later_version(files: Files) -> Where:
    tree = files.tree(HEAP_INDEX)
    node = tree.node(0)
    at = node.keys.index(3)
    place = files.version(HEAP, lambda one: bool(one.flags & HEAP_ONLY))
    node.tids[at] = place.block << 16 | place.line
    tree.put(0, node)
    return in_file(HEAP_INDEX, 0, at + 1)


@DAMAGES.of(Kind.MISSING_ENTRY)
@with_leaf(WORDS_INDEX)
def a_row_without_its_entry(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    tid = node.tids[10]
    del node.keys[10], node.tids[10]
    tree.put(leaf, node)
    return in_file(WORDS, tid >> 16, tid & 0xFFFF)


@DAMAGES.of(Kind.UNIQUE_KEY, Kind.INDEX_ENTRY)
def two_rows_with_one_key(files: Files) -> Where:
    places = [place for place in files.versions(WORDS) if place.block == 1]
    first, second = places[0], places[1]
    data = files.page(WORDS, 1)
    (key,) = struct.unpack_from("<i", data, first.at + HEADER_BYTES + 1)
    files.change(WORDS, 1, second.at + HEADER_BYTES + 1, "i", key)
    return in_file(WORDS, 1, second.line)
