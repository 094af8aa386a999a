"""What each child is running, for people (PostgreSQL's `backend_status.c`).

One string per child slot. The postmaster reads it once, for the DETAIL line of a crash, from memory
that the dead may have scribbled on: bounds are checked and every byte that is not plain is replaced.
"""

from __future__ import annotations

from supervisor.config import Settings
from supervisor.shmem.pmsignal import slot_count
from supervisor.shmem.region import Area, Region


def _entry_bytes(settings: Settings) -> int:
    return 8 + -(-settings.track_activity_query_size // 8) * 8


def shmem_areas(settings: Settings) -> list[Area]:
    """A length word and the text, per slot."""
    return [Area("activity", _entry_bytes(settings) * slot_count(settings))]


class Activity:
    """The activity strings of a region."""

    def __init__(self, region: Region, settings: Settings) -> None:
        self._mm = region.mm
        self._q = region.q
        self._at = region.offset("activity")
        self._entry = _entry_bytes(settings)
        self._limit = settings.track_activity_query_size

    def report(self, slot: int, text: str) -> None:
        """Say what this child is about to run; it stands until the next report."""
        data = text.encode()[: self._limit]
        at = self._at + (slot - 1) * self._entry
        self._q[at // 8] = 0
        self._mm[at + 8 : at + 8 + len(data)] = data
        self._q[at // 8] = len(data)

    def read(self, slot: int) -> str:
        """The last report of a child, believed in nothing: at most 1,024 plain characters."""
        at = self._at + (slot - 1) * self._entry
        length = self._q[at // 8]
        if not 0 < length <= self._limit:
            return ""
        data = self._mm[at + 8 : at + 8 + min(length, 1024)]
        return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in data)

    def clear(self, slot: int) -> None:
        """Forget what the slot's last child ran."""
        self._q[(self._at + (slot - 1) * self._entry) // 8] = 0
