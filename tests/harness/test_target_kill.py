"""Ending a server by force leaves nobody behind.

A postmaster forks a backend for each connection, also in the moment in which it is being killed. A child that is forked
after the harness has looked at the children, and before the SIGKILL, would be nobody's: it outlives the run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chaos.targets.builtin import BuiltinTarget
from chaos.targets.process import child_pids
from tests.support.waiting import wait_until

# Forks all the time, as a postmaster under a storm of connections does. What is forgotten ends by its alarm.
STORM = """
import os, signal
for _ in range(1500):
    if os.fork() == 0:
        break
signal.alarm(10)
signal.pause()
"""


@pytest.mark.parametrize("attempt", range(5))
def test_a_child_forked_while_the_server_is_killed_is_killed_too(tmp_path: Path, attempt: int) -> None:
    target = BuiltinTarget(tmp_path, options={}, log=tmp_path / "log", journal=tmp_path / "journal")
    marker = f"storm-{attempt}-{tmp_path}"
    postmaster = subprocess.Popen([sys.executable, "-c", STORM, marker])
    target._process = postmaster
    wait_until("the storm", lambda: len(child_pids(postmaster.pid)) > 20 * (attempt + 1))
    target.close()
    left = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if marker.encode() in content(path)]
    assert left == []


def test_a_server_that_has_ended_by_itself_is_no_error(tmp_path: Path) -> None:
    """Also when nobody has asked for its status yet: the first to ask is the kill."""
    target = BuiltinTarget(tmp_path, options={}, log=tmp_path / "log", journal=tmp_path / "journal")
    target._process = ended = subprocess.Popen([sys.executable, "-c", ""])
    wait_until("its end", lambda: Path(f"/proc/{ended.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    target.close()
    assert ended.returncode == 0


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
