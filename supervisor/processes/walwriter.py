"""The WAL writer: writes out what others have inserted, so that a full ring keeps nobody waiting (`walwriter.c`)."""

from __future__ import annotations

from supervisor.processes.auxiliary import run_rounds
from supervisor.processes.child import Child


def main(child: Child) -> int:
    """Serve until SIGTERM; returns the exit status."""
    return run_rounds(child, lambda engine: engine.wal.write_background(), lambda settings: settings.wal_writer_delay)
