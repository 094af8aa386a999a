"""What the log keeps in shared memory: a handful of words and the ring of WAL buffers.

Every word is stored through `region.q` alone, never by Struct.pack_into: most are read without a lock. Position p of
the log lies at byte p % ring_bytes of the ring from its insertion until it has been written to its segment.

All zero is the right beginning: an insert position of 0 means that nothing may be inserted, until the startup process
has found the end of the log (`Wal.start_at`).
"""

from __future__ import annotations

from supervisor.config import Settings
from supervisor.shmem.region import Area, Region

WORDS_AREA = "wal_words"
RING_AREA = "wal_buffers"

# Under LWLock.WAL_INSERT (read without it).
INSERT = 0  # end of the last inserted record
PREV = 1  # start of the last inserted record
REDO = 2  # the redo pointer: page images are taken against it
INCARNATION = 3  # stored once per generation, before INSERT
# Stored by the flush leader alone (next cache line).
WRITTEN = 8  # everything before it is in the kernel: its part of the ring is free
FLUSHED = 9  # everything before it is on disk
# Under LWLock.WAL_FLUSH.
LEADER = 10  # procno + 1 of the flush leader, 0 when there is none
# Counters, stored by the flush leader alone.
WRITES = 11
SYNCS = 12
# Stored by the checkpointer alone.
RECYCLE_LSN = 13  # what the last recycling was told
DISTANCE = 14  # bytes of log between two checkpoints, estimated

_N_WORDS = 16

MIN_RING_BYTES = 160 << 10
"""Room for two of the largest records that anybody writes: eight whole pages and their data."""


def ring_bytes(settings: Settings) -> int:
    """The length of the ring. wal_buffers, but at least MIN_RING_BYTES, so that every record fits."""
    return max(settings.wal_buffers // 64 * 64, MIN_RING_BYTES)


def shmem_areas(settings: Settings) -> list[Area]:
    """The log's shared words and the ring of WAL buffers."""
    return [Area(WORDS_AREA, 8 * _N_WORDS), Area(RING_AREA, ring_bytes(settings))]


def shmem_init(region: Region, settings: Settings) -> None:
    """Nothing to do: zeroed memory says that nothing may be inserted yet."""
