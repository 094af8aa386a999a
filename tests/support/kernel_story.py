"""A crash and a shutdown of a small server, written by hand as the kernel would tell it.

A postmaster with checkpointer, background writer, startup process, WAL writer and two backends; one backend is killed,
the others get SIGQUIT newest first, are reaped, and a new generation starts; a fast shutdown ends it. Tests of oracles
break the story in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import msgspec

from chaos.oracles.evidence import Evidence, HarnessRecord, Invoke, ServerRecord
from chaos.oracles.oracle import Oracle, OracleResult
from chaos.witness.account import Account
from chaos.witness.records import (
    Closed,
    Drained,
    Exit,
    Exiting,
    Followed,
    Fork,
    KernelRecord,
    Name,
    Opened,
    Session,
    Signal,
    Wait,
)
from reports.verdict import OracleStatus

MS = 1_000_000
HARNESS, POSTMASTER = 50, 100
CHECKPOINTER, BGWRITER, STARTUP, WALWRITER, VICTIM, SURVIVOR, NEW_STARTUP, LATE = (
    101,
    102,
    103,
    104,
    105,
    106,
    107,
    108,
)
NEW_CHECKPOINTER, NEW_BGWRITER = 111, 112
END_MS = 30_000


@dataclass
class Story:
    """The records of a run; times are milliseconds."""

    kernel: list[KernelRecord] = field(default_factory=list)
    server: list[ServerRecord] = field(default_factory=list)
    harness: list[HarnessRecord] = field(default_factory=list)
    invokes: list[Invoke] = field(default_factory=list)
    slots: dict[int, int] = field(default_factory=dict)
    """Of each child the slot that it was forked with."""

    def claim(self, ms: float, ev: str, **fields: Any) -> None:
        self.server.append(ServerRecord(t=int(ms * MS), ev=ev, pid=POSTMASTER, **fields))

    def fork(self, ms: float, pid: int, role: str, *, slot: int = 0) -> None:
        t = int(ms * MS)
        self.kernel += [
            Fork(t, 0, POSTMASTER, pid, "cb:postmaster"),
            Name(t + 20_000, 1, pid, f"cb:{role}"),
            Session(t + 30_000, 1, pid),
        ]
        self.claim(ms + 0.1, "fork", child=pid, role=role, slot=slot)
        self.slots[pid] = slot

    def send(self, ms: float, sig: int, pid: int, by: int = POSTMASTER) -> None:
        self.kernel.append(Signal(int(ms * MS), 0, sig, pid, by, 0, 0))

    def quit(self, ms: float, pid: int) -> None:
        """SIGQUIT to the process, and to its group."""
        self.send(ms, SIGQUIT, pid)
        self.send(ms + 0.005, SIGQUIT, pid)

    def end(
        self,
        ms: float,
        pid: int,
        *,
        code: int | None = None,
        signal: int | None = None,
        reaped: float,
    ) -> None:
        t = int(ms * MS)
        slot = self.slots.get(pid, 0)
        if code is not None:
            self.kernel.append(Exiting(t - 5_000, 1, pid, code))
        self.kernel += [Exit(t, 1, pid, code, signal, True), Wait(int(reaped * MS), 0, POSTMASTER, pid)]
        status = signal if code is None else code << 8
        self.claim(reaped + 0.1, "reap", child=pid, slot=slot, status=status, clean=code in (0, 1))
        if slot:
            self.claim(reaped + 0.15, "slot_released", slot=slot, child=pid)

    def end_postmaster(self, ms: float, *, code: int | None = None, signal: int | None = None) -> None:
        """The postmaster ends, and the harness reaps it."""
        t = int(ms * MS)
        self.kernel += [Exit(t, 1, POSTMASTER, code, signal, True), Wait(t + MS, 0, HARNESS, POSTMASTER)]

    def drop(self, *kinds: type, where: Callable[[Any], bool]) -> Story:
        """The story without some of the kernel's records."""
        self.kernel = [r for r in self.kernel if not (isinstance(r, kinds) and where(r))]
        return self

    def unsay(self, ev: str, where: Callable[[ServerRecord], bool]) -> Story:
        """The story without some of the server's claims."""
        self.server = [r for r in self.server if not (r.ev == ev and where(r))]
        return self

    def change(self, kind: type, where: Callable[[Any], bool], **fields: Any) -> Story:
        """The story with some of the kernel's records changed."""
        self.kernel = [
            msgspec.structs.replace(r, **fields) if isinstance(r, kind) and where(r) else r for r in self.kernel
        ]
        return self

    def evidence(self) -> Evidence:
        return Evidence(Account(self.kernel), self.server, self.harness, self.invokes)


def crash_story() -> Story:
    """One crash cycle as it should be."""
    story = Story()
    story.kernel += [
        Opened(0, "tracefs", "passed", HARNESS),
        Fork(1 * MS // 2, 0, HARNESS, POSTMASTER, "python"),
        Followed(1 * MS // 2 + 1000, POSTMASTER, "postmaster"),
        Drained(END_MS * MS),
        Closed(END_MS * MS),
    ]
    story.claim(0.8, "postmaster_start")
    story.claim(0.9, "memory", gen=1, ino=11)
    story.fork(1, CHECKPOINTER, "checkpointer", slot=2)
    story.fork(2, BGWRITER, "bgwriter", slot=3)
    story.fork(3, STARTUP, "startup", slot=1)
    story.send(5, SIGUSR1, POSTMASTER, by=STARTUP)
    story.end(10, STARTUP, code=0, reaped=10.5)
    story.fork(12, WALWRITER, "walwriter", slot=4)
    story.fork(20, VICTIM, "backend", slot=10)
    story.fork(21, SURVIVOR, "backend", slot=11)
    story.invokes += [Invoke(25 * MS, VICTIM, 1), Invoke(26 * MS, SURVIVOR, 2), Invoke(4 * MS, HARNESS, 3)]
    story.send(100, SIGKILL, VICTIM, by=HARNESS)
    story.end(100.1, VICTIM, signal=SIGKILL, reaped=101)
    for number, pid in enumerate((SURVIVOR, WALWRITER, BGWRITER, CHECKPOINTER)):
        story.quit(102 + number * 0.05, pid)
        story.end(104 + number, pid, code=2, reaped=104.5 + number)
    story.claim(110, "memory_closed", gen=1)
    story.claim(111, "memory", gen=2, ino=12)
    story.fork(120, NEW_STARTUP, "startup", slot=1)
    story.send(122, SIGUSR1, POSTMASTER, by=NEW_STARTUP)
    story.end(130, NEW_STARTUP, code=0, reaped=131)
    story.fork(140, LATE, "backend", slot=10)
    story.invokes.append(Invoke(141 * MS, LATE, 4))
    story.harness += [
        HarnessRecord(90 * MS, "cycle_begin", cycle=7),
        HarnessRecord(150 * MS, "memory_maps", cycle=7, pid=POSTMASTER, inos=(12,)),
        HarnessRecord(150 * MS, "memory_maps", cycle=7, pid=LATE, inos=(12,)),
    ]
    return story


def shut_down(story: Story, ms: float = 1000, mode: int = SIGINT) -> Story:
    """A fast or smart shutdown of the crash story's second generation, in the prescribed order. In the smart one the
    last session leaves by itself."""
    smart = mode == SIGTERM
    story.fork(145, NEW_CHECKPOINTER, "checkpointer", slot=2)
    story.fork(146, NEW_BGWRITER, "bgwriter", slot=3)
    story.send(ms - 100 if smart else ms, mode, POSTMASTER, by=HARNESS)
    for pid in (NEW_BGWRITER,) if smart else (NEW_BGWRITER, LATE):
        story.send(ms + 1, SIGTERM, pid)
    story.end(ms if smart else ms + 3, LATE, code=0 if smart else 1, reaped=ms + 3.5)
    story.end(ms + 4, NEW_BGWRITER, code=0, reaped=ms + 4.5)
    story.send(ms + 6, SIGINT, NEW_CHECKPOINTER)
    story.send(ms + 10, SIGUSR1, POSTMASTER, by=NEW_CHECKPOINTER)
    story.send(ms + 11, SIGUSR2, NEW_CHECKPOINTER)
    story.end(ms + 12, NEW_CHECKPOINTER, code=0, reaped=ms + 12.5)
    story.end_postmaster(ms + 15, code=0)
    return story


def crash_again(story: Story) -> Story:
    """A crash of the crash story's second generation, and a third one."""
    story.fork(145, NEW_CHECKPOINTER, "checkpointer", slot=2)
    story.fork(146, NEW_BGWRITER, "bgwriter", slot=3)
    story.send(300, SIGKILL, LATE, by=HARNESS)
    story.end(300.1, LATE, signal=SIGKILL, reaped=301)
    for number, pid in enumerate((NEW_BGWRITER, NEW_CHECKPOINTER)):
        story.quit(302 + number * 0.05, pid)
        story.end(304 + number, pid, code=2, reaped=304.5 + number)
    story.claim(310, "memory_closed", gen=2)
    story.claim(311, "memory", gen=3, ino=13)
    story.fork(320, 121, "startup", slot=1)
    story.send(322, SIGUSR1, POSTMASTER, by=121)
    story.end(330, 121, code=0, reaped=331)
    story.fork(340, 122, "backend", slot=10)
    return story


def whole_story() -> Story:
    """A crash cycle and a fast shutdown as they should be."""
    return shut_down(crash_story())


def judged(oracle: Oracle, story: Story) -> OracleResult:
    return oracle.judge(story.evidence())


def assert_failed(result: OracleResult, *words: str) -> None:
    assert result.status is OracleStatus.FAILED, result
    text = " | ".join(failure.message for failure in result.failures)
    for word in words:
        assert word in text, text
    assert all(failure.evidence for failure in result.failures), "a failure without the lines that show it"
