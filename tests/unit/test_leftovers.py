"""What a crash leaves unsynced, and must be on disk before the checkpoint that ends recovery counts.

A relation file that redo never touches is the dangerous one: its pages were written before the crash, the mark that
says so died with the memory, and the new redo point lies behind them. If its sync is forgotten, or fails and nobody is
told, a power loss later loses rows that were committed long ago.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.engine import Engine, engine_areas, engine_init
from supervisor.engine.recovery.checkpoint import CheckpointFlags, create_checkpoint
from supervisor.engine.recovery.control import CONTROL_FILE, read_control
from supervisor.engine.recovery.leftovers import leftovers_synced, sync_leftovers
from supervisor.engine.recovery.redo import recover
from supervisor.errors import Panic
from supervisor.log import Journal
from supervisor.roles import Role
from supervisor.shmem.attachment import attach
from supervisor.shmem.region import Region
from tests.support.engine_rig import SMALL, Rig

COLUMNS = [("id", "integer"), ("value", "bigint")]


class SyncsDisk(PosixDisk):
    """Remembers what was synced, in order; refuses to sync what `broken` names."""

    def __init__(self, root: Path, rig: Rig) -> None:
        super().__init__(root, rig.host)
        self.synced: list[str] = []
        self.broken: str | None = None
        self._paths: dict[int, str] = {}

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        handle = super().open(path, create=create, exclusive=exclusive)
        self._paths[handle] = path
        return handle

    def fdatasync(self, handle: int) -> None:
        self._note(self._paths[handle])
        super().fdatasync(handle)

    def fsync(self, handle: int) -> None:
        self._note(self._paths[handle])
        super().fsync(handle)

    def sync_directory(self, path: str) -> None:
        self._note(f"{path}/")
        super().sync_directory(path)

    def _note(self, path: str) -> None:
        if path == self.broken:
            raise OSError(errno.EIO, "Input/output error")
        self.synced.append(path)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Two tables whose rows were written to their files; then one of them changed again, a third made, and a crash."""
    made = Rig(tmp_path, SMALL.replace(fsync=True))
    made.start()
    session = made.session()
    for table in ("quiet", "busy"):
        session.create_table(table, columns=COLUMNS, primary_key="id")
        session.insert(table, (1, 0))
    made.checkpoint()
    session.update("quiet", 1, (1, 1))
    made.engine().pool.write_dirty()  # by a background writer; nobody has synced it
    session.update("busy", 1, (1, 1))
    session.create_table(
        "late", columns=COLUMNS, primary_key="id"
    )  # its files are there, and redo repeats their making
    made.crash()
    made.disk = SyncsDisk(tmp_path, made)
    yield made
    made.crash()


def relation_files(rig: Rig) -> set[str]:
    return {f"base/{name}" for name in rig.disk.list("base")}


def disk_of(rig: Rig) -> SyncsDisk:
    assert isinstance(rig.disk, SyncsDisk)
    return rig.disk


def test_every_file_and_name_is_synced_before_the_checkpoint_counts(rig: Rig) -> None:
    disk = disk_of(rig)
    rig.start()
    before = disk.synced[: disk.synced.index(CONTROL_FILE)]
    assert relation_files(rig) | {"base/", "pg_wal/"} <= set(before)


def test_a_file_that_redo_never_touched_and_that_cannot_be_synced_is_a_panic(rig: Rig) -> None:
    disk = disk_of(rig)
    stands = read_control(disk).checkpoint_lsn
    untouched = sorted(relation_files(rig))[0]
    disk.broken = untouched
    with pytest.raises(Panic, match=f'could not fsync file "{untouched}"'):
        rig.start()
    assert read_control(disk).checkpoint_lsn == stands, "the old checkpoint is in force"


@pytest.mark.parametrize("names", ["base/", "pg_wal/"])
def test_names_that_cannot_be_synced_are_a_panic(rig: Rig, names: str) -> None:
    disk_of(rig).broken = names
    with pytest.raises(Panic, match="could not fsync"):
        rig.start()


def test_what_the_checkpointer_did_meanwhile_is_not_done_again(rig: Rig) -> None:
    disk = disk_of(rig)
    rig.region = region = Region.create(engine_areas(rig.settings))
    engine_init(region, rig.settings)
    control = read_control(disk)
    startup, checkpointer = (
        Engine(disk, attach(region, rig.host, rig.settings, role, 0), rig.settings, control, rig.log)
        for role in (Role.STARTUP, Role.CHECKPOINTER)
    )
    rig.engines += [startup, checkpointer]

    def checkpoint() -> None:
        assert not leftovers_synced(region)
        assert sync_leftovers(disk, region, fsync=True) == len(relation_files(rig))
        disk.synced.clear()
        create_checkpoint(checkpointer, CheckpointFlags.END_OF_RECOVERY | CheckpointFlags.FAST)

    recover(startup, control, rig.log, Journal.to_nowhere(), end_of_recovery_checkpoint=checkpoint)
    assert leftovers_synced(region)
    again = relation_files(rig) & set(disk.synced)
    assert again, "what redo changed was written by the checkpoint, and synced"
    assert again < relation_files(rig), "what it did not change was not"
