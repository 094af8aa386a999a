"""A SIGQUIT that comes just before a process waits must not be lost to the wait.

What could go wrong: a Python handler runs only between two bytecodes. A signal that arrives after the interpreter's
last look and before the system call is noted and waits, and so does the process, for ever: only SIGKILL ends it, five
seconds later, and every recovery takes that long. The window is less than a microsecond wide when everything is warm,
so it takes aim, or thousands of trials. Two ways: a timer of the kernel aimed at the one call that blocks, and sessions
of a live server that are told to quit while they go in and out of it.

None may need SIGKILL. That the aim is good enough to see is shown by a wait that does not watch its wakeup descriptor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.targets.builtin import CODE_ROOT
from tests.conftest import MakeScene
from tests.support import aimed_signals
from tests.support import wire_client as client
from tests.support.scene import Scene, planted

pytestmark = pytest.mark.live

SESSIONS = 15
SPAN_US = 150
DEADLINE_S = 3.0


def aim(trials: int, *, code: Path = CODE_ROOT, stop_at: int = 1, deadline_s: float = DEADLINE_S) -> tuple[int, int]:
    """Send so many aimed SIGQUITs; how many were sent, and how many processes needed SIGKILL."""
    done = subprocess.run(
        [sys.executable, aimed_signals.__file__, str(trials), str(SPAN_US), str(deadline_s), str(stop_at)],
        env={**os.environ, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sent, missed = done.stdout.split()
    return int(sent), int(missed)


def test_no_aimed_signal_is_lost() -> None:
    assert aim(500) == (500, 0)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_none_of_10000_aimed_signals_is_lost() -> None:
    assert aim(10_000) == (10_000, 0)


def test_the_rule_sees_a_wait_that_loses_signals(tmp_path: Path) -> None:
    edit = ("supervisor/host.py", "        poll.register(self._wakeup_read, select.POLLIN)\n", "")
    code = planted(tmp_path, "the wait does not watch the wakeup descriptor", edit)
    sent, missed = aim(5_000, code=code, deadline_s=0.5)
    assert missed, f"{sent} signals were sent and none fell into the window"


def crash_while_sessions_come_and_go(scene: Scene, generation: int) -> None:
    """Every session is given another number of statements, so that each is at another place; then one child dies."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(scene.server.knock()) for _ in range(SESSIONS)]
        for session in sessions:
            session.log_in()
        for number, session in enumerate(sessions, start=1):
            session.say(client.query("SHOW port") * (1 + (number * generation) % 7))
        scene.server.kill("walwriter")
        scene.server.wait_generation(generation)


def told_and_killed(scene: Scene) -> tuple[int, int]:
    """How many processes got SIGQUIT, and how many SIGKILL, from the postmaster."""
    reign = scene.reign()
    told = {sent.child.order: sent.child for sent in reign.quits}
    codes = {process.code for process in told.values() if process.exit_t is not None}
    assert codes <= {2}, f"exit codes after SIGQUIT: {codes}"
    return len(told), len({kill.child.order for kill in reign.kills})


def test_no_session_of_a_live_server_needs_sigkill(make_scene: MakeScene) -> None:
    scene = make_scene()
    for generation in range(1, 6):
        crash_while_sessions_come_and_go(scene, generation)
    told, killed = told_and_killed(scene)
    assert told >= 5 * SESSIONS
    assert killed == 0
    assert len(scene.reign().startups) == 6


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_none_of_10000_processes_of_a_live_server_needs_sigkill(make_scene: MakeScene) -> None:
    scene = make_scene()
    generation = told = 0
    while told < 10_000:
        for _ in range(50):
            generation += 1
            crash_while_sessions_come_and_go(scene, generation)
        told, killed = told_and_killed(scene)
        assert killed == 0, f"{killed} of {told} processes needed SIGKILL"
