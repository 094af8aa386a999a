"""What postmaster and children tell each other through shared memory (PostgreSQL's `pmsignal.c`).

Three things, all of them single words: one flag per child slot, the reason of a SIGQUIT, and one flag
per message to the postmaster, sent with SIGUSR1. This and the activity strings are all that the
postmaster ever reads here, and it believes none of it: a slot is released by wait4 and nothing else.
"""

from __future__ import annotations

import os
import signal
from enum import IntEnum, unique

from supervisor.config import Settings
from supervisor.shmem.procarray import AUXILIARY_ROLES
from supervisor.shmem.region import Area, Region


@unique
class SlotFlag(IntEnum):
    """The state of a child slot; ACTIVE is the dead man's switch (specification 3.2)."""

    UNUSED = 0
    ASSIGNED = 1
    ACTIVE = 2


@unique
class QuitReason(IntEnum):
    """Why SIGQUIT was sent; a child reads it in its handler to choose its last words."""

    NOT_SENT = 0
    CRASH = 1
    STOP = 2


@unique
class Message(IntEnum):
    """What a child may tell the postmaster."""

    RECOVERY_STARTED = 0
    RECOVERY_CONSISTENT = 1
    BEGIN_HOT_STANDBY = 2
    XLOG_IS_SHUTDOWN = 3
    BACKGROUND_WORKER_CHANGE = 4


def slot_count(settings: Settings) -> int:
    """How many child slots there are: connections twice, for those that still authenticate, one per
    auxiliary process, and one per background worker."""
    return 2 * settings.max_connections + len(AUXILIARY_ROLES) + settings.max_worker_processes


def shmem_areas(settings: Settings) -> list[Area]:
    """A word per slot, the quit reason, and a word per message."""
    return [
        Area("pm_child_flags", 8 * slot_count(settings)),
        Area("pm_quit_reason", 8),
        Area("pm_messages", 8 * len(Message)),
    ]


class PMSignal:
    """The postmaster's words of a region."""

    def __init__(self, region: Region) -> None:
        self._q = region.q
        self._flags = region.word("pm_child_flags")
        self._reason = region.word("pm_quit_reason")
        self._messages = region.word("pm_messages")

    # -- by the postmaster

    def assign(self, slot: int) -> bool:
        """Mark a slot (1-based) assigned before the fork; False if it was not unused."""
        unused = self._q[self._flags + slot - 1] == SlotFlag.UNUSED
        self._q[self._flags + slot - 1] = SlotFlag.ASSIGNED
        return unused

    def release(self, slot: int) -> bool:
        """Mark a slot unused after wait4; True if the child had cleaned up after itself."""
        clean = self._q[self._flags + slot - 1] == SlotFlag.ASSIGNED
        self._q[self._flags + slot - 1] = SlotFlag.UNUSED
        return clean

    def set_quit_reason(self, reason: QuitReason) -> None:
        """Say why, before the first SIGQUIT is sent."""
        self._q[self._reason] = int(reason)

    def take(self, message: Message) -> bool:
        """Whether a message came since the last look."""
        came = self._q[self._messages + message] != 0
        if came:
            self._q[self._messages + message] = 0
        return came

    # -- by a child

    def mark_active(self, slot: int) -> None:
        """From here on an exit without `mark_inactive` is a crash, whatever its status says."""
        self._q[self._flags + slot - 1] = SlotFlag.ACTIVE

    def mark_inactive(self, slot: int) -> None:
        """The last thing an orderly exit does with shared memory."""
        self._q[self._flags + slot - 1] = SlotFlag.ASSIGNED

    def quit_reason(self) -> QuitReason:
        """Why SIGQUIT came; a value that cannot be counts as not sent."""
        word = self._q[self._reason]
        return QuitReason(word) if word in (1, 2) else QuitReason.NOT_SENT

    def send(self, message: Message, postmaster: int) -> None:
        """Tell the postmaster something."""
        self._q[self._messages + message] = 1
        os.kill(postmaster, signal.SIGUSR1)
