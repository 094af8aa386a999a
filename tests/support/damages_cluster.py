"""Damages to what belongs to no one relation: catalog, file names, control file, log."""

from __future__ import annotations

import msgspec

from supervisor.engine.access.tuple import HEADER_BYTES
from supervisor.engine.recovery.control import CONTROL_FILE, ClusterState
from supervisor.engine.verify.corruption import Kind
from tests.support.damage import CATALOG_HEAP, CLOG, HEAP, WORDS, Files, Place
from tests.support.damages import Table, Where, in_file

DAMAGES = Table()

# What belongs to no one relation.


def catalog_row(files: Files, name: bytes) -> Place:
    return files.version(
        CATALOG_HEAP, lambda place: name in files.page(CATALOG_HEAP, 0)[place.at : place.at + place.length]
    )


@DAMAGES.of(Kind.CATALOG)
def a_table_of_unknown_types(files: Files) -> Where:
    place = catalog_row(files, b"words")
    with files.edit(CATALOG_HEAP, 0) as mm:
        at = mm.find(b"integer", place.at)
        mm[at : at + 7] = b"intejer"
    return in_file(CATALOG_HEAP, 0, place.line)


@DAMAGES.of(Kind.CATALOG)
def two_tables_with_one_file(files: Files) -> Where:
    place = catalog_row(files, b"words")
    files.change(CATALOG_HEAP, 0, place.at + HEADER_BYTES + 1 + 2, "i", HEAP)
    return in_file(CATALOG_HEAP, 0, place.line)


@DAMAGES.of(Kind.CATALOG)
def a_table_with_a_number_that_was_never_given_out(files: Files) -> Where:
    place = catalog_row(files, b"words")
    files.change(CATALOG_HEAP, 0, place.at + HEADER_BYTES + 1 + 2, "i", 5000)
    return in_file(CATALOG_HEAP, 0, place.line)


@DAMAGES.of(Kind.FILE)
def a_table_without_its_file(files: Files) -> Where:
    files.path(WORDS).unlink()
    return in_file(WORDS)


@DAMAGES.of(Kind.FILE)
def no_commit_log(files: Files) -> Where:
    files.path(CLOG).unlink()
    return in_file(CLOG)


@DAMAGES.of(Kind.FILE)
def a_stray_file(files: Files) -> Where:
    (files.directory / "base" / "16.old").write_bytes(b"")
    return "base", None, None


@DAMAGES.of(Kind.FILE)
def a_file_with_a_number_that_was_never_given_out(files: Files) -> Where:
    files.path(4711).write_bytes(b"")
    return "base", None, None


@DAMAGES.of(Kind.CONTROL_FILE)
def a_bit_of_the_control_file_flipped(files: Files) -> Where:
    path = files.directory / CONTROL_FILE
    data = bytearray(path.read_bytes())
    data[70] ^= 4
    path.write_bytes(data)
    return CONTROL_FILE, None, None


@DAMAGES.of(Kind.CONTROL_FILE)
def no_control_file(files: Files) -> Where:
    (files.directory / CONTROL_FILE).unlink()
    return CONTROL_FILE, None, None


@DAMAGES.of(Kind.WAL)
def a_checkpoint_record_that_is_damaged(files: Files) -> Where:
    path, offset = files.segment_of_checkpoint()
    data = bytearray(path.read_bytes())
    data[offset + 20] ^= 1
    path.write_bytes(data)
    return "pg_wal", None, None


@DAMAGES.of(Kind.WAL)
def a_control_file_that_contradicts_its_checkpoint(files: Files) -> Where:
    control = files.control
    checkpoint = msgspec.structs.replace(control.checkpoint, next_xid=control.checkpoint.next_xid + 1)
    files.put_control(msgspec.structs.replace(control, checkpoint=checkpoint))
    return "pg_wal", None, None


@DAMAGES.of(Kind.WAL)
def a_crashed_cluster_whose_log_is_gone(files: Files) -> Where:
    files.put_control(msgspec.structs.replace(files.control, state=ClusterState.IN_PRODUCTION))
    path, _ = files.segment_of_checkpoint()
    path.unlink()
    return "pg_wal", None, None
