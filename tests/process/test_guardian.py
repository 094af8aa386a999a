"""Nothing of a command outlives the harness, however the harness ends, and whatever the command does.

A command is anybody's: it forks while it is being killed, daemonises out of its session, ignores SIGTERM, leaves
children behind. The guardian adopts what loses its parent, and kills what is left when the harness lets go, or is
SIGKILLed. Marked processes are looked for in all of /proc, so that whoever escaped the tree is found too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.command.plan import CommandPlan, Expectation, Policy, Ready
from chaos.targets.command import CommandTarget
from chaos.targets.target import TargetError
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]

# Forks all the time. What is forgotten ends by its alarm.
STORM = "import os, signal\nfor _ in range(1500):\n    if os.fork() == 0: break\nsignal.alarm(20)\nsignal.pause()\n"

# Leaves its parent, its session and its process group, as daemons do, and will not end by a polite signal.
DAEMON = (
    "import os, signal\n"
    "signal.alarm(20)\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork(): os._exit(0)\n"
    "    signal.alarm(20)\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "while True: signal.pause()\n"
)

HARNESS = (
    "import signal, sys\n"
    "from pathlib import Path\n"
    "from tests.process.test_guardian import target_of\n"
    "target = target_of(sys.argv[1], sys.argv[2], Path(sys.argv[3]))\n"
    "target.start()\n"
    "print('started', flush=True)\n"
    "signal.pause()\n"
)


def target_of(program: str, mark: str, directory: Path) -> CommandTarget:
    plan = CommandPlan(
        seed=1,
        start=("{python}", "-c", program, mark),
        directory=str(directory),
        ready=Ready(command=("true",)),
        expect=Expectation(Policy.RESTART_ONE),
        roles={"child": mark},
    )
    return CommandTarget(plan, log=directory / "log")


def marked(mark: str) -> list[int]:
    """The living processes with this mark as their last word, but for the harness that was told of it too."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[-1] == mark.encode() and state != "Z":
            found.append(int(path.name))
    return found


@pytest.mark.parametrize(("name", "program", "number"), [("storm", STORM, 50), ("daemon", DAEMON, 2)])
def test_whatever_a_command_forked_ends_when_the_harness_lets_go(
    tmp_path: Path, name: str, program: str, number: int
) -> None:
    mark = f"mark-{name}-{os.getpid()}"
    target = target_of(program, mark, tmp_path)
    try:
        target.start()
        wait_until("the command's processes", lambda: len(marked(mark)) >= number)
    finally:
        target.close()
    assert marked(mark) == []


@pytest.mark.parametrize(("name", "program", "number"), [("storm", STORM, 50), ("daemon", DAEMON, 2)])
def test_whatever_a_command_forked_ends_when_the_harness_is_killed(
    tmp_path: Path, name: str, program: str, number: int
) -> None:
    mark = f"mark-killed-{name}-{os.getpid()}"
    harness = subprocess.Popen(
        [sys.executable, "-c", HARNESS, program, mark, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert harness.stdout is not None
    with harness.stdout:
        assert harness.stdout.readline() == b"started\n"
        wait_until("the command's processes", lambda: len(marked(mark)) >= number)
        harness.kill()
        harness.wait()
    wait_until("everybody's end", lambda: not marked(mark))


def test_a_command_that_loses_its_guardian_does_not_run_on(tmp_path: Path) -> None:
    mark = f"mark-orphaned-{os.getpid()}"
    target = target_of("import signal\nsignal.alarm(20)\nsignal.pause()", mark, tmp_path)
    try:
        main = target.start()
        guardian = int(Path(f"/proc/{main}/stat").read_text().rpartition(")")[2].split()[1])
        assert guardian != os.getpid()
        os.kill(guardian, signal.SIGKILL)
        wait_until("the main process's end", lambda: not marked(mark))
    finally:
        target.close()


def test_the_end_of_a_command_is_told_as_it_was(tmp_path: Path) -> None:
    for program, status in (("raise SystemExit(7)", 7), ("import os\nos.kill(os.getpid(), 9)", -9)):
        target = target_of(f"import sys\nsys.stdin.read()\n{program}", "mark", tmp_path)
        try:
            target.start()
            assert wait_until("the end", lambda target=target: target.exited() is not None)  # type: ignore[misc]
            assert target.exited() == status
        finally:
            target.close()


def test_a_command_that_cannot_be_started_is_a_sentence(tmp_path: Path) -> None:
    plan = target_of("", "mark", tmp_path)._plan
    for changed, message in (
        ({"start": ("no-such-program",)}, "cannot be started: no-such-program: No such file"),
        ({"directory": str(tmp_path / "nowhere")}, "directory: .*nowhere cannot be entered"),
    ):
        fields = {name: getattr(plan, name) for name in plan.__struct_fields__} | changed
        target = CommandTarget(CommandPlan(**fields), log=tmp_path / "log")
        try:
            with pytest.raises(TargetError, match=message):
                target.start()
        finally:
            target.close()


def test_the_command_inherits_nothing_of_its_guardian(tmp_path: Path) -> None:
    """A lifeline that the command held open would keep everybody alive; an ignored signal would not stop it."""
    shown = (
        "import os, signal\n"
        "print(sorted(os.listdir('/proc/self/fd')), [signal.getsignal(s).name for s in "
        "(signal.SIGTERM, signal.SIGHUP)], signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getsid(0) == os.getpid(), "
        "os.environ.get('PYTHONPATH'))"
    )
    target = target_of(shown, "mark", tmp_path)
    try:
        target.start()
        wait_until("its end", lambda: target.exited() is not None)
        told = target.log_tail()
    finally:
        target.close()
    # 3 is the descriptor of the listing itself.
    assert told == f"['0', '1', '2', '3'] ['SIG_DFL', 'SIG_DFL'] set() True {os.environ.get('PYTHONPATH')}"
