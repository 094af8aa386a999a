"""One client's socket, buffered both ways, never blocking by itself.

Owns the socket of a child process from accept to exit: reading until a message is whole, collecting answers and
sending them in few calls. The socket is always non-blocking; whoever must wait does it in `Host.wait`, where signals
and the postmaster's death end the wait (PostgreSQL's `pqcomm.c` and `be-secure.c`). It never decides what a message
means.

The one place where order is delicate is `say_goodbye`: SIGQUIT may come at any bytecode. If the client has received
part of a message, nothing may be written, for it would take our notice for the rest of it. If the handler runs just
after a send has returned and before its result is stored, nobody knows; so the handler then lets the sender finish
those few steps (`when_send_returns`). That is no wait: the socket never blocks.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from supervisor.errors import ADMIN_SHUTDOWN, CONNECTION_FAILURE, SessionFatal
from supervisor.host import Host, Waitable, Wake
from supervisor.wire.codec import InputBuffer, decode
from supervisor.wire.messages import FrontendMessage

_RECEIVE_BYTES = 8192
_SEND_AT_BYTES = 64 << 10

POSTMASTER_EXIT = "terminating connection due to unexpected postmaster exit"


class OwnLatch(Waitable, Protocol):
    """A latch that the process may clear, because it is its own."""

    def clear(self) -> None:
        """Forget that it was set."""
        ...


class DeadlineExpired(Exception):
    """The client did not say in time what it had to say."""


class Connection:
    """The buffered socket. `latch` is set once the process has one; until then only signals wake a wait."""

    def __init__(self, client: socket.socket, host: Host) -> None:
        client.setblocking(False)
        self._client = client
        self._descriptor = client.fileno()
        self._host = host
        self._input = InputBuffer()
        self._output = bytearray()
        self._torn = False
        self._in_send = False
        self._after_send: Callable[[], object] | None = None
        self.latch: OwnLatch | None = None
        self.deadline_ns: int | None = None
        """When waiting for the client raises DeadlineExpired; None is never."""
        self.lost: str | None = None
        """Why nothing can be sent any more, once that is so."""

    # -- from the client

    def receive_startup_packet(self) -> bytes | None:
        """The next packet of the start-up phase; None when the client has gone.

        Raises DeadlineExpired, SessionFatal (08P01, or 57P01 when the postmaster has died).
        """
        while (packet := self._input.take_startup_packet()) is None:
            if not self._receive():
                return None
        return packet

    def receive_message(self) -> tuple[int, bytes] | None:
        """The next message as (type byte, body) for `codec.decode`; None when the client has gone.

        What has been collected to send is sent first: the client may be waiting for it. Raises as
        `receive_startup_packet`, and whatever `Host.check_interrupts` raises.
        """
        self.flush()
        while (message := self._input.take_message()) is None:
            if not self._receive():
                return None
        return message

    def receive(self) -> FrontendMessage | None:
        """The next message, decoded; a body that makes no sense raises ServerError and leaves the stream in step."""
        message = self.receive_message()
        return None if message is None else decode(*message)

    @property
    def unread(self) -> int:
        """Received bytes that no message has claimed: of a client that has gone, what it broke off."""
        return self._input.pending

    def _receive(self) -> bool:
        """Receives once, waiting if need be; False at the end of the stream."""
        while True:
            self._host.check_interrupts()
            try:
                data = self._client.recv(_RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                self._wait(Wake.READABLE)
                continue
            except OSError as error:
                self.lost = f"could not receive data from client: {error.strerror}"
                return False
            if not data:
                return False
            self._input.feed(data)
            return True

    # -- to the client

    def send(self, data: bytes) -> None:
        """Collects an answer; a large collection is sent at once, see `flush` for what that may raise."""
        self._output += data
        if len(self._output) >= _SEND_AT_BYTES:
            self.flush()

    def flush(self) -> None:
        """Sends all that was collected, waiting for the client to read.

        Raises SessionFatal 08006 when the client has gone, 57P01 when the postmaster has died, and whatever
        `Host.check_interrupts` raises while the client does not read.
        """
        while self._output:
            if not self._send_some():
                self._wait(Wake.WRITABLE)
                self._host.check_interrupts()

    def send_last(self, data: bytes) -> bool:
        """Sends what was collected and then `data`, as far as the socket takes it now; True if that was all.

        For the words before an orderly exit: a client that does not read is not waited for.
        """
        self._output += data
        try:
            while self._output:
                if not self._send_some():
                    return False
        except SessionFatal:
            return False
        return True

    def _send_some(self) -> bool:
        """One send; False if the socket takes nothing now.

        `_torn` stays set while the client has received part of what was collected, which may end within a message.
        """
        if self.lost is not None:
            raise self._connection_lost()
        self._in_send = True
        try:
            sent = self._client.send(self._output, socket.MSG_NOSIGNAL)
            del self._output[:sent]
            self._torn = bool(self._output)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.lost = f"could not send data to client: {error.strerror}"
            self._output.clear()
            raise self._connection_lost() from error
        finally:
            self._in_send = False
            if self._after_send is not None:
                self._after_send()
        return True

    def _connection_lost(self) -> SessionFatal:
        return SessionFatal("connection to client lost", sqlstate=CONNECTION_FAILURE)

    def when_send_returns(self, action: Callable[[], object]) -> bool:
        """For a signal handler: False if no send is under way; else True, and `action` runs as soon as it is over."""
        if self._in_send:
            self._after_send = action
        return self._in_send

    def say_goodbye(self, data: bytes) -> bool:
        """Last words from a signal handler: one attempt that never waits; True if all of it was taken.

        Dropped if the client has received part of a message. Answers that were collected and not begun are passed
        over, whole messages all of them.
        """
        if self._torn or self.lost is not None:
            return False
        try:
            return self._client.send(data, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT) == len(data)
        except OSError:
            return False

    def close(self) -> None:
        """Closes the socket. The client sees it once no other process holds the descriptor."""
        self._client.close()

    # -- waiting

    def _wait(self, want: Wake) -> None:
        """Waits until the socket may be ready; the caller tries again in any case."""
        timeout_ms = None
        if self.deadline_ns is not None:
            remaining_ns = self.deadline_ns - self._host.now_ns()
            if remaining_ns <= 0:
                raise DeadlineExpired
            timeout_ms = -(-remaining_ns // 1_000_000)
        readable = (self._descriptor,) if want is Wake.READABLE else ()
        writable = self._descriptor if want is Wake.WRITABLE else None
        wake = self._host.wait(self.latch, timeout_ms, readable, writable, report_death=True)
        if wake & Wake.POSTMASTER_DEATH:
            raise SessionFatal(POSTMASTER_EXIT, sqlstate=ADMIN_SHUTDOWN)
        if wake & Wake.LATCH and self.latch is not None:
            self.latch.clear()
