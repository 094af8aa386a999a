"""One crash ends everybody: the SIGQUIT fan-out, told by the kernel.

What could go wrong: a kind of child that is forgotten and goes on writing to a memory that may be damaged; the oldest
told first, so that a process is gone while newer ones still lean on it; a signal to the process and not to what it
started; two rounds of signals for two deaths that were seen in the same moment; a survivor that "cleans up" instead of
leaving at once. Three sessions, because newest first is only seen with several of a kind; one connection that says
nothing, because it has no session to be told through.

Each planted defect is asked about by the same rule as the sound server.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.oracles.fan_out import FanOut
from chaos.oracles.reaping import Reaping
from tests.conftest import MakeScene
from tests.support.kernel_rules import ended, not_told_to_quit, outlived_the_reset
from tests.support.scene import Scene, planted, state, stopped_postmaster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

DRAFT = "supervisor/postmaster/draft.py"
POSTMASTER = "supervisor/postmaster/postmaster.py"
CHILDREN = "supervisor/postmaster/children.py"


def open_sessions(scene: Scene, stack: ExitStack, number: int = 3) -> list[int]:
    """Log in `number` clients and leave one more silent; the pids of the backends with a session."""
    pids = []
    for _ in range(number):
        pids.append(stack.enter_context(scene.server.knock()).log_in())
    stack.enter_context(scene.server.knock())
    scene.server.child("backend", number).close()
    return pids


@pytest.mark.parametrize("victim", ["backend", "walwriter", "bgwriter", "checkpointer"])
def test_everybody_is_told_to_quit(scene: Scene, victim: str) -> None:
    with ExitStack() as stack:
        open_sessions(scene, stack)
        before = scene.server.roles()
        crashed = scene.server.kill(victim)
        scene.server.wait_generation(1)

    reign = scene.reign()
    assert not_told_to_quit(reign, crashed) == []
    assert outlived_the_reset(reign) == []
    assert scene.failures(FanOut(), Reaping()) == []
    ends = {pid: ended(reign, pid).process for pid in before}
    assert ends.pop(crashed).signal == signal.SIGKILL
    assert {process.code for process in ends.values()} == {2}
    assert sorted(process.role or "" for process in ends.values()) == sorted(
        role for pid, role in before.items() if pid != crashed
    )


def test_two_deaths_in_one_moment_are_one_crash(scene: Scene) -> None:
    with ExitStack() as stack:
        first, second, survivor = open_sessions(scene, stack)
        with stopped_postmaster(scene.server):
            scene.server.signal_child(first, signal.SIGKILL)
            scene.server.signal_child(second, signal.SIGSEGV)
            wait_until("both to be dead", lambda: {state(first), state(second)} == {"Z"})
        scene.server.wait_generation(1)

    reign = scene.reign()
    assert not_told_to_quit(reign, first) == []
    quits = [sent for sent in reign.quits if sent.child.pid == survivor]
    assert len(quits) == 2, "one round is once to the process and once to its group"
    assert ended(reign, second).process.signal == signal.SIGSEGV
    assert scene.server.log().count("terminating any other active server processes") == 1
    assert scene.server.log().count("was terminated by signal") == 1


def test_a_child_that_leaves_in_order_takes_nobody_along(scene: Scene) -> None:
    with ExitStack() as stack:
        open_sessions(scene, stack, 2)
        with scene.server.knock() as leaver:
            pid = leaver.log_in()
        scene.wait_reaped(pid)
        stack.enter_context(scene.server.knock()).log_in()
        reign = scene.reign()
    assert ended(reign, pid).process.code == 0
    assert reign.quits == []
    assert len(reign.startups) == 1


@pytest.mark.parametrize(
    ("title", "edit", "words"),
    [
        (
            "sessions are forgotten",
            (
                DRAFT,
                "        self.signal(signal, CHILD_ROLES)\n",
                "        self.signal(signal, [role for role in CHILD_ROLES if role is not Role.BACKEND])\n",
            ),
            "got no SIGQUIT",
        ),
        (
            "the oldest is told first",
            (CHILDREN, "iter(list(reversed(self._by_pid.values())))", "iter(list(self._by_pid.values()))"),
            "and newest first is",
        ),
        (
            "groups are not told",
            (POSTMASTER, "_TO_GROUP_TOO = frozenset({signal.SIGQUIT, ", "_TO_GROUP_TOO = frozenset({"),
            "not once as a process and once as a group",
        ),
        (
            "survivors leave as if in order",
            ("supervisor/processes/child.py", "EXIT_QUICKDIE = 2", "EXIT_QUICKDIE = 0"),
            "was told to quit and exited with exit code 0",
        ),
    ],
    ids=["sessions", "order", "groups", "leaving"],
)
def test_the_rule_sees_it_broken(
    make_scene: MakeScene, tmp_path: Path, title: str, edit: tuple[str, str, str], words: str
) -> None:
    scene = make_scene(code=planted(tmp_path, title, edit))
    with ExitStack() as stack:
        open_sessions(scene, stack)
        others = [pid for pid, role in scene.server.roles().items() if role not in ("backend", "walwriter")]
        crashed = scene.server.kill("walwriter")
        scene.wait_reaped(crashed, *others)
    # The clients have left: whoever was not told to quit goes now, in order.
    scene.server.wait_generation(1)
    reign = scene.reign()
    found = not_told_to_quit(reign, crashed)
    assert [message for message in found if words in message], found
