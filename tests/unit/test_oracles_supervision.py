"""An oracle that has never been seen to fail proves nothing.

The story here is one crash of a small server, written by hand as the kernel would tell it
(`tests/support/kernel_story.py`). Every oracle holds on it. Then each rule is
broken in the smallest way, one at a time, and the oracle of that rule must fail, with the right culprit; and the
same story with a hole in it must be "not judged", never held.
"""

from __future__ import annotations

from collections.abc import Iterable
from signal import SIGCHLD, SIGKILL, SIGQUIT

import msgspec
import pytest

from chaos.faults import FAULTS, Consequence
from chaos.oracles.evidence import HarnessRecord, Invoke, ServerRecord
from chaos.oracles.exit_status import ExitStatus
from chaos.oracles.fan_out import FanOut
from chaos.oracles.memory import Drained, Memory
from chaos.oracles.oracle import Oracle
from chaos.oracles.reaping import Reaping
from chaos.oracles.recovery_order import RecoveryOrder
from chaos.oracles.registry import FED_BY, SUPERVISION, is_fed
from chaos.oracles.slots import Slots
from chaos.oracles.supervision import reigns
from chaos.oracles.transitions import Transitions
from chaos.witness.account import Account
from chaos.witness.records import Closed, Exit, Exiting, Followed, Fork, Loss, Name, Signal, Unwitnessed, Wait
from chaos.witness.records import Drained as DrainedRecord
from reports.verdict import OracleStatus
from supervisor.postmaster import states
from supervisor.postmaster.values import State
from supervisor.roles import Role
from tests.support.kernel_story import (
    BGWRITER,
    CHECKPOINTER,
    END_MS,
    HARNESS,
    LATE,
    MS,
    NEW_STARTUP,
    POSTMASTER,
    SURVIVOR,
    VICTIM,
    WALWRITER,
    Story,
    assert_failed,
    crash_story,
    judged,
    whole_story,
)


def steps_of(events: Iterable[states.Event]) -> list[tuple[State, states.Event, State]]:
    state = states.initial_state()
    steps = []
    for event in events:
        after, _ = states.step(state, event)
        steps.append((state, event, after))
        state = after
    return steps


def journal_of_steps() -> list[ServerRecord]:
    """A start of the server as the journal tells it: plain values, as JSON gives them back."""
    forked = [states.ChildForked(role) for role in (Role.CHECKPOINTER, Role.BGWRITER, Role.STARTUP)]
    events: list[states.Event] = [
        states.Initialised(),
        *forked,
        states.PmSignal(states.PmSignalKind.RECOVERY_STARTED),
        states.ChildExited(Role.STARTUP, states.ExitOutcome.ORDERLY_0),
    ]
    plain = msgspec.to_builtins
    return [
        ServerRecord((n + 1) * MS, "step", pid=POSTMASTER, event=plain(e), before=plain(b), after=plain(a))
        for n, (b, e, a) in enumerate(steps_of(events))
    ]


@pytest.mark.parametrize("oracle", SUPERVISION, ids=lambda oracle: oracle.name)
def test_every_oracle_holds_on_a_crash_and_a_shutdown_as_they_should_be(oracle: Oracle) -> None:
    story = whole_story()
    story.server += journal_of_steps()
    result = judged(oracle, story)
    # The story has no background worker: `test_oracle_background_workers.py`.
    applies = result.applies
    assert result.status is OracleStatus.HELD or not applies, result
    assert result.trials > 0 or not applies
    assert result.row().failures == 0


def test_the_postmaster_is_found_by_any_of_three_signs() -> None:
    story = crash_story()
    story.kernel = [r for r in story.kernel if not isinstance(r, Followed)]
    assert [r.postmaster.pid for r in reigns(story.evidence())] == [POSTMASTER]
    story.server = []
    assert reigns(story.evidence()) == []
    story.kernel.append(Name(MS * 3 // 4, 0, POSTMASTER, "cb:postmaster"))
    assert [r.postmaster.pid for r in reigns(story.evidence())] == [POSTMASTER]


# Fan-out.


def test_a_child_that_gets_no_sigquit_fails_the_fan_out() -> None:
    story = crash_story().drop(Signal, where=lambda r: r.pid == BGWRITER and r.sig == SIGQUIT)
    result = judged(FanOut(), story)
    assert_failed(result, f"bgwriter (PID {BGWRITER}) got no SIGQUIT")
    assert result.failures[0].cycle == 7


def test_a_sigquit_from_somebody_else_does_not_count() -> None:
    story = crash_story().change(Signal, lambda r: r.pid == BGWRITER and r.sig == SIGQUIT, by=HARNESS)
    assert_failed(judged(FanOut(), story), "got no SIGQUIT")


def test_a_sigquit_after_the_new_startup_process_comes_too_late() -> None:
    story = crash_story().change(Signal, lambda r: r.pid == BGWRITER and r.sig == SIGQUIT, t=121 * MS)
    assert_failed(judged(FanOut(), story), "got no SIGQUIT")


def test_a_child_that_was_ending_already_may_be_passed_over() -> None:
    story = crash_story().drop(Signal, where=lambda r: r.pid == BGWRITER and r.sig == SIGQUIT)
    story.drop(Exiting, where=lambda r: r.pid == BGWRITER)
    story.kernel.append(Exiting(100 * MS, 1, BGWRITER, 2))
    assert judged(FanOut(), story).status is OracleStatus.HELD


def test_oldest_first_fails_the_fan_out() -> None:
    story = crash_story().drop(Signal, where=lambda r: r.pid == CHECKPOINTER and r.sig == SIGQUIT)
    story.quit(101.5, CHECKPOINTER)
    assert_failed(judged(FanOut(), story), f"checkpointer (PID {CHECKPOINTER}) got SIGQUIT before")


def test_two_signals_within_a_microsecond_have_no_order() -> None:
    story = crash_story().drop(Signal, where=lambda r: r.sig == SIGQUIT and r.pid in (WALWRITER, SURVIVOR))
    for offset, pid in ((0, WALWRITER), (1_000, SURVIVOR)):
        story.kernel += [
            Signal(101_900_000 + offset, 0, SIGQUIT, pid, POSTMASTER, 0, 0),
            Signal(101_950_000, 0, SIGQUIT, pid, POSTMASTER, 0, 2),
        ]
    assert judged(FanOut(), story).status is OracleStatus.HELD


def test_the_process_group_must_be_signalled_too() -> None:
    second = [r for r in crash_story().kernel if isinstance(r, Signal) and r.pid == BGWRITER and r.sig == SIGQUIT][1].t
    story = crash_story().drop(Signal, where=lambda r: r.pid == BGWRITER and r.t == second)
    assert_failed(judged(FanOut(), story), "not to its process group")


def test_a_second_crash_while_one_is_handled_obliges_to_nothing() -> None:
    """The survivor is killed by hand just after the SIGQUIT: no second round."""
    story = crash_story().change(Exit, lambda r: r.pid == SURVIVOR, code=None, signal=SIGKILL)
    story.drop(Exiting, where=lambda r: r.pid == SURVIVOR)
    result = judged(FanOut(), story)
    assert result.status is OracleStatus.HELD
    assert result.trials == 1


def test_lost_events_are_not_judged_and_not_held() -> None:
    story = crash_story().drop(Signal, where=lambda r: r.pid == BGWRITER and r.sig == SIGQUIT)
    story.kernel.append(Loss(t=103 * MS, since=101 * MS, dropped=4, overrun=0, commit_overrun=0, unparsed=0))
    for oracle in (FanOut(), Drained()):
        result = judged(oracle, story)
        assert result.status is OracleStatus.NOT_JUDGED, result
        assert "4 events dropped" in result.reason


def test_a_trace_that_stopped_judges_nothing_after() -> None:
    story = crash_story()
    story.kernel = [r for r in story.kernel if r.t < 101.5 * MS]
    story.kernel.append(
        Loss(t=200 * MS, since=101 * MS, dropped=0, overrun=0, commit_overrun=0, unparsed=0, stopped=True)
    )
    result = judged(FanOut(), story)
    assert result.status is OracleStatus.NOT_JUDGED
    assert "stopped" in result.reason


def test_an_account_without_its_end_does_not_count_against_the_server() -> None:
    """The harness was killed just after the kill: nobody knows what the postmaster did next."""
    story = crash_story()
    story.kernel = [r for r in story.kernel if r.t < 101.5 * MS]
    story.kernel.append(DrainedRecord(int(101.5 * MS)))
    assert judged(FanOut(), story).status is OracleStatus.NOT_JUDGED


def test_without_a_witness_nothing_of_the_kernel_is_judged() -> None:
    story = crash_story()
    story.kernel = [Unwitnessed(0, "tracefs cannot be mounted: Operation not permitted", "run as root")]
    for oracle in SUPERVISION:
        if "kernel" in oracle.needs:
            result = judged(oracle, story)
            assert result.status is OracleStatus.NOT_JUDGED
            assert "run as root" in result.reason


# Reaping.


def test_a_child_reaped_by_somebody_else_fails() -> None:
    story = crash_story().change(Wait, lambda r: r.child == WALWRITER, pid=HARNESS)
    assert_failed(judged(Reaping(), story), f"walwriter (PID {WALWRITER}) was reaped by process {HARNESS}")


def test_a_zombie_fails() -> None:
    story = crash_story().drop(Wait, where=lambda r: r.child == WALWRITER)
    assert_failed(judged(Reaping(), story), "was never reaped")


def test_a_fresh_zombie_at_the_end_is_not_judged() -> None:
    story = crash_story()
    story.kernel.append(Exit((END_MS - 1) * MS, 0, LATE, 0, None, True))
    result = judged(Reaping(), story)
    assert result.status is OracleStatus.HELD
    assert result.unjudged == 1


def test_children_that_outlive_the_postmaster_are_nobody_s_fault() -> None:
    story = crash_story()
    story.kernel += [
        Exit(200 * MS, 0, POSTMASTER, None, SIGKILL, True),
        Wait(201 * MS, 0, HARNESS, POSTMASTER),
        Exit(202 * MS, 0, LATE, 1, None, True),
        Wait(203 * MS, 0, HARNESS, LATE),
    ]
    assert judged(Reaping(), story).status is OracleStatus.HELD


# Slots.


def test_a_slot_released_before_the_wait_fails() -> None:
    story = crash_story().change(Wait, lambda r: r.child == WALWRITER, t=109 * MS)
    assert_failed(judged(Slots(), story), f"slot 4 was released before PID {WALWRITER} was reaped")


def test_a_slot_released_twice_fails() -> None:
    story = crash_story()
    story.claim(115, "slot_released", slot=4, child=WALWRITER)
    assert_failed(judged(Slots(), story), "nobody had it")


def test_a_slot_never_released_fails() -> None:
    story = crash_story().unsay("slot_released", lambda r: r.slot == 4)
    assert_failed(judged(Slots(), story), f"slot 4 of PID {WALWRITER} was never released")


def test_a_slot_given_away_twice_fails() -> None:
    story = crash_story()
    story.server = [
        msgspec.structs.replace(r, slot=11) if r.ev == "fork" and r.child == VICTIM else r for r in story.server
    ]
    assert_failed(judged(Slots(), story), f"slot 11 was given to PID {SURVIVOR} while PID {VICTIM} still had it")


def test_a_fork_that_the_journal_does_not_know_fails() -> None:
    story = crash_story().unsay("fork", lambda r: r.child == SURVIVOR)
    assert_failed(judged(Slots(), story), f"forked PID {SURVIVOR} and its journal does not know it")


# The reset.


def test_an_old_process_that_outlives_the_reset_fails() -> None:
    story = crash_story().change(Exit, lambda r: r.pid == CHECKPOINTER, t=125 * MS)
    story.change(Wait, lambda r: r.child == CHECKPOINTER, t=126 * MS)
    assert_failed(judged(Drained(), story), f"checkpointer (PID {CHECKPOINTER}) still lived")
    assert_failed(judged(Memory(), story), "generation 1 was closed while")


def test_a_dead_end_child_of_the_drain_that_outlives_the_reset_fails() -> None:
    story = crash_story()
    story.fork(108, 109, "dead_end")
    assert_failed(judged(Drained(), story), "dead_end (PID 109) still lived")


def test_a_child_of_unknown_role_may_come_just_before_the_startup_process() -> None:
    """PostgreSQL starts its I/O workers first. There was a moment at which nobody lived."""
    story = crash_story()
    story.kernel.append(Fork(115 * MS, 0, POSTMASTER, 110, "postgres"))
    assert judged(Drained(), story).status is OracleStatus.HELD


def test_a_restart_on_the_old_memory_fails() -> None:
    story = crash_story().unsay("memory", lambda r: r.gen == 2)
    assert_failed(judged(Memory(), story), "on the memory of the generation before")


def test_a_memory_that_is_not_new_fails() -> None:
    story = crash_story()
    story.server = [msgspec.structs.replace(r, ino=11) if r.gen == 2 else r for r in story.server]
    assert_failed(judged(Memory(), story), "is not a new memory")


def test_an_old_memory_that_was_not_closed_first_fails() -> None:
    story = crash_story().unsay("memory_closed", lambda r: True)
    assert_failed(judged(Memory(), story), "before generation 1 was closed")


@pytest.mark.parametrize(("pid", "who"), [(POSTMASTER, "the postmaster"), (LATE, f"PID {LATE}")])
def test_an_old_memory_that_is_still_mapped_fails(pid: int, who: str) -> None:
    story = crash_story()
    story.harness.append(HarnessRecord(160 * MS, "memory_maps", cycle=7, pid=pid, inos=(11, 12)))
    assert_failed(judged(Memory(), story), f"{who} maps generation 1")


# The order of recovery.


def test_an_operation_before_the_end_of_recovery_fails() -> None:
    story = crash_story()
    story.invokes.append(Invoke(int(129.9 * MS), LATE, 9))
    story.change(Fork, lambda r: r.child == LATE, t=125 * MS)
    assert_failed(judged(RecoveryOrder(), story), f"backend (PID {LATE}) began an operation before recovery had ended")


def test_a_backend_forked_before_the_end_of_recovery_fails() -> None:
    story = crash_story().change(Fork, lambda r: r.child == LATE, t=125 * MS)
    assert_failed(judged(RecoveryOrder(), story), "was forked before recovery had ended")


def test_a_recovery_that_did_not_succeed_lets_nobody_begin() -> None:
    story = crash_story().change(Exit, lambda r: r.pid == NEW_STARTUP, code=1)
    assert_failed(judged(RecoveryOrder(), story), "exit 0")


# Exit statuses.


def test_a_status_read_wrongly_fails() -> None:
    story = crash_story()
    story.server = [
        msgspec.structs.replace(r, status=1 << 8) if r.ev == "reap" and r.child == VICTIM else r for r in story.server
    ]
    assert_failed(judged(ExitStatus(), story), "was terminated by signal 9, and the postmaster read wait status 256")


def test_a_core_dump_is_no_other_status() -> None:
    story = crash_story()
    story.server = [
        msgspec.structs.replace(r, status=r.status | 0x80) if r.ev == "reap" and r.child == VICTIM else r
        for r in story.server
    ]
    assert judged(ExitStatus(), story).status is OracleStatus.HELD


def test_a_crash_without_consequences_fails() -> None:
    story = crash_story().drop(Signal, where=lambda r: r.sig == SIGQUIT)
    assert_failed(judged(ExitStatus(), story), f"backend (PID {VICTIM}) crashed and nobody got SIGQUIT")


@pytest.mark.parametrize(
    ("pid", "code", "clean", "crash"),
    [
        (VICTIM, 0, True, False),
        (VICTIM, 1, True, False),
        (VICTIM, 0, False, True),
        (VICTIM, 2, True, True),
        (VICTIM, 3, True, True),
        (BGWRITER, 0, True, False),
        (BGWRITER, 1, True, True),
        (WALWRITER, 0, True, False),
        (WALWRITER, 1, True, True),
        (CHECKPOINTER, 0, True, True),
        (CHECKPOINTER, 1, True, True),
    ],
)
def test_what_an_exit_means_depends_on_who_and_how(pid: int, code: int, clean: bool, crash: bool) -> None:
    """The same SIGQUIT round is right after a crash and wrong after an ordinary exit."""
    story = crash_story()
    if pid != VICTIM:
        story.drop(Signal, Exit, Wait, where=lambda r: VICTIM in (r.pid, getattr(r, "child", 0)))
        story.drop(Signal, where=lambda r: r.pid == pid and r.sig == SIGQUIT)
    story.drop(Exit, Exiting, where=lambda r: r.pid == pid)
    story.kernel.append(Exit(100 * MS, 1, pid, code, None, True))
    story.change(Wait, lambda r: r.child == pid, t=101 * MS)
    story.server = [
        msgspec.structs.replace(r, status=code << 8, clean=clean) if r.ev == "reap" and r.child == pid else r
        for r in story.server
    ]
    result = judged(ExitStatus(), story)
    if crash:
        assert result.status is OracleStatus.HELD, result
    else:
        assert_failed(result, "though no child had crashed")


def test_a_sigquit_by_hand_asks_for_an_immediate_end() -> None:
    story = crash_story().change(Exit, lambda r: r.pid == VICTIM, code=0, signal=None)
    story.server = [
        msgspec.structs.replace(r, status=0, clean=True) if r.ev == "reap" and r.child == VICTIM else r
        for r in story.server
    ]
    assert_failed(judged(ExitStatus(), story), "though no child had crashed")
    story.send(101.4, SIGQUIT, POSTMASTER, by=HARNESS)
    assert judged(ExitStatus(), story).status is OracleStatus.HELD


# Transitions.


def test_a_step_that_the_machine_does_not_make_fails() -> None:
    story = crash_story()
    records = journal_of_steps()
    wrong = {**records[-1].after, "fatal_error": True}
    records[-1] = msgspec.structs.replace(records[-1], after=wrong)
    story.server += records
    assert_failed(judged(Transitions(), story), "ChildExited in PM_RECOVERY led to PM_RUN")


def test_a_step_left_out_fails() -> None:
    story = crash_story()
    story.server += [r for n, r in enumerate(journal_of_steps()) if n != 2]
    assert_failed(judged(Transitions(), story), "does not continue the record before")


# The account itself.


def test_a_pid_used_again_is_another_life() -> None:
    story = crash_story()
    story.fork(200, VICTIM, "walwriter")
    first, second = Account(story.kernel).lives(VICTIM)
    assert (first.role, first.signal) == ("backend", SIGKILL)
    assert (second.role, second.exit_t) == ("walwriter", None)


def test_sigchld_decides_between_an_exit_and_a_kill() -> None:
    """Killed between its call of exit_group and its end: the events before tell exit 0, and it was signal 9."""
    story = crash_story()
    t = 200 * MS
    story.kernel += [
        Exiting(t, 0, LATE, 0),
        Signal(t + 2_000, 1, SIGKILL, LATE, HARNESS, 0, 0),
        Exit(t + 5_000, 0, LATE, 0, None, True),
        Signal(t + 7_000, 0, SIGCHLD, POSTMASTER, LATE, 2, 0),
    ]
    late = Account(story.kernel).lives(LATE)[0]
    assert (late.code, late.signal, late.status) == (None, SIGKILL, SIGKILL)


# Postmasters that end.

SECOND, SECOND_STARTUP = 200, 201


def orphan_story(*, orphan_ends_ms: float) -> Story:
    """The postmaster is killed at 200 ms; its last backend ends when it likes; another postmaster is started."""
    story = crash_story().drop(DrainedRecord, Closed, where=lambda r: True)
    story.send(200, SIGKILL, POSTMASTER, by=HARNESS)
    ended = int(orphan_ends_ms * MS)
    story.kernel += [
        Exit(200 * MS + 1000, 0, POSTMASTER, None, SIGKILL, True),
        Wait(201 * MS, 0, HARNESS, POSTMASTER),
        Exiting(ended - 5_000, 1, LATE, 1),
        Exit(ended, 1, LATE, 1, None, True),
        Wait(ended + 1000, 0, HARNESS, LATE),
        Fork(300 * MS, 0, HARNESS, SECOND, "python"),
        Followed(300 * MS + 1000, SECOND, "postmaster"),
        DrainedRecord(END_MS * MS),
        Closed(END_MS * MS),
    ]
    story.kernel += [
        Fork(320 * MS, 0, SECOND, SECOND_STARTUP, "cb:postmaster"),
        Name(320 * MS + 20_000, 1, SECOND_STARTUP, "cb:startup"),
    ]
    return story


@pytest.mark.parametrize("oracle", SUPERVISION, ids=lambda oracle: oracle.name)
def test_a_killed_postmaster_owes_nobody_anything(oracle: Oracle) -> None:
    """Its children go by themselves, with exit 1 and reaped by whoever adopts them: no fan-out, no wait4 of its own."""
    story = orphan_story(orphan_ends_ms=250)
    story.server += journal_of_steps()
    before = crash_story()
    before.server += journal_of_steps()
    result, crashed = judged(oracle, story), judged(oracle, before)
    assert result.status is OracleStatus.HELD or crashed.status is not OracleStatus.HELD, result
    assert result.failed == 0, result


def test_what_no_fault_of_a_plan_can_make_is_not_asked_of_it() -> None:
    assert is_fed("reaping", ("shutdown-fast",)), "every campaign reaps"
    assert not is_fed("fan_out", ("shutdown-fast", "sigkill-postmaster"))
    assert is_fed("fan_out", ("shutdown-fast", "sigquit"))
    assert not is_fed("wal_replay", ("sigkill-checkpoint", "shutdown-smart"))
    assert is_fed("wal_replay", ("sigkill-checkpoint", "sigkill-postmaster"))
    assert is_fed("fan_out", ("a fault of another version",))
    everything = {oracle for oracle in FED_BY if is_fed(oracle, FAULTS)}
    assert everything == set(FED_BY)
    assert set().union(*FED_BY.values()) == set(Consequence) - {Consequence.REPLACEMENT, Consequence.SHUTDOWN}
