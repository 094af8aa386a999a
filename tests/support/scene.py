"""A live server beside the kernel's account of it, and servers with a planted defect."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from chaos.defects.defect import Defect, Edit
from chaos.oracles.evidence import Evidence, ServerRecord, server_records
from chaos.oracles.oracle import Oracle
from chaos.oracles.registry import SUPERVISION
from chaos.oracles.supervision import Reign, reigns
from chaos.targets.builtin import CODE_ROOT
from chaos.targets.process import open_process
from chaos.witness.proc_maps import MappedMemory, mapped_memories
from supervisor.points import Arm, Point, PointAction, PointMap
from supervisor.roles import Role
from tests.support.server import LiveServer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import Kernel


class Scene:
    """One server and what the kernel saw of it. The server's journal is read as a claim, for oracles that set it
    against the account."""

    def __init__(self, server: LiveServer, kernel: Kernel) -> None:
        self.server = server
        self._kernel = kernel
        self._pids: list[int] = []
        self.follow()

    def follow(self) -> None:
        """Take the server's postmaster of now for the last one of this scene."""
        self._pids.append(self.server.pid)
        self._kernel.follow(self.server.pid)

    def evidence(self) -> Evidence:
        """Everything up to now, of this server alone."""
        journal = list(self._journal())  # first, so that the account reaches beyond whatever it claims
        evidence = Evidence(self._kernel.account(), journal)
        evidence.derived["reigns"] = [reign for reign in reigns(evidence) if reign.postmaster.pid in self._pids]
        return evidence

    def reign(self) -> Reign:
        """The life up to now of the postmaster, of the last one if there were several; the account of it must be whole."""
        evidence = self.evidence()
        *_, reign = reigns(evidence)
        gap = evidence.account.gap(reign.begin, min(reign.end, evidence.account.end))
        assert gap is None, f"the kernel's account is not whole: {gap}"
        return reign

    def failures(self, *oracles: Oracle) -> list[str]:
        """What the oracles find. An oracle that had nothing to judge fails the test."""
        evidence = self.evidence()
        found = []
        for oracle in oracles:
            result = oracle.judge(evidence)
            assert result.trials, f"oracle {result.name} judged nothing: {result.reason}"
            found += [f"{failure.message}: {'; '.join(failure.evidence)}" for failure in result.failures]
        return found

    def accusations(self) -> list[str]:
        """What any oracle of supervision finds, whether it had something to judge or not."""
        evidence = self.evidence()
        return [
            f"{oracle.name}: {failure.message}: {'; '.join(failure.evidence)}"
            for oracle in SUPERVISION
            for failure in oracle.judge(evidence).failures
        ]

    def memories(self) -> dict[int, frozenset[MappedMemory]]:
        """What the postmaster and its living children map, by pid, as /proc shows it."""
        found = {pid: mapped_memories(pid) for pid in (self.server.pid, *self.server.roles())}
        return {pid: memories for pid, memories in found.items() if memories is not None}

    def kill(self, victim: str, session: int) -> int:
        """SIGKILL a child of a role; of backends this one, because another may be about to leave. Returns the pid."""
        if victim != "backend":
            return self.server.kill(victim)
        self.server.signal_child(session, signal.SIGKILL)
        return session

    def wait_reaped(self, *pids: int, deadline_s: float = 10.0) -> None:
        """Wait until processes are gone from /proc, which they are when they have been reaped."""
        for pid in pids:
            wait_until(f"process {pid} to be reaped", lambda pid=pid: gone(pid), deadline_s=deadline_s)  # type: ignore[misc]

    def wait_stopped(self, pid: int) -> None:
        """Wait until a process has stopped on a signal."""
        wait_until(f"process {pid} to stop", lambda: state(pid) == "T")

    def stop_child(self, pid: int) -> None:
        """SIGSTOP a child, and wait until it stands."""
        self.server.signal_child(pid, signal.SIGSTOP)
        self.wait_stopped(pid)

    def _journal(self) -> Iterator[ServerRecord]:
        decode = msgspec.json.Decoder().decode
        lines = self.server.journal_path.read_bytes().split(b"\n")
        for line in lines:
            try:
                value = decode(line) if line else None
            except msgspec.DecodeError:
                continue  # the record that is being written
            if value is not None:
                yield from server_records([value])


@contextmanager
def stopped_postmaster(server: LiveServer) -> Iterator[None]:
    """The postmaster stands still meanwhile, so that what happens to its children reaches it in one pass."""
    server.signal_postmaster(signal.SIGSTOP)
    try:
        wait_until("the postmaster to stop", lambda: state(server.pid) == "T")
        yield
    finally:
        server.signal_postmaster(signal.SIGCONT)


def state(pid: int) -> str:
    """The state letter of a process as /proc shows it; empty when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text[text.rindex(")") + 2]


def gone(pid: int) -> bool:
    """Whether a process has been reaped."""
    return not Path(f"/proc/{pid}").exists()


def living_child(server: LiveServer, pid: int) -> bool:
    """Whether a child of the postmaster lives."""
    process = open_process(pid, server.pid)
    if process is None:
        return False
    process.close()
    return True


class Points:
    """The points map of one server."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "points.map"
        self.map = PointMap(self.path, create=True)
        self.options = {"crashbed.points_map": str(self.path)}

    def arm(self, role: Role, point: Point, action: PointAction, argument: int = 0, *, nth: int = 0, k: int = 1) -> int:
        """Arm a point for processes forked from now on; returns the arm's number."""
        return self.map.arm(Arm(role, nth, point, k, action, argument))

    def wait_fired(self, number: int) -> int:
        """Wait until somebody has hit an arm; returns the pid."""
        return wait_until(f"arm {number} to be hit", lambda: self.map.fired(number))


def planted(directory: Path, title: str, *edits: tuple[str, str, str]) -> Path:
    """A copy of the server's code with a defect: (path, text to find, text to put there) each, found exactly once."""
    defect = Defect(name=title.replace(" ", "-"), title=title, caught_by="-", edits=tuple(Edit(*e) for e in edits))
    return defect.plant(CODE_ROOT, directory / "code")
