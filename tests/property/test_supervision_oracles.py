"""Supervision oracles under an account that is cut, torn or blurred, and under one breach at a random place.

An oracle that accuses a sound server is worse than none. So over the story of a crash and a shutdown as they should be:
whatever part of the kernel's account is lost, nobody is accused, if the loss is told; nor if the account ends anywhere,
nor if each time is a microsecond off, which is how exactly it is known. And one breach of a rule, of any child at any
time, is found by that rule's oracle.
"""

from __future__ import annotations

from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.oracles.escalation import EARLIEST_KILL_NS, LATEST_KILL_NS, Escalation
from chaos.oracles.fan_out import FanOut
from chaos.oracles.orphans import LONGEST_NS, Orphans
from chaos.oracles.reaping import Reaping
from chaos.oracles.registry import SUPERVISION
from chaos.oracles.shutdown import Shutdowns
from chaos.oracles.supervision import PROMPT_NS
from chaos.witness.account import TICK_NS
from chaos.witness.records import Closed, Drained, Exit, Exiting, KernelRecord, Loss, Opened, Signal, Wait
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
    STARTUP,
    SURVIVOR,
    VICTIM,
    WALWRITER,
    Story,
    assert_failed,
    crash_again,
    crash_story,
    judged,
    shut_down,
    whole_story,
)

EVERYBODY = (
    CHECKPOINTER,
    BGWRITER,
    STARTUP,
    WALWRITER,
    VICTIM,
    SURVIVOR,
    NEW_STARTUP,
    LATE,
    NEW_CHECKPOINTER,
    NEW_BGWRITER,
)
SURVIVORS = (SURVIVOR, WALWRITER, BGWRITER, CHECKPOINTER)
BOUNDS = (Opened, Drained, Closed)
LAST_MS = 1020

stories = st.sampled_from(
    [whole_story, lambda: shut_down(crash_story(), mode=SIGTERM), lambda: crash_again(crash_story())]
)
moments = st.integers(0, LAST_MS * 1000).map(lambda us: us * 1000)


def accused(story: Story) -> list[str]:
    return [f"{oracle.name}: {failure.message}" for oracle in SUPERVISION for failure in judged(oracle, story).failures]


@given(stories.map(lambda make: make()), moments, moments)
def test_what_is_lost_accuses_nobody(story: Story, one: int, other: int) -> None:
    since, until = sorted((one, other))
    story.kernel = [r for r in story.kernel if isinstance(r, BOUNDS) or not since <= r.t <= until]
    story.kernel.append(Loss(t=until, since=since, dropped=3, overrun=0, commit_overrun=0, unparsed=0))
    assert accused(story) == []


@given(stories.map(lambda make: make()), moments, st.booleans())
def test_an_account_that_ends_anywhere_accuses_nobody(story: Story, end: int, in_order: bool) -> None:
    story.kernel = [r for r in story.kernel if r.t <= end and not isinstance(r, Drained | Closed)]
    story.kernel.append(Drained(end))
    if in_order:
        story.kernel.append(Closed(end))
    story.server = [record for record in story.server if record.t <= end]
    story.invokes = [invoke for invoke in story.invokes if invoke.t <= end]
    story.harness = [record for record in story.harness if record.t <= end]
    assert accused(story) == []


@given(stories.map(lambda make: make()), st.randoms(use_true_random=False))
def test_times_are_known_to_the_microsecond_and_no_better(story: Story, random: object) -> None:
    choose = getattr(random, "choice")  # noqa: B009 - Hypothesis' own Random has no type of its own

    def blurred(record: KernelRecord) -> KernelRecord:
        moved = record.t + choose((-TICK_NS // 2, 0, TICK_NS // 2))
        return record if isinstance(record, BOUNDS) else msgspec.structs.replace(record, t=moved)

    story.kernel = [blurred(record) for record in story.kernel]
    assert accused(story) == []


@given(st.sampled_from(SURVIVORS))
def test_whoever_is_not_told_is_missed(pid: int) -> None:
    story = whole_story().drop(Signal, where=lambda r: r.pid == pid and r.sig == SIGQUIT)
    assert_failed(judged(FanOut(), story), f"(PID {pid}) got no SIGQUIT")


@given(st.sampled_from(EVERYBODY), st.integers(PROMPT_NS + 2 * TICK_NS, 20 * PROMPT_NS))
def test_whoever_is_reaped_late_or_by_another_is_missed(pid: int, late_ns: int) -> None:
    died = next(r.t for r in whole_story().kernel if isinstance(r, Exit) and r.pid == pid)
    story = crash_story() if pid not in (LATE, NEW_CHECKPOINTER, NEW_BGWRITER) else whole_story()
    story.drop(Exit, where=lambda r: r.pid == POSTMASTER)
    late = story.change(Wait, lambda r: r.child == pid, t=died + late_ns)
    assert_failed(judged(Reaping(), late), f"(PID {pid}) was a zombie")
    elsewhere = whole_story().change(Wait, lambda r: r.child == pid, pid=HARNESS)
    assert_failed(judged(Reaping(), elsewhere), f"(PID {pid}) was reaped by process {HARNESS}")


@given(st.sampled_from(SURVIVORS), st.integers(0, 60_000))
def test_sigkill_has_its_time_and_no_other(pid: int, after_ms: int) -> None:
    """A survivor stays, and is killed so long after the first SIGQUIT."""
    told = 102 * MS
    story = crash_story()
    story.kernel = [r for r in story.kernel if r.t < int(103.9 * MS)]
    for other in SURVIVORS:
        if other != pid:
            story.end(104, other, code=2, reaped=105)
    killed = told + after_ms * MS
    story.kernel += [
        Signal(killed, 0, SIGKILL, pid, POSTMASTER, 0, 0),
        Exit(killed + MS, 1, pid, None, SIGKILL, True),
        Wait(killed + 2 * MS, 0, POSTMASTER, pid),
        Drained(killed + 20_000 * MS),
        Closed(killed + 20_000 * MS),
    ]
    last = max(r.t for r in story.kernel if isinstance(r, Signal) and r.sig == SIGQUIT)
    result = judged(Escalation(), story)
    if after_ms * MS >= EARLIEST_KILL_NS and killed <= last + LATEST_KILL_NS:
        assert result.status is OracleStatus.HELD, result
    else:
        assert_failed(result, f"(PID {pid})")


@given(st.sampled_from([LATE, NEW_CHECKPOINTER, NEW_BGWRITER]), st.integers(-MS, 30_000 * MS))
def test_an_orphan_has_its_time_and_no_more(pid: int, over_ns: int) -> None:
    story = whole_story()
    dead = 999 * MS
    story.kernel = [r for r in story.kernel if r.t < dead]
    story.end_postmaster(999, signal=SIGKILL)
    for orphan in (LATE, NEW_CHECKPOINTER, NEW_BGWRITER):
        left = dead + LONGEST_NS + over_ns if orphan == pid else dead + 5 * MS
        story.kernel += [Exiting(left - 5000, 0, orphan, 1), Exit(left, 0, orphan, 1, None, True)]
    story.kernel += [Drained(60_000 * MS), Closed(60_000 * MS)]
    result = judged(Orphans(), story)
    if over_ns <= TICK_NS:
        assert result.status is OracleStatus.HELD, result
    else:
        assert_failed(result, f"(PID {pid}) outlived its postmaster")


@pytest.mark.parametrize("code", [1, 2, 255])
def test_an_exit_status_that_is_untrue_is_found(code: int) -> None:
    story = whole_story().change(Exit, lambda r: r.pid == POSTMASTER, code=code)
    assert_failed(judged(Shutdowns(), story), f"exited with exit code {code}")


@given(st.sampled_from([SIGTERM, SIGINT, SIGQUIT]), st.integers(902, 998))
def test_whatever_ends_a_session_in_a_smart_shutdown_is_found(sig: int, ms: int) -> None:
    story = shut_down(crash_story(), mode=SIGTERM)
    story.send(ms, sig, LATE)
    assert_failed(judged(Shutdowns(), story), f"backend (PID {LATE}) got {sig.name} in a smart shutdown")  # type: ignore[attr-defined]
