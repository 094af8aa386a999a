"""The postmaster: the shell around the state machine (PostgreSQL's `postmaster.c`).

It turns the world into events (signals, wait4, flags of the children, the clock, connections) and the
machine's actions into system calls, and decides nothing itself. It must survive whatever it
supervises: it takes no lock, has no PGPROC, never blocks on a client, and of shared memory it touches
only the slot flags, the quit reason, the message flags, the registrations of background workers and, to quote
it, the dead child's activity.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from supervisor.background_worker import BackgroundWorker
from supervisor.config import Settings
from supervisor.config_file import ConfigFile
from supervisor.engine.recovery.control import ControlData
from supervisor.errors import ServerError
from supervisor.host import ProcessHost
from supervisor.log import Journal, Level, ServerLog
from supervisor.points import PointMap
from supervisor.postmaster import actions as act
from supervisor.postmaster import events as ev
from supervisor.postmaster.child_types import CHILD_TYPES
from supervisor.postmaster.children import Children, PostmasterChild, SlotPools, pool_sizes
from supervisor.postmaster.launch import fork_child
from supervisor.postmaster.lockfile import LockFile, Status
from supervisor.postmaster.memory import make_region
from supervisor.postmaster.sockets import ListeningSocket
from supervisor.postmaster.states import connection_answer, initial_state, reload_honoured, step
from supervisor.postmaster.values import SIGKILL_CHILDREN_AFTER_S, CanAccept, PMState, Shutdown, State, Stopwatch
from supervisor.postmaster.workers import RegisteredWorkers
from supervisor.processes.child import Birth
from supervisor.processes.dead_end import refusal
from supervisor.roles import CHILD_ROLES, Role
from supervisor.shmem import activity, pmsignal
from supervisor.shmem.worker_slots import WorkerSlots

TOUCH_SOCKETS_S = 58 * 60
RETRY_FORK_S = 1
CLIENTS_FIRST_MS = 10
ACCEPT_RETRY_MS = 100
_MESSAGES = {
    pmsignal.Message.RECOVERY_STARTED: ev.PmSignalKind.RECOVERY_STARTED,
    pmsignal.Message.RECOVERY_CONSISTENT: ev.PmSignalKind.RECOVERY_CONSISTENT,
    pmsignal.Message.BEGIN_HOT_STANDBY: ev.PmSignalKind.BEGIN_HOT_STANDBY,
    pmsignal.Message.XLOG_IS_SHUTDOWN: ev.PmSignalKind.XLOG_IS_SHUTDOWN,
}
_QUIT_REASONS = {
    act.QuitReason.CRASH: pmsignal.QuitReason.CRASH,
    act.QuitReason.STOP: pmsignal.QuitReason.STOP,
}
_SIGNALS = {
    "QUIT": signal.SIGQUIT,
    "TERM": signal.SIGTERM,
    "INT": signal.SIGINT,
    "KILL": signal.SIGKILL,
    "USR2": signal.SIGUSR2,
}
_TO_GROUP_TOO = frozenset({signal.SIGQUIT, signal.SIGTERM, signal.SIGINT, signal.SIGKILL})
_SHUTDOWN_SIGNALS = {
    signal.SIGTERM: Shutdown.SMART,
    signal.SIGINT: Shutdown.FAST,
    signal.SIGQUIT: Shutdown.IMMEDIATE,
}


@dataclass(slots=True)
class Equipment:
    """What the postmaster is started with; made and checked by `supervisor.postmaster.start`."""

    settings: Settings
    config_file: ConfigFile
    data_directory: Path
    read_control: Callable[[], ControlData]
    log: ServerLog
    journal: Journal
    points: PointMap | None
    procedures: dict[str, Any]
    background_workers: list[BackgroundWorker]
    host: ProcessHost
    lock_file: LockFile
    listening: ListeningSocket


class Postmaster:
    """One postmaster's life."""

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment
        self._settings = equipment.settings
        self._log = equipment.log
        self._journal = equipment.journal
        self._host = equipment.host
        self._state: State = initial_state(equipment.settings.restart_after_crash)
        self._pools = SlotPools(pool_sizes(equipment.settings))
        self._children = Children()
        self._workers = RegisteredWorkers(
            equipment.background_workers, equipment.settings, equipment.log, equipment.journal
        )
        self._forked: dict[Role, int] = {}  # per role in this generation
        self._generation = 0
        self._death_pipe, self._death_pipe_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._shutdowns: set[Shutdown] = set()  # asked for and not yet told
        self._pending_reload = False
        self._stopwatch_ns: int | None = None
        self._fork_failed = False
        self._clients_first = False  # the last pass made the server ready and left the machine to be advanced
        self._exiting: tuple[int, int, str] = (0, 0, "")  # pid, wait status, activity of the child being told
        self._exit_code: int | None = None
        self._make_region()

    # -- the loop

    def run(self) -> int:
        """Serve until the state machine says exit; returns the exit status."""
        self._install_handlers()
        self._tell(ev.Initialised())
        last_lock_check = time.monotonic()
        next_touch = time.monotonic() + TOUCH_SOCKETS_S
        while self._exit_code is None:
            listening = self._equipment.listening.socket.fileno()
            began_in = self._state.pm_state
            self._host.wait(None, self._sleep_ms(), (listening,) if self._state.accepting else ())
            self._tell_shutdown_request()
            self._reload_if_asked()
            self._reap()
            self._tell_messages()
            if self._state.accepting and self._exit_code is None:
                self._accept()
            self._tell_stopwatch()
            now = time.monotonic()
            if now >= last_lock_check + self._settings.lock_file_check_interval / 1000:
                last_lock_check = now
                if not self._equipment.lock_file.still_ours(self._log):
                    self._tell(ev.LockFileInvalid())
            if now >= next_touch:
                next_touch = now + TOUCH_SOCKETS_S
                self._equipment.listening.touch()
            self._fork_failed = False
            self._advance(began_in)
        return self._exit_code

    def _advance(self, began_in: PMState) -> None:
        """End a pass of the loop: what is missing is launched."""
        self._clients_first = began_in is not PMState.RUN and self._state.pm_state is PMState.RUN
        if self._clients_first:
            return  # Those who waited for the server to be ready come now; nobody waits for a WAL writer.
        generation = self._generation
        self._tell(ev.Advance())
        if self._generation != generation:
            # What starts beside the startup process is wanted at once, not when something happens next.
            self._tell(ev.Advance())
        if self._exit_code is None:
            self._workers.start_due(self._state, self._start_worker)

    def _sleep_ms(self) -> int:
        if self._stopwatch_ns is not None:
            left_ns = self._stopwatch_ns + SIGKILL_CHILDREN_AFTER_S * 1_000_000_000 - time.monotonic_ns()
            return max(0, left_ns // 1_000_000 + 1)
        if self._clients_first:
            return CLIENTS_FIRST_MS
        if self._fork_failed:
            return RETRY_FORK_S * 1000
        workers_ms = self._workers.sleep_ms(self._state)
        longest_ms = self._settings.lock_file_check_interval
        return longest_ms if workers_ms is None else min(workers_ms, longest_ms)

    def _install_handlers(self) -> None:
        """Every handler only sets a flag; the C-level one has already written to the wakeup descriptor."""
        for number in _SHUTDOWN_SIGNALS:
            signal.signal(number, self._note_shutdown)
        signal.signal(signal.SIGHUP, self._note_reload)
        for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, _only_wake)
        for number in (signal.SIGALRM, signal.SIGPIPE, signal.SIGTTIN, signal.SIGTTOU, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _note_shutdown(self, number: int, frame: FrameType | None) -> None:
        self._shutdowns.add(_SHUTDOWN_SIGNALS[signal.Signals(number)])

    def _note_reload(self, number: int, frame: FrameType | None) -> None:
        self._pending_reload = True

    def _reload_if_asked(self) -> None:
        """Read the settings anew and have the children do the same (`process_pm_reload_request`)."""
        if not self._pending_reload:
            return
        # Cleared before the file is read: a signal that comes from now on asks for another look at it.
        self._pending_reload = False
        if self._exit_code is not None or not reload_honoured(self._state):
            return
        self._log.log(Level.LOG, "received SIGHUP, reloading configuration files")
        restarted = self._settings.restart_after_crash
        self._settings = self._equipment.config_file.reload(self._settings, self._log, Level.LOG)
        if self._settings.restart_after_crash is not restarted:
            self._tell(ev.RestartAfterCrashChanged(self._settings.restart_after_crash))
        # Not to dead-end children: nothing that they do depends on a setting any more.
        self._signal(signal.SIGHUP, frozenset(CHILD_ROLES) - {Role.DEAD_END})

    def _tell_shutdown_request(self) -> None:
        if self._shutdowns:
            mode = max(self._shutdowns)
            # With it go the weaker ones; a stronger one that comes just now stays.
            self._shutdowns.difference_update([other for other in Shutdown if other <= mode])
            self._tell(ev.ShutdownRequested(mode))

    def _tell_messages(self) -> None:
        for message, kind in _MESSAGES.items():
            if self._pmsignal.take(message):
                self._tell(ev.PmSignal(kind))
        if self._exit_code is None and self._pmsignal.take(pmsignal.Message.BACKGROUND_WORKER_CHANGE):
            self._workers.slots_changed(self._state, self._children.pids())

    def _tell_stopwatch(self) -> None:
        armed = self._stopwatch_ns
        if armed is not None and time.monotonic_ns() - armed >= SIGKILL_CHILDREN_AFTER_S * 1_000_000_000:
            self._stopwatch_ns = None
            if self._state.stopwatch is Stopwatch.ARMED:
                self._tell(ev.StopwatchExpired())

    # -- children

    def _reap(self) -> None:
        """Everyone who has died since the last look; all are told before the machine is advanced."""
        while True:
            try:
                pid, status, _ = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.remove(pid)
            self._exiting = (pid, status, "")
            if child is None:
                self._journal.emit("reap", child=pid, role=None, slot=0, status=status, clean=True)
                self._tell(ev.UntrackedChildExited(ev.classify(status)))
                continue
            self._release(child, status)

    def _release(self, child: PostmasterChild, status: int) -> None:
        clean = True
        if child.slot:
            self._exiting = (child.pid, status, self._activity.read(child.slot))
            clean = self._pmsignal.release(child.slot)
            self._activity.clear(child.slot)
            self._pools.release(child.slot)
        role = child.role.short_name
        self._journal.emit("reap", child=child.pid, role=role, slot=child.slot, status=status, clean=clean)
        if child.slot:
            self._journal.emit("slot_released", slot=child.slot, child=child.pid)
        outcome = ev.classify(status)
        self._tell(ev.ChildExited(child.role, outcome, clean))
        if child.role is Role.BGWORKER:
            self._workers.exited(child.pid, outcome, slot_clean=clean, state=self._state)
        self._workers.client_gone(child.pid)

    def _accept(self) -> None:
        try:
            connection = self._equipment.listening.accept()
        except OSError as failure:
            # Out of descriptors or memory. It stays in the queue, so without a pause this would be a busy loop.
            self._log.log(Level.LOG, f"could not accept new connection: {failure.strerror}")
            self._host.wait(None, ACCEPT_RETRY_MS)
            return
        if connection is None:
            return
        answer = connection_answer(self._state)
        slot = self._pools.assign(Role.BACKEND) if answer is CanAccept.OK else None
        if slot is not None:
            self._fork(Role.BACKEND, slot, connection)
        else:
            reason = "TOOMANY" if answer is CanAccept.OK else answer.name
            error = refusal(reason, reached_consistency=self._state.reached_consistency)
            self._fork(Role.DEAD_END, 0, connection, error)
        connection.close()

    def _launch(self, role: Role) -> None:
        slot = self._pools.assign(role)
        if slot is None:
            # One child of a singleton role still holds its slot: the machine's count forbids it.
            raise RuntimeError(f"no slot for a {role.short_name} process: the state machine launched a second one")
        self._fork(role, slot)

    def _start_worker(self, worker: BackgroundWorker) -> int | None:
        slot = self._pools.assign(Role.BGWORKER)
        if slot is None:
            self._log.log(Level.LOG, "no slot available for new background worker process")
            return None
        return self._fork(Role.BGWORKER, slot, worker=worker)

    def _fork(
        self,
        role: Role,
        slot: int,
        connection: socket.socket | None = None,
        error: ServerError | None = None,
        worker: BackgroundWorker | None = None,
    ) -> int | None:
        """The new child's pid; None when there is none, which log and machine were told."""
        if slot and not self._pmsignal.assign(slot):
            # Somebody scribbled on the flags; the pools in private memory know better.
            self._log.log(Level.DEBUG1, f"child slot {slot} was marked in use though it is free")
        nth = self._forked.get(role, 0) + 1
        equipment = self._equipment
        birth = Birth(
            role=role,
            slot=slot,
            nth=nth,
            settings=self._settings,
            config_file=equipment.config_file,
            data_directory=str(equipment.data_directory),
            region=self._region,
            control=self._control,
            log=self._log,
            journal=self._journal,
            points=equipment.points,
            procedures=equipment.procedures,
            postmaster_host=self._host,
            death_pipe=self._death_pipe,
            close_first=(self._death_pipe_write, equipment.listening.socket.fileno()),
            socket=connection,
            refusal=error,
            worker=worker,
        )
        try:
            pid = fork_child(birth)
        except OSError as failure:
            self._fork_has_failed(role, slot, failure, connection)
            return None
        self._forked[role] = nth
        self._children.add(PostmasterChild(pid, role, slot, nth))
        self._journal.emit("fork", child=pid, role=role.short_name, slot=slot, nth=nth, gen=self._generation)
        self._tell(ev.ChildForked(role))
        return pid

    def _fork_has_failed(self, role: Role, slot: int, failure: OSError, connection: socket.socket | None) -> None:
        self._fork_failed = True
        if slot:
            self._pmsignal.release(slot)
            self._pools.release(slot)
        kind = CHILD_TYPES[role].description if role is Role.BGWORKER else role.short_name
        what = "new process for connection" if connection else f"{kind} process"
        message = f"could not fork {what}: {failure.strerror}"
        self._log.log(Level.LOG, message)
        if connection is not None:
            try:
                # Best effort in protocol 2's form, before anything was negotiated (specification 3.5).
                connection.send(b"E" + message.encode() + b"\n\0", socket.MSG_DONTWAIT)
            except OSError:
                pass
        self._tell(ev.ForkFailed(role))

    def _signal(self, number: signal.Signals, roles: frozenset[Role]) -> None:
        for child in self._children.newest_first():
            if child.role not in roles:
                continue
            for send in (os.kill, os.killpg) if number in _TO_GROUP_TOO else (os.kill,):
                try:
                    send(child.pid, number)
                except ProcessLookupError:
                    pass  # A zombie's group is gone, or the child has not called setsid yet.
            self._journal.emit("signal", child=child.pid, role=child.role.short_name, sig=int(number))

    # -- shared memory

    def _make_region(self) -> None:
        settings = self._settings
        self._generation += 1
        self._forked = {}
        self._control = self._equipment.read_control()
        self._region = make_region(settings, self._generation)
        self._pmsignal = pmsignal.PMSignal(self._region)
        self._activity = activity.Activity(self._region, settings)
        self._workers.publish(WorkerSlots(self._region, settings))
        lock_file = self._equipment.lock_file
        shared_memory = (self._region.inode, self._generation)
        lock_file.rewrite(replace(lock_file.contents, shared_memory=shared_memory), self._log)
        self._journal.emit("memory", gen=self._generation, ino=self._region.inode)

    def _reinitialize(self) -> None:
        """Throw the memory away and make a new one; nobody else maps it (specification 5.4).

        The control file is read again with it: the one of the last generation is as old as that.
        """
        if len(self._children):
            raise RuntimeError(f"{len(self._children)} children live at the reset: they would map the old memory")
        self._workers.after_crash()
        self._region.close()
        self._journal.emit("memory_closed", gen=self._generation)
        self._make_region()
        self._tell(ev.MemoryReset())

    # -- actions

    def _tell(self, event: ev.Event) -> None:
        """Take one step. After the machine's exit, what else this pass of the loop saw is nobody's business any more."""
        if self._exit_code is not None:
            return
        before = self._state
        after, actions = step(before, event)
        self._state = after
        if actions or after != before:
            self._journal.emit("step", event=event, before=before, after=after)
        for action in actions:
            self._do(action)
        if after.pm_state is PMState.RUN and before.pm_state is not PMState.RUN:
            self._journal.emit("ready", gen=self._generation)

    def _do(self, action: act.Action) -> None:
        match action:
            case act.Signal(name, roles):
                self._signal(_SIGNALS[name], frozenset(roles))
            case act.SetQuitReason(reason):
                self._pmsignal.set_quit_reason(_QUIT_REASONS[reason])
            case act.Launch(role):
                self._launch(role)
            case act.Log(level, message):
                self._log.log(Level[level], message)
            case act.LogChildExit(level, _, name):
                self._log_exit(Level[level], name)
            case act.PidFileStatus(status):
                lock_file = self._equipment.lock_file
                lock_file.rewrite(replace(lock_file.contents, status=Status(status.value)), self._log)
            case act.ArmStopwatch():
                self._stopwatch_ns = time.monotonic_ns()
            case act.DisarmStopwatch():
                self._stopwatch_ns = None
            case act.StopAccepting() | act.StartAccepting():
                pass  # `State.accepting` says it; the loop reads it before each wait.
            case act.Reinitialize():
                self._reinitialize()
            case act.ExitPostmaster(code):
                self._exit_code = code

    def _log_exit(self, level: Level, name: str) -> None:
        pid, status, running = self._exiting
        worker_type = self._workers.shown_type(pid)
        if worker_type is not None:
            name = f'{name} "{worker_type}"'
        detail = f"Failed process was running: {running}" if running and status else None
        self._log.log(level, exit_line(name, pid, status), detail=detail)


def exit_line(name: str, pid: int, status: int) -> str:
    """How the log tells a child's end (`LogChildExit`)."""
    if os.WIFEXITED(status):
        return f"{name} (PID {pid}) exited with exit code {os.WEXITSTATUS(status)}"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"{name} (PID {pid}) was terminated by signal {number}: {signal.strsignal(number)}"
    return f"{name} (PID {pid}) exited with unrecognized status {status}"


def _only_wake(number: int, frame: FrameType | None) -> None:
    return None
