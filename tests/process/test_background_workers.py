"""Background workers on a live server: how each of their ends is treated, and what a session can do about them.

What could go wrong: a worker that failed is taken for a crash and throws everybody out, or comes back at once and eats
the machine; one that crashed is taken for a failure, and its memory is trusted; one that was done is started again; a
session waits for ever for a worker that nobody will start; a worker dies with the session that registered it. The
three ends need a bystander, who is thrown out by the third alone. What happened is read from the kernel's account,
which begins when a server serves: a preloaded worker's first life may lie before it, so whoever's every life counts is
registered by a session.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from chaos.oracles.background_workers import BackgroundWorkers
from chaos.oracles.exit_status import ExitStatus
from chaos.oracles.fan_out import FanOut
from chaos.oracles.slots import Slots
from chaos.oracles.supervision import Child
from chaos.oracles.transitions import Transitions
from supervisor.examples.fails import RESTART_S
from supervisor.points import Point, PointAction
from supervisor.roles import Role
from tests.conftest import MakeScene, MakeServer
from tests.support.kernel_rules import consequence
from tests.support.scene import Points, Scene, planted
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

ORACLES = (BackgroundWorkers(), ExitStatus(), Slots(), Transitions())
RULES = "supervisor/postmaster/worker_rules.py"


def preload(*names: str) -> dict[str, str]:
    return {"shared_preload_libraries": ",".join(f"supervisor.examples.{name}" for name in names)}


def lives(scene: Scene) -> list[Child]:
    """The background workers that there were, in fork order."""
    return [child for child in scene.reign().children if child.role == "bgworker"]


def wait_lives(scene: Scene, count: int, *, deadline_s: float = 10.0) -> list[Child]:
    """Wait for so many lives that have ended."""

    def ended() -> list[Child] | None:
        found = [child for child in lives(scene) if child.process.reaped_t is not None]
        return found if len(found) >= count else None

    return wait_until(f"{count} background workers to have ended", ended, deadline_s=deadline_s)


def start_worker(session: psycopg.Connection[tuple[object, ...]], name: str) -> tuple[int, int, int]:
    """Slot, generation and pid of an example that a session has registered."""
    row = session.execute("CALL start_worker(%s)", (name,)).fetchone()
    assert row is not None
    slot, generation, pid = row
    return int(str(slot)), int(str(generation)), int(str(pid))


def test_a_worker_that_succeeds_is_not_started_again(make_scene: MakeScene) -> None:
    scene = make_scene(preload("launcher"))
    with scene.server.connect() as session:
        start_worker(session, "succeeds")
    scene.server.wait_log("succeeds: life 1 is recorded")
    (child,) = wait_lives(scene, 1)
    assert child.process.code == 0
    assert consequence(scene.reign(), child.process.pid) == "nothing"
    scene.server.wait_log('unregistering background worker "succeeds"')
    # Its second would be over by now; a crash does not bring it back either.
    scene.server.kill("walwriter")
    scene.server.wait_generation(1)
    scene.server.child("walwriter").close()
    assert len(lives(scene)) == 1
    assert scene.failures(*ORACLES) == []


def test_a_worker_that_fails_is_started_again_after_its_interval(make_scene: MakeScene) -> None:
    scene = make_scene(preload("fails"))
    with scene.server.connect() as bystander:
        first, second = wait_lives(scene, 2)
        assert bystander.execute("SHOW port").fetchone() is not None, "a failure disturbs nobody"
    assert (first.process.code, second.process.code) == (1, 1)
    waited_s = (second.process.born - (first.process.reaped_t or 0)) / 1e9
    assert RESTART_S <= waited_s < RESTART_S + 3, "the loop wakes up for it, and not a minute later"
    scene.server.wait_log(f'background worker "fails" (PID {first.process.pid}) exited with exit code 1')
    assert scene.failures(*ORACLES) == []


def test_a_worker_that_crashes_takes_everybody_down_and_who_restarts_is_back_at_once(make_scene: MakeScene) -> None:
    """The failing worker is in its interval when the crash comes, which ends the wait."""
    scene = make_scene(preload("launcher", "fails"))
    with scene.server.connect() as bystander:
        _, _, pid = start_worker(bystander, "crashes")
        scene.server.wait_generation(1)
        with pytest.raises(psycopg.OperationalError):
            bystander.execute("SHOW port")
    assert f'background worker "crashes" (PID {pid}) was terminated by signal 6' in scene.server.log()
    assert 'unregistering background worker "crashes"' in scene.server.log()
    assert consequence(scene.reign(), pid) == "crash"
    reset = scene.reign().startups[-1].process.born
    wait_until("the other to be back", lambda: [child for child in lives(scene) if child.process.born > reset])
    assert scene.failures(*ORACLES, FanOut()) == []


def test_a_killed_worker_is_a_crash_and_is_back_without_waiting(make_scene: MakeScene) -> None:
    scene = make_scene(preload("launcher"))
    with scene.server.connect() as session:
        _, _, pid = start_worker(session, "heartbeat")
        scene.server.signal_child(pid, signal.SIGKILL)
        scene.server.wait_generation(1)
    scene.server.child("bgworker").close()  # its interval is a minute
    assert consequence(scene.reign(), pid) == "crash"
    assert scene.failures(*ORACLES, FanOut()) == []


@pytest.mark.parametrize("status", [0, 1, 2])
def test_an_exit_with_the_slot_active_is_a_crash_whatever_its_status(
    make_scene: MakeScene, points: Points, status: int
) -> None:
    """It ends in the middle of its commit, so it holds a PGPROC; 0 and 1 would otherwise be its own business."""
    scene = make_scene({**preload("launcher"), **points.options})
    arm = points.arm(Role.BGWORKER, Point.COMMIT_BEFORE_RECORD, PointAction.EXIT, status)
    with scene.server.connect() as session, suppress(psycopg.OperationalError):
        start_worker(session, "succeeds")  # answered, unless the crash is faster
    pid = points.wait_fired(arm)
    scene.server.wait_generation(1)
    assert consequence(scene.reign(), pid) == "crash"
    # Its registration is untouched by that: it is back, for the first success ends it.
    scene.server.wait_log('unregistering background worker "succeeds"')
    assert scene.failures(*ORACLES) == []


def test_a_worker_does_not_hold_up_a_shutdown_and_counts_no_connection(make_scene: MakeScene) -> None:
    scene = make_scene({**preload("launcher"), "max_connections": "1"})
    with scene.server.connect() as session:
        start_worker(session, "heartbeat")
    scene.server.signal_postmaster(signal.SIGTERM)
    assert scene.server.wait_exit() == 0
    (worker,) = lives(scene)
    assert worker.process.code == 1
    assert 'terminating background worker "heartbeat" due to administrator command' in scene.server.log()
    assert scene.failures(*ORACLES) == []


# --- registered by a session


def test_a_session_registers_a_worker_waits_for_it_and_ends_it(make_scene: MakeScene) -> None:
    scene = make_scene(preload("launcher"))
    with scene.server.connect() as session:
        slot, generation, pid = start_worker(session, "heartbeat")
        assert scene.server.roles()[pid] in {"bgworker", "postmaster"}  # it may not have its name yet
        session.execute("CALL stop_worker(%s, %s)", (slot, generation))
        assert pid not in scene.server.roles()
        # The slot is free again, for another generation; the old handle speaks of nobody.
        again = start_worker(session, "heartbeat")
        assert again[:2] == (slot, generation + 1)
        session.execute("CALL stop_worker(%s, %s)", (slot, generation))
        assert again[2] in scene.server.roles()
    assert scene.failures(*ORACLES) == []


def test_a_worker_outlives_the_session_that_registered_it(make_scene: MakeScene) -> None:
    scene = make_scene(preload("launcher"))
    with scene.server.connect() as session:
        slot, generation, pid = start_worker(session, "heartbeat")
        backend = session.info.backend_pid
    scene.wait_reaped(backend)
    with scene.server.connect() as other:
        assert pid in scene.server.roles()
        other.execute("CALL stop_worker(%s, %s)", (slot, generation))
    assert pid not in scene.server.roles()
    assert scene.failures(*ORACLES) == []


def test_slots_run_out_with_a_sentence_and_come_back(make_scene: MakeScene) -> None:
    scene = make_scene({**preload("heartbeat", "launcher"), "max_worker_processes": "2"})
    with scene.server.connect() as session:
        slot, generation, _ = start_worker(session, "heartbeat")
        with pytest.raises(psycopg.Error, match="could not register background process") as refused:
            start_worker(session, "heartbeat")
        assert refused.value.sqlstate == "53000"
        for _ in range(4):
            session.execute("CALL stop_worker(%s, %s)", (slot, generation))
            slot, generation, _ = start_worker(session, "heartbeat")
    assert scene.failures(*ORACLES) == []


def test_a_session_that_waits_is_told_of_a_worker_that_stopped_at_once(make_scene: MakeScene) -> None:
    scene = make_scene(preload("launcher"))
    with scene.server.connect() as session:
        for _ in range(5):
            start_worker(session, "succeeds")  # perhaps gone before its pid was read: the wait ends all the same
    wait_lives(scene, 5)
    assert scene.failures(*ORACLES) == []


def test_a_registered_worker_survives_a_crash_and_a_session_waits_again(make_scene: MakeScene) -> None:
    scene = make_scene(preload("launcher"))
    with scene.server.connect() as session:
        start_worker(session, "heartbeat")
    scene.server.kill("checkpointer")
    scene.server.wait_generation(1)
    scene.server.child("bgworker").close()
    with scene.server.connect() as session:
        # In the new memory it has the first slot, and the next registration another.
        assert start_worker(session, "heartbeat")[0] == 1
    assert scene.failures(*ORACLES) == []


# --- what is refused at the start


def test_more_workers_than_the_limit_are_left_out_and_told(make_server: MakeServer) -> None:
    server = make_server({**preload("heartbeat", "fails", "succeeds"), "max_worker_processes": "1"}).start()
    server.child("bgworker").close()
    log = server.log()
    assert log.count("too many background workers") == 2
    assert "Up to 1 background workers can be registered with the current settings." in log
    assert list(server.roles().values()).count("bgworker") == 1


def test_no_worker_at_all_is_a_setting_too(make_server: MakeServer) -> None:
    server = make_server({**preload("launcher"), "max_worker_processes": "0"}).start()
    with server.connect() as session, pytest.raises(psycopg.Error, match="could not register background process"):
        start_worker(session, "heartbeat")


# --- the oracle sees what is planted


@pytest.mark.parametrize(
    ("edit", "example", "words"),
    [
        (
            ("    return one.failed_ns + one.worker.restart_time_s * 1_000_000_000\n", "    return one.failed_ns\n"),
            "fails",
            "before its interval was over",
        ),
        (
            ("    if one.terminate or not one.worker.restarts:\n", "    if not one.worker.restarts:\n"),
            "succeeds",
            "though it had exited with 0",
        ),
    ],
    ids=["the interval is not waited for", "success is taken for failure"],
)
def test_the_oracle_sees_a_worker_that_comes_back(
    make_scene: MakeScene, tmp_path: Path, edit: tuple[str, str], example: str, words: str
) -> None:
    extra = []
    if example == "succeeds":
        extra = [(RULES, "    return not one.pid and (one.terminate or (", "    return not one.pid and ((")]
    scene = make_scene(preload(example), code=planted(tmp_path, "a worker comes back", (RULES, *edit), *extra))
    wait_lives(scene, 2)
    assert any(words in failure for failure in scene.failures(BackgroundWorkers()))


def test_the_oracle_sees_a_worker_that_is_started_before_recovery_has_ended(
    make_scene: MakeScene, tmp_path: Path
) -> None:
    code = planted(
        tmp_path,
        "a start condition is forgotten",
        (
            RULES,
            "    StartTime.RECOVERY_FINISHED: frozenset({PMState.RUN}),\n",
            "    StartTime.RECOVERY_FINISHED: _UP,\n",
        ),
    )
    # The witness follows a server only once it serves: the second recovery is the one that it sees.
    scene = make_scene(preload("fails"), code=code)
    scene.server.kill("checkpointer")
    scene.server.wait_generation(1)
    assert any("before recovery had ended" in failure for failure in scene.failures(BackgroundWorkers()))


def test_the_oracle_sees_a_worker_that_is_made_to_wait_after_a_crash(make_scene: MakeScene, tmp_path: Path) -> None:
    code = planted(
        tmp_path,
        "the reset forgets who restarts",
        (
            RULES,
            "    stay = (one for one in workers if one.worker.restarts)\n",
            "    stay = (one for one in workers[:0])\n",
        ),
    )
    scene = make_scene(preload("heartbeat"), code=code)
    scene.server.child("bgworker").close()
    scene.server.kill("checkpointer")
    scene.server.wait_generation(1)

    def seen() -> bool:
        result = BackgroundWorkers().judge(scene.evidence())
        return any("was not back 5 s after the recovery" in failure.message for failure in result.failures)

    wait_until("the oracle to see that nobody came back", seen, deadline_s=15)
