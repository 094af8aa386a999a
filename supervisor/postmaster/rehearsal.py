"""The rehearsal: what children will do, done a few times in the postmaster before it forks any.

The interpreter rewrites a function's code during its first dozen runs (PEP 659) and fills its caches of attributes. In
a child each of these writes costs a page of its own, in every child again; done before the fork they are inherited.
Measured: a child takes a third less faults and time until it is at work.

It is a play: a cluster in memory, in a region of its own that no child maps, with a client at the other end of a socket
pair whose questions are asked in advance. It is recovered, used, checkpointed and crashed, round after round. It
touches no file, no signal and no process, and its outcome decides nothing.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from supervisor.config import Settings
from supervisor.engine.disk.memory import MemoryDisk
from supervisor.engine.engine import Engine, engine_areas, engine_init
from supervisor.engine.recovery.checkpoint import CheckpointFlags, CheckpointRequests
from supervisor.engine.recovery.cluster import initialise_cluster
from supervisor.engine.recovery.control import read_control
from supervisor.engine.recovery.redo import recover
from supervisor.host import SoloHost
from supervisor.log import Journal, ServerLog
from supervisor.processes import backend, dead_end
from supervisor.processes.checkpointer import Checkpointer
from supervisor.processes.child import Child
from supervisor.processes.interrupts import Interrupts
from supervisor.processes.startup_packet import read_startup
from supervisor.roles import Role
from supervisor.session.session import Session
from supervisor.shmem import activity, pmsignal
from supervisor.shmem.region import Region
from supervisor.sql.procedures import Procedure, ProcedureContext
from supervisor.wire.connection import Connection

ROUNDS = 12
_SEGMENT_BYTES = 1 << 20
_SETTINGS = Settings().replace(shared_buffers=64 * 8192, wal_buffers=1 << 18, max_connections=4)
_TABLE = "rehearsal"
_ROWS = 4


class _Rehearse:
    """The procedure that the client calls: rows read, changed and added in one transaction."""

    name = "rehearse"
    parameters = (("round", "integer", ...),)
    columns = (("value", "bigint"),)

    def run(self, context: ProcedureContext, *, round: int) -> list[tuple[int]]:
        session = cast(Session, context.session)
        if round == 0:
            session.create_table(_TABLE, columns=[("id", "integer"), ("value", "bigint")], primary_key="id")
            for row in range(_ROWS):
                session.insert(_TABLE, (row, 0))
        session.begin()
        for row in range(_ROWS):
            session.get(_TABLE, row, for_update=True)
            session.update(_TABLE, row, (row, round))
        session.insert(_TABLE, (_ROWS + round, round))
        session.commit()
        return [(round,)]


class Rehearsal:
    """One cluster's play."""

    def __init__(self) -> None:
        self._host = SoloHost()
        self._disk = MemoryDisk(self._host)
        self._log = ServerLog.to_nowhere()
        procedure: Procedure = _Rehearse()
        self._procedures = {procedure.name: procedure}

    def run(self, rounds: int = ROUNDS) -> None:
        """All of it. Raises whatever a child would: the caller says what that means."""
        initialise_cluster(self._disk, _SETTINGS, system_identifier=1, segment_size=_SEGMENT_BYTES, host=self._host)
        for number in range(rounds):
            areas = pmsignal.shmem_areas(_SETTINGS) + activity.shmem_areas(_SETTINGS) + engine_areas(_SETTINGS)
            region = Region.create(areas, name="crashbed:rehearsal")
            engine_init(region, _SETTINGS)
            self._recover(region)
            self._serve(region, number)
            self._refuse(region)
            self._checkpoint(region)
            region.close()

    def _recover(self, region: Region) -> None:
        child = self._child(region, Role.STARTUP)
        with self._engine(child) as engine:
            recover(engine, child.control, child.log, child.journal)

    def _serve(self, region: Region, number: int) -> None:
        child = self._child(region, Role.BACKEND)
        with _client(f"CALL rehearse(round => {number})", "SHOW server_version") as server_end:
            connection = Connection(server_end, self._host)
            startup = read_startup(connection, self._host, _SETTINGS, self._log)
            with self._engine(child) as engine:
                connection.latch = engine.attachment.latch
                if startup is not None:
                    backend.converse(child, connection, startup, Interrupts(), engine, on_greeted=_nothing)
                engine.abort()

    def _refuse(self, region: Region) -> None:
        child = self._child(region, Role.DEAD_END)
        with _client() as server_end:
            dead_end.refuse(child, server_end, dead_end.refusal("RECOVERY"))

    def _checkpoint(self, region: Region) -> None:
        child = self._child(region, Role.CHECKPOINTER)
        with self._engine(child) as engine:
            checkpointer = Checkpointer(child, engine)
            engine.wal.write_background()
            engine.pool.background_write(1)
            CheckpointRequests(engine.attachment).request(CheckpointFlags.FAST | CheckpointFlags.FORCE)
            checkpointer.work()

    def _child(self, region: Region, role: Role) -> Child:
        return Child(
            role=role,
            slot=1,
            settings=_SETTINGS,
            region=region,
            control=read_control(self._disk),
            host=self._host,
            log=self._log,
            journal=Journal.to_nowhere(),
            disk=self._disk,
            pmsignal=pmsignal.PMSignal(region),
            activity=activity.Activity(region, _SETTINGS),
            procedures=self._procedures,
            postmaster=0,
        )

    @contextmanager
    def _engine(self, child: Child) -> Iterator[Engine]:
        engine = Engine(child.disk, child.attach(), child.settings, child.control, child.log)
        yield engine
        engine.close()
        child.detach()


@contextmanager
def _client(*statements: str) -> Iterator[socket.socket]:
    """The server's end of a conversation whose other end has said all that it ever will."""
    theirs, ours = socket.socketpair()
    with theirs, ours:
        packet = struct.pack("!I", 3 << 16) + b"user\0rehearsal\0\0"
        messages = [(b"", packet)] + [(b"Q", text.encode() + b"\0") for text in statements] + [(b"X", b"")]
        theirs.sendall(b"".join(kind + struct.pack("!I", 4 + len(body)) + body for kind, body in messages))
        yield ours


def _nothing() -> None:
    return None
