"""One client for both servers: the same bytes, the same system calls, the same patience.

psycopg would add its own start-up work to every attempt to connect; here an attempt is a connect, one packet sent and
what comes back.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support import wire_client as wire

PATIENCE_S = 60.0
RETRY_S = 0.001
LOOK_S = 0.0002
_STARTUP = wire.startup(user="crashbed", database="postgres")


class Refused(Exception):
    """The server does not serve now: no socket, an error before ReadyForQuery, or a hang-up."""


class Client:
    """A session that is ready; raises Refused."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.pid = 0
        try:
            self.socket.connect(str(path))
            self.socket.sendall(_STARTUP)
            for kind, body in self._until_ready():
                if kind == b"K":
                    self.pid = int.from_bytes(body[:4], "big")
        except (OSError, Refused) as error:
            self.socket.close()
            raise Refused(str(error)) from error

    def ask(self, statement: str) -> list[bytes | None]:
        """Run a statement; the first column of each row, as text."""
        self.say(statement)
        return self.hear()

    def say(self, statement: str) -> None:
        """Send a statement."""
        self.socket.sendall(wire.query(statement))

    def hear(self) -> list[bytes | None]:
        """The answer to it: the first column of each row."""
        values: list[bytes | None] = []
        for kind, body in self._until_ready():
            if kind == b"D":
                (length,) = struct.unpack_from("!i", body, 2)
                values.append(None if length < 0 else body[6 : 6 + length])
        return values

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def _until_ready(self) -> list[tuple[bytes, bytes]]:
        messages: list[tuple[bytes, bytes]] = []
        data = b""
        while True:
            piece = self.socket.recv(65536)
            if not piece:
                raise Refused("the server hung up")
            data += piece
            while len(data) >= 5 and len(data) >= (end := 1 + int.from_bytes(data[1:5], "big")):
                kind, body, data = data[:1], data[5:end], data[end:]
                if kind == b"E":
                    raise Refused(body.replace(b"\0", b" ").decode(errors="replace"))
                messages.append((kind, body))
                if kind == b"Z":
                    return messages


def connect(path: Path) -> tuple[Client, int]:
    """Try until a session is ready, a pause of RETRY_S after each refusal: (the session, attempts refused)."""
    refused = 0
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return Client(path), refused
        except Refused as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no session at {path} within {PATIENCE_S:g} s: {error}") from error
            refused += 1
            select.select((), (), (), RETRY_S)


class Announcements:
    """Counts how often a server's log has said that it is ready, without asking the server."""

    _WORDS = b"database system is ready to accept connections"

    def __init__(self, log: Path) -> None:
        self._log = log.open("rb", buffering=0)
        self._rest = b""
        self.read()

    def read(self) -> bool:
        """Whether it said so since the last look."""
        data = self._rest + (self._log.read() or b"")
        self._rest = data[-len(self._WORDS) + 1 :]
        return self._WORDS in data

    def wait(self, patience_s: float = PATIENCE_S) -> None:
        """Return when it has said so, looking every LOOK_S."""
        deadline = time.monotonic() + patience_s
        while not self.read():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._log.name} did not say within {patience_s:g} s that the server is ready")
            select.select((), (), (), LOOK_S)

    def close(self) -> None:
        """Stop looking."""
        self._log.close()


def kill_and_wait_for_hangup(clients: Sequence[Client], victim: int) -> tuple[int, int]:
    """SIGKILL one backend; (when, when the last of the sessions had lost its connection), CLOCK_MONOTONIC ns.

    That all of them have is how a client knows that the server it would now reach is not the old one: a connection
    made a moment before the postmaster has noticed would be accepted, and ended.
    """
    waiting = {client.socket.fileno(): client for client in clients}
    # epoll: with a thousand sessions, a poll that looks at each of them each time would be what is measured.
    with select.epoll(len(clients)) as poll:
        for descriptor in waiting:
            poll.register(descriptor, select.EPOLLIN)
        struck = time.monotonic_ns()
        os.kill(victim, signal.SIGKILL)
        while waiting:
            if not (ready := poll.poll(PATIENCE_S)):
                raise RuntimeError(f"{len(waiting)} sessions survived the crash of process {victim}")
            for descriptor, _ in ready:
                try:
                    ended = not waiting[descriptor].socket.recv(65536)
                except ConnectionResetError:
                    ended = True
                if ended:
                    poll.unregister(descriptor)
                    waiting.pop(descriptor)
    lost = time.monotonic_ns()
    for client in clients:
        client.close()
    return struck, lost
