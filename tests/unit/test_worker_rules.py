"""Which background worker is started when, and what its end means: specification 9, row by row.

What could go wrong: a worker that was done comes back and does its work twice; one that failed comes back at once, and
again, and eats the machine; after a crash the server waits a minute for a worker that everybody needs; a backend waits
for ever for one that will never start; the postmaster signals a process that was somebody else's.
"""

from __future__ import annotations

import pytest
from msgspec import structs

from supervisor.background_worker import (
    DATABASE_CONNECTION,
    NEVER_RESTART,
    RECORD_BYTES,
    SHMEM_ACCESS,
    BackgroundWorker,
    StartTime,
    offered_by,
)
from supervisor.errors import ServerError, StartupError
from supervisor.postmaster import worker_rules as rules
from supervisor.postmaster.events import ExitOutcome
from supervisor.postmaster.values import PMState, Shutdown, State
from supervisor.postmaster.worker_rules import Added, Discard, Forgotten, Registered, Report, Terminate
from supervisor.shmem.worker_slots import Claim

ZERO, ONE, CRASH = ExitOutcome.ORDERLY_0, ExitOutcome.ORDERLY_1, ExitOutcome.CRASH
S = 1_000_000_000
NOW = 100 * S
PID, WAITER = 4711, 4242
RUN = State(pm_state=PMState.RUN)
DRAIN = State(pm_state=PMState.WAIT_BACKENDS, shutdown=Shutdown.FAST)


def record(restart_s: int = 10, *, start: StartTime = StartTime.RECOVERY_FINISHED, waiter: int = 0) -> BackgroundWorker:
    flags = SHMEM_ACCESS if start is StartTime.POSTMASTER_START else SHMEM_ACCESS | DATABASE_CONNECTION
    return BackgroundWorker(
        name="w",
        library="x",
        function="main",
        start_time=start,
        restart_time_s=restart_s,
        flags=flags,
        notify_pid=waiter,
    )


def listed(worker: BackgroundWorker | None = None, **changes: object) -> Registered:
    return structs.replace(Registered(1, 0, worker or record()), **changes)


def due(one: Registered, state: State = RUN, now_ns: int = NOW) -> bool:
    return rules.launch_pass((one,), state, now_ns)[2] == (1,)


# --- the record


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"flags": DATABASE_CONNECTION}, "background workers without shared memory access are not supported"),
        ({"start_time": StartTime.POSTMASTER_START}, "cannot request database access if starting at postmaster start"),
        ({"restart_time_s": -2}, "invalid restart interval"),
        ({"restart_time_s": 86_401}, "invalid restart interval"),
        ({"argument": "a" * RECORD_BYTES}, "its registration takes more than 1024 bytes"),
        ({"restart_time_s": NEVER_RESTART}, None),
        ({"start_time": StartTime.POSTMASTER_START, "flags": SHMEM_ACCESS}, None),
    ],
)
def test_what_can_be_registered(changes: dict[str, object], problem: str | None) -> None:
    worker = structs.replace(record(), **changes)
    assert worker.problem() == problem
    if problem is not None:
        with pytest.raises(ServerError, match=f'background worker "w": {problem}'):
            worker.check()


def test_a_module_offers_workers_by_shape_alone(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "by_shape.py").write_text(  # type: ignore[operator]
        "from types import SimpleNamespace\n"
        "def go(context): ...\n"
        "BACKGROUND_WORKERS = (SimpleNamespace(name='w', library=__name__, function='go', restart_time_s=5),)\n"
    )
    (worker,) = offered_by(["by_shape", "workloads.bank"])
    assert worker == BackgroundWorker(name="w", library="by_shape", function="go", restart_time_s=5)


@pytest.mark.parametrize("wrong", ["function='gone'", "function='go', restart_time_s='soon'"])
def test_a_library_with_a_wrong_worker_is_refused(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"wrong_{len(wrong)}"
    (tmp_path / f"{name}.py").write_text(  # type: ignore[operator]
        "from types import SimpleNamespace\n"
        "def go(context): ...\n"
        f"BACKGROUND_WORKERS = (SimpleNamespace(name='w', library=__name__, {wrong}),)\n"
    )
    with pytest.raises(StartupError, match=f'library "{name}" offers a background worker that cannot be registered'):
        offered_by([name])


# --- when it is started


@pytest.mark.parametrize(
    ("start", "states"),
    [
        (StartTime.POSTMASTER_START, {PMState.STARTUP, PMState.RECOVERY, PMState.HOT_STANDBY, PMState.RUN}),
        (StartTime.CONSISTENT_STATE, {PMState.HOT_STANDBY, PMState.RUN}),
        (StartTime.RECOVERY_FINISHED, {PMState.RUN}),
    ],
)
def test_start_conditions(start: StartTime, states: set[PMState]) -> None:
    one = listed(record(start=start))
    assert {state for state in PMState if due(one, State(pm_state=state))} == states
    restarting = State(pm_state=PMState.STARTUP, fatal_error=True)
    assert not due(one, restarting), "nobody starts in a crash cycle until redo has begun"


@pytest.mark.parametrize(
    ("one", "now_ns", "is_due"),
    [
        (listed(), NOW, True),
        (listed(pid=PID), NOW, False),
        (listed(failed_ns=NOW), NOW + 10 * S - 1, False),
        (listed(failed_ns=NOW), NOW + 10 * S, True),
        (listed(record(0), failed_ns=NOW), NOW, True),
    ],
)
def test_the_interval_is_waited_for(one: Registered, now_ns: int, is_due: bool) -> None:
    assert due(one, now_ns=now_ns) is is_due


@pytest.mark.parametrize(
    ("one", "state", "wakes_s"),
    [
        (listed(), RUN, 0),
        (listed(pid=PID), RUN, None),
        (listed(failed_ns=NOW), RUN, 110),
        (listed(failed_ns=NOW), State(pm_state=PMState.STARTUP), None),
        (listed(failed_ns=NOW), State(pm_state=PMState.RUN, shutdown=Shutdown.SMART), None),
        (listed(failed_ns=NOW, terminate=True), RUN, 0),
        (listed(failed_ns=NOW), DRAIN, None),
    ],
)
def test_the_loop_wakes_up_for_the_next_start(one: Registered, state: State, wakes_s: int | None) -> None:
    assert rules.wakes_at_ns((one,), state) == (None if wakes_s is None else wakes_s * S)


def test_one_pass_starts_a_hundred_and_the_next_begins_at_once() -> None:
    many = tuple(Registered(number, number - 1, record()) for number in range(1, 151))
    _, _, first = rules.launch_pass(many, RUN, NOW)
    assert first == tuple(range(1, 101))
    for number in first:
        many, effects = rules.started(many, number, PID + number)
        assert effects == (Report(number - 1, PID + number, 0),)
    assert rules.wakes_at_ns(many, RUN) == 0
    assert rules.launch_pass(many, RUN, NOW)[2] == tuple(range(101, 151))


def test_a_start_that_failed_counts_as_a_failure() -> None:
    workers = rules.start_failed((listed(),), 1, NOW)
    assert rules.launch_pass(workers, RUN, NOW)[2] == ()
    assert rules.launch_pass(workers, RUN, NOW + 10 * S)[2] == (1,)
    never = rules.start_failed((listed(record(NEVER_RESTART)),), 1, NOW)
    assert rules.launch_pass(never, RUN, NOW) == ((), (Forgotten(never[0]),), ())


# --- what its end means


@pytest.mark.parametrize(
    ("worker", "terminate", "outcome", "clean", "left"),
    [
        (record(), False, ZERO, True, "gone"),
        (record(NEVER_RESTART), False, ZERO, True, "gone"),
        (record(), False, ONE, True, "waits"),
        (record(NEVER_RESTART), False, ONE, True, "gone"),
        (record(), True, ONE, True, "gone"),
        (record(), True, ZERO, True, "gone"),
        (record(), False, CRASH, True, "untouched"),
        (record(), False, ExitOutcome.RECOVERY_TARGET_3, True, "untouched"),
        (record(), False, ZERO, False, "untouched"),
        (record(), False, ONE, False, "untouched"),
    ],
)
def test_every_exit(worker: BackgroundWorker, terminate: bool, outcome: ExitOutcome, clean: bool, left: str) -> None:
    """Specification 9.4."""
    before = (listed(worker, pid=PID, terminate=terminate),)
    after, effects = rules.exited(before, PID, outcome, slot_clean=clean, state=RUN, now_ns=NOW)
    match left:
        case "gone":
            assert after == ()
            assert [type(effect) for effect in effects] == [Forgotten]
        case "waits":
            assert after == (listed(worker, failed_ns=NOW),)
            assert effects == (Report(0, 0, 0),)
        case "untouched":
            assert after == before
            assert effects == ()


def test_after_a_crash_nobody_waits_and_who_never_restarts_is_forgotten() -> None:
    stays = Registered(2, 1, record(3600, waiter=WAITER), failed_ns=NOW)
    runs = Registered(3, 2, record(), pid=PID)
    never = Registered(1, 0, record(NEVER_RESTART), pid=PID + 1)
    after, forgotten = rules.after_crash((never, stays, runs))
    assert forgotten == (never,)
    assert after == (Registered(2, 0, record(3600)), Registered(3, 1, record())), "in the first slots of the new memory"
    assert rules.launch_pass(after, RUN, NOW)[2] == (2, 3)


# --- dynamic registration


def changed(
    workers: rules.Workers, *claims: Claim, state: State = RUN, clients: frozenset[int] = frozenset({WAITER})
) -> tuple[rules.Workers, tuple[rules.Effect, ...]]:
    return rules.slots_changed(workers, claims, state=state, clients=clients, next_number=7)


def test_a_registration_is_copied_once() -> None:
    claim = Claim(3, False, record(waiter=WAITER))
    workers, effects = changed((), claim)
    assert workers == (Registered(7, 3, record(waiter=WAITER)),)
    assert effects == (Added(workers[0]),)
    assert changed(workers, claim) == (workers, ())


def test_nobody_but_a_living_client_is_ever_signalled() -> None:
    workers, _ = changed((), Claim(3, False, record(waiter=1)))
    assert workers[0].worker.notify_pid == 0
    workers, _ = changed((), Claim(3, False, record(waiter=WAITER)))
    assert rules.client_gone(workers, WAITER)[0].worker.notify_pid == 0
    assert rules.client_gone(workers, 1) == workers


@pytest.mark.parametrize(
    ("claim", "state", "reason"),
    [
        (Claim(3, False, None), RUN, "its registration cannot be read"),
        (Claim(3, True, record(waiter=WAITER)), RUN, "its end was asked for"),
        (Claim(3, False, record(waiter=WAITER)), DRAIN, "the server is stopping"),
    ],
)
def test_a_slot_that_makes_no_worker_is_freed_and_its_owner_told(claim: Claim, state: State, reason: str) -> None:
    assert changed((), claim, state=state) == ((), (Discard(3, WAITER if claim.worker else 0, reason),))


@pytest.mark.parametrize(
    ("pid", "state", "effects"),
    [
        (PID, RUN, (Terminate(PID),)),
        (0, RUN, (Report(0, 0, 0),)),
        (PID, State(pm_state=PMState.WAIT_BACKENDS, fatal_error=True), ()),
    ],
)
def test_termination(pid: int, state: State, effects: tuple[rules.Effect, ...]) -> None:
    """In a crash cycle nobody is signalled: the pid on the list may be a dead one's."""
    claim = Claim(0, True, record())
    workers, told = changed((listed(pid=pid),), claim, state=state)
    assert told == effects
    assert workers == (listed(pid=pid, terminate=True),)
    assert changed(workers, claim, state=state) == (workers, ()), "it is asked once"
    if not pid:
        assert rules.launch_pass(workers, state, NOW) == ((), (Forgotten(workers[0]),), ())


def test_nobody_waits_for_ever_for_a_worker_that_a_stopping_server_does_not_start() -> None:
    waited_for, alone = listed(record(waiter=WAITER)), Registered(2, 1, record())
    failed = Registered(3, 2, record(waiter=WAITER), failed_ns=NOW)
    after, effects, started = rules.launch_pass((waited_for, alone, failed), DRAIN, NOW)
    assert (after, effects, started) == ((alone, failed), (Forgotten(waited_for),), ())
