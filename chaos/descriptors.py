"""Waiting for one descriptor.

By poll and never by select, which knows no descriptor above 1,023: a harness of many backends has those, and so has the
process that runs all tests.
"""

from __future__ import annotations

import select


def readable(descriptor: int, timeout_s: float = 0.0) -> bool:
    """Whether there is something to read, or the other end is gone, within so long; of a pidfd, whether it has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
