"""A bare connection to a live server: says exactly what a test wants, hears every byte."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.support import wire_client as client

PATIENCE_S = 15.0


class RawClient:
    """One connection that has said nothing yet."""

    def __init__(self, directory: Path, *, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(PATIENCE_S)
        self.cancel_key = b""
        try:
            self.socket.connect(str(directory / ".s.PGSQL.5432"))
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def say(self, *messages: bytes) -> None:
        self.socket.sendall(b"".join(messages))

    def hear(self, kind: str) -> bytes:
        """All bytes until a message of this kind has come, that one included."""
        heard = b""
        while True:
            heard += self._exactly(5)
            length = int.from_bytes(heard[-4:], "big")
            last = chr(heard[-5])
            heard += self._exactly(length - 4)
            if last == kind:
                return heard

    def hear_byte(self) -> bytes:
        """One byte: the answer to a request for encryption."""
        return self._exactly(1)

    def hear_the_end(self) -> bytes:
        """All bytes until the server hangs up, which a reset is too."""
        heard = b""
        while True:
            try:
                piece = self.socket.recv(65536)
            except ConnectionResetError:
                return heard
            if not piece:
                return heard
            heard += piece

    def log_in(self) -> int:
        """Start a session; the pid of its backend. `cancel_key` is what a cancel request must repeat."""
        self.say(client.startup(user="anna", database="crashbed"))
        heard = client.answers(self.hear("Z"))
        (key,) = [answer.body for answer in heard if answer.kind == "K"]
        self.cancel_key = key[4:]
        return int.from_bytes(key[:4], "big")

    def ask(self, text: str) -> bytes:
        """A simple query and all of its answer."""
        self.say(client.query(text))
        return self.hear("Z")

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            assert piece, f"the server hung up after {data!r}"
            data += piece
        return data
