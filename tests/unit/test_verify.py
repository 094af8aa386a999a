"""The walk over a cluster's files: it finds every kind of damage where it is, and none where there is none.

What could go wrong: a check that looks at nothing, and calls everything sound; one that stops at the first damage; one
that takes for damage what a crash legally leaves (a torn page before redo, an update that was rolled back, an entry that
was never made, a file that no table names); one that dies of the bytes that it should report; one that writes. So each
kind of damage is planted into the bytes of a real cluster, one at a time, and must be told with its kind and its place,
and nothing else must be told but what follows from it.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from supervisor.engine.access.tuple import (
    HEADER_BYTES,
    HEAP_ONLY,
    HOT_UPDATED,
    LOCK_ONLY,
    XMAX_COMMITTED,
    XMIN_COMMITTED,
    XMIN_INVALID,
)
from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.recovery.control import CONTROL_FILE, ClusterState
from supervisor.engine.storage import page as pages
from supervisor.engine.storage.page import PAGE_BYTES
from supervisor.engine.transam import clog
from supervisor.engine.verify.cluster import verify_cluster
from supervisor.engine.verify.corruption import Corruption, Kind, Verification
from supervisor.errors import StartupError
from supervisor.host import SoloHost
from tests.support.damage import (
    BYTES_INDEX,
    CATALOG_HEAP,
    CATALOG_INDEX,
    CLOG,
    HEAP,
    HEAP_INDEX,
    WORDS,
    WORDS_INDEX,
    Files,
    Place,
    build,
)
from tests.support.engine_rig import Rig

Where = tuple[str, int | None, int | None]
"""File, block, offset."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One way to damage a cluster: `plant` does it and says where it must be reported, as `kind`.

    `also` are the kinds of what follows from it elsewhere.
    """

    name: str
    kind: Kind
    also: frozenset[Kind]
    plant: Callable[[Files], Where]


DAMAGES: list[Damage] = []


def damage(kind: Kind, *also: Kind) -> Callable[[Callable[[Files], Where]], Callable[[Files], Where]]:
    def enter(plant: Callable[[Files], Where]) -> Callable[[Files], Where]:
        DAMAGES.append(Damage(plant.__name__.replace("_", " "), kind, frozenset(also), plant))
        return plant

    return enter


def in_file(relation: int, block: int | None = None, offset: int | None = None) -> Where:
    return f"base/{relation}", block, offset


# Pages.


@damage(Kind.CHECKSUM)
def a_bit_of_a_page_flipped(files: Files) -> Where:
    data = bytearray(files.page(WORDS, 1))
    data[5000] ^= 1
    files.put(WORDS, 1, bytes(data))
    return in_file(WORDS, 1)


@damage(Kind.CHECKSUM)
def a_page_torn_in_the_middle(files: Files) -> Where:
    files.put(HEAP, 0, bytes(PAGE_BYTES // 2))
    return in_file(HEAP, 0)


@damage(Kind.CHECKSUM)
def a_page_written_to_its_neighbours_place(files: Files) -> Where:
    files.put(WORDS, 2, files.page(WORDS, 1))
    return in_file(WORDS, 2)


@damage(Kind.CHECKSUM)
def a_page_of_another_relation(files: Files) -> Where:
    files.put(WORDS_INDEX, 1, files.page(BYTES_INDEX, 1))
    return in_file(WORDS_INDEX, 1)


@damage(Kind.PAGE_HEADER)
def a_header_whose_bounds_cross(files: Files) -> Where:
    files.change(WORDS, 1, pages.UPPER_AT, "H", 40)
    return in_file(WORDS, 1)


@damage(Kind.PAGE_HEADER)
def a_page_of_another_layout_version(files: Files) -> Where:
    files.change(WORDS, 1, pages.KIND_AT + 2, "H", 9)
    return in_file(WORDS, 1)


@damage(Kind.PAGE_HEADER)
def an_index_page_in_a_heap(files: Files) -> Where:
    files.change(WORDS, 1, pages.KIND_AT, "H", pages.KIND_BTREE_WORD)
    return in_file(WORDS, 1)


@damage(Kind.PAGE_HEADER)
def a_flag_that_nobody_sets(files: Files) -> Where:
    files.change(WORDS, 1, pages.FLAGS_AT, "H", 0x40)
    return in_file(WORDS, 1)


@damage(Kind.PAGE_HEADER)
def something_to_prune_from_a_transaction_to_come(files: Files) -> Where:
    files.change(WORDS, 1, pages.WORD_AT, "Q", files.control.checkpoint.next_xid)
    return in_file(WORDS, 1)


@damage(Kind.PAGE_LSN)
def a_page_of_the_future(files: Files) -> Where:
    files.change(WORDS, 1, pages.LSN_AT, "Q", 0xFF_0000_0000)
    return in_file(WORDS, 1)


@damage(Kind.PAGE_LSN)
def a_page_one_record_beyond_the_log(files: Files) -> Where:
    control = files.control
    files.change(HEAP_INDEX, 0, pages.LSN_AT, "Q", control.checkpoint_lsn + 512)
    return in_file(HEAP_INDEX, 0)


@damage(Kind.PAGE_LSN)
def a_page_that_was_never_logged(files: Files) -> Where:
    files.change(CLOG, 0, pages.LSN_AT, "Q", 0)
    return in_file(CLOG, 0)


# Line pointers.


@damage(Kind.LINE_POINTER, Kind.INDEX_ENTRY)
def a_line_that_leads_behind_the_page(files: Files) -> Where:
    files.set_line(WORDS, 1, 7, pages.NORMAL, 8184, 64)
    return in_file(WORDS, 1, 7)


@damage(Kind.LINE_POINTER, Kind.INDEX_ENTRY)
def a_line_that_leads_into_the_hole(files: Files) -> Where:
    last = files.blocks(WORDS) - 1
    files.set_line(WORDS, last, 1, pages.NORMAL, 4096, 24)
    return in_file(WORDS, last, 1)


@damage(Kind.LINE_POINTER, Kind.INDEX_ENTRY, Kind.UNIQUE_KEY)
def two_lines_with_one_item(files: Files) -> Where:
    first = files.version(WORDS, lambda place: place.block == 1)
    files.set_line(WORDS, 1, first.line + 1, pages.NORMAL, first.at, first.length)
    return in_file(WORDS, 1, first.line + 1)


@damage(Kind.LINE_POINTER, Kind.INDEX_ENTRY)
def an_item_shorter_than_a_header(files: Files) -> Where:
    first = files.version(WORDS, lambda place: place.block == 1)
    files.set_line(WORDS, 1, first.line, pages.NORMAL, first.at, HEADER_BYTES - 1)
    return in_file(WORDS, 1, first.line)


@damage(Kind.LINE_POINTER, Kind.INDEX_ENTRY)
def a_dead_line_which_nothing_makes(files: Files) -> Where:
    files.set_line(WORDS, 1, 3, pages.DEAD)
    return in_file(WORDS, 1, 3)


@damage(Kind.LINE_POINTER, Kind.UPDATE_CHAIN, Kind.INDEX_ENTRY)
def a_redirect_to_a_first_version(files: Files) -> Where:
    line = files.line_of_state(HEAP, 0, pages.REDIRECT)
    files.set_line(HEAP, 0, line, pages.REDIRECT, 1)
    return in_file(HEAP, 0, line)


@damage(Kind.LINE_POINTER, Kind.UPDATE_CHAIN)
def a_redirect_behind_the_last_line(files: Files) -> Where:
    line = files.line_of_state(HEAP, 0, pages.REDIRECT)
    files.set_line(HEAP, 0, line, pages.REDIRECT, 999)
    return in_file(HEAP, 0, line)


# Versions.


def plain(place: Place) -> bool:
    """A row that was inserted and never touched since."""
    return not place.xmax and not place.flags & HEAP_ONLY


def replaced_here(place: Place) -> bool:
    """Replaced by a version on its page, and that committed: the key was updated twice."""
    return bool(place.flags & HOT_UPDATED and place.flags & XMAX_COMMITTED)


def header_changed(files: Files, place: Place, **changed: int) -> Where:
    files.set_header(HEAP, place, **changed)
    return in_file(HEAP, place.block, place.line)


@damage(Kind.TUPLE_HEADER)
def flags_that_nobody_sets(files: Files) -> Where:
    place = files.version(HEAP, plain)
    return header_changed(files, place, flags=place.flags | 0x8000)


@damage(Kind.TUPLE_HEADER)
def a_next_version_without_an_end(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, plain), next_line=2)


@damage(Kind.TUPLE_HEADER)
def a_lock_of_nobody(files: Files) -> Where:
    place = files.version(HEAP, plain)
    return header_changed(files, place, flags=place.flags | LOCK_ONLY)


@damage(Kind.TUPLE_DATA)
def text_that_is_no_utf_8(files: Files) -> Where:
    place = files.version(HEAP, plain)
    files.change(HEAP, place.block, place.at + place.length - 1, "B", 0xFF)
    return in_file(HEAP, place.block, place.line)


@damage(Kind.TUPLE_DATA)
def text_longer_than_its_version(files: Files) -> Where:
    place = files.version(HEAP, plain)
    files.change(HEAP, place.block, place.at + HEADER_BYTES + 5, "H", 900)
    return in_file(HEAP, place.block, place.line)


@damage(Kind.TUPLE_DATA)
def a_null_bit_beyond_the_columns(files: Files) -> Where:
    place = files.version(HEAP, plain)
    files.change(HEAP, place.block, place.at + HEADER_BYTES, "B", 0x80)
    return in_file(HEAP, place.block, place.line)


@damage(Kind.TUPLE_DATA)
def a_key_that_is_null(files: Files) -> Where:
    place = files.version(HEAP, plain)
    files.change(HEAP, place.block, place.at + HEADER_BYTES, "B", 0x01)
    return in_file(HEAP, place.block, place.line)


@damage(Kind.TRANSACTION_ID, Kind.HINT_BITS)
def a_version_of_a_transaction_to_come(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, plain), xmin=files.control.checkpoint.next_xid)


@damage(Kind.TRANSACTION_ID, Kind.HINT_BITS)
def a_version_of_no_transaction(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, plain), xmin=0)


@damage(Kind.TRANSACTION_ID)
def a_version_ended_by_a_transaction_to_come(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, plain), xmax=files.control.checkpoint.next_xid + 7)


@damage(Kind.HINT_BITS)
def a_committed_version_hinted_as_aborted(files: Files) -> Where:
    place = files.version(HEAP, plain)
    return header_changed(files, place, flags=place.flags & ~XMIN_COMMITTED | XMIN_INVALID)


@damage(Kind.HINT_BITS)
def both_hints_at_once(files: Files) -> Where:
    place = files.version(HEAP, plain)
    return header_changed(files, place, flags=place.flags | XMIN_COMMITTED | XMIN_INVALID)


# Update chains.


@damage(Kind.UPDATE_CHAIN)
def an_update_that_leads_to_another_row(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, replaced_here), next_line=1)


@damage(Kind.UPDATE_CHAIN)
def an_update_that_leads_nowhere(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, replaced_here), next_line=999)


@damage(Kind.UPDATE_CHAIN)
def an_update_on_this_page_that_leads_to_another(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, replaced_here), next_block=1)


@damage(Kind.UPDATE_CHAIN)
def an_update_to_a_page_behind_the_last(files: Files) -> Where:
    moved = files.version(HEAP, lambda place: bool(place.next_line) and place.next_block != place.block)
    return header_changed(files, moved, next_block=777)


@damage(Kind.UPDATE_CHAIN, Kind.INDEX_ENTRY)
def a_first_version_marked_as_a_later_one(files: Files) -> Where:
    place = files.version(HEAP, plain)
    return header_changed(files, place, flags=place.flags | HEAP_ONLY)


@damage(Kind.UPDATE_CHAIN)
def a_later_version_with_another_key(files: Files) -> Where:
    place = files.version(HEAP, replaced_here)
    after = files.version(HEAP, lambda one: (one.block, one.line) == (place.block, place.next_line))
    files.change(HEAP, after.block, after.at + HEADER_BYTES + 1, "i", 77)
    return in_file(HEAP, after.block, after.line)


@damage(Kind.UPDATE_CHAIN)
def two_redirects_to_one_version(files: Files) -> Where:
    line = files.line_of_state(HEAP, 0, pages.REDIRECT)
    data = files.page(HEAP, 0)
    (raw,) = struct.unpack_from("<I", data, pages.HEADER_BYTES + pages.LINE_BYTES * (line - 1))
    unused = files.line_of_state(HEAP, 0, pages.UNUSED)
    files.set_line(HEAP, 0, unused, pages.REDIRECT, raw & 0x7FFF)
    return in_file(HEAP, 0, max(line, unused))


# The commit log.


@damage(Kind.COMMIT_LOG, Kind.HINT_BITS, Kind.UPDATE_CHAIN)
def a_transaction_neither_committed_nor_not(files: Files) -> Where:
    place = files.version(HEAP, plain)
    _, byte, shift = clog.place(place.xmin)
    with files.edit(CLOG, 0) as mm:
        mm[byte] |= 3 << shift
    return in_file(CLOG, 0, place.xmin & ~3)


@damage(Kind.COMMIT_LOG)
def a_commit_of_a_transaction_to_come(files: Files) -> Where:
    xid = files.control.checkpoint.next_xid
    _, byte, shift = clog.place(xid)
    with files.edit(CLOG, 0) as mm:
        mm[byte] |= 1 << shift
        struct.pack_into("<H", mm, pages.LOWER_AT, byte + 1)
    return in_file(CLOG, 0, xid)


@damage(Kind.COMMIT_LOG)
def something_behind_the_commit_logs_last_bits(files: Files) -> Where:
    files.change(CLOG, 0, 8000, "B", 1)
    return in_file(CLOG, 0)


@damage(Kind.HINT_BITS)
def a_commit_forgotten(files: Files) -> Where:
    place = files.version(HEAP, plain)
    _, byte, shift = clog.place(place.xmin)
    with files.edit(CLOG, 0) as mm:
        mm[byte] &= ~(3 << shift)
    return in_file(HEAP, place.block, place.line)


# The B-tree by itself.


@damage(Kind.BTREE_PAGE)
def an_index_without_a_root(files: Files) -> Where:
    files.put(HEAP_INDEX, 0, bytes(PAGE_BYTES))
    return in_file(HEAP_INDEX, 0)


@damage(Kind.BTREE_PAGE)
def a_leaf_that_was_never_written(files: Files) -> Where:
    leaf = files.tree(WORDS_INDEX).node(0).children[1]
    files.put(WORDS_INDEX, leaf, bytes(PAGE_BYTES))
    return in_file(WORDS_INDEX, leaf)


@damage(Kind.BTREE_PAGE)
def a_leaf_with_more_keys_than_rows(files: Files) -> Where:
    files.change(WORDS_INDEX, 1, pages.UPPER_AT, "H", 8184)
    return in_file(WORDS_INDEX, 1)


@damage(Kind.BTREE_PAGE)
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


@damage(Kind.BTREE_ORDER)
@with_leaf(WORDS_INDEX)
def two_entries_out_of_order(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    for column in (node.keys, node.tids):
        column[3], column[4] = column[4], column[3]
    tree.put(leaf, node)
    return in_file(WORDS_INDEX, leaf, 5)


@damage(Kind.BTREE_ORDER)
@with_leaf(BYTES_INDEX)
def two_entries_of_bytes_out_of_order(files: Files, leaf: int) -> Where:
    tree = files.tree(BYTES_INDEX)
    node = tree.node(leaf)
    for column in (node.keys, node.tids):
        column[3], column[4] = column[4], column[3]
    tree.put(leaf, node)
    return in_file(BYTES_INDEX, leaf, 5)


@damage(Kind.BTREE_ORDER)
@with_leaf(WORDS_INDEX)
def a_high_key_below_the_last_entry(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    tree.put(leaf, replace(node, high=(node.keys[-2], node.tids[-2])))
    return in_file(WORDS_INDEX, leaf, len(node.keys))


@damage(Kind.BTREE_ORDER)
@with_leaf(WORDS_INDEX)
def a_separator_above_its_page(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    root = tree.node(0)
    root.keys[1] += 2
    tree.put(0, root)
    return in_file(WORDS_INDEX, leaf, 1)


@damage(Kind.BTREE_ORDER)
def an_inner_page_that_does_not_begin_with_the_least_key(files: Files) -> Where:
    tree = files.tree(WORDS_INDEX)
    root = tree.node(0)
    root.keys[0] = -5
    tree.put(0, root)
    return in_file(WORDS_INDEX, root.children[0])


@damage(Kind.BTREE_LINK, Kind.BTREE_ORDER)
@with_leaf(WORDS_INDEX)
def a_chain_of_siblings_that_ends_early(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    tree.put(leaf, replace(tree.node(leaf), right=0, high=None))
    return in_file(WORDS_INDEX, leaf)


@damage(Kind.BTREE_LINK)
@with_leaf(WORDS_INDEX)
def a_sibling_that_leads_back(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    tree.put(leaf, replace(tree.node(leaf), right=tree.node(0).children[0]))
    return in_file(WORDS_INDEX, leaf)


@damage(Kind.BTREE_LINK, Kind.BTREE_ORDER)
def two_downlinks_to_one_leaf(files: Files) -> Where:
    tree = files.tree(WORDS_INDEX)
    root = tree.node(0)
    root.children[1] = root.children[0]
    tree.put(0, root)
    return in_file(WORDS_INDEX, 0, 2)


@damage(Kind.BTREE_LINK, Kind.BTREE_ORDER)
def a_downlink_to_no_block(files: Files) -> Where:
    tree = files.tree(WORDS_INDEX)
    root = tree.node(0)
    root.children[1] = -1
    tree.put(0, root)
    return in_file(WORDS_INDEX, 0, 2)


@damage(Kind.BTREE_LINK)
@with_leaf(WORDS_INDEX)
def a_leaf_that_says_it_is_none(files: Files, leaf: int) -> Where:
    # An inner page has two words an entry where a leaf has one, so this one has as many of them and half the keys.
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    half = len(node.keys) // 2
    inner = replace(node, level=3, keys=node.keys[:half], tids=node.tids[:half], children=[1] * half)
    tree.put(leaf, inner)
    return in_file(WORDS_INDEX, leaf)


@damage(Kind.BTREE_LINK)
def a_page_used_that_no_page_leads_to(files: Files) -> Where:
    block = files.blocks(WORDS_INDEX)
    data = files.page(WORDS_INDEX, 1)
    files.put(WORDS_INDEX, block, pages.seal(data, WORDS_INDEX, block))
    return in_file(WORDS_INDEX, block)


# Heap and index against each other.


@damage(Kind.INDEX_ENTRY, Kind.MISSING_ENTRY)
@with_leaf(WORDS_INDEX)
def an_entry_that_leads_to_no_row(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    node.tids[2] = 9999 << 16 | 1
    tree.put(leaf, node)
    return in_file(WORDS_INDEX, leaf, 3)


@damage(Kind.INDEX_ENTRY)
@with_leaf(WORDS_INDEX)
def two_entries_with_each_others_rows(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    node.tids[2], node.tids[3] = node.tids[3], node.tids[2]
    tree.put(leaf, node)
    return in_file(WORDS_INDEX, leaf, 3)


@damage(Kind.INDEX_ENTRY, Kind.MISSING_ENTRY)
@with_leaf(WORDS_INDEX)
def two_entries_of_one_row(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    node.tids[3] = node.tids[2]
    tree.put(leaf, node)
    return in_file(WORDS_INDEX, leaf, 4)


@damage(Kind.INDEX_ENTRY, Kind.MISSING_ENTRY)
def an_entry_that_leads_to_a_later_version(files: Files) -> Where:
    tree = files.tree(HEAP_INDEX)
    node = tree.node(0)
    at = node.keys.index(3)
    place = files.version(HEAP, lambda one: bool(one.flags & HEAP_ONLY))
    node.tids[at] = place.block << 16 | place.line
    tree.put(0, node)
    return in_file(HEAP_INDEX, 0, at + 1)


@damage(Kind.MISSING_ENTRY)
@with_leaf(WORDS_INDEX)
def a_row_without_its_entry(files: Files, leaf: int) -> Where:
    tree = files.tree(WORDS_INDEX)
    node = tree.node(leaf)
    tid = node.tids[10]
    del node.keys[10], node.tids[10]
    tree.put(leaf, node)
    return in_file(WORDS, tid >> 16, tid & 0xFFFF)


@damage(Kind.UNIQUE_KEY, Kind.INDEX_ENTRY)
def two_rows_with_one_key(files: Files) -> Where:
    places = [place for place in files.versions(WORDS) if place.block == 1]
    first, second = places[0], places[1]
    data = files.page(WORDS, 1)
    (key,) = struct.unpack_from("<i", data, first.at + HEADER_BYTES + 1)
    files.change(WORDS, 1, second.at + HEADER_BYTES + 1, "i", key)
    return in_file(WORDS, 1, second.line)


# What belongs to no one relation.


def catalog_row(files: Files, name: bytes) -> Place:
    return files.version(
        CATALOG_HEAP, lambda place: name in files.page(CATALOG_HEAP, 0)[place.at : place.at + place.length]
    )


@damage(Kind.CATALOG)
def a_table_of_unknown_types(files: Files) -> Where:
    place = catalog_row(files, b"words")
    with files.edit(CATALOG_HEAP, 0) as mm:
        at = mm.find(b"integer", place.at)
        mm[at : at + 7] = b"intejer"
    return in_file(CATALOG_HEAP, 0, place.line)


@damage(Kind.CATALOG)
def two_tables_with_one_file(files: Files) -> Where:
    place = catalog_row(files, b"words")
    files.change(CATALOG_HEAP, 0, place.at + HEADER_BYTES + 1 + 2, "i", HEAP)
    return in_file(CATALOG_HEAP, 0, place.line)


@damage(Kind.CATALOG)
def a_table_with_a_number_that_was_never_given_out(files: Files) -> Where:
    place = catalog_row(files, b"words")
    files.change(CATALOG_HEAP, 0, place.at + HEADER_BYTES + 1 + 2, "i", 5000)
    return in_file(CATALOG_HEAP, 0, place.line)


@damage(Kind.FILE)
def a_table_without_its_file(files: Files) -> Where:
    files.path(WORDS).unlink()
    return in_file(WORDS)


@damage(Kind.FILE)
def no_commit_log(files: Files) -> Where:
    files.path(CLOG).unlink()
    return in_file(CLOG)


@damage(Kind.FILE)
def a_stray_file(files: Files) -> Where:
    (files.directory / "base" / "16.old").write_bytes(b"")
    return "base", None, None


@damage(Kind.FILE)
def a_file_with_a_number_that_was_never_given_out(files: Files) -> Where:
    files.path(4711).write_bytes(b"")
    return "base", None, None


@damage(Kind.CONTROL_FILE)
def a_bit_of_the_control_file_flipped(files: Files) -> Where:
    path = files.directory / CONTROL_FILE
    data = bytearray(path.read_bytes())
    data[70] ^= 4
    path.write_bytes(data)
    return CONTROL_FILE, None, None


@damage(Kind.CONTROL_FILE)
def no_control_file(files: Files) -> Where:
    (files.directory / CONTROL_FILE).unlink()
    return CONTROL_FILE, None, None


@damage(Kind.WAL)
def a_checkpoint_record_that_is_damaged(files: Files) -> Where:
    path, offset = files.segment_of_checkpoint()
    data = bytearray(path.read_bytes())
    data[offset + 20] ^= 1
    path.write_bytes(data)
    return "pg_wal", None, None


@damage(Kind.WAL)
def a_control_file_that_contradicts_its_checkpoint(files: Files) -> Where:
    control = files.control
    checkpoint = msgspec.structs.replace(control.checkpoint, next_xid=control.checkpoint.next_xid + 1)
    files.put_control(msgspec.structs.replace(control, checkpoint=checkpoint))
    return "pg_wal", None, None


@damage(Kind.WAL)
def a_crashed_cluster_whose_log_is_gone(files: Files) -> Where:
    files.put_control(msgspec.structs.replace(files.control, state=ClusterState.IN_PRODUCTION))
    path, _ = files.segment_of_checkpoint()
    path.unlink()
    return "pg_wal", None, None


# The tests.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster that was shut down."""
    directory = tmp_path_factory.mktemp("cluster")
    rig = Rig(directory)
    rig.start()
    build(rig)
    rig.stop()
    return directory


@pytest.fixture
def files(whole: Path, tmp_path: Path) -> Files:
    """A copy of it."""
    return Files(Path(shutil.copytree(whole, tmp_path / "data")))


def walk(files: Files) -> Verification:
    return verify_cluster(PosixDisk(files.directory, SoloHost()))


def where(corruption: Corruption) -> tuple[str, int | None, int | None]:
    return corruption.file, corruption.block, corruption.offset


def test_a_whole_cluster_is_sound_and_everything_was_looked_at(files: Files) -> None:
    result = walk(files)
    assert result.corruptions == () and result.sound
    assert (result.state, result.recovered) == ("shut down", False)
    assert result.end_lsn > files.control.checkpoint_lsn
    looked_at = {one.file: one for one in result.relations}
    assert set(looked_at) == {f"base/{path.name}" for path in (files.directory / "base").iterdir()}
    for path in (files.directory / "base").iterdir():
        assert looked_at[f"base/{path.name}"].pages == path.stat().st_size // PAGE_BYTES
    assert looked_at[f"base/{WORDS}"].items == looked_at[f"base/{WORDS_INDEX}"].items == 1200


def test_the_cluster_has_one_of_everything(files: Files) -> None:
    """Or the checks above would not have met it."""
    places = list(files.versions(HEAP))
    assert any(place.flags & HOT_UPDATED and place.flags & XMAX_COMMITTED for place in places)
    assert any(place.flags & XMIN_INVALID or not place.flags & XMIN_COMMITTED for place in places)
    assert any(place.next_line and place.next_block != place.block for place in places)
    assert files.line_of_state(HEAP, 0, pages.REDIRECT)
    assert all(files.tree(index).node(0).level == 1 for index in (WORDS_INDEX, BYTES_INDEX))


@pytest.mark.parametrize("planted", DAMAGES, ids=lambda planted: planted.name)
def test_damage_is_told_where_it_is(files: Files, planted: Damage) -> None:
    expected = planted.plant(files)
    result = walk(files)
    told = [(one.kind, where(one)) for one in result.corruptions]
    assert (planted.kind, expected) in told, result.corruptions
    assert {kind for kind, _ in told} <= {planted.kind, *planted.also}, result.corruptions
    assert not result.sound


def test_there_is_a_damage_of_every_kind() -> None:
    assert {planted.kind for planted in DAMAGES} == set(Kind)


def test_all_damage_is_told_and_none_ends_the_walk(files: Files) -> None:
    expected = [
        (Kind.CHECKSUM, a_bit_of_a_page_flipped(files)),
        (Kind.TUPLE_DATA, text_that_is_no_utf_8(files)),
        (Kind.BTREE_PAGE, an_entry_of_bytes_that_lies_in_another(files)),
        (Kind.FILE, a_stray_file(files)),
        (Kind.COMMIT_LOG, something_behind_the_commit_logs_last_bits(files)),
    ]
    told = [(one.kind, where(one)) for one in walk(files).corruptions]
    assert set(expected) <= set(told)


@pytest.mark.parametrize("relation", [CATALOG_HEAP, CATALOG_INDEX, CLOG, HEAP, HEAP_INDEX, BYTES_INDEX])
def test_pages_full_of_noise_are_damage_and_no_error(files: Files, relation: int) -> None:
    """Sealed noise: the checksum is right, so that every check behind it sees bytes that nobody made."""
    for seed in range(20):
        noise = b"".join(struct.pack("<Q", (seed * 2654435761 + n * 40503) ** 3 & (1 << 64) - 1) for n in range(1024))
        kept = files.page(relation, 0)
        header = bytearray(kept[: pages.HEADER_BYTES])
        data = bytes(header) + noise[pages.HEADER_BYTES :]
        files.put(relation, 0, pages.seal(data, relation, 0))
        assert not walk(files).sound
        files.put(relation, 0, kept)
    assert walk(files).sound


# Clusters that were not shut down.


@pytest.fixture
def crashed(tmp_path: Path) -> Files:
    """A cluster whose server was killed: everything since the checkpoint is in the log alone, one transaction open."""
    rig = Rig(tmp_path)
    rig.start()
    rig.session().create_table("made", [("id", "integer")], "id")
    rig.checkpoint()
    build(rig)
    rig.crash()
    return Files(tmp_path)


def test_a_crashed_cluster_is_checked_as_recovery_would_leave_it_and_not_touched(crashed: Files) -> None:
    def everything() -> dict[str, tuple[bytes, int]]:
        found = (path for path in sorted(crashed.directory.rglob("*")) if path.is_file())
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}

    before = everything()
    result = walk(crashed)
    assert result.corruptions == ()
    assert (result.state, result.recovered) == ("in production", True)
    assert any(one.relation == "words" and one.items == 1200 for one in result.relations)
    assert everything() == before


def test_a_torn_page_is_legal_before_redo_which_has_its_image(crashed: Files) -> None:
    crashed.put(CATALOG_HEAP, 0, b"\xff" * (PAGE_BYTES // 2))
    assert walk(crashed).corruptions == ()


def test_a_torn_page_that_the_log_cannot_mend_is_damage(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.start()
    build(rig)
    rig.checkpoint()
    rig.session().create_table("later", [("id", "integer")], "id")
    rig.crash()
    files = Files(tmp_path)
    files.put(WORDS, 1, b"\xff" * (PAGE_BYTES // 2))
    result = walk(files)
    assert [(one.kind, where(one)) for one in result.corruptions] == [(Kind.CHECKSUM, in_file(WORDS, 1))]


def test_the_files_of_a_creation_that_a_crash_cut_off_are_legal(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.start()
    session = rig.session()
    session.begin()
    session.create_table("never", [("id", "integer")], "id")
    rig.restart()
    rig.stop()
    result = walk(Files(tmp_path))
    assert result.corruptions == ()
    assert [one.role for one in result.relations if one.file == f"base/{HEAP}"] == ["no table's"]


def test_what_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="this is not a data directory"):
        walk(Files(tmp_path))
