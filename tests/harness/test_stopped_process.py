"""A process that a fault has stopped goes on when its harness dies.

A stopped process takes no signal but SIGKILL and SIGCONT and sees no pipe close. If the harness were killed while it
holds a child stopped whose postmaster is dead already, that child would be there for ever, with the data directory's
lock.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.support.scene import state
from tests.support.waiting import wait_until

# Stops a process, says so, and waits to be killed.
HARNESS = """
import os, signal, sys
from chaos.orphans import Wakener
pid = int(sys.argv[1])
wakener = Wakener(pid)
os.kill(pid, signal.SIGSTOP)
if sys.argv[2] == "close":
    wakener.close()
print("stopped", flush=True)
signal.pause()
"""
ROOT = Path(__file__).parents[2]


def killed_harness(pid: int, what: str) -> None:
    """A harness that holds this process stopped is killed."""
    harness = subprocess.Popen([sys.executable, "-c", HARNESS, str(pid), what], stdout=subprocess.PIPE, cwd=ROOT)
    assert harness.stdout is not None
    with harness.stdout:
        assert harness.stdout.readline() == b"stopped\n"
        wait_until("the process to stop", lambda: state(pid) == "T")
        harness.kill()
        harness.wait()


def test_a_stopped_process_goes_on_when_its_harness_is_killed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        killed_harness(child.pid, "keep")
        wait_until("the process to go on", lambda: state(child.pid) != "T")
        # And it is the wakener's doing: without one the process stays stopped.
        killed_harness(child.pid, "close")
        assert state(child.pid) == "T"
        child.send_signal(signal.SIGCONT)
    finally:
        child.kill()
        child.wait()
