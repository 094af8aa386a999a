"""Which background workers are to be started, when, and what becomes of them (PostgreSQL's `bgworker.c`), pure.

Owns every decision about registered workers, as functions of the postmaster's own list of them; no effect and no
clock. The shell (`workers`) carries out the effects, forks whom `launch_pass` calls due, one by one, and tells the
outcome. The state machine counts the processes and decides what an exit means for the server; what it means for
the worker's registration is decided here, by the same row of the policy table. Source: specification 9.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from msgspec import Struct, structs

from supervisor.background_worker import BackgroundWorker, StartTime
from supervisor.postmaster.answers import background_workers_start
from supervisor.postmaster.child_types import CHILD_TYPES, ExitMeaning
from supervisor.postmaster.events import ExitOutcome
from supervisor.postmaster.values import PMState, Shutdown, State
from supervisor.roles import Role
from supervisor.shmem.worker_slots import Claim

MAX_STARTS: Final = 100
"""How many one pass of the loop may start (MAX_BGWORKERS_TO_LAUNCH)."""

_UP: Final = frozenset({PMState.STARTUP, PMState.RECOVERY, PMState.HOT_STANDBY, PMState.RUN})
STARTS_IN: Final[dict[StartTime, frozenset[PMState]]] = {
    StartTime.POSTMASTER_START: _UP,
    StartTime.CONSISTENT_STATE: frozenset({PMState.HOT_STANDBY, PMState.RUN}),
    StartTime.RECOVERY_FINISHED: frozenset({PMState.RUN}),
}
"""The start conditions (`bgworker_should_start_now`)."""


class Registered(Struct, frozen=True):
    """One worker on the postmaster's list."""

    number: int
    """Of its registration in this postmaster's life, from 1."""
    slot: int
    """In shared memory, from 0."""
    worker: BackgroundWorker
    pid: int = 0
    """0 while it does not run."""
    failed_ns: int | None = None
    """When it last exited with 1, or could not be forked; None: nothing is waited for (rw_crashed_at)."""
    terminate: bool = False
    """Somebody asked for its end, or it has reached it."""


Workers = tuple[Registered, ...]
"""In the order of their registration."""


# --- what the shell is to do


class Report(NamedTuple):
    """Write the worker's pid into its slot (0: it does not run), and signal whoever waits for it."""

    slot: int
    pid: int
    notify_pid: int


class Added(NamedTuple):
    """A worker is on the list: log and journal say so."""

    registered: Registered


class Forgotten(NamedTuple):
    """A worker is off the list: free its slot, log and journal it, signal whoever waits for it."""

    registered: Registered


class Discard(NamedTuple):
    """Free a slot that makes no worker, and signal whoever waits for it."""

    slot: int
    notify_pid: int
    reason: str


class Terminate(NamedTuple):
    """Send this process SIGTERM."""

    pid: int


Effect = Report | Added | Forgotten | Discard | Terminate


# --- the decisions


def launch_pass(workers: Workers, state: State, now_ns: int) -> tuple[Workers, tuple[Effect, ...], tuple[int, ...]]:
    """End a pass of the loop: who is forgotten, and the numbers of those to be started, in order
    (`maybe_start_bgworkers`, `ForgetUnstartedBackgroundWorkers`)."""
    kept: list[Registered] = []
    effects: list[Effect] = []
    due: list[int] = []
    draining = state.pm_state >= PMState.STOP_BACKENDS
    starting = background_workers_start(state)
    for one in workers:
        if (draining and _has_waiter_in_vain(one)) or (starting and _is_over(one)):
            effects.append(Forgotten(one))
            continue
        kept.append(one)
        if starting and len(due) < MAX_STARTS and _is_due(one, state.pm_state, now_ns):
            due.append(one.number)
    return tuple(kept), tuple(effects), tuple(due)


def started(workers: Workers, number: int, pid: int) -> tuple[Workers, tuple[Effect, ...]]:
    """The worker was forked."""
    one = _numbered(workers, number)
    after = _replaced(workers, structs.replace(one, pid=pid, failed_ns=None))
    return after, (Report(one.slot, pid, one.worker.notify_pid),)


def start_failed(workers: Workers, number: int, now_ns: int) -> Workers:
    """It could not be forked, or found no child slot: as if it had failed now (`StartBackgroundWorker`)."""
    return _replaced(workers, structs.replace(_numbered(workers, number), failed_ns=now_ns))


def exited(
    workers: Workers, pid: int, outcome: ExitOutcome, *, slot_clean: bool, state: State, now_ns: int
) -> tuple[Workers, tuple[Effect, ...]]:
    """A worker was reaped (specification 9.4). A crash leaves its registration as it is: the reset sees to it."""
    one = next(one for one in workers if one.pid == pid)
    meaning = CHILD_TYPES[Role.BGWORKER].exit_meaning(outcome, slot_clean=slot_clean, pm_state=state.pm_state)
    if meaning is ExitMeaning.CRASH:
        return workers, ()
    done = outcome is ExitOutcome.ORDERLY_0
    one = structs.replace(one, pid=0, failed_ns=None if done else now_ns, terminate=one.terminate or done)
    if one.terminate or not one.worker.restarts:
        return tuple(other for other in workers if other.number != one.number), (Forgotten(one),)
    return _replaced(workers, one), (Report(one.slot, 0, one.worker.notify_pid),)


def slots_changed(
    workers: Workers, claims: Sequence[Claim], *, state: State, clients: frozenset[int], next_number: int
) -> tuple[Workers, tuple[Effect, ...]]:
    """A backend has registered a worker or asked for one's end (`BackgroundWorkerStateChange`).

    `clients` are the living children that may be notified: no other process is ever signalled.
    """
    effects: list[Effect] = []
    by_slot = {one.slot: one for one in workers}
    for claim in claims:
        known = by_slot.get(claim.slot)
        if known is None:
            new = _admitted(claim, state, clients, next_number)
            effects.append(new)
            if isinstance(new, Added):
                next_number += 1
                workers = (*workers, new.registered)
        elif claim.terminate and not known.terminate:
            workers = _replaced(workers, structs.replace(known, terminate=True))
            if not known.pid:
                effects.append(Report(known.slot, 0, known.worker.notify_pid))
            elif state.pm_state < PMState.STOP_BACKENDS:
                effects.append(Terminate(known.pid))
            # In a drain everybody is told to go as it is; and after a crash the pid may be a dead one's.
    return workers, tuple(effects)


def _admitted(claim: Claim, state: State, clients: frozenset[int], number: int) -> Added | Discard:
    worker = claim.worker
    if worker is None:
        return Discard(claim.slot, 0, "its registration cannot be read")
    waiter = worker.notify_pid if worker.notify_pid in clients else 0
    if state.pm_state >= PMState.STOP_BACKENDS:
        return Discard(claim.slot, waiter, "the server is stopping")
    if claim.terminate:
        return Discard(claim.slot, waiter, "its end was asked for")
    return Added(Registered(number, claim.slot, structs.replace(worker, notify_pid=waiter)))


def client_gone(workers: Workers, pid: int) -> Workers:
    """A process that may have waited was reaped: its pid may soon be somebody else's
    (`BackgroundWorkerStopNotifications`)."""
    return tuple(
        structs.replace(one, worker=structs.replace(one.worker, notify_pid=0)) if one.worker.notify_pid == pid else one
        for one in workers
    )


def after_crash(workers: Workers) -> tuple[Workers, tuple[Registered, ...]]:
    """The memory is made anew: who stays, to be started without waiting and in the first slots, and who is forgotten
    (`ResetBackgroundWorkerCrashTimes`, `BackgroundWorkerShmemInit`)."""
    stay = (one for one in workers if one.worker.restarts)
    kept = tuple(
        structs.replace(one, slot=slot, pid=0, failed_ns=None, worker=structs.replace(one.worker, notify_pid=0))
        for slot, one in enumerate(stay)
    )
    return kept, tuple(one for one in workers if not one.worker.restarts)


def wakes_at_ns(workers: Workers, state: State) -> int | None:
    """When the loop must have its next pass for a worker's sake; 0 is at once, None never
    (`DetermineSleepTime`, specification 1.4)."""
    if state.shutdown is not Shutdown.NONE or not background_workers_start(state):
        return None
    return min(
        (
            _restarts_at_ns(one)
            for one in workers
            if not one.pid and (_is_over(one) or state.pm_state in STARTS_IN[one.worker.start_time])
        ),
        default=None,
    )


def _is_over(one: Registered) -> bool:
    return not one.pid and (one.terminate or (one.failed_ns is not None and not one.worker.restarts))


def _has_waiter_in_vain(one: Registered) -> bool:
    return not one.pid and one.failed_ns is None and one.worker.notify_pid != 0


def _restarts_at_ns(one: Registered) -> int:
    if one.failed_ns is None or _is_over(one):
        return 0
    return one.failed_ns + one.worker.restart_time_s * 1_000_000_000


def _is_due(one: Registered, pm_state: PMState, now_ns: int) -> bool:
    return not one.pid and pm_state in STARTS_IN[one.worker.start_time] and _restarts_at_ns(one) <= now_ns


def _numbered(workers: Iterable[Registered], number: int) -> Registered:
    return next(one for one in workers if one.number == number)


def _replaced(workers: Workers, changed: Registered) -> Workers:
    return tuple(changed if one.number == changed.number else one for one in workers)
