"""The oracles of time and endings on real servers: sound ones, and such as break the rule.

A story written by hand (`tests/unit/test_oracles_endings.py`) shows what an oracle makes of an account; here the kernel
writes the account. What could go wrong otherwise: a rule that no real server keeps to the letter, or one whose breach
leaves no trace in what the kernel tells. Each planted defect is a real mistake: a wake-up that is lost, a postmaster
that leaves its children behind (PostgreSQL's of 2026), a lock that two can have.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.oracles.fan_out import FanOut
from chaos.oracles.orphans import Orphans
from chaos.oracles.reaping import Reaping
from chaos.oracles.shutdown import Shutdowns
from supervisor.points import Point, PointAction
from supervisor.roles import Role
from tests.conftest import Kernel, MakeScene, MakeServer
from tests.support import wire_client as client
from tests.support.by_hand import ended, orphans_of
from tests.support.scene import Points, Scene, planted
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

POSTMASTER = "supervisor/postmaster/postmaster.py"
SETTLING = "supervisor/postmaster/settling.py"
SMART, FAST, IMMEDIATE = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT


# A sound server.


@pytest.mark.parametrize("mode", [SMART, FAST, IMMEDIATE], ids=["smart", "fast", "immediate"])
def test_every_mode_of_shutdown_and_the_next_start_break_no_rule(scene: Scene, mode: signal.Signals) -> None:
    with ExitStack() as stack:
        session = stack.enter_context(scene.server.knock())
        session.log_in()
        scene.server.signal_postmaster(mode)
        if mode is SMART:
            scene.server.wait_log("received smart shutdown request")
            session.say(client.TERMINATE)
        assert scene.server.wait_exit() == 0
    scene.server.start()
    scene.follow()
    scene.kill("walwriter", 0)
    scene.server.wait_generation(1)
    assert scene.server.target.stop() == 0
    assert scene.accusations() == []
    assert scene.failures(Shutdowns(), Orphans()) == []


@pytest.mark.parametrize("moment", ["serving", "in a crash", "in a shutdown"])
def test_a_killed_postmaster_breaks_no_rule_whenever_it_dies(scene: Scene, moment: str) -> None:
    with ExitStack() as stack:
        pid = stack.enter_context(scene.server.knock()).log_in()
        scene.server.child("walwriter").close()
        held = []
        if moment != "serving":
            scene.stop_child(pid)  # so that it is not over before the postmaster dies
            held.append(pid)
        if moment == "in a crash":
            scene.wait_reaped(scene.server.kill("walwriter"))
            scene.server.wait_log("terminating any other active server processes")
        elif moment == "in a shutdown":
            scene.server.signal_postmaster(FAST)
            scene.server.wait_log("received fast shutdown request")
        with orphans_of(scene.server) as children:
            for process in children.values():
                if process.pid not in held:
                    wait_until(f"{process.role} to leave", lambda process=process: ended(process))  # type: ignore[misc]
    scene.server.start()
    scene.follow()
    assert scene.server.target.stop() == 0
    assert scene.accusations() == []
    assert scene.failures(Orphans()) == []


@pytest.mark.parametrize("first", [SMART, FAST], ids=["smart", "fast"])
def test_a_crash_during_a_shutdown_breaks_no_rule(scene: Scene, first: signal.Signals) -> None:
    with ExitStack() as stack:
        pid = stack.enter_context(scene.server.knock()).log_in()
        scene.stop_child(pid)
        scene.server.signal_postmaster(first)
        scene.server.wait_log("shutdown request")
        scene.server.kill("checkpointer")
        scene.server.wait_log("terminating any other active server processes")
        scene.server.signal_child(pid, signal.SIGCONT)
        assert scene.server.wait_exit() == 1
    assert scene.accusations() == []
    assert scene.failures(Shutdowns(), FanOut()) == []


# Planted defects.


def found_by(scene: Scene, oracle: FanOut | Reaping | Orphans | Shutdowns, words: str) -> None:
    found = scene.failures(oracle)
    assert [message for message in found if words in message], found


def test_the_oracle_sees_an_order_that_comes_late(make_scene: MakeScene, tmp_path: Path) -> None:
    edit = (
        POSTMASTER,
        "        for child in self._children.newest_first():\n",
        "        for child in self._children.newest_first():\n            time.sleep(0.7 * (number == signal.SIGQUIT))\n",
    )
    scene = make_scene(code=planted(tmp_path, "it takes its time", edit))
    scene.server.kill("walwriter")
    scene.server.wait_generation(1)
    found_by(scene, FanOut(), "ms after the postmaster knew of the crash of walwriter")


def test_the_oracle_sees_a_lost_wake_up(make_scene: MakeScene, tmp_path: Path) -> None:
    """The postmaster learns of a child's end when it looks at its lock file next."""
    edit = (POSTMASTER, "(signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)", "(signal.SIGUSR1, signal.SIGUSR2)")
    code = planted(tmp_path, "nobody wakes it for a child", edit)
    scene = make_scene({"crashbed.lock_file_check_interval": "1500ms"}, code=code)
    found_by(scene, Reaping(), "was a zombie for")


def test_the_oracle_sees_children_that_are_left_behind(
    make_server: MakeServer, kernel: Kernel, points: Points, tmp_path: Path
) -> None:
    edit = (
        "supervisor/postmaster/states.py",
        "            draft.set(startup_status=StartupStatus.CRASHED)\n        draft.child_crashed(Role.STARTUP)\n",
        "            draft.set(startup_status=StartupStatus.CRASHED)\n        draft.end(Cause.EXIT_STARTUP_FAILED, 1)\n",
    )
    points.arm(Role.STARTUP, Point.PROCESS_ATTACHED, PointAction.EXIT, 1)
    server = make_server(points.options, code=planted(tmp_path, "a failed startup ends the postmaster at once", edit))
    server.target.start()
    scene = Scene(server, kernel)
    assert server.wait_exit() == 1
    found_by(scene, Orphans(), "the postmaster exited with exit code 1 and checkpointer")


def test_the_oracle_sees_a_postmaster_that_starts_over_an_orphan(make_scene: MakeScene, tmp_path: Path) -> None:
    edit = ("supervisor/postmaster/data_directory.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB")
    scene = make_scene(code=planted(tmp_path, "two can have the lock", edit))
    orphan = scene.server.child("checkpointer")
    orphan.close()
    with orphans_of(scene.server, stopped=[orphan.pid]):
        scene.server.start()
        scene.follow()
        found_by(scene, Orphans(), "of the postmaster before still lived when the new one")


def test_the_oracle_sees_a_smart_shutdown_that_throws_out_its_guests(make_scene: MakeScene, tmp_path: Path) -> None:
    edit = (
        SETTLING,
        "    if draft.state.conns_allowed or draft.state.count(Role.BACKEND):\n",
        "    if draft.state.conns_allowed:\n",
    )
    scene = make_scene(code=planted(tmp_path, "smart is as fast", edit))
    with scene.server.knock() as session:
        session.log_in()
        scene.server.signal_postmaster(SMART)
        assert scene.server.wait_exit() == 0
    found_by(scene, Shutdowns(), "got SIGTERM in a smart shutdown")


def test_the_oracle_sees_an_exit_status_that_hides_a_crash(make_scene: MakeScene, tmp_path: Path) -> None:
    edit = (
        SETTLING,
        "draft.end(Cause.EXIT_SHUTDOWN, 1 if state.fatal_error else 0)",
        "draft.end(Cause.EXIT_SHUTDOWN, 0)",
    )
    scene = make_scene(code=planted(tmp_path, "all is well", edit))
    with scene.server.knock() as session:
        session.log_in()
        scene.server.signal_postmaster(SMART)
        scene.server.wait_log("received smart shutdown request")
        scene.server.kill("bgwriter")
        assert scene.server.wait_exit() == 0
    found_by(scene, Shutdowns(), "exited with exit code 0 after a shutdown in which a child had crashed")


def test_the_oracle_sees_a_checkpoint_while_somebody_can_write(make_scene: MakeScene, tmp_path: Path) -> None:
    edit = (
        SETTLING,
        "    if draft.living(stop_targets(crash_or_immediate=_abnormal(draft))):\n",
        "    targets = stop_targets(crash_or_immediate=_abnormal(draft))\n"
        "    if draft.living([role for role in targets if role is not Role.BGWRITER]):\n",
    )
    scene = make_scene(code=planted(tmp_path, "one writer is not waited for", edit))
    with scene.server.child("bgwriter") as writer:
        scene.stop_child(writer.pid)
        scene.server.signal_postmaster(FAST)
        scene.server.wait_log("to PM_WAIT_XLOG_ARCHIVAL")
        writer.signal(signal.SIGCONT)
    assert scene.server.wait_exit() == 0
    found_by(scene, Shutdowns(), "the shutdown checkpoint was asked for while bgwriter")
