"""Damages to pages, rows, update chains and the commit log."""

from __future__ import annotations

import struct

from supervisor.engine.access.tuple import (
    HEADER_BYTES,
    HEAP_ONLY,
    HOT_UPDATED,
    LOCK_ONLY,
    XMAX_COMMITTED,
    XMIN_COMMITTED,
    XMIN_INVALID,
)
from supervisor.engine.storage import page as pages
from supervisor.engine.storage.page import PAGE_BYTES
from supervisor.engine.transam import clog
from supervisor.engine.verify.corruption import Kind
from tests.support.damage import BYTES_INDEX, CLOG, HEAP, HEAP_INDEX, WORDS, WORDS_INDEX, Files, Place
from tests.support.damages import Table, Where, in_file

DAMAGES = Table()

# Pages.


@DAMAGES.of(Kind.CHECKSUM)
def a_bit_of_a_page_flipped(files: Files) -> Where:
    data = bytearray(files.page(WORDS, 1))
    data[5000] ^= 1
    files.put(WORDS, 1, bytes(data))
    return in_file(WORDS, 1)


@DAMAGES.of(Kind.CHECKSUM)
def a_page_torn_in_the_middle(files: Files) -> Where:
    files.put(HEAP, 0, bytes(PAGE_BYTES // 2))
    return in_file(HEAP, 0)


@DAMAGES.of(Kind.CHECKSUM)
def a_page_written_to_its_neighbours_place(files: Files) -> Where:
    files.put(WORDS, 2, files.page(WORDS, 1))
    return in_file(WORDS, 2)


@DAMAGES.of(Kind.CHECKSUM)
def a_page_of_another_relation(files: Files) -> Where:
    files.put(WORDS_INDEX, 1, files.page(BYTES_INDEX, 1))
    return in_file(WORDS_INDEX, 1)


@DAMAGES.of(Kind.PAGE_HEADER)
def a_header_whose_bounds_cross(files: Files) -> Where:
    files.change(WORDS, 1, pages.UPPER_AT, "H", 40)
    return in_file(WORDS, 1)


@DAMAGES.of(Kind.PAGE_HEADER)
def a_page_of_another_layout_version(files: Files) -> Where:
    files.change(WORDS, 1, pages.KIND_AT + 2, "H", 9)
    return in_file(WORDS, 1)


@DAMAGES.of(Kind.PAGE_HEADER)
def an_index_page_in_a_heap(files: Files) -> Where:
    files.change(WORDS, 1, pages.KIND_AT, "H", pages.KIND_BTREE_WORD)
    return in_file(WORDS, 1)


@DAMAGES.of(Kind.PAGE_HEADER)
def a_flag_that_nobody_sets(files: Files) -> Where:
    files.change(WORDS, 1, pages.FLAGS_AT, "H", 0x40)
    return in_file(WORDS, 1)


@DAMAGES.of(Kind.PAGE_HEADER)
def something_to_prune_from_a_transaction_to_come(files: Files) -> Where:
    files.change(WORDS, 1, pages.WORD_AT, "Q", files.control.checkpoint.next_xid)
    return in_file(WORDS, 1)


@DAMAGES.of(Kind.PAGE_LSN)
def a_page_of_the_future(files: Files) -> Where:
    files.change(WORDS, 1, pages.LSN_AT, "Q", 0xFF_0000_0000)
    return in_file(WORDS, 1)


@DAMAGES.of(Kind.PAGE_LSN)
def a_page_one_record_beyond_the_log(files: Files) -> Where:
    control = files.control
    files.change(HEAP_INDEX, 0, pages.LSN_AT, "Q", control.checkpoint_lsn + 512)
    return in_file(HEAP_INDEX, 0)


@DAMAGES.of(Kind.PAGE_LSN)
def a_page_that_was_never_logged(files: Files) -> Where:
    files.change(CLOG, 0, pages.LSN_AT, "Q", 0)
    return in_file(CLOG, 0)


# Line pointers.


@DAMAGES.of(Kind.LINE_POINTER, Kind.INDEX_ENTRY)
def a_line_that_leads_behind_the_page(files: Files) -> Where:
    files.set_line(WORDS, 1, 7, pages.NORMAL, 8184, 64)
    return in_file(WORDS, 1, 7)


@DAMAGES.of(Kind.LINE_POINTER, Kind.INDEX_ENTRY)
def a_line_that_leads_into_the_hole(files: Files) -> Where:
    last = files.blocks(WORDS) - 1
    files.set_line(WORDS, last, 1, pages.NORMAL, 4096, 24)
    return in_file(WORDS, last, 1)


@DAMAGES.of(Kind.LINE_POINTER, Kind.INDEX_ENTRY, Kind.UNIQUE_KEY)
def two_lines_with_one_item(files: Files) -> Where:
    first = files.version(WORDS, lambda place: place.block == 1)
    files.set_line(WORDS, 1, first.line + 1, pages.NORMAL, first.at, first.length)
    return in_file(WORDS, 1, first.line + 1)


@DAMAGES.of(Kind.LINE_POINTER, Kind.INDEX_ENTRY)
def an_item_shorter_than_a_header(files: Files) -> Where:
    first = files.version(WORDS, lambda place: place.block == 1)
    files.set_line(WORDS, 1, first.line, pages.NORMAL, first.at, HEADER_BYTES - 1)
    return in_file(WORDS, 1, first.line)


@DAMAGES.of(Kind.LINE_POINTER, Kind.INDEX_ENTRY)
def a_dead_line_which_nothing_makes(files: Files) -> Where:
    files.set_line(WORDS, 1, 3, pages.DEAD)
    return in_file(WORDS, 1, 3)


@DAMAGES.of(Kind.LINE_POINTER, Kind.UPDATE_CHAIN, Kind.INDEX_ENTRY)
def a_redirect_to_a_first_version(files: Files) -> Where:
    line = files.line_of_state(HEAP, 0, pages.REDIRECT)
    files.set_line(HEAP, 0, line, pages.REDIRECT, 1)
    return in_file(HEAP, 0, line)


@DAMAGES.of(Kind.LINE_POINTER, Kind.UPDATE_CHAIN)
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


@DAMAGES.of(Kind.TUPLE_HEADER)
def flags_that_nobody_sets(files: Files) -> Where:
    place = files.version(HEAP, plain)
    return header_changed(files, place, flags=place.flags | 0x8000)


@DAMAGES.of(Kind.TUPLE_HEADER)
def a_next_version_without_an_end(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, plain), next_line=2)


@DAMAGES.of(Kind.TUPLE_HEADER)
def a_lock_of_nobody(files: Files) -> Where:
    place = files.version(HEAP, plain)
    return header_changed(files, place, flags=place.flags | LOCK_ONLY)


@DAMAGES.of(Kind.TUPLE_DATA)
def text_that_is_no_utf_8(files: Files) -> Where:
    place = files.version(HEAP, plain)
    files.change(HEAP, place.block, place.at + place.length - 1, "B", 0xFF)
    return in_file(HEAP, place.block, place.line)


@DAMAGES.of(Kind.TUPLE_DATA)
def text_longer_than_its_version(files: Files) -> Where:
    place = files.version(HEAP, plain)
    files.change(HEAP, place.block, place.at + HEADER_BYTES + 5, "H", 900)
    return in_file(HEAP, place.block, place.line)


@DAMAGES.of(Kind.TUPLE_DATA)
def a_null_bit_beyond_the_columns(files: Files) -> Where:
    place = files.version(HEAP, plain)
    files.change(HEAP, place.block, place.at + HEADER_BYTES, "B", 0x80)
    return in_file(HEAP, place.block, place.line)


@DAMAGES.of(Kind.TUPLE_DATA)
def a_key_that_is_null(files: Files) -> Where:
    place = files.version(HEAP, plain)
    files.change(HEAP, place.block, place.at + HEADER_BYTES, "B", 0x01)
    return in_file(HEAP, place.block, place.line)


@DAMAGES.of(Kind.TRANSACTION_ID, Kind.HINT_BITS)
def a_version_of_a_transaction_to_come(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, plain), xmin=files.control.checkpoint.next_xid)


@DAMAGES.of(Kind.TRANSACTION_ID, Kind.HINT_BITS)
def a_version_of_no_transaction(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, plain), xmin=0)


@DAMAGES.of(Kind.TRANSACTION_ID)
def a_version_ended_by_a_transaction_to_come(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, plain), xmax=files.control.checkpoint.next_xid + 7)


@DAMAGES.of(Kind.HINT_BITS)
def a_committed_version_hinted_as_aborted(files: Files) -> Where:
    place = files.version(HEAP, plain)
    return header_changed(files, place, flags=place.flags & ~XMIN_COMMITTED | XMIN_INVALID)


@DAMAGES.of(Kind.HINT_BITS)
def both_hints_at_once(files: Files) -> Where:
    place = files.version(HEAP, plain)
    return header_changed(files, place, flags=place.flags | XMIN_COMMITTED | XMIN_INVALID)


# Update chains.


@DAMAGES.of(Kind.UPDATE_CHAIN)
def an_update_that_leads_to_another_row(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, replaced_here), next_line=1)


@DAMAGES.of(Kind.UPDATE_CHAIN)
def an_update_that_leads_nowhere(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, replaced_here), next_line=999)


@DAMAGES.of(Kind.UPDATE_CHAIN)
def an_update_on_this_page_that_leads_to_another(files: Files) -> Where:
    return header_changed(files, files.version(HEAP, replaced_here), next_block=1)


@DAMAGES.of(Kind.UPDATE_CHAIN)
def an_update_to_a_page_behind_the_last(files: Files) -> Where:
    moved = files.version(HEAP, lambda place: bool(place.next_line) and place.next_block != place.block)
    return header_changed(files, moved, next_block=777)


@DAMAGES.of(Kind.UPDATE_CHAIN, Kind.INDEX_ENTRY)
def a_first_version_marked_as_a_later_one(files: Files) -> Where:
    place = files.version(HEAP, plain)
    return header_changed(files, place, flags=place.flags | HEAP_ONLY)


@DAMAGES.of(Kind.UPDATE_CHAIN)
def a_later_version_with_another_key(files: Files) -> Where:
    place = files.version(HEAP, replaced_here)
    after = files.version(HEAP, lambda one: (one.block, one.line) == (place.block, place.next_line))
    files.change(HEAP, after.block, after.at + HEADER_BYTES + 1, "i", 77)
    return in_file(HEAP, after.block, after.line)


@DAMAGES.of(Kind.UPDATE_CHAIN)
def two_redirects_to_one_version(files: Files) -> Where:
    line = files.line_of_state(HEAP, 0, pages.REDIRECT)
    data = files.page(HEAP, 0)
    (raw,) = struct.unpack_from("<I", data, pages.HEADER_BYTES + pages.LINE_BYTES * (line - 1))
    unused = files.line_of_state(HEAP, 0, pages.UNUSED)
    files.set_line(HEAP, 0, unused, pages.REDIRECT, raw & 0x7FFF)
    return in_file(HEAP, 0, max(line, unused))


# The commit log.


@DAMAGES.of(Kind.COMMIT_LOG, Kind.HINT_BITS, Kind.UPDATE_CHAIN)
def a_transaction_neither_committed_nor_not(files: Files) -> Where:
    place = files.version(HEAP, plain)
    _, byte, shift = clog.place(place.xmin)
    with files.edit(CLOG, 0) as mm:
        mm[byte] |= 3 << shift
    return in_file(CLOG, 0, place.xmin & ~3)


@DAMAGES.of(Kind.COMMIT_LOG)
def a_commit_of_a_transaction_to_come(files: Files) -> Where:
    xid = files.control.checkpoint.next_xid
    _, byte, shift = clog.place(xid)
    with files.edit(CLOG, 0) as mm:
        mm[byte] |= 1 << shift
        struct.pack_into("<H", mm, pages.LOWER_AT, byte + 1)
    return in_file(CLOG, 0, xid)


@DAMAGES.of(Kind.COMMIT_LOG)
def something_behind_the_commit_logs_last_bits(files: Files) -> Where:
    files.change(CLOG, 0, 8000, "B", 1)
    return in_file(CLOG, 0)


@DAMAGES.of(Kind.HINT_BITS)
def a_commit_forgotten(files: Files) -> Where:
    place = files.version(HEAP, plain)
    _, byte, shift = clog.place(place.xmin)
    with files.edit(CLOG, 0) as mm:
        mm[byte] &= ~(3 << shift)
    return in_file(HEAP, place.block, place.line)
