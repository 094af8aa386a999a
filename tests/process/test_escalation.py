"""Five seconds after SIGQUIT, SIGKILL: the last resort against children that cannot leave.

What could go wrong: a child that is stopped, or stuck in its handler, holds up recovery for ever; a kind of child is
forgotten by the volley; the volley comes too early and cuts off last words, or again and again; a fast shutdown, which
must wait for ever, kills. A stopped process is the honest stand-in for one that hangs: SIGQUIT stays pending, and only
SIGKILL ends it.

Each case takes as long as the stopwatch runs, so all of them run side by side, once, and the tests read what the
kernel saw.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.oracles import escalation
from chaos.oracles.escalation import Escalation
from chaos.oracles.fan_out import FanOut
from chaos.oracles.shutdown import Shutdowns
from supervisor.points import Point, PointAction
from supervisor.roles import Role
from tests.conftest import Kernel, kernel_witness
from tests.support import wire_client as client
from tests.support.bank_client import set_up
from tests.support.kernel_rules import ended, late_or_early_kills, not_told_to_quit, received
from tests.support.scene import Points, Scene, gone, living_child, planted
from tests.support.server import LiveServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

STATES = "supervisor/postmaster/states.py"
VOLLEY = '        draft.terminate_children("KILL")\n'


class Case:
    """One server, who stands still in it, and who crashed."""

    def __init__(self, directory: Path, kernel: Kernel, stack: ExitStack, code: Path | None = None) -> None:
        self.points = Points(directory)
        stack.callback(self.points.map.close)
        server = LiveServer(directory, self.points.options, code=code)
        stack.callback(server.close)
        self.scene = Scene(server.start(), kernel)
        self.stack = stack
        self.stopped: dict[str, int] = {}
        self.crashed = 0

    def knock(self) -> int:
        """A silent connection; the pid of the child that it got."""
        silent = self.stack.enter_context(self.scene.server.knock())
        silent.say(client.ssl_request())
        assert silent.hear_byte() == b"N"
        return list(self.scene.server.roles())[-1]

    def stop(self, role: str) -> None:
        with self.scene.server.child(role) as child:
            self.scene.stop_child(child.pid)
            self.stopped[role] = child.pid

    def crash(self, role: str = "walwriter") -> None:
        """Kill a child, and wait until all who can leave have left."""
        others = [pid for pid in self.scene.server.roles() if pid not in self.stopped.values()]
        self.crashed = self.scene.server.kill(role)
        self.scene.wait_reaped(*others)


def session_and_writer(case: Case) -> Case:
    """A session and a writer cannot leave after a crash."""
    case.stack.enter_context(case.scene.server.knock()).log_in()
    case.stop("backend")
    case.stop("bgwriter")
    case.crash()
    return case


def dead_end(case: Case) -> Case:
    """Only a dead-end child cannot leave: made in the drain, stopped, and the drain's last other child let go."""
    case.stop("bgwriter")
    held = case.stopped.pop("bgwriter")
    case.crashed = case.scene.server.kill("walwriter")
    wait_until("only who is held to be there", lambda: set(case.scene.server.roles()) == {held})
    case.knock()
    case.stop("dead_end")
    case.scene.server.signal_child(held, signal.SIGCONT)
    case.scene.wait_reaped(held)
    return case


def startup(case: Case) -> Case:
    """A startup process cannot leave when another child crashes during recovery."""
    set_up(case.scene.server)
    arm = case.points.arm(Role.STARTUP, Point.REDO_RECORD, PointAction.SIGSTOP)
    case.scene.server.kill("walwriter")
    case.stopped["startup"] = case.points.wait_fired(arm)
    case.scene.wait_stopped(case.stopped["startup"])
    case.scene.server.wait_log("to PM_RECOVERY")
    case.crash("bgwriter")
    return case


def immediate_shutdown(case: Case) -> Case:
    case.stack.enter_context(case.scene.server.knock()).log_in()
    case.stop("backend")
    case.scene.server.signal_postmaster(signal.SIGQUIT)
    return case


def fast_shutdown(case: Case) -> Case:
    case.stack.enter_context(case.scene.server.knock()).log_in()
    case.stop("backend")
    case.scene.server.signal_postmaster(signal.SIGINT)
    return case


CASES = {
    "session_and_writer": session_and_writer,
    "dead_end": dead_end,
    "startup": startup,
    "immediate_shutdown": immediate_shutdown,
    "fast_shutdown": fast_shutdown,
}
PLANTED = {
    "never": (session_and_writer, (STATES, VOLLEY, "")),
    "spares_dead_ends": (
        dead_end,
        (STATES, VOLLEY, '        draft.signal("KILL", [role for role in CHILD_ROLES if role is not Role.DEAD_END])\n'),
    ),
    "late": (
        session_and_writer,
        # As in PostgreSQL 19: the loop sleeps on, until something else happens.
        ("supervisor/postmaster/postmaster.py", "        if self._stopwatch_ns is not None:\n", "        if False:\n"),
    ),
    "too_early": (
        session_and_writer,
        (
            "supervisor/postmaster/values.py",
            "SIGKILL_CHILDREN_AFTER_S: Final = 5",
            "SIGKILL_CHILDREN_AFTER_S: Final = 1",
        ),
    ),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    """All cases, when the last stopwatch has run out and what follows has happened."""
    with ExitStack() as stack, kernel_witness() as kernel:
        found: dict[str, Case] = {}
        for name, bring_about in CASES.items():
            found[name] = bring_about(Case(tmp_path_factory.mktemp(name), kernel, stack))
        for name, (bring_about, edit) in PLANTED.items():
            directory = tmp_path_factory.mktemp(name)
            code = planted(directory, f"escalation {name}", edit)
            found[name] = bring_about(Case(directory, kernel, stack, code))
        over = time.monotonic_ns() + escalation.LATEST_KILL_NS + 100_000_000
        wait_until("the last stopwatch to run out", lambda: time.monotonic_ns() > over)
        for name in ("session_and_writer", "dead_end", "startup"):
            case = found[name]
            case.scene.server.wait_generation(2 if name == "startup" else 1)
        yield found


@pytest.mark.parametrize("name", ["session_and_writer", "dead_end", "startup"])
def test_whoever_cannot_leave_is_killed_and_recovery_goes_on(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    reign = case.scene.reign()
    assert late_or_early_kills(reign, ended(reign, case.crashed).process.reaped_t or 0) == []
    assert not_told_to_quit(reign, case.crashed) == []
    assert case.scene.failures(FanOut(), Escalation()) == []
    assert case.scene.accusations() == []
    for pid in case.stopped.values():
        process = ended(reign, pid).process
        assert process.signal == signal.SIGKILL
        assert received(ended(reign, pid), signal.SIGKILL, reign.postmaster.pid)
    assert {kill.child.pid for kill in reign.kills} == set(case.stopped.values()), "somebody else got SIGKILL"
    assert reign.startups[-1].process.code == 0
    assert case.scene.server.log().count("issuing SIGKILL to recalcitrant children") == 1


def test_an_immediate_shutdown_escalates_too_and_ends_well(cases: dict[str, Case]) -> None:
    case = cases["immediate_shutdown"]
    assert case.scene.server.wait_exit() == 0
    reign = case.scene.reign()
    assert late_or_early_kills(reign) == []
    assert {kill.child.pid for kill in reign.kills} == set(case.stopped.values())
    assert len(reign.startups) == 1
    assert case.scene.failures(Escalation(), Shutdowns()) == []
    assert case.scene.accusations() == []


def test_a_fast_shutdown_never_kills(cases: dict[str, Case]) -> None:
    """It waits for as long as it takes; when the session can go on, it ends in order (checklist 27)."""
    case = cases["fast_shutdown"]
    (session,) = case.stopped.values()
    assert living_child(case.scene.server, session)
    assert case.scene.reign().kills == []
    case.scene.server.signal_child(session, signal.SIGCONT)
    assert case.scene.server.wait_exit() == 0
    reign = case.scene.reign()
    assert reign.kills == []
    assert reign.quits == []
    assert ended(reign, session).process.code == 1
    assert case.scene.accusations() == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("never", "got no SIGKILL"),
        ("spares_dead_ends", "got no SIGKILL"),
        ("late", "got no SIGKILL"),
        ("too_early", "after the first SIGQUIT"),
    ],
)
def test_the_rule_and_the_oracle_see_it_broken(cases: dict[str, Case], name: str, words: str) -> None:
    case = cases[name]
    for found in (late_or_early_kills(case.scene.reign()), case.scene.failures(Escalation())):
        assert [message for message in found if words in message], found
    assert name == "too_early" or not gone(next(iter(case.stopped.values())))
