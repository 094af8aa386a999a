"""After a crash the memory is thrown away: a new memfd, and nobody maps an old one.

What could go wrong: a postmaster that begins again on the memory in which the dead one held a lock; one that keeps a
view of the old memory, so that every child it forks inherits it; one that begins before the last old process is gone,
which then writes into a memory that others read; a mapping or a descriptor lost with each generation. Looked at from
outside, in /proc and in the kernel's account: the server is not asked.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psycopg
import pytest

from chaos.oracles.memory import Drained, Memory
from supervisor.points import Point, PointAction
from supervisor.postmaster.lockfile import NAME as PID_FILE
from supervisor.roles import Role
from tests.conftest import MakeScene
from tests.support.bank_client import acknowledge, set_up, transfers
from tests.support.kernel_rules import old_memory, outlived_the_reset
from tests.support.scene import Points, Scene, planted
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

POSTMASTER = "supervisor/postmaster/postmaster.py"
SETTLING = "supervisor/postmaster/settling.py"
FULL_CREW = {"checkpointer", "bgwriter", "walwriter"}


def wait_for_crew(scene: Scene) -> None:
    """Until every kind of auxiliary process serves in this generation, and nobody else lives."""
    wait_until("the full crew", lambda: set(scene.server.roles().values()) == FULL_CREW)


def inodes(scene: Scene) -> set[int]:
    return {memory.inode for memories in scene.memories().values() for memory in memories}


def test_each_generation_is_a_new_memory(scene: Scene) -> None:
    earlier: set[int] = set()
    for generation, victim in enumerate(("walwriter", "checkpointer", "bgwriter"), start=1):
        wait_for_crew(scene)
        earlier |= inodes(scene)
        assert len(earlier) == generation
        scene.server.kill(victim)
        scene.server.wait_generation(generation)
        with scene.server.knock() as session:
            session.log_in()
            maps = scene.memories()
            assert old_memory(maps, earlier) == []
            assert {memory.generation for memories in maps.values() for memory in memories} == {generation + 1}
            assert len(maps) >= 2
    assert outlived_the_reset(scene.reign()) == []
    assert scene.failures(Drained(), Memory()) == []


def test_what_the_postmaster_owns_outlives_the_reset(scene: Scene) -> None:
    """Its pid and its socket stay; of postmaster.pid only the line of the memory changes (checklist 30, 31)."""

    def possessions() -> tuple[int, int, list[str], int, int]:
        pid = scene.server.pid
        socket = (scene.server.target.socket_directory / ".s.PGSQL.5432").stat().st_ino
        lines = (scene.server.data / PID_FILE).read_text().splitlines()
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        mappings = Path(f"/proc/{pid}/maps").read_bytes().count(b"memfd:")
        return pid, socket, lines, descriptors, mappings

    wait_for_crew(scene)
    before = possessions()
    for generation in range(1, 4):
        scene.server.kill("bgwriter")
        scene.server.wait_generation(generation)
        wait_for_crew(scene)
    after = possessions()
    assert after[:2] == before[:2]
    assert after[3:] == before[3:], "descriptors or mappings are lost with each generation"
    assert before[2][6] != after[2][6], "line 7 names the memory"
    assert before[2][7].strip() == after[2][7].strip() == "ready"
    assert [n for n, (b, a) in enumerate(zip(before[2], after[2], strict=True)) if b != a] == [6]


def test_a_lock_that_a_dead_process_held_is_free_in_the_new_memory(make_scene: MakeScene, points: Points) -> None:
    scene = make_scene(points.options)
    set_up(scene.server)
    arm = points.arm(Role.BACKEND, Point.WAL_INSERT_UNDER_LOCK, PointAction.SIGKILL)
    with pytest.raises(psycopg.OperationalError):
        acknowledge(scene.server, (1,))
    scene.server.wait_generation(1)
    assert points.map.fired(arm) is not None
    acknowledged = acknowledge(scene.server, range(10, 20))
    assert acknowledged
    assert acknowledged <= transfers(scene.server)
    assert scene.failures(Drained()) == []


@pytest.mark.parametrize(
    ("title", "edit", "words"),
    [
        (
            "the old memory is kept mapped",
            (POSTMASTER, "        self._region.close()\n", "        self._old_region = self._region\n"),
            "maps an old memory",
        ),
        (
            "the memory is not made anew",
            (
                POSTMASTER,
                "        self._region.close()\n"
                '        self._journal.emit("memory_closed", gen=self._generation)\n'
                "        self._make_region()\n",
                "        self._forked = {}\n        self._control = self._equipment.read_control()\n",
            ),
            "maps an old memory",
        ),
    ],
    ids=["kept", "not-made"],
)
def test_the_rule_sees_an_old_memory(
    make_scene: MakeScene, points: Points, tmp_path: Path, title: str, edit: tuple[str, str, str], words: str
) -> None:
    scene = make_scene(points.options, code=planted(tmp_path, title, edit))
    wait_for_crew(scene)
    earlier = inodes(scene)
    # The new startup process stands at its beginning, so that the look does not depend on what such a server does next.
    arm = points.arm(Role.STARTUP, Point.PROCESS_ATTACHED, PointAction.SIGSTOP)
    scene.server.kill("walwriter")
    scene.wait_stopped(points.wait_fired(arm))
    found = old_memory(scene.memories(), earlier)
    assert [message for message in found if words in message], found


def test_the_rule_sees_a_reset_before_the_last_one_is_gone(make_scene: MakeScene, tmp_path: Path) -> None:
    code = planted(
        tmp_path,
        "the reset does not wait for sessions",
        (SETTLING, "    if draft.living(CHILD_ROLES):\n", "    if draft.living((Role.BGWRITER,)):\n"),
        (
            SETTLING,
            "    if draft.living(stop_targets(crash_or_immediate=_abnormal(draft))):\n",
            "    if draft.living((Role.BGWRITER,)):\n",
        ),
        (POSTMASTER, "        if len(self._children):\n", "        if False:\n"),
    )
    scene = make_scene(code=code)
    with scene.server.knock() as client:
        session = client.log_in()
        scene.stop_child(session)
        scene.server.kill("bgwriter")
        wait_until("a new startup process", lambda: len(scene.reign().startups) > 1)
        scene.server.signal_child(session, signal.SIGCONT)
        scene.wait_reaped(session)
    assert [message for message in outlived_the_reset(scene.reign()) if f"backend (PID {session})" in message]
