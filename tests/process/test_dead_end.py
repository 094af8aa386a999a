"""Children that only refuse: they own nothing, and count all the same, because they map the memory.

What could go wrong: a connection that says nothing, made while a crash is being drained, holds up recovery until its
authentication times out; such a child is forgotten when everybody is told to go, and writes into a memory that the
next generation made; its murder passes for nothing; it delays a shutdown. A drain is held open here by one stopped
writer, so that there is a moment at which to knock.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.oracles.fan_out import FanOut
from chaos.oracles.memory import Drained
from tests.conftest import MakeScene
from tests.support import wire_client as client
from tests.support.kernel_rules import (
    disorderly_shutdown,
    ended,
    not_told_to_quit,
    outlived_the_reset,
    received,
    undismissed_dead_ends,
)
from tests.support.raw_client import RawClient
from tests.support.scene import Scene, planted
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

ONE_CONNECTION = {"max_connections": "1"}


def knock(scene: Scene, stack: ExitStack) -> RawClient:
    """A connection that says nothing of substance, answered by a child."""
    silent = stack.enter_context(scene.server.knock())
    silent.say(client.ssl_request())
    assert silent.hear_byte() == b"N"
    return silent


def fill(scene: Scene, stack: ExitStack, dead_ends: int) -> list[int]:
    """Take both slots of the one connection and knock some more; the pids of the dead-end children."""
    for _ in range(2 + dead_ends):
        knock(scene, stack)
    return [pid for pid, role in scene.server.roles().items() if role == "dead_end"]


def held_drain(scene: Scene) -> tuple[int, int]:
    """Crash the server and hold its drain open; the pids of who crashed and of who holds it."""
    with scene.server.child("bgwriter") as held:
        scene.stop_child(held.pid)
        crashed = scene.server.kill("walwriter")
        wait_until("only who is held to be there", lambda: set(scene.server.roles()) == {held.pid})
        return crashed, held.pid


def test_dead_end_children_are_told_to_quit_like_everybody(make_scene: MakeScene) -> None:
    scene = make_scene(ONE_CONNECTION)
    with ExitStack() as stack:
        refused = fill(scene, stack, 3)
        assert len(refused) == 3, "they are unlimited in number"
        crashed = scene.server.kill("bgwriter")
        scene.server.wait_generation(1)
    reign = scene.reign()
    assert not_told_to_quit(reign, crashed) == []
    assert outlived_the_reset(reign) == []
    assert {ended(reign, pid).process.code for pid in refused} == {2}
    assert scene.failures(FanOut(), Drained()) == []


def test_a_murdered_dead_end_child_is_a_crash(make_scene: MakeScene) -> None:
    scene = make_scene(ONE_CONNECTION)
    with ExitStack() as stack:
        fill(scene, stack, 2)
        crashed = scene.server.kill("dead_end")
        scene.server.wait_generation(1)
    reign = scene.reign()
    assert not_told_to_quit(reign, crashed) == []
    assert outlived_the_reset(reign) == []
    assert scene.failures(FanOut()) == []


def test_a_silent_connection_made_in_the_drain_does_not_hold_up_recovery(scene: Scene) -> None:
    with ExitStack() as stack:
        crashed, held = held_drain(scene)
        silent = knock(scene, stack)
        refused = knock(scene, stack)
        refused.say(client.startup(user="anna"))
        (error,) = client.errors(refused.hear_the_end())
        assert (error["C"], error["M"]) == ("57P03", "the database system is in recovery mode")
        scene.server.signal_child(held, signal.SIGCONT)
        scene.server.wait_generation(1)
        assert silent.hear_the_end() == b""
    reign = scene.reign()
    assert undismissed_dead_ends(reign, crashed) == []
    assert outlived_the_reset(reign) == []
    assert reign.kills == []
    codes = {child.process.code for child in reign.children if child.role == "dead_end"}
    assert codes == {1, 2}, "one has refused, one was told to quit"
    assert scene.failures(Drained()) == []


@pytest.mark.parametrize("request_", [signal.SIGINT, signal.SIGTERM], ids=["fast", "smart"])
def test_dead_end_children_do_not_delay_a_shutdown(make_scene: MakeScene, request_: signal.Signals) -> None:
    """They are not waited for, and told to go when the checkpointer has gone (checklist 41, 49)."""
    scene = make_scene(ONE_CONNECTION)
    with ExitStack() as stack:
        with ExitStack() as sessions:
            fill(scene, sessions, 0)
            silent = knock(scene, stack)
        (dead_end,) = (pid for pid, role in scene.server.roles().items() if role == "dead_end")
        scene.server.signal_postmaster(request_)
        assert scene.server.wait_exit() == 0
        assert silent.hear_the_end() == b""
    reign = scene.reign()
    assert disorderly_shutdown(reign) == []
    process = ended(reign, dead_end)
    checkpointer = next(child for child in reign.children if child.role == "checkpointer")
    told = received(process, signal.SIGTERM, reign.postmaster.pid)
    assert told
    assert min(told) > (checkpointer.process.reaped_t or 0)
    assert process.process.code == 1


def test_the_rule_sees_a_silent_connection_that_holds_up_recovery(make_scene: MakeScene, tmp_path: Path) -> None:
    edit = ("supervisor/postmaster/settling.py", '        draft.signal("QUIT", (Role.DEAD_END,))\n', "")
    scene = make_scene(code=planted(tmp_path, "dead-end children are not told to go", edit))
    with ExitStack() as stack:
        crashed, held = held_drain(scene)
        knock(scene, stack)
        scene.server.signal_child(held, signal.SIGCONT)
        scene.wait_reaped(held)
        assert list(scene.server.roles().values()) == ["dead_end"]
    scene.server.wait_generation(1)  # the client has left, and its child with it
    found = undismissed_dead_ends(scene.reign(), crashed)
    assert [message for message in found if "got no SIGQUIT" in message], found


def test_the_rule_sees_dead_end_children_that_are_forgotten(make_scene: MakeScene, tmp_path: Path) -> None:
    code = planted(
        tmp_path,
        "the fan-out forgets dead-end children",
        (
            "supervisor/postmaster/draft.py",
            "        self.signal(signal, CHILD_ROLES)\n",
            "        self.signal(signal, [role for role in CHILD_ROLES if role is not Role.DEAD_END])\n",
        ),
        ("supervisor/postmaster/settling.py", '        draft.signal("QUIT", (Role.DEAD_END,))\n', ""),
    )
    scene = make_scene(ONE_CONNECTION, code=code)
    with ExitStack() as stack:
        (refused,) = fill(scene, stack, 1)
        crashed = scene.server.kill("bgwriter")
        wait_until("everybody else to be gone", lambda: set(scene.server.roles()) == {refused})
    scene.server.wait_generation(1)
    found = not_told_to_quit(scene.reign(), crashed)
    assert [message for message in found if f"dead_end (PID {refused}) got no SIGQUIT" in message], found
