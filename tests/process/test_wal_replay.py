"""What was acknowledged before a SIGKILL is there after it, because WAL was replayed.

What could go wrong: a server that comes back quickly because it replays nothing; one that replays up to the last
checkpoint and calls it recovery; one that forgets what it replayed when it is killed again. The operations are named by
their ids, and acknowledged ones are looked for in the recovered server by a client. One session is enough: what is
shown is redo, not concurrency.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeScene
from tests.support.bank_client import acknowledge, set_up, transfers
from tests.support.kernel_rules import outlived_the_reset
from tests.support.scene import Scene, planted

pytestmark = pytest.mark.live

REDO = "supervisor/engine/recovery/redo.py"


@pytest.mark.parametrize("victim", ["walwriter", "checkpointer", "backend"])
def test_what_was_acknowledged_is_there_after_each_crash(scene: Scene, victim: str) -> None:
    set_up(scene.server, checkpoint=True)
    acknowledged: set[int] = set()
    for generation in (1, 2, 3):
        acknowledged |= acknowledge(scene.server, range(generation * 100, generation * 100 + 10))
        with scene.server.knock() as session:
            scene.kill(victim, session.log_in())
            session.hear_the_end()
        scene.server.wait_generation(generation)
        assert acknowledged <= transfers(scene.server)
    assert len(acknowledged) > 20
    assert outlived_the_reset(scene.reign()) == []


@pytest.mark.parametrize(
    ("title", "edit"),
    [
        ("redo is a no-op", (REDO, "        self._pages.carry_out()\n", "")),
        (
            "redo leaves the commits out",
            (
                REDO,
                "Rmgr.TRANSACTION: clog.apply",
                "Rmgr.TRANSACTION: lambda record, index, pool, at: None",
            ),
        ),
    ],
    ids=["no-op", "commits"],
)
def test_the_rule_sees_redo_that_does_nothing(
    make_scene: MakeScene, tmp_path: Path, title: str, edit: tuple[str, str, str]
) -> None:
    scene = make_scene(code=planted(tmp_path, title, edit))
    set_up(scene.server, checkpoint=True)
    acknowledged = acknowledge(scene.server, range(100, 110))
    assert acknowledged
    scene.server.kill("walwriter")
    scene.server.wait_generation(1)
    assert not acknowledged <= transfers(scene.server)
