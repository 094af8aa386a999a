"""The background writer: writes dirty pages ahead of need, so that eviction finds clean buffers (`bgwriter.c`)."""

from __future__ import annotations

from supervisor.processes.auxiliary import run_rounds
from supervisor.processes.child import Child


def main(child: Child) -> int:
    """Serve until SIGTERM; returns the exit status."""
    return run_rounds(
        child,
        lambda engine: engine.pool.background_write(child.settings.bgwriter_lru_maxpages),
        lambda settings: settings.bgwriter_delay,
    )
