"""What every child process is made of: from the fork to its exit status.

Owns a child's first and last acts. First: its name, its own session, the parent's descriptors closed,
its own wakeup descriptor and handlers, and only then SIGQUIT unblocked (all are blocked from before the
fork, or an early one would run the postmaster's handler); the role unblocks the others when its own
handlers stand. Last: `os._exit` with the
status that the postmaster will classify. It never decides what the process does in between: that is
`main` of the role's module.

An uncaught exception would make Python exit with status 1, which the postmaster takes for an orderly
FATAL. Here it ends in SIGABRT, as a failed assertion of PostgreSQL does, because nobody knows what
state shared memory is in.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, NoReturn

from supervisor.background_worker import BackgroundWorker
from supervisor.config import Settings
from supervisor.config_file import ConfigFile
from supervisor.engine.disk.disk import Disk
from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.recovery.control import ControlData
from supervisor.errors import Panic, ServerError
from supervisor.host import ProcessHost, SoloHost, pass_point
from supervisor.log import Journal, Level, ServerLog
from supervisor.points import PointMap
from supervisor.roles import Role
from supervisor.shmem.activity import Activity
from supervisor.shmem.attachment import Attachment, attach
from supervisor.shmem.cancel_keys import CancelKeys
from supervisor.shmem.dynamic_workers import DynamicWorkers
from supervisor.shmem.pmsignal import PMSignal
from supervisor.shmem.region import Region

PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2
PR_SET_NAME = 15
EXIT_ORDERLY = 0
EXIT_FATAL = 1
EXIT_QUICKDIE = 2

_libc = ctypes.CDLL(None, use_errno=True)
# What `signal` wraps to turn every number that comes back into an enum's member, by an exception for each that has
# none: a third of a millisecond for the masks and handlers of one child.
_signal: Final[Any] = importlib.import_module("_signal")
_IGNORE, _DEFAULT = int(signal.SIG_IGN), int(signal.SIG_DFL)  # it knows them as plain numbers only
_ALL_SIGNALS: Final = frozenset(int(number) for number in signal.valid_signals())
_NOT_WHILE_BEGINNING: Final = _ALL_SIGNALS - {signal.SIGQUIT, signal.SIGURG}


@dataclass(frozen=True, slots=True)
class Birth:
    """What the postmaster hands to a child over the fork."""

    role: Role
    slot: int  # 1-based; 0 for a dead-end child, which has none
    nth: int  # the how-manieth of its role in this generation, from 1
    settings: Settings
    config_file: ConfigFile
    data_directory: str
    region: Region
    control: ControlData
    log: ServerLog
    journal: Journal
    points: PointMap | None
    procedures: Mapping[str, Any]
    postmaster_host: ProcessHost
    death_pipe: int
    close_first: tuple[int, ...]  # the postmaster's descriptors: listening sockets, the death pipe's write end
    socket: socket.socket | None = None
    refusal: ServerError | None = None  # what a dead-end child answers
    worker: BackgroundWorker | None = None  # what a background worker is to run


@dataclass(slots=True)
class Child:
    """A child process as its main function sees it."""

    role: Role
    slot: int
    settings: Settings
    config_file: ConfigFile
    region: Region
    control: ControlData
    host: ProcessHost | SoloHost  # alone it is in the rehearsal only
    log: ServerLog
    journal: Journal
    disk: Disk
    pmsignal: PMSignal
    activity: Activity
    cancel_keys: CancelKeys
    procedures: Mapping[str, Any]
    postmaster: int
    socket: socket.socket | None = None
    refusal: ServerError | None = None
    worker: BackgroundWorker | None = None
    attachment: Attachment | None = field(default=None)

    def attach(self) -> Attachment:
        """Mark the slot active and take a PGPROC; an exit without `detach` is a crash from here on."""
        self.pmsignal.mark_active(self.slot)
        self.attachment = attach(self.region, self.host, self.settings, self.role, self.slot)
        return self.attachment

    def dynamic_workers(self) -> DynamicWorkers:
        """The way to register background workers, for an attached child."""
        if self.attachment is None:
            raise AssertionError("who registers a background worker takes a lock, and so needs a PGPROC")
        return DynamicWorkers(self.attachment, self.pmsignal, self.postmaster)

    def reload(self) -> Settings:
        """Read the settings anew, as SIGHUP asks, and return them. What is wrong there the postmaster has said aloud."""
        self.settings = self.config_file.reload(self.settings, self.log, Level.DEBUG2)
        return self.settings

    def detach(self) -> None:
        """Give back what `attach` took: the last thing an orderly exit does with shared memory."""
        if self.attachment is not None:
            self.attachment.detach()
            self.attachment = None
        self.cancel_keys.forget(self.slot)
        self.pmsignal.mark_inactive(self.slot)


Main = Callable[[Child], int]


def set_process_name(role: Role) -> None:
    """Name the process for /proc, ps and the kernel's trace: `cb:<role>`."""
    _libc.prctl(PR_SET_NAME, f"cb:{role.short_name}".encode(), 0, 0, 0)


def set_parent_death_signal(number: int) -> None:
    """Ask the kernel for a signal when the thread that forked this process dies."""
    if _libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def parent_death_signal() -> int:
    """The signal that was asked for, 0 for none."""
    number = ctypes.c_int()
    _libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0)
    return number.value


def run(birth: Birth, main: Main) -> NoReturn:
    """Be the child, from just after the fork (all signals blocked) to the exit."""
    status = EXIT_QUICKDIE
    log = birth.log
    try:
        child = _begin(birth)
        status = main(child)
    except ServerError as error:
        log.error(error, Level.FATAL)
        status = EXIT_FATAL
    except Panic as error:
        log.log(Level.PANIC, str(error))
        _abort()
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
        log.log(Level.PANIC, "uncaught exception in a server process", detail=traceback.format_exc())
        _abort()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _begin(birth: Birth) -> Child:
    set_process_name(birth.role)
    os.setsid()
    birth.postmaster_host.close()
    for descriptor in birth.close_first:
        os.close(descriptor)
    set_parent_death_signal(signal.SIGPWR)
    # A crash of a testbed's server is ordinary: core files would fill the data directory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    point = birth.points.for_process(birth.role, birth.nth) if birth.points else pass_point
    host = ProcessHost(death_pipe=birth.death_pipe, point=point)
    child = Child(
        role=birth.role,
        slot=birth.slot,
        settings=birth.settings,
        config_file=birth.config_file,
        region=birth.region,
        control=birth.control,
        host=host,
        log=birth.log,
        journal=birth.journal,
        disk=PosixDisk(birth.data_directory, host),
        pmsignal=PMSignal(birth.region),
        activity=Activity(birth.region, birth.settings),
        cancel_keys=CancelKeys(birth.region, birth.settings),
        procedures=birth.procedures,
        postmaster=os.getppid(),
        socket=birth.socket,
        refusal=birth.refusal,
        worker=birth.worker,
    )
    install_default_handlers()
    # Only what must never wait: the order to quit, and latches, which locks need. The rest stays blocked until
    # the role's own handlers stand: a SIGTERM a moment earlier would end an auxiliary process with status 1.
    mask_signals(_NOT_WHILE_BEGINNING)
    # The postmaster may have died before PDEATHSIG was asked for; the pipe knows.
    if os.getppid() != child.postmaster:
        os._exit(EXIT_FATAL)
    return child


def install_default_handlers() -> None:
    """What each signal does until the role's main function says otherwise (specification 2.2).

    Every disposition is set: a server started in the background inherits SIGINT ignored.
    """
    handle = _signal.signal
    for number in (signal.SIGINT, signal.SIGALRM, signal.SIGPIPE, signal.SIGUSR2):
        handle(number, _IGNORE)
    for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGXFSZ):
        handle(number, _IGNORE)
    handle(signal.SIGCHLD, _DEFAULT)
    handle(signal.SIGABRT, _DEFAULT)
    handle(signal.SIGQUIT, quick_exit)
    handle(signal.SIGTERM, exit_at_once)
    # These only end a wait: the wait's caller looks at what they are about. SIGHUP is among them because to ignore it
    # would drop one that came since the fork, and the role is owed that.
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGURG, signal.SIGPWR):
        handle(number, _only_wake)


def mask_signals(numbers: Iterable[int] = _ALL_SIGNALS) -> set[int]:
    """Block these signals and no others; returns which were blocked."""
    before: set[int] = _signal.pthread_sigmask(signal.SIG_SETMASK, numbers)
    return before


def unblock_signals() -> None:
    """Let every signal in: the role's main function calls it when its handlers stand."""
    mask_signals(())


def quick_exit(number: int, frame: FrameType | None) -> NoReturn:
    """SIGQUIT: leave shared memory as it is, run nothing, status 2 (`SignalHandlerForCrashExit`)."""
    os._exit(EXIT_QUICKDIE)


def exit_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM before the process holds anything: status 1 (`process_startup_packet_die`)."""
    os._exit(EXIT_FATAL)


def _only_wake(number: int, frame: FrameType | None) -> None:
    return None


def _abort() -> NoReturn:
    sys.stderr.flush()
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGABRT,))
    os.kill(os.getpid(), signal.SIGABRT)
    os._exit(EXIT_QUICKDIE)  # not reached: SIGABRT has its default action
