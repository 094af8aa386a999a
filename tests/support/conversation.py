"""A client and the server's end of a socket pair in one process: nothing waits, so nothing needs a second process.

The client says all it has to say and hangs up; the code under test runs until it would wait. A wait that nothing can
end fails the test instead of hanging it.
"""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from supervisor.host import Waitable, Wake
from supervisor.log import ServerLog
from supervisor.points import Point
from supervisor.processes.command_loop import CommandLoop
from supervisor.processes.interrupts import Interrupts
from supervisor.sql.execute import Executor
from supervisor.sql.procedures import ProcedureContext
from supervisor.wire.connection import Connection


class ScriptedHost:
    """Polls without waiting. What happens "meanwhile" is a list of functions, one per wait that finds nothing."""

    def __init__(self, *meanwhile: Callable[[], object]) -> None:
        self.random = random.Random(0)
        self.interrupts: Callable[[], None] = lambda: None
        self.meanwhile = list(meanwhile)
        self.points: list[Point] = []
        self.postmaster_dead = False
        self.now = 0

    def point(self, point: Point) -> None:
        self.points.append(point)

    def now_ns(self) -> int:
        return self.now

    def wall_time(self) -> float:
        return 0.0

    def wake(self, process: int) -> None: ...

    def check_interrupts(self) -> None:
        self.interrupts()

    def wait(
        self,
        latch: Waitable | None,
        timeout_ms: int | None,
        readable: Sequence[int] = (),
        writable: int | None = None,
        *,
        report_death: bool = False,
    ) -> Wake:
        if latch is not None and latch.is_set():
            return Wake.LATCH
        if self.postmaster_dead:
            assert report_death, "the process would have ended here without a word"
            return Wake.POSTMASTER_DEATH
        poll = select.poll()
        for descriptor in readable:
            poll.register(descriptor, select.POLLIN)
        if writable is not None:
            poll.register(writable, select.POLLOUT | (select.POLLIN if writable in readable else 0))
        events = dict(poll.poll(0))
        can_write = writable is not None and bool(events.get(writable, 0) & ~select.POLLIN)
        can_read = any(events.get(descriptor, 0) & ~select.POLLOUT for descriptor in readable)
        if can_read or can_write:
            return (Wake.READABLE if can_read else Wake(0)) | (Wake.WRITABLE if can_write else Wake(0))
        if self.meanwhile:
            self.meanwhile.pop(0)()
            return Wake.SIGNAL
        if timeout_ms is not None:
            self.now += timeout_ms * 1_000_000
            return Wake.TIMEOUT
        raise AssertionError("this wait would never end")


class Client:
    """The other end of the pair."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def say(self, *messages: bytes) -> None:
        self.socket.sendall(b"".join(messages))

    def hang_up(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def heard(self) -> bytes:
        """All that has arrived and was not read yet."""
        self.socket.setblocking(False)
        pieces = []
        while True:
            try:
                piece = self.socket.recv(1 << 20)
            except BlockingIOError:
                break
            if not piece:
                break
            pieces.append(piece)
        return b"".join(pieces)


@dataclass
class FakeSession:
    """Only what SQL needs to know of a session."""

    in_transaction: bool = False
    failures: int = 0
    rollbacks: int = 0

    def fail(self) -> None:
        self.failures += 1

    def rollback(self) -> None:
        self.rollbacks += 1
        self.in_transaction = False


@dataclass
class Conversation:
    """A command loop with everything it is made of, ready to run."""

    client: Client
    connection: Connection
    host: ScriptedHost
    session: FakeSession
    interrupts: Interrupts
    loop: CommandLoop
    server_end: socket.socket
    activity: list[str] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)
    reloads: list[int] = field(default_factory=list)

    def run(self, *messages: bytes) -> bytes:
        """Says these messages, hangs up, runs the loop to its end; what the client heard."""
        self.client.say(*messages)
        self.client.hang_up()
        self.loop.run()
        return self.client.heard()

    def close(self) -> None:
        self.client.socket.close()
        self.server_end.close()


def converse(
    procedures: dict[str, Any], log: ServerLog | None = None, parameters: dict[str, str] | None = None
) -> Conversation:
    """A conversation about these procedures."""
    ours, theirs = socket.socketpair()
    host, session, interrupts = ScriptedHost(), FakeSession(), Interrupts()
    host.interrupts = interrupts.check
    connection = Connection(ours, host)
    activity: list[str] = []
    checkpoints: list[int] = []
    reloads: list[int] = []
    settings = {"max_connections": "100", "port": "5432"}
    executor = Executor(
        session=session,
        host=host,
        context=ProcedureContext(session, host, None, 4711, 0, activity.append),
        parameters=parameters or {"server_version": "18.0 (test)", "TimeZone": "UTC"},
        show=settings.__getitem__,
        names=lambda: list(settings),
        checkpoint=lambda: checkpoints.append(1),
    )
    loop = CommandLoop(
        connection,
        executor,
        procedures,
        interrupts,
        log or ServerLog.to_nowhere(),
        activity.append,
        lambda: reloads.append(1),
    )
    return Conversation(
        Client(theirs), connection, host, session, interrupts, loop, ours, activity, checkpoints, reloads
    )
