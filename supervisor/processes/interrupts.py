"""What signals ask of a backend, kept until it is safe to obey (PostgreSQL's `ProcessInterrupts`).

Handlers only set flags; `check`, which the engine reaches through `Host.check_interrupts` wherever nothing is half
done, turns a flag into an exception. To die beats to cancel. A cancel that comes while no statement runs is forgotten:
it was meant for the one before. A reload waits for the next command.

A commit looks at nothing between its record and its client's answer: a cancel that comes in its wait for the flush is
obeyed at the first place behind it, when the transaction has committed.
"""

from __future__ import annotations

from types import FrameType

from supervisor.errors import ADMIN_SHUTDOWN, QUERY_CANCELED, ServerError, SessionFatal


class Interrupts:
    """The pending requests of one process."""

    def __init__(self, last_words: str = "terminating connection due to administrator command") -> None:
        self._last_words = last_words
        self._die = False
        self._cancel = False
        self._running = False
        self._held = False
        self._reload = False

    def on_terminate(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM's handler: end the session at the next safe place."""
        self._die = True

    def on_cancel(self, number: int, frame: FrameType | None) -> None:
        """SIGINT's handler: end the statement at the next safe place."""
        self._cancel = True

    def on_reload(self, number: int, frame: FrameType | None) -> None:
        """SIGHUP's handler: read the settings again before the next command."""
        self._reload = True

    def take_reload(self) -> bool:
        """Whether SIGHUP came since the last call."""
        if not self._reload:
            return False
        # Only where it was seen: one that comes in between must not be cleared unread.
        self._reload = False
        return True

    def begin_statement(self) -> None:
        """From here on a cancel is meant for this statement."""
        self._cancel = False
        self._running = True

    def end_statement(self) -> None:
        """The statement is over; a cancel that comes now is too late."""
        self._running = False

    def hold(self) -> None:
        """The session is ending: nothing may interrupt its clean-up any more, except SIGQUIT."""
        self._held = True

    def check(self) -> None:
        """Raises SessionFatal 57P01 or ServerError 57014 if that is asked for."""
        if self._held:
            return
        if self._die:
            raise SessionFatal(self._last_words, sqlstate=ADMIN_SHUTDOWN)
        if self._cancel and self._running:
            self._cancel = False
            raise ServerError("canceling statement due to user request", sqlstate=QUERY_CANCELED)
