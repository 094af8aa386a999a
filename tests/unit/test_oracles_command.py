"""The oracles of any command, each over a story of records in which it must hold and over one in which it must fail.

Live toys show the rules broken by real processes (tests/harness); here are the cases that those cannot make on
purpose: what lies in a gap, what comes too late by a little, what leaves no wait4, who signals from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from signal import SIGKILL, SIGSTOP, SIGTERM

import pytest

from chaos.command.plan import CommandFault, CommandPlan, Expectation, Policy, Ready
from chaos.oracles.command.bystanders import Bystanders
from chaos.oracles.command.child_reaping import ChildReaping
from chaos.oracles.command.drain import Drain
from chaos.oracles.command.hang import Hang
from chaos.oracles.command.orphans import Orphans
from chaos.oracles.command.ready_again import ReadyAgain
from chaos.oracles.command.registry import oracles_of
from chaos.oracles.command.restart_all import RestartAll
from chaos.oracles.command.restart_one import RestartOne
from chaos.oracles.command.service import NOT_REPLACED
from chaos.oracles.command.stop import Stop
from chaos.oracles.evidence import Evidence, HarnessRecord, Seen
from chaos.oracles.oracle import Oracle, OracleResult
from chaos.witness.account import Account
from chaos.witness.records import Closed, Drained, Exit, Fork, KernelRecord, Loss, Opened, Signal, Wait
from reports.verdict import OracleStatus

MS = 1_000_000
HARNESS, GUARDIAN, MAIN, STRANGER = 10, 50, 100, 77
VICTIM, OTHER, HEIR, SECOND_HEIR = 101, 102, 103, 104
STRUCK_MS, ANSWERED_MS, CYCLE_END_MS, STOP_MS, END_MS = 1000, 1200, 3000, 4000, 9000
HELD, FAILED, NOT_JUDGED = OracleStatus.HELD, OracleStatus.FAILED, OracleStatus.NOT_JUDGED


@dataclass
class Story:
    """The records of a run; times are milliseconds. A main process and two children stand when it begins."""

    kernel: list[KernelRecord] = field(default_factory=list)
    harness: list[HarnessRecord] = field(default_factory=list)
    roles: dict[int, str] = field(default_factory=dict)

    def fork(self, ms: float, pid: int, parent: int = MAIN, role: str = "worker") -> Story:
        self.kernel.append(Fork(int(ms * MS), 0, parent, pid, "x"))
        self.roles[pid] = role
        return self

    def send(self, ms: float, sig: int, pid: int, by: int) -> Story:
        self.kernel.append(Signal(int(ms * MS), 0, sig, pid, by, 0, 0))
        return self

    def end(self, ms: float, pid: int, *, sig: int | None = None, reaped: float | None = None, by: int = MAIN) -> Story:
        self.kernel.append(Exit(int(ms * MS), 0, pid, None if sig else 0, sig, True))
        if reaped is not None:
            self.kernel.append(Wait(int(reaped * MS), 0, by, pid))
        return self

    def look(self, ms: float, *pids: int, zombies: tuple[int, ...] = ()) -> Story:
        seen = tuple(
            Seen(pid, MAIN, self.roles.get(pid, "worker"), "Z" if pid in zombies else "S") for pid in (*pids, *zombies)
        )
        self.harness.append(HarnessRecord(int(ms * MS), "processes", processes=seen))
        return self

    def strike(self, *pids: int, sig: int = SIGKILL, fault: str = CommandFault.SIGKILL_RANDOM) -> Story:
        self.harness.append(HarnessRecord((STRUCK_MS - 300) * MS, "cycle_begin", cycle=3))
        for pid in pids:
            self.send(STRUCK_MS, sig, pid, HARNESS)
            self.harness.append(
                HarnessRecord(STRUCK_MS * MS, "fault", cycle=3, child=pid, sig=sig, fault=fault, outcome="landed")
            )
        self.harness.append(HarnessRecord(CYCLE_END_MS * MS, "cycle_end", cycle=3))
        return self

    def answer(self, ms: float, outcome: str = "") -> Story:
        self.harness.append(HarnessRecord(int(ms * MS), "ready", cycle=3, outcome=outcome))
        return self

    def stop(self) -> Story:
        self.harness.append(HarnessRecord(STOP_MS * MS, "stop", child=MAIN, sig=SIGTERM))
        return self.send(STOP_MS, SIGTERM, MAIN, HARNESS)

    def evidence(self) -> Evidence:
        begin: list[KernelRecord] = [Opened(0, "tracefs", "passed", HARNESS), Fork(MS, 0, GUARDIAN, MAIN, "x")]
        end: list[KernelRecord] = [Drained(END_MS * MS), Closed(END_MS * MS)]
        started = HarnessRecord(2 * MS, "postmaster", child=MAIN)
        return Evidence(Account([*begin, *self.kernel, *end]), (), [started, *self.harness])


def standing() -> Story:
    return Story().fork(3, VICTIM).fork(4, OTHER).look(STRUCK_MS - 50, VICTIM, OTHER)


def restarted_one() -> Story:
    """One cycle under restart-one as it should be, and the stop."""
    story = standing().strike(VICTIM).end(STRUCK_MS + 1, VICTIM, sig=SIGKILL, reaped=STRUCK_MS + 5)
    story.fork(STRUCK_MS + 50, HEIR).answer(ANSWERED_MS).look(CYCLE_END_MS - 1, OTHER, HEIR)
    story.stop().end(STOP_MS + 100, OTHER, reaped=STOP_MS + 110).end(STOP_MS + 120, HEIR, reaped=STOP_MS + 130)
    return story.end(STOP_MS + 200, MAIN, reaped=STOP_MS + 210, by=GUARDIAN)


def restarted_all() -> Story:
    """One cycle under restart-all as it should be."""
    story = standing().strike(VICTIM).end(STRUCK_MS + 1, VICTIM, sig=SIGKILL, reaped=STRUCK_MS + 5)
    story.send(STRUCK_MS + 6, SIGTERM, OTHER, MAIN).end(STRUCK_MS + 10, OTHER, reaped=STRUCK_MS + 11)
    story.fork(STRUCK_MS + 20, HEIR).fork(STRUCK_MS + 30, SECOND_HEIR).answer(ANSWERED_MS)
    return story.look(CYCLE_END_MS - 1, HEIR, SECOND_HEIR)


def drained() -> Story:
    """One cycle under drain as it should be."""
    story = standing().strike(VICTIM).end(STRUCK_MS + 1, VICTIM, sig=SIGKILL, reaped=STRUCK_MS + 5)
    story.send(STRUCK_MS + 6, SIGTERM, OTHER, MAIN).end(STRUCK_MS + 10, OTHER, reaped=STRUCK_MS + 11)
    return story.end(STRUCK_MS + 20, MAIN, reaped=STRUCK_MS + 21, by=GUARDIAN)


def hung(ended: float | None) -> Story:
    story = standing().strike(VICTIM, sig=SIGSTOP, fault=CommandFault.SIGSTOP)
    return story if ended is None else story.send(ended, SIGKILL, VICTIM, MAIN).end(ended, VICTIM, sig=SIGKILL)


ONE, ALL = Policy.RESTART_ONE, Policy.RESTART_ALL
CASES: dict[str, tuple[Oracle, Callable[[], Story], OracleStatus, str]] = {
    "replaced in time": (RestartOne(0.1), restarted_one, HELD, ""),
    "replaced too late": (RestartOne(0.04), restarted_one, FAILED, "was replaced 0.049 s after its end"),
    "never replaced": (
        RestartOne(1),
        lambda: standing().strike(VICTIM).end(STRUCK_MS + 1, VICTIM, sig=SIGKILL),
        FAILED,
        "was not replaced within 2 s",
    ),
    "replaced by another role": (
        RestartOne(1),
        lambda: (
            standing().strike(VICTIM).end(STRUCK_MS + 1, VICTIM, sig=SIGKILL)
            .fork(STRUCK_MS + 9, HEIR, role="helper").look(CYCLE_END_MS - 1, HEIR)
        ),
        FAILED,
        "was not replaced",
    ),
    "the server ended instead": (RestartOne(5), drained, FAILED, "the server ended"),
    "a replacement not yet due": (
        RestartOne(5),
        lambda: standing().strike(VICTIM).end(STRUCK_MS + 1, VICTIM, sig=SIGKILL),
        NOT_JUDGED,
        "",
    ),
    "all replaced": (RestartAll(0.1), restarted_all, HELD, ""),
    "all replaced too late": (RestartAll(0.02), restarted_all, FAILED, "stood 0.029 s after the death"),
    "one left alone": (RestartAll(1), restarted_one, FAILED, "was left alone"),
    "the new before the old were gone": (
        RestartAll(1), lambda: restarted_all().fork(STRUCK_MS + 7, 105).look(CYCLE_END_MS - 2, 105), FAILED, "of the old generation lived"),
    "drained": (Drain(0.1), drained, HELD, ""),
    "drained too late": (Drain(0.01), drained, FAILED, "lived on"),
    "replaced instead of drained": (Drain(1), restarted_one, FAILED, "was forked after the death"),
    "the others stay": (Bystanders(ONE), restarted_one, HELD, ""),
    "another one ended": (Bystanders(ONE), restarted_all, FAILED, "was not hit and"),
    "ended by their supervisor": (Bystanders(ALL), restarted_all, HELD, ""),
    "signalled by a stranger": (
        Bystanders(ALL),
        lambda: restarted_all().send(STRUCK_MS + 5, SIGTERM, OTHER, STRANGER),
        FAILED,
        "from outside the server",
    ),
    "reaped": (ChildReaping(0.1), restarted_one, HELD, ""),
    "reaped too late": (ChildReaping(0.003), restarted_one, FAILED, "was reaped 0.004 s after its end"),
    "a zombie": (
        ChildReaping(0.1),
        lambda: standing().strike(VICTIM).end(STRUCK_MS + 1, VICTIM, sig=SIGKILL).look(2000, OTHER, zombies=(VICTIM,)),
        FAILED,
        "is a zombie",
    ),
    "reaped by waitid, which names no child": (
        ChildReaping(0.1),
        lambda: standing().strike(VICTIM).end(STRUCK_MS + 1, VICTIM, sig=SIGKILL).look(2000, OTHER),
        HELD,
        "",
    ),
    "nobody looked": (
        ChildReaping(0.1), lambda: standing().strike(VICTIM).end(STRUCK_MS + 1, VICTIM, sig=SIGKILL), NOT_JUDGED, ""),
    "answered": (ReadyAgain(1), restarted_one, HELD, ""),
    "answered too late": (ReadyAgain(0.1), restarted_one, FAILED, "answered 0.199 s after the death"),
    "never answered": (ReadyAgain(1), drained, FAILED, "did not answer again"),
    "answered, and not whole": (
        ReadyAgain(1),
        lambda: standing().strike(VICTIM).end(STRUCK_MS + 1, VICTIM, sig=SIGKILL).answer(ANSWERED_MS, NOT_REPLACED),
        NOT_JUDGED,
        "",
    ),
    "the hung was ended": (Hang(1), lambda: hung(STRUCK_MS + 500), HELD, ""),
    "the hung was ended too late": (Hang(0.4), lambda: hung(STRUCK_MS + 500), FAILED, "hung for 0.5 s"),
    "the hung was never ended": (Hang(1), lambda: hung(None), FAILED, "nobody ended it"),
    "nobody left behind": (Orphans(0.1), restarted_one, HELD, ""),
    "an orphan": (
        Orphans(0.1),
        lambda: (
            standing().end(STOP_MS, MAIN, sig=SIGKILL, reaped=STOP_MS + 1, by=GUARDIAN)
            .send(STOP_MS + 200, SIGKILL, OTHER, GUARDIAN).end(STOP_MS + 200, OTHER, sig=SIGKILL)
            .end(STOP_MS + 50, VICTIM, sig=SIGKILL)
        ),
        FAILED,
        "by 0.2 s, until the harness killed it",
    ),
    "stopped": (Stop(1), restarted_one, HELD, ""),
    "stopped too late": (Stop(0.15), restarted_one, FAILED, "main (PID 100) ended 0.2 s after the stop signal"),
}  # fmt: skip


def judged(oracle: Oracle, story: Story) -> OracleResult:
    return oracle.judge(story.evidence())


@pytest.mark.parametrize("case", CASES)
def test_a_rule_says_what_a_story_shows(case: str) -> None:
    oracle, story, status, message = CASES[case]
    result = judged(oracle, story())
    assert result.status is status, result
    assert bool(result.failures) == (status is FAILED)
    if status is FAILED:
        assert any(message in failure.message for failure in result.failures), result.failures
        assert all(failure.evidence for failure in result.failures), "a failure without evidence"


def test_every_oracle_is_seen_to_fail() -> None:
    failing = {oracle.name for oracle, _, status, _ in CASES.values() if status is FAILED}
    assert failing == {oracle.name for oracle, _, _, _ in CASES.values()}


def test_slack_is_what_was_left_of_the_bound_and_negative_when_it_was_too_late() -> None:
    assert judged(RestartOne(0.1), restarted_one()).worst_slack_ms == pytest.approx(51)
    assert judged(RestartOne(0.04), restarted_one()).worst_slack_ms == pytest.approx(-9)
    assert judged(RestartOne(0.1), restarted_one()).longest_ms == pytest.approx(49)


@pytest.mark.parametrize("case", [case for case, (_, _, status, _) in CASES.items() if status is FAILED])
def test_nothing_is_judged_from_a_gap(case: str) -> None:
    """Whatever was done there: what the account does not show was perhaps done well."""
    oracle, story, _, _ = CASES[case]
    torn = story()
    torn.kernel.append(Loss(END_MS * MS, 900 * MS, 7, 0, 0, 0))
    result = judged(oracle, torn)
    assert (result.failed, result.trials) == (0, 0), result
    assert "7 events dropped" in result.reason


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_held_without_a_witness(case: str) -> None:
    oracle, story, _, _ = CASES[case]
    blind = Evidence(Account([]), (), story().harness)
    assert oracle.judge(blind).status is NOT_JUDGED


@pytest.mark.parametrize(
    ("policy", "faults", "names"),
    [
        (ONE, {"sigkill-random"}, {"restart_one", "bystanders", "child_reaping", "ready_again", "stop", "orphans"}),
        (ALL, {"sigstop"}, {"restart_all", "bystanders", "child_reaping", "ready_again", "stop", "orphans", "hang"}),
        (Policy.DRAIN, {"sigkill-role"}, {"drain", "bystanders", "child_reaping", "orphans"}),
        (ONE, {"sigkill-main"}, {"orphans"}),
    ],
)
def test_a_plan_is_judged_by_the_rules_that_it_gives_something_to_judge(
    policy: Policy, faults: set[str], names: set[str]
) -> None:
    plan = CommandPlan(
        seed=1,
        start=("true",),
        directory="/",
        ready=Ready(tcp="127.0.0.1:1"),
        expect=Expectation(policy),
        roles={"worker": "x"},
        faults=tuple(map(CommandFault, faults)),
    )
    assert {oracle.name for oracle in oracles_of(plan)} == names
