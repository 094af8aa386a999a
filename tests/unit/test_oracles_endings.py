"""The oracles of endings: late orders, the last resort, orphans, shutdowns, each seen to fail and to hold its tongue.

The story is that of `tests/support/kernel_story.py`. What is told here is what happens around it in rougher cycles: a
survivor that is stopped, a postmaster that is stopped or killed, a shutdown in each mode, with and without a crash in
it, the OOM killer. A wrong finding would be worse than a missed one, so for each rule there is also the story that looks
like its breach and is none, and the one in which nobody can know.
"""

from __future__ import annotations

from signal import SIGCONT, SIGINT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM, SIGUSR2

import pytest

from chaos.oracles.escalation import Escalation
from chaos.oracles.evidence import HarnessRecord, Invoke, ServerRecord
from chaos.oracles.exit_status import ExitStatus
from chaos.oracles.fan_out import FanOut
from chaos.oracles.oracle import Oracle
from chaos.oracles.orphans import Orphans
from chaos.oracles.reaping import Reaping
from chaos.oracles.registry import SUPERVISION
from chaos.oracles.shutdown import Shutdowns
from chaos.oracles.supervision import PROMPT_NS
from chaos.witness.account import TICK_NS
from chaos.witness.records import Closed, Exit, Exiting, Followed, Fork, Loss, Name, Signal, Wait
from chaos.witness.records import Drained as DrainedRecord
from reports.verdict import OracleStatus
from tests.support.kernel_story import (
    BGWRITER,
    CHECKPOINTER,
    HARNESS,
    LATE,
    MS,
    NEW_BGWRITER,
    NEW_CHECKPOINTER,
    NEW_STARTUP,
    POSTMASTER,
    SURVIVOR,
    VICTIM,
    WALWRITER,
    Story,
    assert_failed,
    crash_story,
    judged,
    shut_down,
    whole_story,
)

HELD, FAILED, NOT_JUDGED = OracleStatus.HELD, OracleStatus.FAILED, OracleStatus.NOT_JUDGED
SECOND, STRANGER, FIRST_OF_SECOND = 200, 300, 201
SI_KERNEL = 0x80


def cut(story: Story, ms: float) -> Story:
    """The story up to a time, with its end where it was."""
    story.kernel = [r for r in story.kernel if r.t < ms * MS or isinstance(r, DrainedRecord | Closed)]
    story.server = [r for r in story.server if r.t < ms * MS]
    return story


# Time: the order to go, the reaping.


@pytest.mark.parametrize(("over_ns", "status"), [(0, HELD), (TICK_NS, HELD), (2 * TICK_NS, FAILED)])
def test_the_last_order_comes_within_a_second_to_the_resolution_of_the_account(
    over_ns: int, status: OracleStatus
) -> None:
    story = cut(crash_story(), 103)
    for pid in (CHECKPOINTER, BGWRITER):
        story.drop(Signal, where=lambda r, pid=pid: r.pid == pid and r.sig == SIGQUIT)
    for pid in (BGWRITER, CHECKPOINTER):
        t = 101 * MS + PROMPT_NS + over_ns
        story.kernel += [
            Signal(t, 0, SIGQUIT, pid, POSTMASTER, 0, 0),
            Signal(t + 5000, 0, SIGQUIT, pid, POSTMASTER, 0, 0),
        ]
    result = judged(FanOut(), story)
    assert result.status is status, result
    if status is FAILED:
        assert_failed(result, f"bgwriter (PID {BGWRITER}) got SIGQUIT 1000 ms after the postmaster knew of the crash")
    assert result.worst_slack_ms == pytest.approx(-over_ns / MS)


def test_a_postmaster_that_was_stopped_is_not_late() -> None:
    story = cut(crash_story(), 101.5)
    story.send(101.5, SIGSTOP, POSTMASTER, by=HARNESS)
    story.send(3000, SIGCONT, POSTMASTER, by=HARNESS)
    for number, pid in enumerate((SURVIVOR, WALWRITER, BGWRITER, CHECKPOINTER)):
        story.quit(3001 + number, pid)
        story.end(3010, pid, code=2, reaped=3011)
    result = judged(FanOut(), story)
    assert (result.status, result.worst_slack_ms) == (HELD, None), result


@pytest.mark.parametrize("stopped", [False, True])
def test_a_zombie_that_waits_for_more_than_a_second_fails(stopped: bool) -> None:
    story = crash_story()
    story.end(200, LATE, code=0, reaped=1300)
    if stopped:
        story.send(190, SIGSTOP, POSTMASTER, by=HARNESS)
        story.send(1299, SIGCONT, POSTMASTER, by=HARNESS)
    result = judged(Reaping(), story)
    if stopped:
        assert result.status is HELD, result
    else:
        assert_failed(result, f"backend (PID {LATE}) was a zombie for 1100 ms")


# Escalation.


def stubborn(killed_at_ms: float | None, *, then: bool = True) -> Story:
    """The survivor is stopped: all others go, and the restart waits for it."""
    story = cut(crash_story(), 103.9)
    for number, pid in enumerate((WALWRITER, BGWRITER, CHECKPOINTER)):
        story.end(104 + number, pid, code=2, reaped=105 + number)
    if killed_at_ms is not None:
        story.send(killed_at_ms, SIGKILL, SURVIVOR)
        if then:
            story.end(killed_at_ms + 1, SURVIVOR, signal=SIGKILL, reaped=killed_at_ms + 2)
            story.fork(killed_at_ms + 10, NEW_STARTUP, "startup", slot=1)
    return story


@pytest.mark.parametrize(
    ("killed_at_ms", "words"),
    [
        (1102, "got SIGKILL 1000 ms after the first SIGQUIT, not 5 s"),
        (4101, "ms after the first SIGQUIT, not 5 s"),
        (4102, None),
        (5110, None),
        (7101, None),
        (9102, "got SIGKILL late, 7000 ms"),
        (None, f"backend (PID {SURVIVOR}) outlived SIGQUIT by 7 s and got no SIGKILL"),
    ],
)
def test_the_last_resort_has_its_time(killed_at_ms: float | None, words: str | None) -> None:
    if killed_at_ms == 9102:
        story = stubborn(9102.001)
        words = "got SIGKILL late, 9000 ms after the first SIGQUIT"
    else:
        story = stubborn(killed_at_ms)
    result = judged(Escalation(), story)
    if words is None:
        assert result.status is HELD, result
        assert result.worst_slack_ms is not None and 0 <= result.worst_slack_ms <= 2000
        assert result.longest_ms == pytest.approx((killed_at_ms or 0) - 102)
    else:
        assert_failed(result, words)


def test_a_round_in_which_everybody_goes_is_a_trial_without_a_sigkill() -> None:
    result = judged(Escalation(), whole_story())
    assert (result.status, result.trials, result.worst_slack_ms) == (HELD, 1, None)


def test_sigkill_without_any_sigquit_fails() -> None:
    story = crash_story()
    story.send(60, SIGKILL, SURVIVOR)
    story.drop(Signal, where=lambda r: r.sig == SIGQUIT)
    assert_failed(judged(Escalation(), story), "nobody had got SIGQUIT")


def test_sigkill_in_a_fast_shutdown_fails() -> None:
    """However long a session takes (checklist 27)."""
    story = whole_story()
    story.send(1002.5, SIGKILL, LATE)
    assert_failed(judged(Escalation(), story), f"backend (PID {LATE}) got SIGKILL", "nobody had got SIGQUIT")


def test_sigkill_to_somebody_who_was_never_told_fails() -> None:
    story = stubborn(5110)
    story.drop(Signal, where=lambda r: r.pid == SURVIVOR and r.sig == SIGQUIT)
    assert_failed(judged(Escalation(), story), f"backend (PID {SURVIVOR}) got SIGKILL and had never got SIGQUIT")


def test_a_dead_end_child_of_the_drain_is_killed_untold_and_in_order() -> None:
    story = stubborn(5110)
    story.fork(3000, 109, "dead_end")
    story.send(5110, SIGKILL, 109)
    story.end(5111, 109, signal=SIGKILL, reaped=5112)
    assert judged(Escalation(), story).status is HELD


def test_the_oom_killer_is_not_the_postmaster_although_the_trace_has_it_as_sender() -> None:
    """The postmaster's own allocation was the last straw: the kernel kills the biggest, in the postmaster's context."""
    story = crash_story()
    story.change(Signal, lambda r: r.sig == SIGKILL and r.pid == VICTIM, by=POSTMASTER, code=SI_KERNEL)
    for oracle in (Escalation(), FanOut(), ExitStatus()):
        result = judged(oracle, story)
        assert (result.status, result.failed) == (HELD, 0), result


def test_an_immediate_shutdown_in_a_crash_sets_the_stopwatch_anew() -> None:
    story = stubborn(None)
    story.send(4500, SIGQUIT, POSTMASTER, by=HARNESS)
    story.quit(4501, SURVIVOR)
    story.send(9520, SIGKILL, SURVIVOR)
    story.end(9521, SURVIVOR, signal=SIGKILL, reaped=9522)
    story.end_postmaster(9530, code=1)
    for oracle in (Escalation(), Shutdowns(), FanOut()):
        assert judged(oracle, story).status is HELD, judged(oracle, story)


def test_a_shutdown_before_redo_limits_the_drain_without_sigquit() -> None:
    """A restart after a crash, redo not begun, and a fast request: SIGTERM, and 5 s later SIGKILL. Its exit is 1."""
    story = cut(crash_story(), 121)
    story.send(125, SIGINT, POSTMASTER, by=HARNESS)
    story.send(126, SIGTERM, NEW_STARTUP)
    story.send(5130, SIGKILL, NEW_STARTUP)
    story.end(5131, NEW_STARTUP, signal=SIGKILL, reaped=5132)
    story.end_postmaster(5140, code=1)
    for oracle in SUPERVISION:
        assert judged(oracle, story).failed == 0, judged(oracle, story)


@pytest.mark.parametrize("how", ["killed", "stopped", "cut off"])
def test_a_stopwatch_that_nobody_saw_run_out_is_not_judged(how: str) -> None:
    story = stubborn(None)
    if how == "killed":
        story.end_postmaster(3000, signal=SIGKILL)
    elif how == "stopped":
        story.send(3000, SIGSTOP, POSTMASTER, by=HARNESS)
    else:
        story.kernel = [r for r in story.kernel if not isinstance(r, DrainedRecord | Closed)]
        story.kernel.append(DrainedRecord(6000 * MS))
    result = judged(Escalation(), story)
    assert (result.status, result.unjudged) == (NOT_JUDGED, 1), result


def test_a_signal_to_a_pid_that_is_a_stranger_s_by_now_fails() -> None:
    story = crash_story()
    story.kernel.append(Fork(105 * MS, 0, HARNESS, STRANGER, "make"))
    story.send(106, SIGQUIT, STRANGER)
    assert_failed(judged(Escalation(), story), f"SIGQUIT to PID {STRANGER}, which is none of its children")


def test_what_a_child_started_is_in_its_group_and_no_stranger() -> None:
    story = crash_story()
    story.kernel.append(Fork(50 * MS, 0, SURVIVOR, STRANGER, "sh"))
    story.send(102, SIGQUIT, STRANGER)
    assert judged(Escalation(), story).status is HELD


# Orphans.


def orphaned(*, left_ms: float | None = 210, code: int | None = 1, signal: int | None = None) -> Story:
    """The postmaster is SIGKILLed at 200 ms, with a backend and a checkpointer; the checkpointer leaves at `left_ms`."""
    story = crash_story()
    story.fork(145, NEW_CHECKPOINTER, "checkpointer", slot=2)
    story.send(200, SIGKILL, POSTMASTER, by=HARNESS)
    story.end_postmaster(200, signal=SIGKILL)
    leave(story, LATE, 205, 1)
    if left_ms is not None:
        leave(story, NEW_CHECKPOINTER, left_ms, code, signal)
    return story


def leave(story: Story, pid: int, ms: float, code: int | None, signal: int | None = None) -> None:
    t = int(ms * MS)
    story.kernel += [Exit(t, 1, pid, code, signal, True), Wait(t + MS, 0, HARNESS, pid)]


def second_postmaster(story: Story, ms: float, directory: str = "/data") -> Story:
    """Another postmaster on a data directory, which forks a child."""
    t = int(ms * MS)
    story.kernel += [
        Fork(t - 3 * MS, 0, HARNESS, SECOND, "python"),
        Followed(t - 2 * MS, SECOND, "postmaster"),
        Fork(t, 0, SECOND, FIRST_OF_SECOND, "cb:postmaster"),
        Name(t + 1000, 0, FIRST_OF_SECOND, "cb:checkpointer"),
    ]
    story.server += [
        ServerRecord(t - MS, "postmaster_start", pid=SECOND, data_directory=directory),
        ServerRecord(t + 2000, "fork", pid=SECOND, child=FIRST_OF_SECOND, role="checkpointer", slot=2),
    ]
    story.server = [
        ServerRecord(r.t, r.ev, pid=r.pid, data_directory="/data")
        if r.ev == "postmaster_start" and r.pid == POSTMASTER
        else r
        for r in story.server
    ]
    return story


def test_orphans_that_leave_by_themselves_hold() -> None:
    result = judged(Orphans(), orphaned())
    assert (result.status, result.trials, result.longest_ms) == (HELD, 2, 10.0)


@pytest.mark.parametrize("oracle", SUPERVISION, ids=lambda oracle: oracle.name)
def test_a_postmaster_that_is_killed_breaks_no_rule(oracle: Oracle) -> None:
    story = second_postmaster(orphaned(), 300)
    assert judged(oracle, story).failed == 0, judged(oracle, story)


@pytest.mark.parametrize("left_ms", [None, 10_300])
def test_an_orphan_that_stays_fails(left_ms: float | None) -> None:
    story = orphaned(left_ms=left_ms)
    assert_failed(judged(Orphans(), story), f"checkpointer (PID {NEW_CHECKPOINTER}) outlived its postmaster by 10 s")


def test_an_orphan_at_work_has_its_time_from_its_last_operation() -> None:
    """A backend that never waits cannot notice (checklist 96)."""
    story = orphaned()
    story.kernel = [
        r for r in story.kernel if not (isinstance(r, Exit | Wait) and LATE in (r.pid, getattr(r, "child", 0)))
    ]
    story.invokes += [Invoke(int(ms * MS), LATE, 100 + n) for n, ms in enumerate(range(150, 9000, 50))]
    leave(story, LATE, 15_000, 1)
    assert judged(Orphans(), story).status is HELD
    story.invokes = [invoke for invoke in story.invokes if invoke.t < 300 * MS]
    assert_failed(judged(Orphans(), story), f"backend (PID {LATE}) outlived its postmaster")


@pytest.mark.parametrize("by", ["a signal", "a stop"])
def test_an_orphan_that_somebody_else_ended_or_stopped_proves_nothing(by: str) -> None:
    story = orphaned(left_ms=None)
    if by == "a signal":
        story.send(400, SIGKILL, NEW_CHECKPOINTER, by=HARNESS)
        leave(story, NEW_CHECKPOINTER, 401, None, SIGKILL)
    else:
        story.send(150, SIGSTOP, NEW_CHECKPOINTER, by=HARNESS)
    result = judged(Orphans(), story)
    assert (result.status, result.trials, result.unjudged) == (HELD, 1, 1), result


@pytest.mark.parametrize(("code", "signal"), [(0, None), (2, None), (None, 30)])
def test_an_orphan_that_leaves_in_another_way_fails(code: int | None, signal: int | None) -> None:
    story = orphaned(code=code, signal=signal)
    assert_failed(
        judged(Orphans(), story), f"checkpointer (PID {NEW_CHECKPOINTER})", "when its postmaster was gone, not 1"
    )


def test_an_orphan_that_had_been_told_to_go_leaves_as_it_was_told() -> None:
    story = orphaned(code=2)
    story.send(199.9, SIGQUIT, NEW_CHECKPOINTER)
    assert judged(Orphans(), story).status is HELD


def test_a_postmaster_that_exits_over_its_children_fails() -> None:
    """PostgreSQL's bug of 2026: recovery fails at the start and the postmaster leaves the others behind."""
    story = crash_story()
    story.end_postmaster(200, code=1)
    assert_failed(judged(Orphans(), story), f"exited with exit code 1 and backend (PID {LATE}) still lived")


@pytest.mark.parametrize(
    ("ms", "words"), [(300, None), (210.001, None), (209, f"checkpointer (PID {NEW_CHECKPOINTER})")]
)
def test_the_next_postmaster_forks_when_the_last_orphan_has_gone(ms: float, words: str | None) -> None:
    result = judged(Orphans(), second_postmaster(orphaned(), ms))
    if words is None:
        assert (result.status, result.trials) == (HELD, 3), result
        assert result.worst_slack_ms == pytest.approx(ms - 210)
    else:
        assert_failed(result, words, f"still lived when the new one (PID {SECOND}) forked")


def test_a_postmaster_on_other_data_may_come_at_any_time() -> None:
    result = judged(Orphans(), second_postmaster(orphaned(), 209, "/other"))
    assert (result.status, result.trials) == (HELD, 2)


# Shutdowns.


def smart() -> Story:
    """A crash cycle and a smart shutdown as they should be."""
    return shut_down(crash_story(), mode=SIGTERM)


def immediate(*, crash_ms: float | None = None, code: int = 0) -> Story:
    """An immediate shutdown at 1000 ms, and perhaps a crash before it."""
    story = crash_story()
    story.fork(145, NEW_CHECKPOINTER, "checkpointer", slot=2)
    story.fork(146, NEW_BGWRITER, "bgwriter", slot=3)
    ending = [LATE, NEW_BGWRITER, NEW_CHECKPOINTER]
    if crash_ms is not None:
        ending.remove(NEW_BGWRITER)
        story.send(crash_ms - 1, SIGKILL, NEW_BGWRITER, by=HARNESS)
        story.end(crash_ms - 0.9, NEW_BGWRITER, signal=SIGKILL, reaped=crash_ms)
    story.send(1000, SIGQUIT, POSTMASTER, by=HARNESS)
    for pid in sorted(ending, reverse=True):
        story.quit(1001, pid)
        story.end(1003, pid, code=2, reaped=1004)
    story.end_postmaster(1010, code=code)
    return story


def test_a_fast_shutdown_holds_with_the_slack_of_its_checkpoint() -> None:
    result = judged(Shutdowns(), whole_story())
    assert (result.status, result.worst_slack_ms, result.longest_ms) == (HELD, 2.0, 15.0), result


def test_a_smart_shutdown_holds() -> None:
    assert judged(Shutdowns(), smart()).status is HELD


@pytest.mark.parametrize("stronger", [None, SIGINT, SIGQUIT])
def test_a_session_that_is_ended_in_a_smart_shutdown_fails_unless_a_stronger_one_came(stronger: int | None) -> None:
    story = smart()
    if stronger is not None:
        story.send(950, stronger, POSTMASTER, by=HARNESS)
    story.send(960, SIGTERM, LATE)
    result = judged(Shutdowns(), story)
    if stronger is None:
        assert_failed(result, f"backend (PID {LATE}) got SIGTERM in a smart shutdown")
    elif stronger == SIGINT:
        assert result.status is HELD, result


def test_a_session_that_begins_after_a_shutdown_was_asked_for_fails() -> None:
    story = cut(smart(), 950)
    story.fork(2500, 113, "backend", slot=12)
    assert_failed(judged(Shutdowns(), story), "backend (PID 113) was forked after a shutdown was asked for")


def test_recovery_after_a_shutdown_was_asked_for_fails() -> None:
    """The server was told to stop, something crashed, and it comes back."""
    story = crash_story()
    story.send(95, SIGTERM, POSTMASTER, by=HARNESS)
    story.fork(1500, 114, "startup", slot=1)
    assert_failed(judged(Shutdowns(), story), "startup (PID 114) was forked after a shutdown was asked for")


def test_a_writer_that_is_not_told_in_a_fast_shutdown_fails() -> None:
    story = cut(whole_story(), 1003.2).drop(Signal, where=lambda r: r.pid == NEW_BGWRITER and r.sig == SIGTERM)
    assert_failed(judged(Shutdowns(), story), f"bgwriter (PID {NEW_BGWRITER}) got no SIGTERM in a fast shutdown")


@pytest.mark.parametrize(("ns", "status"), [(0, HELD), (TICK_NS, HELD), (2 * TICK_NS, FAILED)])
def test_the_shutdown_checkpoint_is_asked_for_when_nobody_can_write(ns: int, status: OracleStatus) -> None:
    story = whole_story().change(Exit, lambda r: r.pid == NEW_BGWRITER, t=1006 * MS + ns)
    story.drop(Exiting, where=lambda r: r.pid == NEW_BGWRITER)
    story.change(Wait, lambda r: r.child == NEW_BGWRITER, t=1007 * MS)
    result = judged(Shutdowns(), story)
    assert result.status is status, result
    if status is FAILED:
        assert_failed(result, f"the shutdown checkpoint was asked for while bgwriter (PID {NEW_BGWRITER}) lived")


def test_an_orderly_end_without_a_shutdown_checkpoint_fails() -> None:
    story = whole_story().drop(Signal, where=lambda r: r.pid == NEW_CHECKPOINTER and r.sig in (SIGINT, SIGUSR2))
    story.change(Exit, lambda r: r.pid == NEW_CHECKPOINTER, code=0)
    story.drop(Exit, Exiting, Fork, where=lambda r: NEW_CHECKPOINTER in (r.pid, getattr(r, "child", 0)))
    assert_failed(judged(Shutdowns(), story), "nobody asked for a shutdown checkpoint")


@pytest.mark.parametrize(("code", "status"), [(0, HELD), (1, FAILED)])
def test_an_immediate_shutdown_exits_0(code: int, status: OracleStatus) -> None:
    result = judged(Shutdowns(), immediate(code=code))
    assert result.status is status, result
    if status is FAILED:
        assert_failed(result, "exited with exit code 1 after a shutdown in which nothing had crashed")


@pytest.mark.parametrize("pid", [LATE, NEW_CHECKPOINTER])
def test_somebody_who_is_not_told_in_an_immediate_shutdown_fails(pid: int) -> None:
    story = cut(immediate(), 1002).drop(Signal, where=lambda r: r.pid == pid and r.sig == SIGQUIT)
    assert_failed(judged(Shutdowns(), story), f"(PID {pid}) got no SIGQUIT in an immediate shutdown")


def test_a_checkpoint_in_an_immediate_shutdown_fails() -> None:
    story = cut(immediate(), 1002.5)
    story.send(2500, SIGINT, NEW_CHECKPOINTER)
    assert_failed(judged(Shutdowns(), story), "a shutdown checkpoint was asked for in an immediate shutdown")


@pytest.mark.parametrize(
    ("crash_ms", "code", "status"),
    [(990, 1, HELD), (990, 0, FAILED), (1000.5, 0, NOT_JUDGED), (1000.5, 1, NOT_JUDGED)],
    ids=["crash-1", "crash-0", "race-0", "race-1"],
)
def test_a_crash_before_the_end_shows_in_the_exit_status(crash_ms: float, code: int, status: OracleStatus) -> None:
    """A crash that the postmaster learned of just after the request may have come before or after it: not judged."""
    result = judged(Shutdowns(), immediate(crash_ms=crash_ms, code=code))
    if status is NOT_JUDGED:
        assert (result.failed, result.unjudged) == (0, 1), result
    else:
        assert result.status is status, result
    if status is FAILED:
        assert_failed(result, "exited with exit code 0 after a shutdown in which a child had crashed")


@pytest.mark.parametrize(("code", "status"), [(1, HELD), (0, FAILED)])
def test_a_crash_during_a_smart_shutdown_ends_in_exit_1(code: int, status: OracleStatus) -> None:
    """And its SIGQUIT ends sessions, which is the crash's right."""
    story = cut(smart(), 950)
    story.send(960, SIGKILL, NEW_BGWRITER, by=HARNESS)
    story.end(960.1, NEW_BGWRITER, signal=SIGKILL, reaped=961)
    for number, pid in enumerate((NEW_CHECKPOINTER, LATE)):
        story.quit(962 + number / 10, pid)
        story.end(963, pid, code=2, reaped=964)
    story.end_postmaster(970, code=code)
    assert judged(Shutdowns(), story).status is status
    for oracle in SUPERVISION:
        assert oracle.name == "shutdown" or judged(oracle, story).failed == 0, judged(oracle, story)


@pytest.mark.parametrize(
    "story", [smart(), immediate(), immediate(crash_ms=990, code=1)], ids=["smart", "immediate", "crash"]
)
@pytest.mark.parametrize("oracle", SUPERVISION, ids=lambda oracle: oracle.name)
def test_no_mode_of_shutdown_breaks_a_rule(oracle: Oracle, story: Story) -> None:
    assert judged(oracle, story).failed == 0, judged(oracle, story)


@pytest.mark.parametrize("between", ["nothing", "another cluster"])
def test_redo_after_an_orderly_shutdown_fails_on_the_same_cluster(between: str) -> None:
    story = second_postmaster(whole_story(), 1100)
    story.server += [
        ServerRecord(1110 * MS, "redo_begin", pid=FIRST_OF_SECOND),
        ServerRecord(1120 * MS, "ready", pid=SECOND),
    ]
    if between == "another cluster":
        story.harness.append(HarnessRecord(1050 * MS, "epoch_begin"))
        assert judged(Shutdowns(), story).status is HELD
    else:
        assert_failed(judged(Shutdowns(), story), "the start after an orderly shutdown had WAL to redo")


def test_a_shutdown_in_a_gap_is_not_judged() -> None:
    story = whole_story()
    story.kernel.append(Loss(t=1008 * MS, since=1002 * MS, dropped=4, overrun=0, commit_overrun=0, unparsed=0))
    result = judged(Shutdowns(), story)
    assert (result.status, result.unjudged) == (NOT_JUDGED, 1)


@pytest.mark.parametrize("how", ["killed", "stopped", "cut off"])
def test_a_shutdown_that_nobody_saw_end_is_not_judged(how: str) -> None:
    story = cut(whole_story(), 1005)
    if how == "killed":
        story.end_postmaster(1006, signal=SIGKILL)
    elif how == "stopped":
        story.send(1005, SIGSTOP, POSTMASTER, by=HARNESS)
    else:
        story.kernel = [r for r in story.kernel if not isinstance(r, DrainedRecord | Closed)]
        story.kernel.append(DrainedRecord(1006 * MS))
    result = judged(Shutdowns(), story)
    assert (result.status, result.unjudged) == (NOT_JUDGED, 1), result
