"""A connection that came only to cancel another one's statement (PostgreSQL's `SendCancelRequest`).

The child that read the request acts on it and exits: nothing is answered, whatever came of it, so that nobody learns
from an answer which pids are backends. Needs neither a slot nor a lock, so a dead-end child does it as well: a
statement can be cancelled also while nobody new is let in.
"""

from __future__ import annotations

import os
import signal

from supervisor.log import Level, ServerLog
from supervisor.shmem.cancel_keys import CancelKeys, Match
from supervisor.wire.messages import CancelRequest


def send_cancel_request(request: CancelRequest, keys: CancelKeys, log: ServerLog) -> None:
    """SIGINT to the backend that is named, if the key is its own; otherwise a line in the log, without the key."""
    if request.pid == 0:
        log.log(Level.LOG, "invalid cancel request with PID 0")
        return
    match keys.match(request.pid, request.key):
        case Match.RIGHT:
            log.log(Level.DEBUG2, f"processing cancel request: sending SIGINT to process {request.pid}")
            _interrupt(request.pid)
        case Match.WRONG_KEY:
            log.log(Level.LOG, f"wrong key in cancel request for process {request.pid}")
        case Match.NO_PROCESS:
            log.log(Level.LOG, f"PID {request.pid} in cancel request did not match any process")


def _interrupt(pid: int) -> None:
    try:
        # A backend leads a group of its own: another process that has got its pid since does not, most likely.
        os.killpg(pid, signal.SIGINT)
    except ProcessLookupError:
        pass  # It was killed a moment ago; the postmaster will know.
