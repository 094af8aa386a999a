"""The postmaster's list of background workers, and what it does about it (PostgreSQL's `bgworker.c`).

Owns the list, in the postmaster's own memory, and the carrying out of what `worker_rules` decides: pids written into
the shared slots, signals to those who wait, lines of log and journal. It decides nothing, and forks nobody itself:
the postmaster's loop does, because a fork is an event of the state machine.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from supervisor.background_worker import BackgroundWorker
from supervisor.config import Settings
from supervisor.log import Journal, Level, ServerLog
from supervisor.postmaster import worker_rules as rules
from supervisor.postmaster.events import ExitOutcome
from supervisor.postmaster.values import State
from supervisor.shmem.worker_slots import WorkerSlots


class RegisteredWorkers:
    """All registered workers of one postmaster's life."""

    def __init__(self, offered: Iterable[BackgroundWorker], settings: Settings, log: ServerLog, journal: Journal):
        self._log = log
        self._journal = journal
        self._workers: rules.Workers = ()
        self._registrations = 0
        self._slots: WorkerSlots | None = None
        for worker in offered:
            self._register_static(worker, settings.max_worker_processes)

    def shown_type(self, pid: int) -> str | None:
        """What the log calls the worker that runs as this process; None if none does."""
        return next((one.worker.shown_type for one in self._workers if one.pid == pid), None)

    def publish(self, slots: WorkerSlots) -> None:
        """Write the list into a new memory, which nobody else maps yet (`BackgroundWorkerShmemInit`)."""
        self._slots = slots
        for one in self._workers:
            handle = slots.fill(one.worker)
            if handle is None or handle.slot != one.slot:
                raise RuntimeError(f"background worker {one.number} got {handle} in a new memory, not slot {one.slot}")

    def after_crash(self) -> None:
        """The old memory is gone, with everybody in it."""
        self._slots = None
        self._workers, forgotten = rules.after_crash(self._workers)
        for one in forgotten:
            self._say_forgotten(one)

    def slots_changed(self, state: State, clients: frozenset[int]) -> None:
        """A child said that it had registered a worker, or asked for one's end."""
        self._workers, effects = rules.slots_changed(
            self._workers,
            self._shared().claims(),
            state=state,
            clients=clients,
            next_number=self._registrations + 1,
        )
        self._carry_out(effects)

    def start_due(self, state: State, fork: Callable[[BackgroundWorker], int | None]) -> None:
        """Start whoever is due; `fork` gives the new process's pid, or None when there is none, which ends the pass."""
        self._workers, effects, due = rules.launch_pass(self._workers, state, time.monotonic_ns())
        self._carry_out(effects)
        for number in due:
            worker = next(one.worker for one in self._workers if one.number == number)
            self._log.log(Level.DEBUG1, f'starting background worker process "{worker.name}"')
            pid = fork(worker)
            if pid is None:
                self._workers = rules.start_failed(self._workers, number, time.monotonic_ns())
                return
            self._workers, effects = rules.started(self._workers, number, pid)
            self._journal.emit("worker_started", worker=number, child=pid)
            self._carry_out(effects)

    def exited(self, pid: int, outcome: ExitOutcome, *, slot_clean: bool, state: State) -> None:
        """A worker was reaped, and the state machine was told."""
        self._workers, effects = rules.exited(
            self._workers, pid, outcome, slot_clean=slot_clean, state=state, now_ns=time.monotonic_ns()
        )
        self._carry_out(effects)

    def client_gone(self, pid: int) -> None:
        """A child was reaped: it is not to be notified any more."""
        self._workers = rules.client_gone(self._workers, pid)

    def sleep_ms(self, state: State) -> int | None:
        """How long the loop may sleep for the workers' sake; None is for ever."""
        at_ns = rules.wakes_at_ns(self._workers, state)
        return None if at_ns is None else max(0, -((time.monotonic_ns() - at_ns) // 1_000_000))

    def _register_static(self, worker: BackgroundWorker, limit: int) -> None:
        """What cannot be registered is told and left out, as PostgreSQL does (`RegisterBackgroundWorker`)."""
        problem = worker.problem()
        if problem is None and worker.notify_pid:
            problem = "only dynamic background workers can request notification"
        if problem is not None:
            self._log.log(Level.LOG, f'background worker "{worker.name}": {problem}')
        elif len(self._workers) >= limit:
            self._log.log(
                Level.LOG,
                "too many background workers",
                detail=f"Up to {limit} background workers can be registered with the current settings.",
                hint='Consider increasing the configuration parameter "max_worker_processes".',
            )
        else:
            one = rules.Registered(self._registrations + 1, len(self._workers), worker)
            self._workers = (*self._workers, one)
            self._say_added(one)

    def _carry_out(self, effects: Iterable[rules.Effect]) -> None:
        for effect in effects:
            match effect:
                case rules.Report(slot, pid, waiter):
                    self._shared().set_pid(slot, pid)
                    _notify(waiter)
                case rules.Added(one):
                    self._say_added(one)
                case rules.Forgotten(one):
                    self._shared().free(one.slot)
                    self._say_forgotten(one)
                    _notify(one.worker.notify_pid)
                case rules.Discard(slot, waiter, reason):
                    self._shared().free(slot)
                    self._log.log(Level.DEBUG1, f"no background worker is made of slot {slot}: {reason}")
                    _notify(waiter)
                case rules.Terminate(pid):
                    os.kill(pid, signal.SIGTERM)
                    self._journal.emit("signal", child=pid, role="bgworker", sig=int(signal.SIGTERM))

    def _say_added(self, one: rules.Registered) -> None:
        self._registrations = one.number
        worker = one.worker
        self._log.log(Level.DEBUG1, f'registering background worker "{worker.name}"')
        self._journal.emit(
            "worker_registered",
            worker=one.number,
            name=worker.name,
            start_time=worker.start_time,
            restart_s=worker.restart_time_s,
        )

    def _say_forgotten(self, one: rules.Registered) -> None:
        self._log.log(Level.DEBUG1, f'unregistering background worker "{one.worker.name}"')
        self._journal.emit("worker_unregistered", worker=one.number)

    def _shared(self) -> WorkerSlots:
        if self._slots is None:
            raise RuntimeError("background workers are looked after while there is no shared memory")
        return self._slots


def _notify(pid: int) -> None:
    if pid:
        with suppress(ProcessLookupError):  # it has ended since, and will be reaped
            os.kill(pid, signal.SIGUSR1)
