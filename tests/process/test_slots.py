"""A slot is released by waitpid and by nothing else, and its release tells whether the child had cleaned up.

What could go wrong: a child that ends with status 0 though it holds a PGPROC, and is taken for a guest who left; a
child killed before it was anybody, whose slot is lost until, some crashes later, nobody can connect any more. One
connection is enough for the first; the second needs as many deaths as there are slots, and one more.

That a slot was ACTIVE is known here from the point at which the child ended, not from what the postmaster read.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from chaos.oracles.slots import Slots
from supervisor.points import Point, PointAction
from supervisor.roles import Role
from tests.conftest import MakeScene
from tests.support import wire_client as client
from tests.support.kernel_rules import consequence, ended, not_told_to_quit
from tests.support.scene import Points, Scene, planted
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

ONE_CONNECTION = {"max_connections": "1"}
SLOTS = 2  # of one connection: one more for who still reads the startup packet


def leave_active(scene: Scene, points: Points, status: int) -> int:
    """A backend ends with this status while its slot is ACTIVE; its pid, when it has been reaped."""
    arm = points.arm(Role.BACKEND, Point.BACKEND_READY, PointAction.EXIT, status)
    with scene.server.knock() as session:
        session.say(client.startup(user="anna"))
        session.hear_the_end()
    pid = points.wait_fired(arm)
    scene.wait_reaped(pid)
    return pid


@pytest.mark.parametrize("status", [0, 1])
def test_an_orderly_status_with_an_active_slot_is_a_crash(make_scene: MakeScene, points: Points, status: int) -> None:
    scene = make_scene(points.options)
    with scene.server.knock() as bystander:
        bystander.log_in()
        pid = leave_active(scene, points, status)
        scene.server.wait_generation(1)
    reign = scene.reign()
    assert ended(reign, pid).process.code == status
    assert consequence(reign, pid) == "crash"
    assert not_told_to_quit(reign, pid) == []
    assert scene.failures(Slots()) == []


def test_the_rule_sees_a_release_that_does_not_look(make_scene: MakeScene, points: Points, tmp_path: Path) -> None:
    code = planted(
        tmp_path,
        "a slot is released without looking at its flag",
        (
            "supervisor/shmem/pmsignal.py",
            "        clean = self._q[self._flags + slot - 1] == SlotFlag.ASSIGNED\n",
            "        clean = True\n",
        ),
    )
    scene = make_scene(points.options, code=code)
    with scene.server.knock() as bystander:
        bystander.log_in()
        pid = leave_active(scene, points, 0)
        with scene.server.knock() as later:
            later.say(client.ssl_request())
            later.hear_byte()  # the postmaster has come by since
            reign = scene.reign()
    assert consequence(reign, pid) == "nothing"
    assert not_told_to_quit(reign, pid)


def kill_before_active(scene: Scene, times: int) -> list[int]:
    """SIGKILL backends that still wait for the startup packet, one per generation; their pids."""
    pids = []
    for generation in range(1, times + 1):
        with scene.server.knock() as silent:
            silent.say(client.ssl_request())
            assert silent.hear_byte() == b"N"
            pids.append(scene.server.kill("backend"))
            silent.hear_the_end()
        scene.server.wait_generation(generation)
    return pids


def served_by(scene: Scene) -> str:
    """The role of the child that a new connection gets, by the kernel's account."""
    wait_until("the last of the crew", lambda: "walwriter" in scene.server.roles().values())
    with scene.server.knock() as session:
        session.say(client.ssl_request())
        assert session.hear_byte() == b"N"
        return scene.reign().children[-1].role


def test_a_child_killed_before_active_gives_its_slot_back(make_scene: MakeScene) -> None:
    scene = make_scene(ONE_CONNECTION)
    pids = kill_before_active(scene, SLOTS + 1)
    assert served_by(scene) == "backend"
    with scene.server.knock() as session:
        session.log_in()
        assert client.tags(session.ask("SHOW port")) == ["SHOW"]
    reign = scene.reign()
    for pid in pids:
        assert ended(reign, pid).process.signal == signal.SIGKILL
        assert not_told_to_quit(reign, pid) == []
    assert len(reign.startups) == SLOTS + 2, "each of them is a crash: a signal is a crash whatever the slot says"
    assert scene.failures(Slots()) == []


def test_slots_are_used_again_after_orderly_ends(make_scene: MakeScene) -> None:
    scene = make_scene(ONE_CONNECTION)
    for _ in range(3 * SLOTS):
        with scene.server.knock() as session:
            pid = session.log_in()
            session.say(client.TERMINATE)
            session.hear_the_end()
        scene.wait_reaped(pid)
    reign = scene.reign()
    assert [child.role for child in reign.children].count("backend") == 3 * SLOTS
    assert "dead_end" not in {child.role for child in reign.children}
    assert reign.quits == []
    assert scene.failures(Slots()) == []


def test_the_rule_sees_slots_that_are_lost(make_scene: MakeScene, tmp_path: Path) -> None:
    code = planted(
        tmp_path,
        "the slot of a child that died unexpectedly is lost",
        (
            "supervisor/postmaster/postmaster.py",
            "            self._pools.release(child.slot)\n        role = child.role.short_name\n",
            "            if status == 0 or child.role is not Role.BACKEND:\n"
            "                self._pools.release(child.slot)\n"
            "        role = child.role.short_name\n",
        ),
    )
    scene = make_scene(ONE_CONNECTION, code=code)
    kill_before_active(scene, SLOTS)
    assert served_by(scene) == "dead_end"
