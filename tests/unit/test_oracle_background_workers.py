"""The oracle of background workers holds on a life as it should be, and fails on each rule broken.

The story: a server with a worker that fails after half a second and waits 10 s, and is back; then a crash, after which
it is back at once, without waiting; beside it a worker that succeeds, one that never restarts, and one that needs no
database. What could go wrong is each of these lives in another order, and an oracle that does not see it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from signal import SIGCONT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM, SIGUSR1
from typing import Any

import pytest

from chaos.oracles.background_workers import BACK_NS, BackgroundWorkers
from chaos.oracles.evidence import Evidence, ServerRecord
from chaos.oracles.oracle import OracleResult, merge
from chaos.witness.account import Account
from chaos.witness.records import (
    Closed,
    Drained,
    Exit,
    Exiting,
    Followed,
    Fork,
    KernelRecord,
    Loss,
    Name,
    Opened,
    Signal,
    Wait,
)
from reports.verdict import OracleStatus

MS = 1_000_000
HARNESS, POSTMASTER, BACKEND, STARTUP, NEW_STARTUP = 50, 100, 101, 102, 103
FAILS, SUCCEEDS, NEVER, EARLY = 1, 2, 3, 4  # registrations
CRASH_MS, READY_MS, END_MS = 20_000, 20_100, 60_000


@dataclass
class Story:
    """What kernel and journal tell; times are milliseconds."""

    kernel: list[KernelRecord] = field(default_factory=list)
    server: list[ServerRecord] = field(default_factory=list)

    def claim(self, ms: float, ev: str, **fields: Any) -> None:
        self.server.append(ServerRecord(t=int(ms * MS), ev=ev, pid=POSTMASTER, **fields))

    def fork(self, ms: float, pid: int, role: str) -> None:
        t = int(ms * MS)
        self.kernel += [Fork(t, 0, POSTMASTER, pid, "cb:postmaster"), Name(t + 20_000, 1, pid, f"cb:{role}")]
        self.claim(ms + 0.1, "fork", child=pid, role=role)

    def start(self, ms: float, pid: int, worker: int) -> None:
        self.fork(ms, pid, "bgworker")
        self.claim(ms + 0.2, "worker_started", child=pid, worker=worker)

    def send(self, ms: float, sig: int, pid: int, by: int = POSTMASTER) -> None:
        self.kernel.append(Signal(int(ms * MS), 0, sig, pid, by, 0, 0))

    def end(
        self, ms: float, pid: int, *, code: int | None = None, signal: int | None = None, clean: bool = True
    ) -> None:
        t = int(ms * MS)
        if code is not None:
            self.kernel.append(Exiting(t - 5_000, 1, pid, code))
        self.kernel += [Exit(t, 1, pid, code, signal, True), Wait(t + MS, 0, POSTMASTER, pid)]
        status = signal if code is None else code << 8
        self.claim(ms + 1.1, "reap", child=pid, status=status, clean=clean and code in (0, 1))

    def without(self, *pids: int) -> Story:
        """The story without these processes."""
        self.kernel = [r for r in self.kernel if getattr(r, "child", None) not in pids and r_pid(r) not in pids]
        self.server = [r for r in self.server if r.child not in pids]
        return self

    def judge(self) -> OracleResult:
        return BackgroundWorkers().judge(Evidence(Account(self.kernel), self.server))


def r_pid(record: KernelRecord) -> int | None:
    pid: int | None = getattr(record, "pid", None)
    return pid


def register(story: Story, ms: float, number: int, name: str, start: str, restart_s: int) -> None:
    story.claim(ms, "worker_registered", worker=number, name=name, start_time=start, restart_s=restart_s)


def as_it_should_be() -> Story:
    """Pids of workers are 100 times their registration and the number of their life."""
    story = Story()
    story.kernel += [
        Opened(0, "tracefs", "passed", HARNESS),
        Fork(MS // 2, 0, HARNESS, POSTMASTER, "python"),
        Followed(MS // 2 + 1000, POSTMASTER, "postmaster"),
        Drained(END_MS * MS),
        Closed(END_MS * MS),
    ]
    story.claim(0.8, "postmaster_start")
    register(story, 1, FAILS, "fails", "recovery_finished", 10)
    register(story, 1, SUCCEEDS, "succeeds", "recovery_finished", 1)
    register(story, 1, NEVER, "never", "consistent_state", -1)
    register(story, 1, EARLY, "early", "postmaster_start", 3600)
    story.fork(2, STARTUP, "startup")
    story.start(3, 1401, EARLY)
    story.send(5, SIGUSR1, POSTMASTER, by=STARTUP)
    story.end(10, STARTUP, code=0)
    story.start(20, 1101, FAILS)
    story.start(21, 1201, SUCCEEDS)
    story.start(22, 1301, NEVER)
    story.end(500, 1101, code=1)
    story.end(501, 1201, code=0)
    story.start(10_502, 1102, FAILS)
    story.fork(11_000, BACKEND, "backend")
    story.send(CRASH_MS, SIGKILL, BACKEND, by=HARNESS)
    story.end(CRASH_MS + 1, BACKEND, signal=SIGKILL, clean=False)
    for number, pid in enumerate((1401, 1301, 1102)):
        story.send(CRASH_MS + 3 + number, SIGQUIT, pid)
        story.end(CRASH_MS + 10 + number, pid, code=2, clean=False)
    story.claim(CRASH_MS + 20, "worker_unregistered", worker=NEVER)
    story.fork(CRASH_MS + 30, NEW_STARTUP, "startup")
    story.send(CRASH_MS + 40, SIGUSR1, POSTMASTER, by=NEW_STARTUP)
    story.start(CRASH_MS + 50, 1402, EARLY)
    story.end(READY_MS, NEW_STARTUP, code=0)
    story.start(READY_MS + 15, 1103, FAILS)
    return story


def assert_failed(result: OracleResult, words: str) -> None:
    assert result.status is OracleStatus.FAILED, result
    assert words in " | ".join(failure.message for failure in result.failures)


def test_it_holds_on_a_life_as_it_should_be() -> None:
    result = as_it_should_be().judge()
    assert result.status is OracleStatus.HELD, result
    # Seven lives; a wait, the end of one that succeeded and of one that never restarts; two returns.
    assert result.trials == 7 + 1 + 1 + 1 + 2
    assert result.worst_slack_ms == pytest.approx(1)
    assert result.longest_ms == pytest.approx(14, abs=1)


def test_a_run_without_background_workers_is_asked_nothing() -> None:
    story = as_it_should_be().without(1101, 1102, 1103, 1201, 1301, 1401, 1402)
    story.server = [r for r in story.server if not r.ev.startswith("worker_")]
    result = story.judge()
    assert result.status is OracleStatus.NOT_JUDGED
    assert not result.row().required
    assert merge([result, as_it_should_be().judge()]).row().required


@pytest.mark.parametrize(
    ("start_ms", "failed"), [(10_501.5, False), (10_500.5, True), (2_000, True)], ids=["just over", "just not", "early"]
)
def test_the_interval_after_a_failure_is_waited_for(start_ms: float, failed: bool) -> None:
    story = as_it_should_be().without(1102)
    story.start(start_ms, 1104, FAILS)
    story.send(CRASH_MS + 5, SIGQUIT, 1104)
    story.end(CRASH_MS + 12, 1104, code=2, clean=False)
    result = story.judge()
    assert (result.status is OracleStatus.FAILED) is failed, result
    if failed:
        assert_failed(result, "before its interval was over")


def test_a_failure_is_followed_by_another_life() -> None:
    story = as_it_should_be()
    story.end(21_000, 1103, code=1)
    assert_failed(story.judge(), '"fails" was not started again after its interval')


@pytest.mark.parametrize(
    ("number", "pid", "words"),
    [
        (SUCCEEDS, 1202, '"succeeds" was started again as bgworker (PID 1202), though it had exited with 0'),
        (NEVER, 1302, '"never" was started again as bgworker (PID 1302), though it never restarts'),
    ],
)
@pytest.mark.parametrize("ms", [12_000, READY_MS + 20], ids=["in the same memory", "after a crash"])
def test_who_is_done_never_comes_back(number: int, pid: int, words: str, ms: float) -> None:
    story = as_it_should_be()
    if number == NEVER:
        story.without(1301)
        story.start(22, 1303, NEVER)
        story.end(600, 1303, code=1)
    story.start(ms, pid, number)
    assert_failed(story.judge(), words)


def test_whom_the_postmaster_told_to_go_never_comes_back() -> None:
    story = as_it_should_be()
    story.send(21_000, SIGTERM, 1103)
    story.end(21_005, 1103, code=1)
    assert story.judge().status is OracleStatus.HELD
    story.start(32_000, 1104, FAILS)
    assert_failed(story.judge(), "though the postmaster had asked for its end")


def test_sigterm_by_somebody_else_is_a_failure_like_any_other() -> None:
    story = as_it_should_be()
    story.send(21_000, SIGTERM, 1103, by=HARNESS)
    story.end(21_005, 1103, code=1)
    story.start(31_100, 1104, FAILS)
    assert story.judge().status is OracleStatus.HELD


@pytest.mark.parametrize(
    ("ms", "pid", "number", "words"),
    [
        (READY_MS - 5, 1105, FAILS, '"fails" was started as bgworker (PID 1105) before recovery had ended'),
        (CRASH_MS + 35, 1405, EARLY, '"early" was started as bgworker (PID 1405) before redo had begun after a crash'),
        (CRASH_MS + 20, 1405, EARLY, '"early" was started as bgworker (PID 1405) in a crash cycle'),
        (1.5, 1405, EARLY, '"early" was started as bgworker (PID 1405) before any startup process'),
    ],
)
def test_nobody_starts_before_the_start_condition_holds(ms: float, pid: int, number: int, words: str) -> None:
    story = as_it_should_be().without({FAILS: 1103, EARLY: 1402}[number])
    story.start(ms, pid, number)
    story.end(ms + 0.5, pid, code=1)
    assert_failed(story.judge(), words)


@pytest.mark.parametrize("ends_ms", [None, 15_000], ids=["for ever", "for a while"])
def test_no_worker_runs_twice(ends_ms: float | None) -> None:
    story = as_it_should_be().without(1102)
    story.start(10_502, 1104, FAILS)
    story.start(12_000, 1105, FAILS)
    if ends_ms is not None:
        story.end(ends_ms, 1104, code=1)
    assert_failed(story.judge(), '"fails" runs twice')


@pytest.mark.parametrize("late_ms", [None, BACK_NS / MS + 100], ids=["never", "too late"])
def test_after_a_crash_a_worker_is_back_without_waiting(late_ms: float | None) -> None:
    story = as_it_should_be().without(1103)
    if late_ms is not None:
        story.start(READY_MS + late_ms, 1104, FAILS)
    assert_failed(story.judge(), '"fails" was not back 5 s after the recovery from a crash')


def test_a_server_that_was_stopped_by_hand_owes_nothing() -> None:
    story = as_it_should_be().without(1103)
    story.send(READY_MS + 10, SIGSTOP, POSTMASTER, by=HARNESS)
    story.send(READY_MS + 8_000, SIGCONT, POSTMASTER, by=HARNESS)
    story.start(READY_MS + 8_015, 1104, FAILS)
    assert story.judge().status is OracleStatus.HELD


def test_a_worker_of_no_registration_is_told() -> None:
    story = as_it_should_be()
    story.fork(25_000, 1999, "bgworker")
    assert_failed(story.judge(), "bgworker (PID 1999) belongs to no registration")


def test_a_preloaded_worker_is_not_excused_by_the_journal_and_a_session_s_is() -> None:
    """Nobody can ask for the end of a preloaded worker: a server that forgets it does wrong."""
    story = as_it_should_be().without(1103)
    story.claim(READY_MS - 10, "worker_unregistered", worker=FAILS)
    assert_failed(story.judge(), "was not back")
    story = as_it_should_be()
    register(story, 15_000, 9, "dynamic", "recovery_finished", 1)
    story.start(15_001, 1901, 9)
    story.end(15_500, 1901, code=1)
    story.claim(15_600, "worker_unregistered", worker=9)
    assert story.judge().status is OracleStatus.HELD


@pytest.mark.parametrize("lost", [(499, 503), (20_001, 20_020)])
def test_what_lies_in_a_gap_is_not_judged(lost: tuple[int, int]) -> None:
    story = as_it_should_be()
    trials = story.judge().trials
    since, until = lost
    story.kernel.append(
        Loss(t=until * MS, since=since * MS, dropped=4, overrun=0, commit_overrun=0, unparsed=0),
    )
    result = story.judge()
    assert result.unjudged
    assert result.trials < trials
