"""The processes of a command as /proc shows them: all descendants of one process, zombies included.

Owns the looking and the holding: each process is opened as a pidfd first and looked at afterwards, so a pid that was
used again in between cannot be hit. Only descendants of the process that is given are ever found.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from chaos.targets.process import ServerProcess, process_status

ZOMBIE = "Z"
RoleOf: TypeAlias = Callable[[int, str, str], str]
"""The role of a process by its pid, its name (comm) and its command line."""


@dataclass(frozen=True, slots=True)
class Member:
    """One descendant: held by a pidfd, with its parent and its state (proc(5)) when it was looked at."""

    process: ServerProcess
    parent: int
    state: str

    @property
    def alive(self) -> bool:
        """Whether it had not ended yet."""
        return self.state not in (ZOMBIE, "X")

    def seen(self) -> dict[str, object]:
        """What the harness records of it."""
        return {"pid": self.process.pid, "parent": self.parent, "role": self.process.role, "state": self.state}


@contextmanager
def members_of(root: int, role_of: RoleOf) -> Iterator[list[Member]]:
    """All descendants of a process, in fork order, held as long as the context lasts."""
    found = [member for pid, parent in _descendants(root) if (member := _open(pid, parent, role_of)) is not None]
    try:
        yield sorted(found, key=lambda member: (member.process.started_ticks, member.process.pid))
    finally:
        for member in found:
            member.process.close()


def kill_descendants(root: int) -> int:
    """SIGKILL every living descendant of a process; how many were told. Whom they fork meanwhile is missed."""
    with members_of(root, lambda pid, name, line: "") as found:
        return sum(member.alive and member.process.signal(signal.SIGKILL) for member in found)


def _descendants(root: int) -> Iterable[tuple[int, int]]:
    waiting = [root]
    known = {root}
    while waiting:
        parent = waiting.pop()
        for pid in _child_pids(parent):
            if pid not in known:
                known.add(pid)
                waiting.append(pid)
                yield pid, parent


def _child_pids(parent: int) -> Iterator[int]:
    """The children of a process, zombies too. Each thread has those that it forked itself."""
    try:
        for thread in Path(f"/proc/{parent}/task").iterdir():
            yield from map(int, (thread / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return  # the process, or the thread, ended meanwhile


def _open(pid: int, parent: int, role_of: RoleOf) -> Member | None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        name, state, actual_parent, started = process_status(pid)
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        os.close(pidfd)
        return None
    if actual_parent != parent:
        os.close(pidfd)
        return None
    # A zombie's command line is empty: what it was, an earlier look has told.
    role = role_of(pid, name, " ".join(line.decode(errors="replace").split("\0")).strip())
    return Member(ServerProcess(pid, pidfd, role, started), parent, state)
