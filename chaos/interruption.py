"""What Ctrl-C and its like do to a run: they end it, and never in the middle of what must be done whole.

Whole means setting up and taking down what outlives the process if it is forgotten, and every use of the witness: a
descriptor of its trace instance that an interruption leaves open keeps the instance from being removed.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A terminal's, a supervisor's (a CI job that is cancelled) and a lost terminal's way to say the same."""


class Interruption:
    """Each of the signals raises KeyboardInterrupt, but while it is held they wait. A context manager.

    A signal that is ignored when this begins (nohup, a job in the background) stays ignored.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting = False
        self._before: dict[signal.Signals, Any] = {}

    def hold(self) -> None:
        """From now on the signals wait: something is being taken down that must not be left half way."""
        self._held = True

    def release(self) -> None:
        """Nothing waits any more; raises KeyboardInterrupt if a signal came meanwhile."""
        self._held = False
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold, and release at the end."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def __enter__(self) -> Interruption:
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._came)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _came(self, number: int, frame: FrameType | None) -> None:
        if not self._held:
            raise KeyboardInterrupt
        self._waiting = True
