"""The oracles of supervision on a server that names its processes to nobody and keeps no journal: PostgreSQL.

The story is the crash of `test_oracles_supervision`, told without what only our own server gives: no names in the
kernel's account, no claims. What the harness saw of roles, memories and backends stands in for them. Every rule that a
real server can be held to holds on it and fails when it is broken; what it never promised is not asked of it; and
nothing of this is conceded to our own server.
"""

from __future__ import annotations

import pytest

from chaos.oracles.escalation import Escalation
from chaos.oracles.evidence import Evidence, HarnessRecord, Invoke
from chaos.oracles.exit_status import ExitStatus
from chaos.oracles.fan_out import FanOut
from chaos.oracles.memory import Drained, Memory
from chaos.oracles.oracle import Oracle, OracleResult
from chaos.oracles.reaping import Reaping
from chaos.oracles.recovery_order import RecoveryOrder
from chaos.oracles.server_kind import kind_of
from chaos.oracles.slots import Slots
from chaos.oracles.supervision import reigns
from chaos.oracles.transitions import Transitions
from chaos.witness.account import Account
from chaos.witness.records import Exit, Fork, Name, Signal, Wait
from reports.verdict import OracleStatus
from tests.support.kernel_story import (
    BGWRITER,
    CHECKPOINTER,
    HARNESS,
    LATE,
    MS,
    NEW_STARTUP,
    POSTMASTER,
    STARTUP,
    SURVIVOR,
    VICTIM,
    WALWRITER,
    Story,
    assert_failed,
    crash_story,
)

IO_WORKER = 109
ROLES = {
    CHECKPOINTER: "checkpointer", BGWRITER: "bgwriter", STARTUP: "startup", WALWRITER: "walwriter", VICTIM: "backend",
    SURVIVOR: "backend", NEW_STARTUP: "startup",
}  # fmt: skip
CLIENT = 60
HELD = (FanOut(), Escalation(), Reaping(), Drained(), Memory(), RecoveryOrder(), ExitStatus())


class PostgresStory(Story):
    """The same crash as of a PostgreSQL of some version."""

    def __init__(self, version: str = "18.1") -> None:
        told = crash_story()
        super().__init__(told.kernel, [], list(told.harness), [])
        self.version = version
        self.drop(Name, where=lambda r: r.name.startswith("cb:"))
        self.kernel = [Fork(r.t, r.cpu, r.pid, r.child, "postgres") if isinstance(r, Fork) else r for r in self.kernel]
        for pid, role in ROLES.items():
            forked = next(r.t for r in self.kernel if isinstance(r, Fork) and r.child == pid)
            self.harness.append(HarnessRecord(forked + 50_000, "role", child=pid, role=role))
        self.look(60, 11, POSTMASTER, SURVIVOR)
        # A client outside performs an operation of worker 2 in cycle 7, through the backend that was forked last.
        self.harness.append(HarnessRecord(int(140.5 * MS), "served", cycle=7, worker=2, child=LATE))
        self.invokes.append(Invoke(141 * MS, LATE, 7 << 32 | 2 << 20))

    def look(self, ms: float, ino: int, *pids: int) -> None:
        self.harness += [HarnessRecord(int(ms * MS), "memory_maps", pid=pid, inos=(ino,)) for pid in pids]

    def evidence(self) -> Evidence:
        kind = kind_of("postgres", {"server": f"PostgreSQL {self.version}"})
        return Evidence(Account(self.kernel), (), self.harness, self.invokes, kind)


def judged(oracle: Oracle, story: Story) -> OracleResult:
    return oracle.judge(story.evidence())


@pytest.mark.parametrize("oracle", HELD, ids=lambda oracle: oracle.name)
def test_what_needs_no_journal_is_judged_and_holds(oracle: Oracle) -> None:
    result = judged(oracle, PostgresStory())
    assert result.status is OracleStatus.HELD, result
    assert result.trials > 0
    assert result.row().required


@pytest.mark.parametrize("oracle", [Slots(), Transitions()], ids=lambda oracle: oracle.name)
def test_what_only_a_journal_tells_is_not_judged_and_not_missed(oracle: Oracle) -> None:
    result = judged(oracle, PostgresStory())
    assert result.status is OracleStatus.NOT_JUDGED
    assert result.reason.startswith("PostgreSQL keeps no journal")
    assert not result.row(required=True).required


def test_our_own_server_owes_its_journal() -> None:
    story = crash_story()
    story.server = []
    result = judged(ExitStatus(), story)
    assert result.status is OracleStatus.NOT_JUDGED
    assert result.reason == "the run has no record of the server"
    assert result.row(required=True).required


def test_roles_are_those_that_the_harness_saw() -> None:
    (reign,) = reigns(PostgresStory().evidence())
    assert {child.process.pid: child.role for child in reign.children} == {**ROLES, LATE: "backend"}


def test_a_role_is_of_the_life_in_which_it_was_seen() -> None:
    """The pid of a startup process is given to a backend afterwards."""
    story = PostgresStory()
    story.kernel.append(Fork(200 * MS, 0, POSTMASTER, NEW_STARTUP, "postgres"))
    (reign,) = reigns(story.evidence())
    assert [child.role for child in reign.children if child.process.pid == NEW_STARTUP] == ["startup", "unknown"]


def out_of_order(version: str) -> PostgresStory:
    """The checkpointer, the oldest, gets its SIGQUIT first."""
    story = PostgresStory(version)
    for record in [r for r in story.kernel if isinstance(r, Signal) and r.pid == CHECKPOINTER and r.sig == 3]:
        story.kernel.remove(record)
    story.quit(101.5, CHECKPOINTER)
    return story


def test_the_order_of_sigquit_is_asked_of_versions_that_promise_it() -> None:
    assert judged(FanOut(), out_of_order("15.18")).status is OracleStatus.HELD
    assert_failed(judged(FanOut(), out_of_order("18.1")), "got SIGQUIT before")


@pytest.mark.parametrize("version", ["15.18", "18.1"])
def test_a_child_without_sigquit_fails_on_every_version(version: str) -> None:
    story = PostgresStory(version)
    story.drop(Signal, where=lambda r: r.pid == BGWRITER and r.sig == 3)
    assert_failed(judged(FanOut(), story), f"bgwriter (PID {BGWRITER}) got no SIGQUIT")


def test_an_io_worker_may_be_forked_before_the_startup_process_of_its_generation() -> None:
    story = PostgresStory()
    story.kernel.append(Fork(115 * MS, 0, POSTMASTER, IO_WORKER, "postgres"))
    story.harness.append(HarnessRecord(116 * MS, "role", child=IO_WORKER, role="io_worker"))
    assert judged(Drained(), story).status is OracleStatus.HELD
    assert judged(Escalation(), story).status is OracleStatus.HELD
    old = PostgresStory()
    old.kernel.append(Fork(50 * MS, 0, POSTMASTER, IO_WORKER, "postgres"))
    old.harness.append(HarnessRecord(51 * MS, "role", child=IO_WORKER, role="io_worker"))
    assert_failed(judged(Drained(), old), f"io_worker (PID {IO_WORKER}) still lived")
    assert judged(Escalation(), old).status is OracleStatus.NOT_JUDGED


def test_a_child_on_the_memory_of_an_earlier_generation_fails() -> None:
    story = PostgresStory()
    story.look(160, 11, LATE)
    assert_failed(judged(Memory(), story), f"PID {LATE} maps a memory (inode 11) that an earlier generation had")


def test_a_child_on_another_memory_than_its_postmaster_fails() -> None:
    story = PostgresStory()
    story.look(160, 13, LATE)
    assert_failed(judged(Memory(), story), f"PID {LATE} maps another memory (inode 13)")


def test_an_operation_through_a_backend_of_before_the_recovery_fails() -> None:
    story = PostgresStory()
    story.change(Fork, lambda r: r.child == LATE, t=125 * MS)
    assert_failed(judged(RecoveryOrder(), story), "was forked before recovery had ended")


def test_an_operation_of_a_client_without_a_backend_is_not_judged() -> None:
    story = PostgresStory()
    story.invokes = [Invoke(141 * MS, CLIENT, 1)]
    assert judged(RecoveryOrder(), story).status is OracleStatus.NOT_JUDGED


def test_sigquit_without_a_crash_and_without_a_request_fails() -> None:
    story = PostgresStory().drop(Exit, where=lambda r: r.pid == VICTIM)
    assert_failed(judged(ExitStatus(), story), "no child had crashed and nobody had asked")


def test_a_crash_that_leads_to_nothing_fails() -> None:
    story = PostgresStory().drop(Signal, where=lambda r: r.sig == 3)
    assert_failed(judged(ExitStatus(), story), f"backend (PID {VICTIM}) crashed and nobody got SIGQUIT")


def test_a_child_that_somebody_else_reaped_fails() -> None:
    story = PostgresStory().change(Wait, lambda r: r.child == VICTIM, pid=HARNESS)
    assert_failed(judged(Reaping(), story), f"backend (PID {VICTIM}) was reaped by process {HARNESS}")
