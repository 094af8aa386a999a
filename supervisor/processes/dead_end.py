"""The child that only says no: reads a startup packet, answers one FATAL, exits.

Forked for a connection that the postmaster does not accept now (specification 3.4), so that the postmaster itself
never waits for a client and never writes to one. It has no slot and no PGPROC, and of shared memory it only reads the
keys of cancel requests, which are honoured in every state; it counts all the same, because it maps it. Who says nothing
is ended by authentication_timeout.

SIGTERM and SIGQUIT stay what every child begins with: `_exit(1)` and `_exit(2)`, silently.
"""

from __future__ import annotations

import socket
from typing import Final

from supervisor.errors import CANNOT_CONNECT_NOW, TOO_MANY_CONNECTIONS, ServerError, SessionFatal
from supervisor.processes.cancel_request import send_cancel_request
from supervisor.processes.child import EXIT_FATAL, EXIT_ORDERLY, Child, unblock_signals
from supervisor.processes.startup_packet import read_startup
from supervisor.wire import codec
from supervisor.wire.connection import Connection, DeadlineExpired
from supervisor.wire.messages import CancelRequest

_TEXTS: Final = {
    "STARTUP": "the database system is starting up",
    "RECOVERY": "the database system is in recovery mode",
    "NOTHOTSTANDBY": "the database system is not yet accepting connections",
    "SHUTDOWN": "the database system is shutting down",
}
"""By the name of PostgreSQL's CAC_state; clients match the SQLSTATE, people read these."""


def refusal(reason: str, *, reached_consistency: bool = False) -> SessionFatal:
    """What a client is told that cannot connect now (specification 4.6).

    `reason` is the name of a CAC_state; "OK" and "TOOMANY" mean that there was no slot left.
    """
    if reason in ("OK", "TOOMANY"):
        return SessionFatal("sorry, too many clients already", sqlstate=TOO_MANY_CONNECTIONS)
    detail = None
    if reason == "NOTHOTSTANDBY":
        detail = (
            "Recovery snapshot is not yet ready for hot standby."
            if reached_consistency
            else "Consistent recovery state has not been yet reached."
        )
    return SessionFatal(_TEXTS[reason], sqlstate=CANNOT_CONNECT_NOW, detail=detail)


def main(child: Child) -> int:
    """Refuses one client; `child.refusal` is what it is told."""
    if child.socket is None or child.refusal is None:
        raise AssertionError("a dead-end child has a connection and a reason to refuse it")
    unblock_signals()
    return refuse(child, child.socket, child.refusal)


def refuse(child: Child, client: socket.socket, answer: ServerError) -> int:
    """The conversation; the exit status."""
    connection = Connection(client, child.host)
    try:
        startup = read_startup(connection, child.host, child.settings, child.log)
        if startup is None:
            return EXIT_ORDERLY
        if isinstance(startup, CancelRequest):
            send_cancel_request(startup, child.cancel_keys, child.log)
            return EXIT_ORDERLY
    except DeadlineExpired:
        return EXIT_FATAL
    except SessionFatal as error:
        answer = error
    connection.send_last(codec.error_response("FATAL", answer))
    return EXIT_FATAL
