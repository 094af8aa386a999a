"""How fast a checkpoint goes: in virtual time, so that its pauses are exact.

What could go wrong: a checkpoint that takes the disk from everybody at once, or one so slow that the next is due before
it is over; a session that asked for one and waits for the pauses of another; a shutdown that does; and a pause in which
the process hears no signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from supervisor.engine.engine import Engine
from supervisor.engine.recovery.checkpoint import CheckpointFlags, CheckpointRequests
from supervisor.engine.recovery.control import read_control
from supervisor.log import Journal
from supervisor.points import Point
from supervisor.processes.checkpointer import WRITE_DELAY_MS, Checkpointer
from supervisor.processes.child import Child
from supervisor.roles import Role
from supervisor.shmem.attachment import attach
from tests.support.engine_rig import SMALL, Rig

NAP_S = WRITE_DELAY_MS / 1000
SETTINGS = SMALL.replace(
    shared_buffers=256 * 8192, checkpoint_timeout=1, checkpoint_completion_target=0.5, max_wal_size=1 << 30
)
UNHURRIED = CheckpointFlags.CAUSE_TIME | CheckpointFlags.FORCE


class Scene:
    """A checkpointer over a rig with many dirty pages; `obey` is what it does about signals in its pauses."""

    def __init__(self, directory: Path) -> None:
        self.rig = Rig(directory, SETTINGS)
        self.rig.start()
        session = self.rig.session()
        session.create_table("t", [("id", "integer"), ("v", "text")], "id")
        session.begin()
        for key in range(100):
            session.insert("t", (key, "v" * 3000))
        session.commit()
        self.obey: Callable[[], bool] = lambda: False
        assert self.rig.region is not None
        self.attachment = attach(self.rig.region, self.rig.host, SETTINGS, Role.CHECKPOINTER, 0)
        control = read_control(self.rig.disk)
        self.engine = Engine(self.rig.disk, self.attachment, SETTINGS, control, self.rig.log)
        self.rig.engines.append(self.engine)
        self.child = SimpleNamespace(
            host=self.rig.host, settings=SETTINGS, control=control, journal=Journal.to_nowhere(), log=self.rig.log
        )
        self.checkpointer = Checkpointer(cast(Child, self.child), self.engine, self._obey)
        self.requests = CheckpointRequests(self.attachment)
        self.left = CheckpointFlags(0)
        """What is asked for while a checkpoint runs, and is left for the next one."""

    def _obey(self) -> bool:
        return self.obey()

    def checkpoint(self, flags: CheckpointFlags) -> float:
        """How long a checkpoint takes, in seconds of the virtual clock."""
        self.requests.request(flags)
        began_ns = self.rig.host.now_ns()
        self.checkpointer.work()
        assert self.requests.pending() == self.left
        return (self.rig.host.now_ns() - began_ns) / 1e9

    def after_pages(self, count: int, act: Callable[[], None]) -> None:
        """Do something once a checkpoint has written so many pages."""
        written = 0

        def passed(point: Point) -> None:
            nonlocal written
            written += point is Point.BUFFER_WRITE_AFTER
            if written == count:
                self.rig.point = lambda _: None
                act()

        self.rig.point = passed


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.rig.crash()


def test_writes_are_spread_over_their_share_of_the_interval(scene: Scene) -> None:
    assert 0.4 <= scene.checkpoint(UNHURRIED) <= 0.5 + NAP_S


def test_a_checkpoint_of_few_pages_does_not_take_the_whole_interval(scene: Scene) -> None:
    scene.child.settings = SETTINGS.replace(checkpoint_timeout=3600)
    scene.checkpoint(CheckpointFlags.FAST)
    scene.rig.session().insert("t", (1000, "v"))
    took = scene.checkpoint(UNHURRIED)
    assert NAP_S <= took <= 10 * NAP_S


@pytest.mark.parametrize(
    "flag", [CheckpointFlags.FAST, CheckpointFlags.IS_SHUTDOWN, CheckpointFlags.END_OF_RECOVERY], ids=str
)
def test_an_immediate_one_never_rests(scene: Scene, flag: CheckpointFlags) -> None:
    scene.obey = lambda: pytest.fail("it rested")
    assert scene.checkpoint(UNHURRIED | flag) < NAP_S


def test_who_asks_for_an_immediate_one_hurries_the_one_that_runs(scene: Scene) -> None:
    scene.child.settings = SETTINGS.replace(checkpoint_timeout=3600)
    scene.left = CheckpointFlags.FAST | CheckpointFlags.FORCE
    scene.after_pages(3, lambda: scene.requests.request(scene.left))
    assert 2 * NAP_S <= scene.checkpoint(UNHURRIED) <= 3 * NAP_S, "it went on resting"
    assert scene.attachment.latch.is_set(), "the next one would begin a round later"


def test_who_asks_for_another_unhurried_one_does_not(scene: Scene) -> None:
    scene.left = CheckpointFlags.FORCE
    scene.after_pages(3, lambda: scene.requests.request(scene.left))
    assert scene.checkpoint(UNHURRIED) >= 0.4


def test_a_shutdown_is_not_kept_waiting(scene: Scene) -> None:
    scene.child.settings = SETTINGS.replace(checkpoint_timeout=3600)
    pages = 0

    def obey() -> bool:
        nonlocal pages
        pages += 1
        return pages > 3

    scene.obey = obey
    assert scene.checkpoint(UNHURRIED) <= 4 * NAP_S
    assert pages > 40, "a signal is looked for after each page, whether it rests or not"


def test_a_log_that_grows_fast_makes_it_go_faster(scene: Scene) -> None:
    scene.child.settings = SETTINGS.replace(checkpoint_timeout=3600, max_wal_size=4 << 20)
    writer = scene.rig.session()

    def grow() -> None:
        for key in range(500, 700):
            writer.insert("t", (key, "w" * 6000))

    scene.after_pages(3, grow)
    assert scene.checkpoint(UNHURRIED) <= 4 * NAP_S
