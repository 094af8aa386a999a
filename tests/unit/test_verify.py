"""The walk over a cluster's files: it finds every kind of damage where it is, and none where there is none.

What could go wrong: a check that looks at nothing, and calls everything sound; one that stops at the first damage; one
that takes for damage what a crash legally leaves (a torn page before redo, an update that was rolled back, an entry
that was never made, a file that no table names); one that dies of the bytes that it should report; one that writes. So each
kind of damage is planted into the bytes of a real cluster, one at a time, and must be told with its kind and its place,
and nothing else must be told but what follows from it.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from supervisor.engine.access.tuple import HOT_UPDATED, XMAX_COMMITTED, XMIN_COMMITTED, XMIN_INVALID
from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.storage import page as pages
from supervisor.engine.storage.page import PAGE_BYTES
from supervisor.engine.verify.cluster import verify_cluster
from supervisor.engine.verify.corruption import Corruption, Kind, Verification
from supervisor.errors import StartupError
from supervisor.host import SoloHost
from tests.support import damages_cluster, damages_heap, damages_index
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
    build,
)
from tests.support.damages import Damage, Where, in_file
from tests.support.engine_rig import Rig

DAMAGES = (*damages_heap.DAMAGES, *damages_index.DAMAGES, *damages_cluster.DAMAGES)


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
    disk = PosixDisk(files.directory, SoloHost())
    try:
        return verify_cluster(disk)
    finally:
        disk.close_root()


def where(corruption: Corruption) -> Where:
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
        (Kind.CHECKSUM, damages_heap.a_bit_of_a_page_flipped(files)),
        (Kind.TUPLE_DATA, damages_heap.text_that_is_no_utf_8(files)),
        (Kind.BTREE_PAGE, damages_index.an_entry_of_bytes_that_lies_in_another(files)),
        (Kind.FILE, damages_cluster.a_stray_file(files)),
        (Kind.COMMIT_LOG, damages_heap.something_behind_the_commit_logs_last_bits(files)),
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
