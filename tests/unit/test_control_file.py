"""The control file. What could go wrong: a damaged file is believed and recovery starts at a wrong place; a directory of
another version is opened; the message does not say what to do."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.engine.recovery.control import (
    CONTROL_FILE,
    CheckPoint,
    ClusterState,
    ControlData,
    controldata_text,
    decode_checkpoint,
    decode_control,
    encode_checkpoint,
    encode_control,
    read_control,
    write_control,
)
from supervisor.errors import Panic, StartupError
from tests.support.wal_world import MemoryDisk

CHECKPOINT = CheckPoint(
    redo=0x1_0150_0028, next_xid=738, oldest_xid=3, next_relation=5, time=1_700_000_000.5, shutdown=True
)
CONTROL = ControlData(
    system_identifier=(1 << 64) - 5,
    state=ClusterState.IN_PRODUCTION,
    time=1_700_000_100.0,
    checkpoint_lsn=0x1_0150_0060,
    checkpoint=CHECKPOINT,
    segment_size=16 << 20,
)


def test_what_is_written_is_read():
    disk = MemoryDisk()
    write_control(disk, CONTROL)
    assert read_control(disk) == CONTROL
    later = msgspec.structs.replace(CONTROL, state=ClusterState.SHUTDOWNED)
    write_control(disk, later)
    assert read_control(disk) == later
    assert disk.open_handles == 0


def test_it_is_one_write_in_place_then_one_sync():
    disk = MemoryDisk()
    write_control(disk, CONTROL)
    assert [name for name, _ in disk.calls] == ["open", "pwrite", "fdatasync", "sync_directory"]
    disk.calls.clear()
    write_control(disk, CONTROL)
    assert [name for name, _ in disk.calls] == ["open", "pwrite", "fdatasync"]
    assert len(disk.files[CONTROL_FILE]) == 8192


def test_everything_that_varies_lies_in_one_sector():
    assert encode_control(CONTROL)[512:] == bytes(8192 - 512)


@pytest.mark.parametrize("state", list(ClusterState))
def test_every_state(state: ClusterState):
    assert decode_control(encode_control(msgspec.structs.replace(CONTROL, state=state))).state is state


def test_every_single_flipped_bit_is_found():
    block = encode_control(CONTROL)
    for byte in [*range(160), *range(160, 8192, 61)]:
        for bit in range(8):
            damaged = bytearray(block)
            damaged[byte] ^= 1 << bit
            with pytest.raises(StartupError):
                decode_control(bytes(damaged))


@pytest.mark.parametrize("length", [0, 1, 511, 8191])
def test_a_torn_file_is_refused(length: int):
    disk = MemoryDisk()
    disk.files[CONTROL_FILE] = bytearray(encode_control(CONTROL)[:length])
    with pytest.raises(StartupError, match=rf"read {length} of 8192") as caught:
        read_control(disk)
    assert "Restore" in (caught.value.hint or "")


def test_a_missing_file_says_so():
    with pytest.raises(StartupError, match=r'could not open file "global/pg_control": No such file') as caught:
        read_control(MemoryDisk())
    assert caught.value.hint


def test_another_version_is_refused_naming_both():
    block = encode_control(msgspec.structs.replace(CONTROL, version=99))
    with pytest.raises(StartupError, match=r"PG_CONTROL_VERSION 99, .* PG_CONTROL_VERSION 1$"):
        decode_control(block)


def test_another_block_size_is_refused_naming_both():
    with pytest.raises(StartupError, match=r"BLCKSZ 4096, .* BLCKSZ 8192"):
        decode_control(encode_control(msgspec.structs.replace(CONTROL, block_size=4096)))


def test_a_segment_size_that_cannot_be_is_refused():
    with pytest.raises(StartupError, match="invalid WAL segment size"):
        decode_control(encode_control(msgspec.structs.replace(CONTROL, segment_size=12345)))


@pytest.mark.parametrize("operation", ["open", "pwrite", "fdatasync"])
def test_a_failing_disk_is_a_panic(operation: str):
    disk = MemoryDisk()
    write_control(disk, CONTROL)
    disk.failing.add(operation)
    with pytest.raises(Panic, match="could not write file"):
        write_control(disk, CONTROL)


def test_checkpoints_have_one_length_and_survive_the_round_trip():
    other = msgspec.structs.replace(CHECKPOINT, redo=0, shutdown=False, full_page_writes=False, oldest_active_xid=9)
    assert len(encode_checkpoint(other)) == len(encode_checkpoint(CHECKPOINT))
    assert decode_checkpoint(encode_checkpoint(other)) == other
    with pytest.raises(ValueError, match="expected"):
        decode_checkpoint(encode_checkpoint(other)[:-1])


def test_the_text_has_the_labels_of_pg_controldata():
    lines = controldata_text(CONTROL).splitlines()
    assert lines[0] == "pg_control version number:            1"
    assert "Database cluster state:               in production" in lines
    assert "Latest checkpoint location:           1/1500060" in lines
    assert "Latest checkpoint's REDO WAL file:    000000010000000100000001" in lines
    assert "Latest checkpoint's NextXID:          0:738" in lines
    assert "Time of latest checkpoint:            Tue Nov 14 22:13:20 2023" in lines
    assert "Bytes per WAL segment:                16777216" in lines
