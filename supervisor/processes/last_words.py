"""What a backend still says when it is told to vanish (PostgreSQL's `quickdie`).

Owns the texts of specification 4.5 and the one attempt to send them. The attempt is best effort: it is dropped when the
client has received part of a message, and it never waits, because what waits here delays the recovery of everybody.
"""

from __future__ import annotations

import os
from types import FrameType
from typing import Final

from supervisor.errors import ADMIN_SHUTDOWN, CRASH_SHUTDOWN, ServerError
from supervisor.log import Level, ServerLog
from supervisor.processes.child import EXIT_QUICKDIE
from supervisor.shmem.pmsignal import PMSignal, QuitReason
from supervisor.wire import codec
from supervisor.wire.connection import Connection

_LAST_WORDS: Final = {
    QuitReason.CRASH: ServerError(
        "terminating connection because of crash of another server process",
        sqlstate=CRASH_SHUTDOWN,
        detail="The postmaster has commanded this server process to roll back the current transaction and exit, "
        "because another server process exited abnormally and possibly corrupted shared memory.",
        hint="In a moment you should be able to reconnect to the database and repeat your command.",
    ),
    QuitReason.STOP: ServerError("terminating connection due to immediate shutdown command", sqlstate=ADMIN_SHUTDOWN),
    QuitReason.NOT_SENT: ServerError(
        "terminating connection because of unexpected SIGQUIT signal", sqlstate=ADMIN_SHUTDOWN
    ),
}


class QuickDie:
    """SIGQUIT's handler of a backend whose client has been greeted (`quickdie`).

    Last words by one send that never waits, then `_exit(2)`: nothing is cleaned up, for shared memory may be damaged
    and whoever holds a lock may be dead. The words are ready-made bytes, so that as little as possible runs here.
    """

    def __init__(self, connection: Connection, pmsignal: PMSignal, log: ServerLog) -> None:
        self._connection = connection
        self._pmsignal = pmsignal
        self._log = log
        self._notices = {reason: codec.notice_response("WARNING", words) for reason, words in _LAST_WORDS.items()}
        self._begun = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler. A second SIGQUIT (one comes to the process, one to its group) finds the first at work."""
        if not self._connection.when_send_returns(self._die):
            self._die()

    def _die(self) -> None:
        if self._begun:
            return
        self._begun = True
        try:
            self.speak()
        finally:
            os._exit(EXIT_QUICKDIE)

    def speak(self) -> None:
        """The words alone, to whoever still listens."""
        reason = self._pmsignal.quit_reason()
        self._connection.say_goodbye(self._notices[reason])
        if reason is QuitReason.NOT_SENT:
            self._log.error(_LAST_WORDS[reason], Level.WARNING)
