"""What the postmaster makes of every child's end: specification 2.3, row by row, for the processes that exist.

What could go wrong: a writer that gives up with status 1 taken for one that left in order, its locks still held; a
guest's FATAL taken for a crash that throws everybody out; a dead-end child's murder overlooked, because it "has
nothing"; recovery that failed and is tried again for ever. Each row is made to happen in a process of that role, by an
armed point or by hand, and the consequence is read from the kernel's account: nobody signalled, everybody signalled
and a new startup process, or the postmaster's own exit status.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from chaos.oracles.exit_status import ExitStatus
from supervisor.points import Point, PointAction
from supervisor.roles import Role
from tests.conftest import Kernel, MakeScene, MakeServer
from tests.support import wire_client as client
from tests.support.bank_client import bank_after_next_start, set_up
from tests.support.kernel_rules import consequence, ended, not_told_to_quit, outlived_the_reset
from tests.support.scene import Points, Scene, planted
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

KILLED = -int(signal.SIGKILL)
ABORTED = -int(signal.SIGABRT)
CHILD_TYPES = "supervisor/postmaster/child_types.py"


@dataclass(frozen=True)
class End:
    """One row: a role, how it ends (a negative number is a signal), and what must follow."""

    role: Role
    status: int
    consequence: str

    def __str__(self) -> str:
        how = f"exit-{self.status}" if self.status >= 0 else signal.Signals(-self.status).name
        return f"{self.role.short_name}-{how}"


ROWS = (
    *(End(Role.BACKEND, status, "nothing") for status in (0, 1)),
    *(End(Role.BACKEND, status, "crash") for status in (2, 255, KILLED, ABORTED)),
    *(End(Role.DEAD_END, status, "nothing") for status in (0, 1)),
    *(End(Role.DEAD_END, status, "crash") for status in (2, KILLED)),
    *(End(role, 0, "nothing") for role in (Role.BGWRITER, Role.WALWRITER)),
    *(End(role, status, "crash") for role in (Role.BGWRITER, Role.WALWRITER) for status in (1, KILLED)),
    *(End(Role.CHECKPOINTER, status, "crash") for status in (0, 1, KILLED)),
)


def end_backend(scene: Scene, points: Points, status: int) -> int:
    """A session ends: 0 the client leaves, 1 an operator's SIGTERM, else at a point or by a signal."""
    armed = status > 1
    if armed:
        points.arm(Role.BACKEND, Point.STATEMENT_BEGIN, PointAction.EXIT, status)
    with scene.server.knock() as session:
        pid = session.log_in()
        if armed:
            session.say(client.query("SHOW port"))
        elif status == 0:
            session.say(client.TERMINATE)
        else:
            scene.server.signal_child(pid, signal.SIGTERM if status == 1 else signal.Signals(-status))
        session.hear_the_end()
    return pid


def end_dead_end(scene: Scene, status: int, stack: ExitStack) -> int:
    """A child that only refuses ends: 0 the client leaves, 1 it has refused, 2 SIGQUIT by hand, or a signal."""
    for _ in range(2):  # both slots of the one connection, for as long as the test looks
        silent = stack.enter_context(scene.server.knock())
        silent.say(client.ssl_request())
        silent.hear_byte()
    with scene.server.knock() as session:
        session.say(client.ssl_request())
        session.hear_byte()
        with scene.server.child("dead_end") as child:
            if status == 1:
                session.say(client.startup(user="anna"))
            elif status:
                child.signal(signal.SIGQUIT if status == 2 else signal.Signals(-status))
            if status:
                session.hear_the_end()
    return child.pid


def end_writer(scene: Scene, points: Points, role: Role, status: int) -> int:
    """A writer ends: 0 by SIGTERM; its successor, another status as soon as it is attached."""
    name = role.short_name
    first = scene.server.child(name)
    with first:
        if status < 0:
            first.signal(signal.Signals(-status))
            return first.pid
        arm = points.arm(role, Point.PROCESS_ATTACHED, PointAction.EXIT, status, nth=2) if status else None
        first.signal(signal.SIGTERM)
        scene.wait_reaped(first.pid)
    if arm is not None:
        return points.wait_fired(arm)
    scene.server.child(name).close()  # a new one has been launched, see the caller
    return first.pid


def end_checkpointer(scene: Scene, arm: int | None, status: int, points: Points) -> int:
    """A checkpointer ends: by a signal, or in the middle of a checkpoint that a client asked for."""
    if arm is None:
        return scene.server.kill("checkpointer", signal.Signals(-status))
    with scene.server.knock() as session:
        session.log_in()
        session.say(client.query("CHECKPOINT"))
        session.hear_the_end()
    return points.wait_fired(arm)


def serve(make_scene: MakeScene, points: Points, row: End, *, code: Path | None = None) -> tuple[Scene, int | None]:
    """A server for this row. A process reads its arms at its fork: the first checkpointer's are set before."""
    arm = None
    if row.role is Role.CHECKPOINTER and row.status >= 0:
        arm = points.arm(row.role, Point.CHECKPOINT_BEGIN, PointAction.EXIT, row.status)
    connections = "1" if row.role is Role.DEAD_END else "20"
    return make_scene({**points.options, "max_connections": connections}, code=code), arm


def bring_about(scene: Scene, points: Points, row: End, arm: int | None, stack: ExitStack) -> int:
    """Make the end happen; the pid of who ended, once it has been reaped."""
    match row.role:
        case Role.BACKEND:
            pid = end_backend(scene, points, row.status)
        case Role.DEAD_END:
            pid = end_dead_end(scene, row.status, stack)
        case Role.CHECKPOINTER:
            pid = end_checkpointer(scene, arm, row.status, points)
        case _:
            pid = end_writer(scene, points, row.role, row.status)
    scene.wait_reaped(pid)
    return pid


def settled(scene: Scene, row: End) -> None:
    """Until what the end leads to has happened."""
    if row.consequence == "crash":
        scene.server.wait_generation(1)
        return
    with scene.server.knock() as later:  # the postmaster answers it after it has dealt with the end
        later.say(client.ssl_request())
        later.hear_byte()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_end_has_its_consequence(make_scene: MakeScene, points: Points, row: End) -> None:
    scene, arm = serve(make_scene, points, row)
    with ExitStack() as stack:
        pid = bring_about(scene, points, row, arm, stack)
        settled(scene, row)

    reign = scene.reign()
    process = ended(reign, pid).process
    assert process.role == row.role.short_name
    assert (process.code, process.signal) == ((row.status, None) if row.status >= 0 else (None, -row.status))
    assert consequence(reign, pid) == row.consequence
    assert scene.failures(ExitStatus()) == []
    if row.consequence == "crash":
        assert not_told_to_quit(reign, pid) == []
        assert outlived_the_reset(reign) == []
        assert reign.startups[-1].process.code == 0
    elif row.role in (Role.BGWRITER, Role.WALWRITER):
        again = [child for child in reign.children if child.role == row.role.short_name]
        assert [child.process.exit_t is None for child in again] == [False, True], "it is launched anew"


# --- the startup process: its end decides over the server


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("status", [1, 2, KILLED], ids=["exit-1", "exit-2", "SIGKILL"])
def test_a_startup_process_that_fails_ends_the_server(
    make_server: MakeServer, make_scene: MakeScene, points: Points, kernel: Kernel, generation: int, status: int
) -> None:
    """At the first start and after a crash alike: recovery that failed is not tried again."""
    action = PointAction.EXIT if status >= 0 else PointAction.SIGKILL
    if generation == 1:
        arm = points.arm(Role.STARTUP, Point.PROCESS_ATTACHED, action, max(status, 0))
        server = make_server(points.options)
        server.target.start()
        scene = Scene(server, kernel)
    else:
        scene = make_scene(points.options)
        arm = points.arm(Role.STARTUP, Point.PROCESS_ATTACHED, action, max(status, 0))
        scene.server.kill("bgwriter")
    assert scene.server.wait_exit() == 1
    failed = points.wait_fired(arm)
    reign = scene.reign()
    process = ended(reign, failed).process
    assert (process.code, process.signal) == ((status, None) if status >= 0 else (None, -status))
    assert consequence(reign, failed) == "exit 1"
    assert not_told_to_quit(reign, failed) == []
    assert len(reign.startups) == generation, "recovery was tried again"
    assert all(child.process.reaped_by == reign.postmaster.pid for child in reign.children)
    assert "shutting down due to startup process failure" in scene.server.log()
    assert scene.server.log().rstrip().endswith("database system is shut down")


def standing_startup(scene: Scene, points: Points) -> int:
    """Crash a server with something to replay; its new startup process stands at the first record. The pid."""
    set_up(scene.server)
    arm = points.arm(Role.STARTUP, Point.REDO_RECORD, PointAction.SIGSTOP)
    scene.server.kill("walwriter")
    pid = points.wait_fired(arm)
    scene.wait_stopped(pid)
    scene.server.wait_log("to PM_RECOVERY")  # until then the crash is not over, and a shutdown would be abnormal
    return pid


def test_sigterm_by_hand_to_a_startup_process_is_a_failure(make_scene: MakeScene, points: Points) -> None:
    """Nobody had asked the server to stop (specification 1.6 no. 12)."""
    scene = make_scene(points.options)
    pid = standing_startup(scene, points)
    scene.server.signal_child(pid, signal.SIGTERM)
    scene.server.signal_child(pid, signal.SIGCONT)
    assert scene.server.wait_exit() == 1
    reign = scene.reign()
    assert ended(reign, pid).process.code == 1
    assert consequence(reign, pid) == "exit 1"
    assert not_told_to_quit(reign, pid) == []


@pytest.mark.parametrize("request_", [signal.SIGTERM, signal.SIGINT], ids=["smart", "fast"])
def test_a_startup_process_that_was_told_to_stop_has_not_failed(
    make_scene: MakeScene, points: Points, request_: signal.Signals
) -> None:
    """With a shutdown requested its exit 1 is ordinary: nobody is told to quit, and recovery is left to the next start."""
    scene = make_scene(points.options)
    pid = standing_startup(scene, points)
    quits_before = len(scene.reign().quits)
    scene.server.signal_postmaster(request_)
    wait_until("SIGTERM for the startup process", lambda: pending(pid, signal.SIGTERM))
    scene.server.signal_child(pid, signal.SIGCONT)
    assert scene.server.wait_exit() == 0
    reign = scene.reign()
    assert ended(reign, pid).process.code == 1
    assert len(reign.quits) == quits_before
    assert bank_after_next_start(scene.server)


def pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process that stands."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, mask = line.partition(":")
        if name in ("SigPnd", "ShdPnd") and int(mask, 16) >> (number - 1) & 1:
            return True
    return False


def test_startup_exit_3_is_an_orderly_shutdown(make_server: MakeServer, points: Points, kernel: Kernel) -> None:
    """The recovery target was reached: nobody is told to quit, and the postmaster ends well (checklist 12)."""
    arm = points.arm(Role.STARTUP, Point.PROCESS_ATTACHED, PointAction.EXIT, 3)
    server = make_server(points.options)
    server.target.start()
    scene = Scene(server, kernel)
    assert server.wait_exit() == 0
    reign = scene.reign()
    assert ended(reign, points.wait_fired(arm)).process.code == 3
    assert reign.quits == []
    assert "shutdown at recovery target" in server.log()


# --- a child that the postmaster does not know

MAIN = "supervisor/__main__.py"
ROLE_NAMES = {role.short_name for role in Role}
FORK_FIRST = """
if os.fork() == 0:
    import signal

    while not os.path.exists(os.environ["PGDATA"] + "/go"):
        signal.sigtimedwait([signal.SIGRTMAX], 0.01)
    if {status} < 0:
        os.kill(os.getpid(), abs({status}))
    os._exit({status})


if __name__ == "__main__":
"""


@pytest.mark.parametrize(
    ("status", "follows"), [(0, "nothing"), (1, "nothing"), (KILLED, "crash")], ids=["exit-0", "exit-1", "SIGKILL"]
)
def test_an_untracked_child(
    make_scene: MakeScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, follows: str
) -> None:
    """A child of the postmaster that it did not fork as one: only its exit line is logged, or it is a crash."""
    monkeypatch.setenv("PGDATA", str(tmp_path))
    forks_first = (MAIN, '\n\nif __name__ == "__main__":\n', FORK_FIRST.format(status=status))
    scene = make_scene(code=planted(tmp_path, "the process forked before it became the postmaster", forks_first))
    (pid,) = (pid for pid, name in scene.server.roles().items() if name not in ROLE_NAMES)
    with scene.server.knock() as bystander:
        bystander.log_in()
        (tmp_path / "go").touch()
        scene.wait_reaped(pid)
        settled(scene, End(Role.BACKEND, status, follows))
        reign = scene.reign()
    assert consequence(reign, pid) == follows
    assert "untracked child process" in scene.server.log()
    if follows == "crash":
        assert not_told_to_quit(reign, pid) == []


# --- rows that are wrong


@pytest.mark.parametrize(
    ("row", "outcome", "meaning"),
    [
        (End(Role.BGWRITER, 1, "crash"), "ORDERLY_1", "ORDINARY"),
        (End(Role.DEAD_END, KILLED, "crash"), "CRASH", "ORDINARY"),
        (End(Role.BACKEND, 1, "nothing"), "ORDERLY_1", "CRASH"),
    ],
    ids=str,
)
def test_the_rule_sees_a_wrong_row(
    make_scene: MakeScene, points: Points, tmp_path: Path, row: End, outcome: str, meaning: str
) -> None:
    before = "        meaning = {ExitOutcome.ORDERLY_0: self.on_exit_0"
    wrong = (
        f"        if self.role is Role.{row.role.name} and outcome is ExitOutcome.{outcome}:\n"
        f"            return ExitMeaning.{meaning}\n"
    )
    code = planted(tmp_path, f"{row} is taken for {meaning}", (CHILD_TYPES, before, wrong + before))
    scene, arm = serve(make_scene, points, row, code=code)
    with ExitStack() as stack:
        pid = bring_about(scene, points, row, arm, stack)
        settled(scene, End(row.role, row.status, "crash" if row.consequence == "nothing" else "nothing"))
    assert consequence(scene.reign(), pid) != row.consequence
