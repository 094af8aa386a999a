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
from tests.support.kernel_rules import outlived_the_reset
from tests.support.scene import Scene, planted

pytestmark = pytest.mark.live

REDO = "supervisor/engine/recovery/redo.py"
OPERATION = "CALL bank(worker => 0, first => {0}, transactions => 1, seed => {0}, history => false)"


def set_up(scene: Scene) -> None:
    """A bank that is on disk, so that only what comes after it depends on WAL."""
    with scene.server.connect() as session:
        session.execute("CALL bank_setup(accounts => 10)")
        session.execute("CHECKPOINT")


def acknowledge(scene: Scene, operations: range) -> set[int]:
    """Do these operations; those that the server acknowledged as committed."""
    done = set()
    with scene.server.connect() as session:
        for operation in operations:
            row = session.execute(OPERATION.format(operation)).fetchone()
            if row is not None and row[0] == 1:
                done.add(operation)
    return done


def lost(scene: Scene, acknowledged: set[int]) -> set[int]:
    """Which of the acknowledged operations the server does not hold."""
    with scene.server.connect() as session:
        rows = session.execute("CALL bank_observe(after => 0)").fetchall()
    return acknowledged - {row[1] for row in rows if row[0] == "transfer"}


@pytest.mark.parametrize("victim", ["walwriter", "checkpointer", "backend"])
def test_what_was_acknowledged_is_there_after_each_crash(scene: Scene, victim: str) -> None:
    set_up(scene)
    acknowledged: set[int] = set()
    for generation in (1, 2, 3):
        acknowledged |= acknowledge(scene, range(generation * 100, generation * 100 + 10))
        with scene.server.knock() as session:
            session.log_in()
            scene.server.kill(victim)
            session.hear_the_end()
        scene.server.wait_generation(generation)
        assert lost(scene, acknowledged) == set()
    assert len(acknowledged) > 20
    assert outlived_the_reset(scene.reign()) == []


@pytest.mark.parametrize(
    ("title", "edit"),
    [
        ("redo is a no-op", (REDO, "        _apply(replay, record)\n", "")),
        (
            "redo leaves the rows out",
            (
                REDO,
                "            Rmgr.HEAP: lambda record: heap_redo.redo(record, pool),\n",
                "            Rmgr.HEAP: lambda record: None,\n",
            ),
        ),
    ],
    ids=["no-op", "rows"],
)
def test_the_rule_sees_redo_that_does_nothing(
    make_scene: MakeScene, tmp_path: Path, title: str, edit: tuple[str, str, str]
) -> None:
    scene = make_scene(code=planted(tmp_path, title, edit))
    set_up(scene)
    acknowledged = acknowledge(scene, range(100, 110))
    assert acknowledged
    scene.server.kill("walwriter")
    scene.server.wait_generation(1)
    assert lost(scene, acknowledged)
