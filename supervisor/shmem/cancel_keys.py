"""Which backend may be cancelled by whom: a secret per child slot (PostgreSQL's `procsignal.c`, `pss_cancelKey`).

A backend tells its client a secret at the start, and keeps it here while it lives. Whoever repeats it with the
backend's pid may have the running statement given up. Owns the words and the comparison; sending the signal, and what
the log is told, is `processes.cancel_request`.

Pid and secret lie in one word, so nobody ever sees the one without the other, and no lock is needed: a dead-end child,
which can take none, reads here too.
"""

from __future__ import annotations

# Not hmac's, which is the same function: the module would load OpenSSL into every child.
from _operator import _compare_digest as compare_digest
from enum import Enum, auto

from supervisor.config import Settings
from supervisor.shmem.pmsignal import slot_count
from supervisor.shmem.region import Area, Region

KEY_BYTES = 4
"""As long as protocol 3.0 has it."""

_KEY_BITS = 8 * KEY_BYTES
_KEY_MASK = (1 << _KEY_BITS) - 1


class Match(Enum):
    """What became of a pid and a secret that somebody gave."""

    NO_PROCESS = auto()
    WRONG_KEY = auto()
    RIGHT = auto()


def shmem_areas(settings: Settings) -> list[Area]:
    """A word per child slot, 0 while nobody there can be cancelled."""
    return [Area("cancel_keys", 8 * slot_count(settings))]


class CancelKeys:
    """The secrets of a region."""

    def __init__(self, region: Region, settings: Settings) -> None:
        self._q = region.q
        self._first = region.word("cancel_keys")
        self._count = slot_count(settings)

    def register(self, slot: int, pid: int, key: bytes) -> None:
        """From here on whoever knows the key may cancel what this backend runs."""
        self._q[self._first + slot - 1] = pid << _KEY_BITS | int.from_bytes(key)

    def forget(self, slot: int) -> None:
        """The backend is leaving."""
        self._q[self._first + slot - 1] = 0

    def match(self, pid: int, key: bytes) -> Match:
        """Compare with the slot that carries this pid, in a time that tells nothing of how much was right."""
        for word in self._q[self._first : self._first + self._count].tolist():
            if word and word >> _KEY_BITS == pid:
                right = compare_digest((word & _KEY_MASK).to_bytes(KEY_BYTES), key)
                return Match.RIGHT if right else Match.WRONG_KEY
        return Match.NO_PROCESS
