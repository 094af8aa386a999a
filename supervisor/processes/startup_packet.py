"""What a child does with a fresh connection before it is anything else: read the startup packet.

Shared by backends and dead-end children (PostgreSQL's `backend_startup.c`, `ProcessStartupPacket`). Nothing here may
touch shared memory: until the packet is whole the child must be killable without a trace, so its SIGTERM and SIGQUIT
are plain `_exit`, and a silent client costs a process for authentication_timeout and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.config import Settings
from supervisor.errors import (
    FEATURE_NOT_SUPPORTED,
    INVALID_AUTHORIZATION_SPECIFICATION,
    PROTOCOL_VIOLATION,
    SessionFatal,
)
from supervisor.host import Host
from supervisor.log import Level, ServerLog
from supervisor.wire import codec
from supervisor.wire.connection import Connection
from supervisor.wire.messages import (
    GSSENC_REQUEST_CODE,
    PROTOCOL_VERSION,
    SSL_REQUEST_CODE,
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
)

_PROTOCOL_OPTION = "_pq_."


@dataclass(frozen=True, slots=True)
class Startup:
    """Who connects, and the settings that came along, names and values as sent."""

    user: str
    database: str
    options: tuple[tuple[str, str], ...]


def read_startup(
    connection: Connection, host: Host, settings: Settings, log: ServerLog
) -> Startup | CancelRequest | None:
    """Reads packets until the client has said who it is, or whom it wants to cancel; None when there is nobody.

    None stands for a client that went away and a packet that cannot be read, which are logged where PostgreSQL logs
    them. Raises DeadlineExpired when authentication_timeout is over, and SessionFatal for a request that deserves an
    answer (0A000, 28000, 57P01).
    """
    connection.deadline_ns = host.now_ns() + settings.authentication_timeout * 1_000_000_000
    message = _first_message(connection, log)
    connection.deadline_ns = None
    return _startup(connection, message) if isinstance(message, StartupMessage) else message


def _first_message(connection: Connection, log: ServerLog) -> StartupMessage | CancelRequest | None:
    # Each kind of encryption may be asked for once, in either order: a client that repeats itself is not
    # speaking the protocol, and answering it for ever would be a loop that the client controls.
    refused: set[type[SSLRequest] | type[GSSENCRequest]] = set()
    while True:
        try:
            packet = connection.receive_startup_packet()
            if packet is None:
                if connection.unread:
                    log.log(Level.LOG, "incomplete startup packet")
                return None
            message = codec.decode_startup_packet(packet)
        except SessionFatal as error:
            if error.sqlstate != PROTOCOL_VIOLATION:
                raise
            # Whoever sends this may not speak the protocol at all: the log is told, the client is not.
            log.error(error, Level.LOG)
            return None
        if isinstance(message, StartupMessage | CancelRequest):
            return message
        if type(message) in refused:
            code = SSL_REQUEST_CODE if isinstance(message, SSLRequest) else GSSENC_REQUEST_CODE
            raise _unsupported_version(code)
        refused.add(type(message))
        connection.send(codec.REFUSE_ENCRYPTION)
        connection.flush()


def _unsupported_version(version: int) -> SessionFatal:
    return SessionFatal(
        f"unsupported frontend protocol {version >> 16}.{version & 0xFFFF}: server supports 3.0 to 3.0",
        sqlstate=FEATURE_NOT_SUPPORTED,
    )


def _startup(connection: Connection, message: StartupMessage) -> Startup:
    if message.version >> 16 != PROTOCOL_VERSION >> 16:
        raise _unsupported_version(message.version)
    unknown = [name for name, _ in message.parameters if name.startswith(_PROTOCOL_OPTION)]
    if message.version > PROTOCOL_VERSION or unknown:
        connection.send(codec.negotiate_protocol_version(PROTOCOL_VERSION, unknown))
    parameters = dict(message.parameters)
    user = parameters.pop("user", "")
    if not user:
        raise SessionFatal(
            "no PostgreSQL user name specified in startup packet",
            sqlstate=INVALID_AUTHORIZATION_SPECIFICATION,
        )
    database = parameters.pop("database", "") or user
    options = tuple((name, value) for name, value in parameters.items() if not name.startswith(_PROTOCOL_OPTION))
    return Startup(user, database, options)
