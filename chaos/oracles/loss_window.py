"""When an acknowledgement is no promise yet: the loss window of asynchronous commit.

Owns the spans of time in which an operation may be acknowledged and lost all the same, because the run's server did
not wait for the flush (`synchronous_commit` off). PostgreSQL promises that the WAL writer flushes a commit within
three times `wal_writer_delay`, so only what was acknowledged so shortly before a crash may be gone. Pure.

With `synchronous_commit` on there is no span, and every acknowledgement is a promise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workloads.workload import Operation


@dataclass(frozen=True, slots=True)
class Crash:
    """One crash and what it may take, in CLOCK_MONOTONIC ns: what was acknowledged from `since_ns` on, before the
    kill at `kill_ns` or while the server was going down, and not after `until_ns`, when it served again."""

    since_ns: int
    kill_ns: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class LossWindow:
    """The crashes of an epoch that may have taken acknowledged operations, oldest first."""

    crashes: tuple[Crash, ...] = ()

    def crash_of(self, operation: Operation, after_ns: int = 0) -> Crash | None:
        """The crash, later than `after_ns`, that may have taken an operation; None if it was promised to stay."""
        answered_ns = operation.answered_ns
        if answered_ns is None:
            return None
        for crash in self.crashes:
            if crash.kill_ns > after_ns and crash.since_ns <= answered_ns <= crash.until_ns:
                return crash
        return None


def loss_window(crashes: Iterable[tuple[int, int]], window_ns: int) -> LossWindow:
    """The window of `window_ns` before each crash, given as (kill, served again); none at all if it is 0."""
    if not window_ns:
        return LossWindow()
    return LossWindow(tuple(Crash(kill - window_ns, kill, until) for kill, until in sorted(crashes)))
