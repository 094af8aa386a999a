"""The client backend: one process, one client, one session (PostgreSQL's `backend_startup.c` and `postgres.c`).

Owns the order of a backend's life. Until the startup packet is whole it holds nothing and dies silently of SIGTERM
(1) and SIGQUIT (2). Then its signal handlers are replaced, and only then its slot is marked ACTIVE: from there on
it either cleans up and marks the slot inactive again, or its death is a crash. Exit 0 when the client leaves, 1 after
a FATAL, 2 by SIGQUIT; an exception that is nobody's error of a statement is left to the child runner, which makes a
crash of it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

from supervisor.engine.engine import Engine
from supervisor.engine.recovery.checkpoint import CheckpointFlags, CheckpointRequests
from supervisor.errors import ServerError, SessionFatal
from supervisor.log import Level, ServerLog
from supervisor.processes.cancel_request import send_cancel_request
from supervisor.processes.child import EXIT_FATAL, EXIT_ORDERLY, Child, unblock_signals
from supervisor.processes.command_loop import CommandLoop
from supervisor.processes.interrupts import Interrupts
from supervisor.processes.last_words import QuickDie
from supervisor.processes.parameters import UNREPORTED, session_parameters
from supervisor.processes.startup_packet import Startup, read_startup
from supervisor.session.session import Session
from supervisor.shmem.cancel_keys import KEY_BYTES
from supervisor.sql.execute import Executor
from supervisor.sql.procedures import ProcedureContext
from supervisor.wire import codec
from supervisor.wire.connection import Connection, DeadlineExpired
from supervisor.wire.messages import CancelRequest

_CHECKPOINT_NOW: Final = CheckpointFlags.FAST | CheckpointFlags.FORCE | CheckpointFlags.WAIT


def main(child: Child) -> int:
    """Serves the client of `child.socket`; the exit status."""
    if child.socket is None:
        raise AssertionError("a backend has a connection")
    interrupts = Interrupts()
    signal.signal(signal.SIGHUP, interrupts.on_reload)
    unblock_signals()
    connection = Connection(child.socket, child.host)
    try:
        startup = read_startup(connection, child.host, child.settings, child.log)
    except DeadlineExpired:
        return EXIT_FATAL
    except SessionFatal as error:
        _tell_fatal(connection, child.log, error)
        return EXIT_FATAL
    if startup is None:
        return EXIT_ORDERLY
    if isinstance(startup, CancelRequest):
        send_cancel_request(startup, child.cancel_keys, child.log)
        return EXIT_ORDERLY
    child.host.interrupts = interrupts.check
    # Before the slot is active: from there on the plain `_exit(1)` of SIGTERM would be a crash.
    signal.signal(signal.SIGTERM, interrupts.on_terminate)
    signal.signal(signal.SIGINT, interrupts.on_cancel)
    return _be_active(child, connection, startup, interrupts)


def _be_active(child: Child, connection: Connection, startup: Startup, interrupts: Interrupts) -> int:
    """From ACTIVE to detached. A SessionFatal is told to the client before anything is given back."""
    engine: Engine | None = None
    status = EXIT_ORDERLY
    try:
        attachment = child.attach()
        connection.latch = attachment.latch
        slots = attachment.procs.slot
        engine = Engine(
            child.disk,
            attachment,
            child.settings,
            child.control,
            child.log,
            statement_of=lambda procno: child.activity.read(attachment.region.q[slots + procno]),
        )
        converse(
            child,
            connection,
            startup,
            interrupts,
            engine,
            # Not before: a notice must not be the first thing that a client ever hears.
            on_greeted=lambda: _on_quit(QuickDie(connection, child.pmsignal, child.log)),
        )
    except ServerError as error:
        # Outside of a statement there is no session that could go on.
        _tell_fatal(connection, child.log, error)
        status = EXIT_FATAL
    interrupts.hold()
    if engine is not None:
        # Also when no transaction is open: an error may have left a lock or a snapshot held.
        engine.abort()
        engine.close()
    child.detach()
    return status


def _on_quit(last_words: QuickDie) -> None:
    signal.signal(signal.SIGQUIT, last_words)


def converse(
    child: Child,
    connection: Connection,
    startup: Startup,
    interrupts: Interrupts,
    engine: Engine,
    *,
    on_greeted: Callable[[], None],
) -> None:
    """Greets the client and talks with it until it leaves."""
    attachment, session = engine.attachment, Session(engine)
    parameters = session_parameters(startup)
    key = os.urandom(KEY_BYTES)
    child.cancel_keys.register(child.slot, attachment.pid, key)
    _greet(connection, parameters, codec.backend_key_data(attachment.pid, key))
    on_greeted()
    requests = CheckpointRequests(attachment)

    def report_activity(text: str) -> None:
        child.activity.report(child.slot, text)

    def show(name: str) -> str:
        return child.settings.show(name)  # those of now: a reload makes new ones

    def reload() -> None:
        engine.use(child.reload())

    executor = Executor(
        session=session,
        host=child.host,
        context=ProcedureContext(
            session=session,
            host=child.host,
            history_directory=child.settings.history_directory or None,
            pid=attachment.pid,
            procno=attachment.procno,
            report_activity=report_activity,
            workers=child.dynamic_workers(),
        ),
        parameters={**parameters, **UNREPORTED},
        show=show,
        names=child.settings.names,
        checkpoint=lambda: requests.request(_CHECKPOINT_NOW),
    )
    CommandLoop(connection, executor, child.procedures, interrupts, child.log, report_activity, reload).run()


def _greet(connection: Connection, parameters: dict[str, str], key_data: bytes) -> None:
    """Everybody is trusted; the settings that clients keep track of; what a cancel request must repeat."""
    connection.send(codec.AUTHENTICATION_OK)
    for name, value in parameters.items():
        connection.send(codec.parameter_status(name, value))
    connection.send(key_data)
    connection.flush()


def _tell_fatal(connection: Connection, log: ServerLog, error: ServerError) -> None:
    """FATAL to the log and to the client, who is not waited for."""
    log.error(error, Level.FATAL)
    connection.send_last(codec.error_response("FATAL", error))
