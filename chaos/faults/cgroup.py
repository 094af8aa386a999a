"""A process without memory: a memory cgroup of its own with a limit of nothing, so that the kernel's OOM killer ends it.

Owns the groups that it makes, which are gone when it is done (those of a harness that was killed, at the next use),
and the trial that says whether it works here. In the
older hierarchy (v1) a group is made beside the others of the memory controller; in the unified one (v2) below this
process's own group, whose controller must be delegated.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.witness.tracefs import PREFIX, instance_name, owner_lives

_MOUNTS: Final = Path("/proc/self/mounts")
_LONGEST_S: Final = 2.0
"""How long what must happen here may take."""
_STARVED_S: Final = 0.3
"""How long a process may ask for no page: one that works asks for several in this time."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where memory cgroups are made, and how they are spelled there."""

    directory: Path
    limit: str
    events: str

    def kills(self, group: Path) -> int:
        """How often the OOM killer has struck in a group."""
        for line in (group / self.events).read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
        return 0


def find(mounts: str) -> Hierarchy | None:
    """The hierarchy that has the memory controller, from the text of /proc/self/mounts; None when there is none."""
    for line in mounts.splitlines():
        _, directory, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(","):
            return Hierarchy(Path(directory), "memory.limit_in_bytes", "memory.oom_control")
    for line in mounts.splitlines():
        _, directory, kind, *_ = line.split()
        if kind == "cgroup2":
            return Hierarchy(Path(directory), "memory.max", "memory.events")
    return None


@contextmanager
def starved(pid: int) -> Iterator[tuple[Hierarchy, Path]]:
    """A process in a group without memory meanwhile; a survivor is back where it was afterwards. Raises OSError."""
    hierarchy = find(_MOUNTS.read_text())
    if hierarchy is None:
        raise FileNotFoundError("no memory controller is mounted")
    sweep(hierarchy)
    group = hierarchy.directory / f"{instance_name(os.getpid())}.{pid}"
    group.mkdir()
    try:
        home = _home(pid, hierarchy)
        # The limit first: a group whose process has asked for a page already cannot be limited to nothing (EBUSY).
        (group / hierarchy.limit).write_text("0")
        try:
            (group / "cgroup.procs").write_text(str(pid))
            yield hierarchy, group
        finally:
            with suppress(ProcessLookupError):  # it has ended, as it should
                (home / "cgroup.procs").write_text(str(pid))
    finally:
        _remove(group)


def sweep(hierarchy: Hierarchy) -> None:
    """Remove the groups of harnesses that no longer live: each is named by its harness's pid and start time."""
    for group in hierarchy.directory.glob(f"{PREFIX}*-*.*"):
        if not owner_lives(group.name):
            with suppress(OSError):  # its process lives a moment longer: it is tried again the next time
                group.rmdir()


def out_of_memory(pid: int) -> bool:
    """Have a process killed by the OOM killer; False when it was gone before, or asked for no page in time."""
    try:
        with starved(pid) as (hierarchy, group):
            deadline = time.monotonic() + _STARVED_S
            while time.monotonic() < deadline:
                if hierarchy.kills(group):
                    return True
                if not Path(f"/proc/{pid}").exists():
                    return False
                time.sleep(0.001)
    except ProcessLookupError:
        pass
    return False


def unavailable() -> str | None:
    """Why there can be no OOM kill here, with the remedy; None when a process was just killed by one."""
    remedy = "run as root where memory cgroups can be made"
    # The pages that it asks for are those of the shell's next fork.
    victim = subprocess.Popen(
        ["/bin/sh", "-c", "while read -r line; do (:); done"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert victim.stdin is not None
    try:
        with starved(victim.pid):
            with suppress(BrokenPipeError):
                victim.stdin.write(b"go\n" * 100)
                victim.stdin.close()
            status = victim.wait(_LONGEST_S)
    except OSError as error:
        return f"no memory cgroup can be used: {error.strerror or error}; {remedy}"
    except subprocess.TimeoutExpired:
        return f"a process in a cgroup without memory went on living; {remedy}"
    finally:
        victim.kill()
        victim.wait()
        with suppress(BrokenPipeError):
            victim.stdin.close()
    if status != -signal.SIGKILL:
        return f"a process in a cgroup without memory ended with {status} and not by SIGKILL; {remedy}"
    return None


def _home(pid: int, hierarchy: Hierarchy) -> Path:
    """The group that a process is in. Raises ProcessLookupError when it is gone."""
    unified = hierarchy.limit == "memory.max"
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(f"process {pid} is gone") from None
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") or (unified and not controllers):
            return hierarchy.directory / path.lstrip("/")
    return hierarchy.directory


def _remove(group: Path) -> None:
    """Remove a group, which the kernel allows when its last process is reaped. Raises OSError when that stays off."""
    deadline = time.monotonic() + _LONGEST_S
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.001)
