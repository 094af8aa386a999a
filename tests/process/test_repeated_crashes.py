"""A crash, and another, and one in the middle of dealing with the last: the server comes back every time.

What could go wrong: a flag or a stopwatch left over from the first crash swallows the second, so that a process is
replaced on a memory in which the dead one held a lock; a crash during the drain starts a second round of signals; a
crash while recovery runs is taken for a failure of recovery, and the server gives up; what was committed before the
first crash is lost in the second. There is no limit and no back-off: a server that is killed ten times comes back ten
times.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from chaos.oracles.exit_status import ExitStatus
from chaos.oracles.fan_out import FanOut
from chaos.oracles.memory import Drained, Memory
from chaos.oracles.oracle import Oracle
from chaos.oracles.reaping import Reaping
from chaos.oracles.slots import Slots
from chaos.oracles.supervision import Reign
from chaos.oracles.transitions import Transitions
from supervisor.points import Point, PointAction
from supervisor.roles import Role
from tests.conftest import MakeScene
from tests.support.bank_client import acknowledge, set_up, transfers
from tests.support.kernel_rules import consequence, ended, not_told_to_quit, outlived_the_reset, received
from tests.support.scene import Points, Scene, planted
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

SUPERVISION: tuple[Oracle, ...] = (FanOut(), Reaping(), Drained(), ExitStatus(), Slots(), Transitions())


def test_ten_crashes_in_a_row(scene: Scene) -> None:
    victims = ("walwriter", "backend", "checkpointer", "bgwriter", "backend") * 2
    set_up(scene.server)
    pids = []
    acknowledged: set[int] = set()
    for generation, victim in enumerate(victims, start=1):
        acknowledged |= acknowledge(scene.server, (generation,))
        with scene.server.knock() as client:
            session = client.log_in()
            pids.append(scene.kill(victim, session))
            client.hear_the_end()
        scene.server.wait_generation(generation)
    assert len(acknowledged) > len(victims) / 2
    assert acknowledged <= transfers(scene.server)

    reign = scene.reign()
    assert [startup.process.code for startup in reign.startups] == [0] * (len(victims) + 1)
    assert outlived_the_reset(reign) == []
    for pid in pids:
        assert not_told_to_quit(reign, pid) == []
    assert scene.failures(*SUPERVISION, Memory()) == []


def test_a_crash_at_the_first_moment_of_a_generation(scene: Scene) -> None:
    """The next one is killed as soon as it is there, whatever the server is doing then."""
    killed = []
    for _ in range(6):
        with scene.server.child("checkpointer") as child:
            assert child.signal(signal.SIGKILL)
            killed.append(child.pid)
        scene.wait_reaped(killed[-1])
    wait_until("a generation after the last crash", lambda: serving_after(scene.reign(), killed[-1]))
    scene.server.wait_generation(len(scene.reign().startups) - 1)
    with scene.server.knock() as session:
        session.log_in()
    reign = scene.reign()
    assert outlived_the_reset(reign) == []
    for pid in killed:
        assert consequence(reign, pid) == "crash"
    assert all(older.process.exit_t is not None for older, _ in pairwise(reign.startups))
    assert scene.failures(*SUPERVISION) == []


def serving_after(reign: Reign, pid: int) -> bool:
    """Whether a startup process that was forked after this child's end has exited 0."""
    reaped = ended(reign, pid).process.reaped_t or 0
    return any(s.process.born > reaped and s.process.code == 0 for s in reign.startups)


def test_a_crash_during_the_drain_signals_nobody_again(scene: Scene) -> None:
    with ExitStack() as stack:
        stack.enter_context(scene.server.knock()).log_in()
        with scene.server.child("backend") as held, scene.server.child("bgwriter") as second:
            scene.stop_child(held.pid)
            scene.stop_child(second.pid)
            crashed = scene.server.kill("walwriter")
            wait_until("the drain", lambda: set(scene.server.roles()) == {held.pid, second.pid})
            second.signal(signal.SIGKILL)
            scene.wait_reaped(second.pid)
            assert held.pid in scene.server.roles()
            held.signal(signal.SIGCONT)
        scene.server.wait_generation(1)
    reign = scene.reign()
    assert not_told_to_quit(reign, crashed) == []
    again = ended(reign, second.pid).process.reaped_t or 0
    assert reign.quits_between(again, reign.end) == []
    assert len(reign.startups) == 2
    assert scene.server.log().count("terminating any other active server processes") == 1
    assert scene.failures(*SUPERVISION) == []


@pytest.mark.parametrize("role", ["checkpointer", "bgwriter"])
def test_a_crash_while_the_server_starts_again(make_scene: MakeScene, points: Points, role: str) -> None:
    """The startup process stands before redo; the crash is a new one, though the last is not over."""
    scene = make_scene(points.options)
    stands = points.arm(Role.STARTUP, Point.PROCESS_ATTACHED, PointAction.SIGSTOP)
    scene.server.kill("walwriter")
    startup = points.wait_fired(stands)
    scene.wait_stopped(startup)
    crashed = scene.server.kill(role)
    wait_until("SIGQUIT for the startup process", lambda: told_to_quit(scene, startup))
    scene.server.signal_child(startup, signal.SIGCONT)
    scene.server.wait_generation(1)
    reign = scene.reign()
    assert not_told_to_quit(reign, crashed) == []
    assert ended(reign, startup).process.code == 2
    assert [s.process.code for s in reign.startups] == [0, 2, 0]
    assert outlived_the_reset(reign) == []


def told_to_quit(scene: Scene, pid: int) -> bool:
    reign = scene.reign()
    return any(sent.child.pid == pid for sent in reign.quits)


def test_a_crash_during_redo_does_not_count_against_recovery(make_scene: MakeScene, points: Points) -> None:
    scene = make_scene(points.options)
    set_up(scene.server)
    acknowledged = acknowledge(scene.server, range(1, 6))
    stands = points.arm(Role.STARTUP, Point.REDO_RECORD, PointAction.SIGSTOP, k=5)
    scene.server.kill("walwriter")
    startup = points.wait_fired(stands)
    scene.wait_stopped(startup)
    crashed = scene.server.kill("bgwriter")
    wait_until("SIGQUIT for the startup process", lambda: told_to_quit(scene, startup))
    scene.server.signal_child(startup, signal.SIGCONT)
    scene.server.wait_generation(1)
    reign = scene.reign()
    assert not_told_to_quit(reign, crashed) == []
    assert ended(reign, startup).process.code == 2
    assert received(ended(reign, startup), signal.SIGQUIT, reign.postmaster.pid)
    assert reign.startups[-1].process.code == 0
    assert outlived_the_reset(reign) == []
    assert acknowledged <= transfers(scene.server)


@pytest.mark.parametrize(
    "point",
    [
        Point.CHECKPOINT_BEGIN,
        Point.CHECKPOINT_BEFORE_RECORD,
        Point.CHECKPOINT_BEFORE_CONTROL,
        Point.CHECKPOINT_AFTER_CONTROL,
    ],
    ids=lambda point: point.name.lower(),
)
def test_a_crash_during_the_checkpoint_that_ends_recovery(make_scene: MakeScene, points: Points, point: Point) -> None:
    scene = make_scene(points.options)
    set_up(scene.server)
    acknowledged = acknowledge(scene.server, range(1, 6))
    arm = points.arm(Role.CHECKPOINTER, point, PointAction.SIGKILL)
    scene.server.kill("walwriter")
    scene.server.wait_generation(1)
    crashed = points.wait_fired(arm)
    acknowledged |= acknowledge(scene.server, range(6, 11))
    assert len(acknowledged) > 5
    assert acknowledged <= transfers(scene.server)
    reign = scene.reign()
    assert not_told_to_quit(reign, crashed) == []
    assert [s.process.code for s in reign.startups] == [0, 2, 0]
    assert outlived_the_reset(reign) == []
    assert scene.failures(*SUPERVISION) == []


def test_the_rule_sees_a_crash_that_the_last_one_swallows(
    make_scene: MakeScene, points: Points, tmp_path: Path
) -> None:
    """PostgreSQL 18's way: the dead process is replaced, and nobody is told."""
    edit = (
        "supervisor/postmaster/values.py",
        "crash_in_restart_counts: bool = True",
        "crash_in_restart_counts: bool = False",
    )
    scene = make_scene(points.options, code=planted(tmp_path, "a crash during the restart is swallowed", edit))
    stands = points.arm(Role.STARTUP, Point.PROCESS_ATTACHED, PointAction.SIGSTOP)
    scene.server.kill("walwriter")
    startup = points.wait_fired(stands)
    scene.wait_stopped(startup)
    crashed = scene.server.kill("bgwriter")
    scene.wait_reaped(crashed)
    wait_until("its successor", lambda: "bgwriter" in scene.server.roles().values())
    scene.server.signal_child(startup, signal.SIGCONT)
    scene.server.wait_generation(1)
    found = not_told_to_quit(scene.reign(), crashed)
    assert [message for message in found if f"startup (PID {startup}) got no SIGQUIT" in message], found
