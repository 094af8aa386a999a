"""An engine in one process, for tests: a region that can be dropped, files that stay, sessions over it.

A crash is dropping the region with everything in it. Sessions share nothing but its bytes: each has an attachment and
an engine of its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

from supervisor.config import Settings
from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.engine import Engine, engine_areas, engine_init
from supervisor.engine.recovery.checkpoint import CheckpointFlags, CheckpointResult, create_checkpoint
from supervisor.engine.recovery.cluster import initialise_cluster
from supervisor.engine.recovery.control import read_control
from supervisor.engine.recovery.redo import RecoveryResult, recover
from supervisor.host import SoloHost, pass_point
from supervisor.log import Journal, Level, ServerLog
from supervisor.points import Point
from supervisor.roles import Role
from supervisor.session.session import Session
from supervisor.shmem.attachment import attach
from supervisor.shmem.region import Region

SEGMENT_SIZE = 1 << 20
SMALL = Settings().replace(shared_buffers=32 * 8192, wal_buffers=64 * 1024, max_connections=8, fsync=False)


class Crash(BaseException):
    """The process is gone: no handler of the server may catch it."""


class LinesLog(ServerLog):
    """A server log that keeps its messages."""

    def __init__(self) -> None:
        super().__init__(None)
        self.lines: list[str] = []

    def log(
        self,
        level: Level,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        statement: str | None = None,
    ) -> None:
        if level >= Level.LOG:
            self.lines.append(message)


class Rig:
    """One data directory, and the region of its server while it runs."""

    def __init__(self, directory: Path, settings: Settings = SMALL, *, initialise: bool = True) -> None:
        self.settings = settings
        self.point: Callable[[Point], None] = pass_point
        self.host = SoloHost(point=self._pass)
        self.disk = PosixDisk(directory, self.host)
        weakref.finalize(self, self.disk.close_root)
        self.directory = directory
        self.log = LinesLog()
        self.region: Region | None = None
        self.engines: list[Engine] = []
        if initialise:
            initialise_cluster(
                self.disk, settings, system_identifier=7_000_000_001, segment_size=SEGMENT_SIZE, host=self.host
            )

    def _pass(self, point: Point) -> None:
        self.point(point)

    def start(self) -> RecoveryResult:
        """Recover into a new region."""
        self.region = Region.create(engine_areas(self.settings))
        engine_init(self.region, self.settings)
        control = read_control(self.disk)
        attachment = attach(self.region, self.host, self.settings, Role.STARTUP, 0)
        engine = Engine(self.disk, attachment, self.settings, control, self.log)
        self.engines.append(engine)
        result = recover(engine, control, self.log, Journal.to_nowhere())
        engine.close()
        attachment.detach()
        self.engines.remove(engine)
        return result

    def engine(self) -> Engine:
        """A further process's engine."""
        assert self.region is not None
        attachment = attach(self.region, self.host, self.settings, Role.BACKEND, len(self.engines))
        engine = Engine(self.disk, attachment, self.settings, read_control(self.disk), self.log)
        self.engines.append(engine)
        return engine

    def session(self) -> Session:
        """A further process's session."""
        return Session(self.engine())

    def checkpoint(self, flags: CheckpointFlags = CheckpointFlags.FAST) -> CheckpointResult | None:
        """What the checkpointer does."""
        assert self.region is not None
        attachment = attach(self.region, self.host, self.settings, Role.CHECKPOINTER, 0)
        engine = Engine(self.disk, attachment, self.settings, read_control(self.disk), self.log)
        try:
            return create_checkpoint(engine, flags)
        finally:
            engine.close()
            attachment.detach()

    def crash(self) -> None:
        """Drop the region; files keep what was written to them."""
        for engine in self.engines:
            engine.close()
            engine.attachment.locks.close()
        self.engines.clear()
        if self.region is not None:
            self.region.close()
            self.region = None

    def stop(self) -> None:
        """An orderly shutdown, if the server runs."""
        if self.region is not None:
            self.checkpoint(CheckpointFlags.IS_SHUTDOWN)
        self.crash()

    def restart(self) -> RecoveryResult:
        """Crash and recover."""
        self.crash()
        return self.start()
