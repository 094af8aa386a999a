"""Smart, fast, immediate; and a crash in the middle of each.

What could go wrong: a smart shutdown that throws out its guests, or stops replacing what they need; a shutdown
checkpoint written while somebody can still write; a stronger request ignored, or a weaker one obeyed; a crash during a
shutdown that starts recovery, so that a server that was told to stop comes back; or one that is reported as a clean
end. Two sessions, because one of them must be able to crash while the other is still owed its goodbye.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.oracles.reaping import Reaping
from chaos.oracles.transitions import Transitions
from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.recovery.control import ClusterState, read_control
from supervisor.host import SoloHost
from supervisor.points import Point, PointAction
from supervisor.postmaster.lockfile import NAME as PID_FILE
from supervisor.roles import Role
from tests.conftest import Kernel, MakeScene, MakeServer
from tests.support import wire_client as client
from tests.support.bank_client import bank_after_next_start, set_up
from tests.support.kernel_rules import (
    disorderly_shutdown,
    ended,
    not_told_to_quit,
    received,
    recovery_after_request,
)
from tests.support.raw_client import RawClient
from tests.support.scene import Points, Scene, planted, state, stopped_postmaster
from tests.support.server import LiveServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

SMART, FAST, IMMEDIATE = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT
SETTLING = "supervisor/postmaster/settling.py"
ABNORMAL = "abnormal database system shutdown"
LAST_LINE = "database system is shut down"


def log_in(scene: Scene, stack: ExitStack) -> tuple[RawClient, int]:
    session = stack.enter_context(scene.server.knock())
    return session, session.log_in()


def state_on_disk(server: LiveServer) -> ClusterState:
    disk = PosixDisk(str(server.data), SoloHost())
    try:
        return read_control(disk).state
    finally:
        disk.close_root()


def assert_ended(scene: Scene, status: int) -> None:
    """The postmaster exits so, its last word is the last, and nothing of it is left."""
    assert scene.server.wait_exit() == status
    assert scene.server.log().rstrip().endswith(LAST_LINE)
    assert (ABNORMAL in scene.server.log()) == bool(status)
    assert not (scene.server.data / PID_FILE).exists()
    reign = scene.reign()
    assert reign.postmaster.code == status
    assert all(child.process.reaped_by == reign.postmaster.pid for child in reign.children)
    assert scene.failures(Reaping(), Transitions()) == []


# --- each mode by itself


def test_a_smart_shutdown_waits_for_its_clients(scene: Scene) -> None:
    with ExitStack() as stack:
        session, pid = log_in(scene, stack)
        scene.server.child("walwriter").close()
        scene.server.signal_postmaster(SMART)
        scene.server.wait_log("received smart shutdown request")
        with scene.server.child("bgwriter") as first:
            first.signal(signal.SIGTERM)
            scene.wait_reaped(first.pid)
        wait_until("a new background writer", lambda: "bgwriter" in scene.server.roles().values())
        assert client.tags(session.ask("SHOW port")) == ["SHOW"], "existing sessions go on"
        with scene.server.knock() as late:
            late.say(client.startup(user="anna"))
            (error,) = client.errors(late.hear_the_end())
            assert (error["C"], error["M"]) == ("57P03", "the database system is shutting down")
        before = scene.reign()
        told = [r for child in before.children for r in child.process.received if r.by == before.postmaster.pid]
        assert [r for r in told if r.sig in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)] == []
        session.say(client.TERMINATE)
    assert_ended(scene, 0)
    reign = scene.reign()
    assert disorderly_shutdown(reign) == []
    assert recovery_after_request(reign) == []
    assert ended(reign, pid).process.code == 0
    assert state_on_disk(scene.server) is ClusterState.SHUTDOWNED


def test_a_fast_shutdown_ends_sessions_then_checkpoints(scene: Scene) -> None:
    with ExitStack() as stack:
        pids = [log_in(scene, stack)[1] for _ in range(3)]
        scene.server.signal_postmaster(FAST)
        assert_ended(scene, 0)
    reign = scene.reign()
    assert disorderly_shutdown(reign) == []
    assert recovery_after_request(reign) == []
    assert reign.quits == []
    for pid in pids:
        assert received(ended(reign, pid), signal.SIGTERM, reign.postmaster.pid)
        assert ended(reign, pid).process.code == 1
    assert state_on_disk(scene.server) is ClusterState.SHUTDOWNED


def test_an_immediate_shutdown_quits_and_leaves_recovery_to_the_next_start(scene: Scene) -> None:
    with ExitStack() as stack:
        pids = [log_in(scene, stack)[1] for _ in range(3)]
        everybody = scene.server.roles()
        scene.server.signal_postmaster(IMMEDIATE)
        assert_ended(scene, 0)
    reign = scene.reign()
    assert recovery_after_request(reign) == []
    assert reign.kills == []
    assert {sent.child.pid for sent in reign.quits} == set(everybody)
    assert {ended(reign, pid).process.code for pid in pids} == {2}
    assert state_on_disk(scene.server) is ClusterState.IN_PRODUCTION


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (SMART, FAST, "received fast shutdown request"),
        (SMART, IMMEDIATE, "received immediate shutdown request"),
        (FAST, IMMEDIATE, "received immediate shutdown request"),
    ],
    ids=["smart-fast", "smart-immediate", "fast-immediate"],
)
def test_a_stronger_request_overrides(scene: Scene, first: signal.Signals, second: signal.Signals, words: str) -> None:
    with ExitStack() as stack:
        _, pid = log_in(scene, stack)
        scene.stop_child(pid)  # so that the first request cannot be over before the second comes
        scene.server.signal_postmaster(first)
        scene.server.wait_log("shutdown request")
        scene.server.signal_postmaster(second)
        scene.server.wait_log(words)
        scene.server.signal_child(pid, signal.SIGCONT)
        assert_ended(scene, 0)
    reign = scene.reign()
    assert bool(reign.quits) == (second is IMMEDIATE)
    assert recovery_after_request(reign) == []


@pytest.mark.parametrize("first", [FAST, IMMEDIATE], ids=["fast", "immediate"])
def test_a_weaker_request_is_ignored(scene: Scene, first: signal.Signals) -> None:
    with ExitStack() as stack:
        _, pid = log_in(scene, stack)
        scene.stop_child(pid)
        scene.server.signal_postmaster(first)
        scene.server.wait_log("shutdown request")
        scene.server.signal_postmaster(SMART)
        if first is IMMEDIATE:
            scene.server.signal_postmaster(FAST)
        with scene.server.knock() as late:  # whoever answers it has seen the request
            late.say(client.ssl_request())
            late.hear_byte()
        scene.server.signal_child(pid, signal.SIGCONT)
        assert_ended(scene, 0)
    assert scene.server.log().count("shutdown request") == 1
    assert bool(scene.reign().quits) == (first is IMMEDIATE)


def test_a_fast_shutdown_of_children_that_are_not_ready_for_it(
    make_server: MakeServer, points: Points, kernel: Kernel
) -> None:
    """A process that is told to go while it is still making itself ready goes in order all the same."""
    arms = [points.arm(role, Point.PROCESS_ATTACHED, PointAction.SIGSTOP) for role in (Role.BGWRITER, Role.WALWRITER)]
    scene = Scene(make_server(points.options).start(), kernel)
    standing = [points.wait_fired(arm) for arm in arms]
    for pid in standing:
        scene.wait_stopped(pid)
    scene.server.signal_postmaster(FAST)
    scene.server.wait_log("to PM_WAIT_BACKENDS")
    for pid in standing:
        scene.server.signal_child(pid, signal.SIGCONT)
    assert_ended(scene, 0)
    reign = scene.reign()
    assert disorderly_shutdown(reign) == []
    assert {ended(reign, pid).process.code for pid in standing} == {0}


# --- a crash in the middle of each


def test_a_crash_during_a_smart_shutdown(scene: Scene) -> None:
    with ExitStack() as stack:
        log_in(scene, stack)
        _, victim = log_in(scene, stack)
        scene.server.signal_postmaster(SMART)
        scene.server.wait_log("received smart shutdown request")
        scene.server.signal_child(victim, signal.SIGKILL)
        assert_ended(scene, 1)
    reign = scene.reign()
    assert not_told_to_quit(reign, victim) == []
    assert recovery_after_request(reign) == []
    assert state_on_disk(scene.server) is ClusterState.IN_PRODUCTION


def test_a_crash_while_a_fast_shutdown_waits_for_sessions(scene: Scene) -> None:
    with ExitStack() as stack:
        _, victim = log_in(scene, stack)
        scene.stop_child(victim)
        scene.server.signal_postmaster(FAST)
        with scene.server.child("checkpointer") as checkpointer:
            left = {victim, checkpointer.pid}
        wait_until("everybody else to be gone", lambda: set(scene.server.roles()) == left)
        scene.server.signal_child(victim, signal.SIGKILL)
        assert_ended(scene, 1)
    reign = scene.reign()
    assert not_told_to_quit(reign, victim) == []
    assert recovery_after_request(reign) == []


@pytest.mark.parametrize(
    "point",
    [Point.CHECKPOINT_BEGIN, Point.CHECKPOINT_BEFORE_RECORD, Point.CHECKPOINT_BEFORE_CONTROL],
    ids=lambda point: point.name.lower(),
)
def test_a_crash_during_the_shutdown_checkpoint(make_scene: MakeScene, points: Points, point: Point) -> None:
    arm = points.arm(Role.CHECKPOINTER, point, PointAction.SIGKILL)
    scene = make_scene(points.options)
    set_up(scene.server)
    scene.server.signal_postmaster(FAST)
    assert_ended(scene, 1)
    reign = scene.reign()
    assert ended(reign, points.wait_fired(arm)).process.signal == signal.SIGKILL
    assert recovery_after_request(reign) == []
    assert bank_after_next_start(scene.server)


def test_a_crash_between_the_shutdown_checkpoint_and_the_end(make_scene: MakeScene, points: Points) -> None:
    """The checkpointer has done its work, and is killed before it is dismissed: still no clean end."""
    arm = points.arm(Role.CHECKPOINTER, Point.CHECKPOINT_AFTER_CONTROL, PointAction.SIGKILL)
    scene = make_scene(points.options)
    scene.server.signal_postmaster(FAST)
    assert_ended(scene, 1)
    reign = scene.reign()
    assert points.wait_fired(arm)
    assert recovery_after_request(reign) == []


def test_a_crash_during_an_immediate_shutdown_changes_nothing(scene: Scene) -> None:
    with ExitStack() as stack:
        log_in(scene, stack)
        _, victim = log_in(scene, stack)
        scene.stop_child(victim)
        scene.server.signal_postmaster(IMMEDIATE)
        wait_until("everybody else to be gone", lambda: set(scene.server.roles()) == {victim})
        scene.server.signal_child(victim, signal.SIGKILL)
        assert_ended(scene, 0)
    reign = scene.reign()
    assert recovery_after_request(reign) == []
    assert ended(reign, victim).process.signal == signal.SIGKILL


@pytest.mark.parametrize("request_", [SMART, FAST, IMMEDIATE], ids=["smart", "fast", "immediate"])
def test_a_shutdown_requested_during_the_drain_of_a_crash(scene: Scene, request_: signal.Signals) -> None:
    """There is no recovery any more, and the end is abnormal (specification 1.6 no. 4)."""
    with ExitStack() as stack:
        _, held = log_in(scene, stack)
        scene.stop_child(held)
        scene.server.kill("walwriter")
        wait_until("the drain", lambda: set(scene.server.roles()) == {held})
        scene.server.signal_postmaster(request_)
        scene.server.wait_log("shutdown request")
        scene.server.signal_child(held, signal.SIGCONT)
        assert_ended(scene, 1)
    assert recovery_after_request(scene.reign()) == []
    assert "aborting any active transactions" not in scene.server.log()


@pytest.mark.parametrize("request_", [SMART, FAST, IMMEDIATE], ids=["smart", "fast", "immediate"])
def test_a_shutdown_requested_while_the_server_starts_again(
    make_scene: MakeScene, points: Points, request_: signal.Signals
) -> None:
    """Recovery has not begun, the crash is not over: everybody is told to go, in words that they obey."""
    scene = make_scene(points.options)
    arm = points.arm(Role.STARTUP, Point.PROCESS_ATTACHED, PointAction.SIGSTOP)
    scene.server.kill("walwriter")
    startup = points.wait_fired(arm)
    scene.wait_stopped(startup)
    scene.server.child("checkpointer").close()
    scene.server.signal_postmaster(request_)
    scene.server.wait_log("shutdown request")
    scene.server.signal_child(startup, signal.SIGCONT)
    assert_ended(scene, 1)
    reign = scene.reign()
    assert recovery_after_request(reign) == []
    assert reign.kills == []


def test_the_last_child_goes_with_a_message_under_way(make_scene: MakeScene, points: Points) -> None:
    """One pass of the postmaster sees the last child gone, which ends the server, and a message of that child."""
    scene = make_scene(points.options)
    arm = points.arm(Role.STARTUP, Point.PROCESS_ATTACHED, PointAction.SIGSTOP)
    scene.server.kill("walwriter")
    startup = points.wait_fired(arm)
    scene.wait_stopped(startup)
    scene.server.child("bgwriter").close()
    scene.server.signal_postmaster(FAST)
    wait_until("everybody else to be gone", lambda: set(scene.server.roles()) == {startup})
    with stopped_postmaster(scene.server):
        scene.server.signal_child(startup, signal.SIGCONT)
        wait_until("the startup process to end", lambda: state(startup) == "Z")
    assert_ended(scene, 1)


def test_restart_after_crash_off(make_scene: MakeScene) -> None:
    scene = make_scene({"restart_after_crash": "off"})
    with ExitStack() as stack:
        _, victim = log_in(scene, stack)
        log_in(scene, stack)
        scene.server.signal_child(victim, signal.SIGKILL)
        assert scene.server.wait_exit() == 1
    reign = scene.reign()
    assert not_told_to_quit(reign, victim) == []
    assert len(reign.startups) == 1
    assert all(child.process.reaped_by == reign.postmaster.pid for child in reign.children)
    assert 'shutting down because "restart_after_crash" is off' in scene.server.log()
    assert not (scene.server.data / PID_FILE).exists()


# --- planted


def test_the_rule_sees_recovery_after_a_request(make_scene: MakeScene, tmp_path: Path) -> None:
    edit = (
        SETTLING,
        "    if state.shutdown is not Shutdown.NONE:\n",
        "    if state.shutdown is not Shutdown.NONE and not state.fatal_error:\n",
    )
    scene = make_scene(code=planted(tmp_path, "a crash during a shutdown starts recovery", edit))
    with ExitStack() as stack:
        _, victim = log_in(scene, stack)
        _, other = log_in(scene, stack)
        scene.server.signal_postmaster(SMART)
        scene.server.wait_log("received smart shutdown request")
        scene.server.signal_child(victim, signal.SIGKILL)
        scene.wait_reaped(other)
        wait_until("a startup process", lambda: len(scene.reign().startups) > 1)
    assert recovery_after_request(scene.reign())


def test_the_rule_sees_a_checkpoint_that_does_not_wait(make_scene: MakeScene, tmp_path: Path) -> None:
    edit = (
        "supervisor/postmaster/child_types.py",
        "    return tuple(role for role in CHILD_ROLES if CHILD_TYPES[role].stop_set in wanted)\n",
        "    return tuple(r for r in CHILD_ROLES if CHILD_TYPES[r].stop_set in wanted and r is not Role.BGWRITER)\n",
    )
    scene = make_scene(code=planted(tmp_path, "the background writer is not waited for", edit))
    with scene.server.child("checkpointer") as checkpointer:
        scene.server.signal_postmaster(FAST)
        wait_until("the request for a checkpoint", lambda: asked(scene, checkpointer.pid))
    found = disorderly_shutdown(scene.reign())
    assert [message for message in found if "while bgwriter" in message], found


def asked(scene: Scene, checkpointer: int) -> bool:
    reign = scene.reign()
    (child,) = (child for child in reign.children if child.process.pid == checkpointer)
    return bool(received(child, signal.SIGINT, reign.postmaster.pid))
