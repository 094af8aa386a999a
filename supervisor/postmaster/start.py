"""From the command line to a serving postmaster, and out again (specification 1.3).

Owns the order: settings, data directory, lock file, interlock, control file, preloaded modules, sockets,
then the server loop; and the reverse order at exit. Everything that can be refused is refused before a
process is forked, with one sentence and a remedy.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from supervisor import SERVER_VERSION
from supervisor.background_worker import offered_by
from supervisor.config import Settings
from supervisor.config_file import NAME as CONFIG_FILE
from supervisor.config_file import ConfigFile
from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.recovery.cluster import check_version
from supervisor.engine.recovery.control import read_control
from supervisor.errors import StartupError
from supervisor.host import ProcessHost
from supervisor.log import Journal, Level, ServerLog
from supervisor.points import PointMap
from supervisor.postmaster import data_directory, heap, lockfile
from supervisor.postmaster.postmaster import Equipment, Postmaster
from supervisor.postmaster.rehearsal import Rehearsal
from supervisor.postmaster.sockets import ListeningSocket
from supervisor.processes.child import set_parent_death_signal, set_process_name, unblock_signals
from supervisor.roles import Role
from supervisor.shmem import lwlock
from supervisor.sql.procedures import preload


def start_postmaster(directory: Path, options: list[str], *, die_with: int | None = None) -> int:
    """Run a postmaster to its end; returns its exit status. Raises StartupError before it serves."""
    set_process_name(Role.POSTMASTER)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        # Until the loop's handlers stand each ends the process. A shell that starts a command with `&` has SIGINT and
        # SIGQUIT ignored in it: the order to die with somebody would be dropped without a trace.
        signal.signal(number, signal.SIG_DFL)
    if die_with is not None:
        set_parent_death_signal(signal.SIGQUIT)
        if os.getppid() != die_with:
            raise StartupError(
                f"--die-with {die_with}: that process is not this one's parent, or is gone already",
                hint="Give the pid of the process that starts the server.",
            )
    directory = directory.absolute()
    data_directory.check(directory)
    config_file = ConfigFile(directory / CONFIG_FILE, tuple(options))
    settings = config_file.read()
    os.umask(0o077)
    os.chdir(directory)
    log = ServerLog()
    log.set_minimum(settings.log_min_messages)
    lwlock.check_platform()

    pid_file = directory / lockfile.NAME
    contents = lockfile.Contents(
        pid=os.getpid(),
        data_directory=str(directory),
        start_time_s=int(time.time()),
        port=settings.port,
        socket_directory=str(directory / settings.unix_socket_directories),
    )
    # Looked at first, so that a living postmaster is named; the interlock only knows that somebody lives.
    use = lockfile.in_directory(directory)
    lockfile.refuse_if_live(pid_file, use)
    interlock = data_directory.interlock(directory)
    lock_file = lockfile.create(pid_file, contents, use)
    try:
        code = _serve(directory, settings, config_file, log, lock_file)
    finally:
        lock_file.remove()
    log.log(Level.LOG, "database system is shut down")
    # The interlock is closed by exit alone, after everything else.
    del interlock
    return code


def _serve(
    directory: Path, settings: Settings, config_file: ConfigFile, log: ServerLog, lock_file: lockfile.LockFile
) -> int:
    """Check and open what is left, with the data directory ours, and run until told to stop."""
    host = ProcessHost()
    disk = PosixDisk(str(directory), host)
    check_version(disk)
    read_control(disk)
    procedures = preload(settings.shared_preload_libraries)
    _refuse_threads()
    journal = _open_journal(settings)
    points = _open_points(settings)
    log.log(Level.LOG, f"starting {SERVER_VERSION}")
    if os.geteuid() == 0:
        log.log(
            Level.LOG,
            "running as root, which PostgreSQL refuses: crashbed allows it because testbeds run in containers",
        )
    contents = lock_file.contents
    listening = ListeningSocket(Path(contents.socket_directory), contents, backlog=settings.listen_backlog)
    try:
        log.log(Level.LOG, f'listening on Unix socket "{listening.path}"')
        journal.emit("postmaster_start", version=SERVER_VERSION, data_directory=str(directory))
        postmaster = Postmaster(
            Equipment(
                settings=settings,
                config_file=config_file,
                data_directory=directory,
                read_control=lambda: read_control(disk),
                log=log,
                journal=journal,
                points=points,
                procedures=procedures,
                background_workers=offered_by(settings.shared_preload_libraries),
                host=host,
                lock_file=lock_file,
                listening=listening,
            )
        )
        _rehearse(host, disk, log)
        heap.settle()
        code = postmaster.run()
        journal.emit("postmaster_exit", code=code)
        return code
    finally:
        listening.remove()


def _refuse_threads() -> None:
    if len(os.listdir("/proc/self/task")) != 1:
        raise StartupError(
            'a module of "shared_preload_libraries" has started a thread, which a fork would not copy',
            hint="Let the module start its threads when it is called, not when it is imported.",
        )


def _rehearse(host: ProcessHost, disk: PosixDisk, log: ServerLog) -> None:
    """Have the code warm that children will run; without it they are only slower."""
    rehearsal = Rehearsal(host, disk)
    try:
        rehearsal.run()
    except Exception as error:  # noqa: BLE001 - a play that fails is no reason not to serve, whatever it was
        log.log(Level.DEBUG1, f"the rehearsal of the server's work ended early: {error!r}")
        # Wherever it stopped.
        host.resume()
        unblock_signals()
    finally:
        rehearsal.close()


def _open_journal(settings: Settings) -> Journal:
    try:
        return Journal(settings.journal or None)
    except OSError as error:
        raise StartupError(
            f'could not open "{settings.journal}" of "crashbed.journal": {error.strerror}',
            hint="Give a file in a directory that exists.",
        ) from error


def _open_points(settings: Settings) -> PointMap | None:
    try:
        return PointMap(Path(settings.points_map)) if settings.points_map else None
    except (OSError, ValueError) as error:
        raise StartupError(
            f'could not use "{settings.points_map}" of "crashbed.points_map": {error}',
            hint="It must be a points map of this version; the harness makes one for each run.",
        ) from error
