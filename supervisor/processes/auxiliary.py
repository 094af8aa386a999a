"""What the auxiliary processes that run in rounds have in common (PostgreSQL's `auxprocess.c`).

Owns their signals and the round: work, sleep until the latch is set or the round's time is over, look whether to
stop. An ERROR in a round is logged, what it held is given back, and a second later the loop goes on, as PostgreSQL's
auxiliary processes do; only SIGTERM, SIGQUIT and the postmaster's death end them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from supervisor.config import Settings
from supervisor.engine.engine import Engine
from supervisor.errors import ServerError
from supervisor.log import Level
from supervisor.processes.child import EXIT_ORDERLY, Child, unblock_signals
from supervisor.shmem.latch import Latch

AFTER_ERROR_MS = 1000


class Requests:
    """Which signals came; a handler sets a flag and the process's own latch, once it has one, so that its wait ends.

    Making one lets the process's signals in: they were blocked until these handlers stood.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self.latch: Latch | None = None
        self._came: set[int] = set()
        for number in numbers:
            signal.signal(number, self._note)
        unblock_signals()

    def came(self, number: signal.Signals) -> bool:
        """Whether the signal came."""
        return number in self._came

    def take(self, number: signal.Signals) -> bool:
        """Whether the signal came since the last call."""
        if number not in self._came:
            return False
        # Only where it was seen: one that comes in between must not be cleared unread.
        self._came.discard(number)
        return True

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.add(number)
        if self.latch is not None:
            self.latch.set_own()


def attach(child: Child) -> Engine:
    """Take the role's PGPROC and open an engine over the region."""
    return Engine(child.disk, child.attach(), child.settings, child.control, child.log)


def run_rounds(child: Child, work: Callable[[Engine], object], round_ms: Callable[[Settings], int]) -> int:
    """Do `work` every `round_ms`, or when the latch is set, until SIGTERM; returns the exit status. SIGHUP has the
    settings read again between two rounds.

    The first round is waited out before anything is built: there is nothing to write yet when a generation begins, and
    those who recover, and the first clients, want the processor.
    """
    requests = Requests(signal.SIGTERM, signal.SIGHUP)
    deadline_ns = child.host.now_ns() + round_ms(child.settings) * 1_000_000
    while not requests.came(signal.SIGTERM) and (left_ns := deadline_ns - child.host.now_ns()) > 0:
        child.host.wait(None, left_ns // 1_000_000 + 1)
    if requests.came(signal.SIGTERM):
        return EXIT_ORDERLY
    engine = attach(child)
    requests.latch = latch = engine.attachment.latch
    while not requests.came(signal.SIGTERM):
        latch.clear()
        if requests.take(signal.SIGHUP):
            engine.use(child.reload())
        pause_ms = attempt(child, engine, lambda: work(engine), round_ms(child.settings))
        if not requests.came(signal.SIGTERM):
            child.host.wait(latch, pause_ms)
    engine.close()
    child.detach()
    return EXIT_ORDERLY


def attempt(child: Child, engine: Engine, work: Callable[[], object], round_ms: int) -> int:
    """Do `work` once; returns how long to pause, longer after an ERROR."""
    try:
        work()
    except (ServerError, OSError) as error:
        message = error.message if isinstance(error, ServerError) else f"could not write: {error}"
        child.log.log(Level.ERROR, message, detail=getattr(error, "detail", None), hint=getattr(error, "hint", None))
        engine.attachment.locks.release_all()
        return AFTER_ERROR_MS
    return round_ms
