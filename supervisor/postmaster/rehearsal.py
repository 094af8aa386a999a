"""The rehearsal: what children will do, done a few times in the postmaster before it forks any.

The interpreter rewrites a function's code during its first dozen runs (PEP 659) and fills its caches of attributes. In
a child each of these writes costs a page of its own, in every child again; done before the fork they are inherited.
Measured: to attach and to make an engine takes a third fewer page faults, and a third less time.

It is a play: a cluster in memory, in a region of its own that no child maps, with a client at the other end of a socket
pair whose questions are asked in advance. It is recovered, used, checkpointed and crashed, round after round. It
changes no file, no process and no signal's handling, and its outcome decides nothing.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from supervisor.config import Settings
from supervisor.config_file import ConfigFile
from supervisor.engine.disk.disk import Disk
from supervisor.engine.disk.memory import MemoryDisk
from supervisor.engine.engine import Engine
from supervisor.engine.recovery.checkpoint import CheckpointFlags, CheckpointRequests
from supervisor.engine.recovery.cluster import VERSION_FILE, initialise_cluster
from supervisor.engine.recovery.control import read_control
from supervisor.engine.recovery.redo import recover
from supervisor.engine.wal.lsn import WAL_DIRECTORY
from supervisor.host import ProcessHost, SoloHost
from supervisor.log import Journal, Level, ServerLog
from supervisor.postmaster.memory import make_region
from supervisor.processes import backend, dead_end
from supervisor.processes.checkpointer import Checkpointer
from supervisor.processes.child import (
    Child,
    mask_signals,
    parent_death_signal,
    set_parent_death_signal,
    set_process_name,
)
from supervisor.processes.interrupts import Interrupts
from supervisor.processes.last_words import QuickDie
from supervisor.processes.startup_packet import Startup, read_startup
from supervisor.roles import Role
from supervisor.session.session import Session
from supervisor.shmem import activity, pmsignal
from supervisor.shmem.cancel_keys import CancelKeys
from supervisor.shmem.region import Region
from supervisor.sql.procedures import Procedure, ProcedureContext
from supervisor.wire.connection import Connection

ROUNDS = 12
_SEGMENT_BYTES = 1 << 20
_SETTINGS = Settings().replace(shared_buffers=64 * 8192, wal_buffers=1 << 18, max_connections=4, run_name="rehearsal")
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
    """One cluster's play; `host` and `disk` are the postmaster's own, and are as before when it is over."""

    def __init__(self, host: ProcessHost, disk: Disk) -> None:
        self._real_host = host
        self._real_disk = disk
        self._host = SoloHost()
        self._disk = MemoryDisk(self._host)
        # What goes there is written, and read by nobody.
        self._nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._log = ServerLog(self._nowhere, minimum=Level.DEBUG1)
        self._journal = Journal(os.devnull)
        procedure: Procedure = _Rehearse()
        self._procedures = {procedure.name: procedure}

    def run(self, rounds: int = ROUNDS) -> None:
        """All of it. Raises whatever a child would: the caller says what that means."""
        initialise_cluster(self._disk, _SETTINGS, system_identifier=1, segment_size=_SEGMENT_BYTES, host=self._host)
        for number in range(rounds):
            self._begin()
            region = make_region(_SETTINGS, generation=0)
            self._recover(region)
            self._serve(region, number)
            self._refuse(region)
            self._checkpoint(region)
            region.close()

    def close(self) -> None:
        """Give back what it wrote to."""
        os.close(self._nowhere)
        self._journal.close()

    def _begin(self) -> None:
        """A child's first acts, as far as they leave this process what it is; and what the disk is asked first."""
        set_process_name(Role.POSTMASTER)
        set_parent_death_signal(parent_death_signal())
        mask_signals(mask_signals())
        ProcessHost(death_pipe=self._nowhere).close()
        self._real_host.resume()
        read_control(self._real_disk)
        self._real_disk.exists(VERSION_FILE)
        self._real_disk.list(WAL_DIRECTORY)

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
                if isinstance(startup, Startup):
                    quick_die = QuickDie(connection, child.pmsignal, self._log)
                    backend.converse(child, connection, startup, Interrupts(), engine, on_greeted=quick_die.speak)
                engine.abort()

    def _refuse(self, region: Region) -> None:
        child = self._child(region, Role.DEAD_END)
        with _client() as server_end:
            dead_end.refuse(child, server_end, dead_end.refusal("RECOVERY"))

    def _checkpoint(self, region: Region) -> None:
        child = self._child(region, Role.CHECKPOINTER)
        with self._engine(child) as engine:
            checkpointer = Checkpointer(child, engine, obey=lambda: False)
            engine.wal.write_background()
            engine.pool.background_write(1)
            CheckpointRequests(engine.attachment).request(CheckpointFlags.FAST | CheckpointFlags.FORCE)
            checkpointer.work()

    def _child(self, region: Region, role: Role) -> Child:
        return Child(
            role=role,
            slot=1,
            settings=_SETTINGS,
            config_file=ConfigFile(Path(os.devnull)),
            region=region,
            control=read_control(self._disk),
            host=self._host,
            log=self._log,
            journal=self._journal,
            disk=self._disk,
            pmsignal=pmsignal.PMSignal(region),
            activity=activity.Activity(region, _SETTINGS),
            cancel_keys=CancelKeys(region, _SETTINGS),
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
