"""The kernel's account of a run, as a judge reads it: which processes lived, and what was done to them.

Pure: built from records, in memory, never changed afterwards. It knows nothing of servers. It says where it
is not whole (`gaps`), and every judgement must ask for the span that it rests on (`whole`).

A pid is given to one process after another: a `Process` is one life, from its fork to its reaping.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from signal import SIGCHLD, SIGURG
from typing import NamedTuple

from chaos.witness.parse import HARMLESS
from chaos.witness.records import (
    Closed,
    Deliver,
    Drained,
    Exit,
    Exiting,
    Followed,
    Fork,
    KernelRecord,
    Loss,
    Name,
    Opened,
    Session,
    Signal,
    Unwitnessed,
    Wait,
)

TICK_NS = 1_000
"""The resolution of the account. Two events no further apart than this happened in an order nobody knows."""

CLD_EXITED, CLD_KILLED, CLD_DUMPED = 1, 2, 3
SI_KERNEL = 0x80
"""si_code of a signal that no process asked for, as from the OOM killer; the trace has whoever ran just then as sender."""


def surely_after(later_ns: int, earlier_ns: int) -> bool:
    """Whether the first time certainly lies after the second. What is uncertain counts for the server."""
    return later_ns - earlier_ns > TICK_NS


class Received(NamedTuple):
    """A signal generated for a process. `order` is its place in the account: of one sender, in true order.

    `by` is the sender's pid, 0 for the kernel itself.
    """

    t: int
    order: int
    sig: int
    by: int
    result: int


class Gap(NamedTuple):
    """A span of which the account is not whole, and why."""

    since: int
    until: int
    reason: str


class Process:
    """One life of one pid. Times are ns; None is what was not seen (a fork before the account, no end yet).

    `code` or `signal` is how it ended; both None with `exit_t` set is an end of unknown kind. `exiting_t` is
    when its end began: it asked for it, or took a fatal signal. `session_t` is when it became the leader of
    its own process group.
    """

    __slots__ = (
        "code",
        "exit_t",
        "exiting_t",
        "forked_t",
        "names",
        "order",
        "parent",
        "pid",
        "reaped_by",
        "reaped_t",
        "received",
        "session_t",
        "signal",
        "traced_end",
    )

    def __init__(self, pid: int, parent: int | None, forked_t: int | None, order: int) -> None:
        self.pid = pid
        self.parent = parent
        self.forked_t = forked_t
        self.order = order
        self.names: list[tuple[int, str]] = []
        self.received: list[Received] = []
        self.exiting_t: int | None = None
        self.exit_t: int | None = None
        self.code: int | None = None
        self.signal: int | None = None
        self.traced_end: tuple[int | None, int | None] = (None, None)  # both, before a SIGCHLD decides between them
        self.reaped_t: int | None = None
        self.reaped_by: int | None = None
        self.session_t: int | None = None

    @property
    def born(self) -> int:
        """When it was forked; 0 when that was before the account."""
        return self.forked_t or 0

    @property
    def end_begun_t(self) -> int | None:
        """When its end had begun at the latest; None while it lives."""
        return self.exit_t if self.exiting_t is None else self.exiting_t

    @property
    def status(self) -> int | None:
        """Its wait status without the core flag (wait(2)); None when it lives or its end is of unknown kind."""
        if self.signal is not None:
            return self.signal
        return self.code << 8 if self.code is not None else None

    @property
    def role(self) -> str | None:
        """What it calls itself, if by a name of the form `cb:<role>`."""
        for _, name in reversed(self.names):
            if name.startswith("cb:"):
                return name[3:]
        return None

    def ended_by(self) -> str:
        """How it ended, in PostgreSQL's words."""
        if self.signal is not None:
            return f"was terminated by signal {self.signal}"
        if self.code is not None:
            return f"exited with exit code {self.code}"
        return "ended, in a way that was not seen" if self.exit_t is not None else "lives"

    def __repr__(self) -> str:
        return f"<Process {self.pid} {self.role or (self.names[-1][1] if self.names else '?')}>"


class Account:
    """All lives that the records tell of, in order of their forks."""

    def __init__(self, records: Iterable[KernelRecord]) -> None:
        self.processes: list[Process] = []
        self.gaps: list[Gap] = []
        self.followed: list[Followed] = []
        self.opened: Opened | None = None
        self.unavailable: Unwitnessed | None = None
        self.sessions = False
        """Whether new sessions were recorded, so that a missing one means that there was none."""
        self.begin = 0
        self.end = 0
        """The account is drained up to this time; what happened later it does not know whole."""
        self._by_pid: dict[int, list[Process]] = {}
        self._children: dict[int, list[Process]] = {}
        closed = False
        # The pipe is merged by time while events still come: neighbours may stand in the wrong order.
        for order, record in enumerate(sorted(records, key=lambda record: record.t)):
            self._add(order, record)
            closed = closed or isinstance(record, Closed)
        if self.opened is not None:
            why = "the account ends here" if closed else "the account stops here, without an end"
            self.gaps.append(Gap(self.end + 1, _FOREVER, why))

    # Questions.

    def lives(self, pid: int) -> list[Process]:
        """All lives of a pid, oldest first."""
        return self._by_pid.get(pid, [])

    def at(self, pid: int, t_ns: int) -> Process | None:
        """The process that had this pid at that time: the last one forked before it."""
        lives = self.lives(pid)
        index = bisect_right(lives, t_ns + TICK_NS, key=lambda process: process.born)
        return lives[index - 1] if index else None

    def children(self, parent: Process) -> list[Process]:
        """The processes that this life of the parent's pid forked, oldest first."""
        end = parent.reaped_t or parent.exit_t or _FOREVER
        return [child for child in self._children.get(parent.pid, []) if parent.born <= child.born <= end]

    def gap(self, since_ns: int, until_ns: int) -> Gap | None:
        """The first gap that touches this span; None when the account is whole over it."""
        for gap in self.gaps:
            if gap.since <= until_ns and since_ns <= gap.until:
                return gap
        return None

    def whole(self, since_ns: int, until_ns: int) -> bool:
        """Whether nothing is missing from this span."""
        return self.gap(since_ns, until_ns) is None

    # Building.

    def _add(self, order: int, record: KernelRecord) -> None:
        match record:
            case Signal():
                self._signal(order, record)
            case Fork():
                self._new(record.child, record.pid, record.t, order)  # it still has its parent's name
            case Exiting():
                self._begins_to_end(record.pid, record.t, order)
            case Deliver():
                if record.default and record.sig not in HARMLESS:
                    self._begins_to_end(record.pid, record.t, order)
            case Exit():
                self._exit(order, record)
            case Wait():
                self._wait(record)
            case Name():
                self._known(record.pid, order).names.append((record.t, record.name))
            case Session():
                self._known(record.pid, order).session_t = record.t
            case Loss():
                self._loss(record)
            case Drained() | Closed():
                self.end = record.t
            case Followed():
                self._known(record.pid, order)
                self.followed.append(record)
            case Opened():
                self.opened, self.begin, self.end = record, record.t, record.t
                self.sessions = record.sessions
            case Unwitnessed():
                self.unavailable = record
            case _:
                pass  # threads and waitid: for people who read the file

    def _new(self, pid: int, parent: int | None, forked_t: int | None, order: int) -> Process:
        process = Process(pid, parent, forked_t, order)
        self.processes.append(process)
        self._by_pid.setdefault(pid, []).append(process)
        if parent is not None:
            self._children.setdefault(parent, []).append(process)
        return process

    def _known(self, pid: int, order: int) -> Process:
        lives = self._by_pid.get(pid)
        return lives[-1] if lives else self._new(pid, None, None, order)

    def _begins_to_end(self, pid: int, t: int, order: int) -> None:
        process = self._known(pid, order)
        if process.exiting_t is None:
            process.exiting_t = t

    def _exit(self, order: int, record: Exit) -> None:
        if not record.group_dead:
            return
        process = self._known(record.pid, order)
        process.exit_t, process.code, process.signal = record.t, record.code, record.signal
        process.traced_end = record.code, record.signal

    def _wait(self, record: Wait) -> None:
        lives = self._by_pid.get(record.child)
        # wait4 also tells of children that stopped: only the one for a child that ended is a reaping.
        if lives and lives[-1].exit_t is not None and lives[-1].reaped_t is None:
            lives[-1].reaped_t, lives[-1].reaped_by = record.t, record.pid

    def _signal(self, order: int, record: Signal) -> None:
        if record.sig == SIGCHLD and record.code in (CLD_EXITED, CLD_KILLED, CLD_DUMPED):
            self._confirm_end(record)
        target = self._known(record.pid, order)
        by = 0 if record.code == SI_KERNEL else record.by
        target.received.append(Received(record.t, order, record.sig, by, record.result))

    def _confirm_end(self, record: Signal) -> None:
        """SIGCHLD says whether its sender exited or was killed: it decides where the events before do not.

        A process killed between its call of exit_group and its end leaves both an exit code and a signal. The last
        SIGCHLD counts: before its own, a dying parent sends one for each child that it had not reaped
        (`forget_original_parent` in the kernel's exit.c), and the trace has that parent as the sender.
        """
        lives = self._by_pid.get(record.by)
        if not lives or lives[-1].exit_t is None:
            return
        process = lives[-1]
        process.code, process.signal = process.traced_end
        if record.code == CLD_EXITED and process.signal is not None:
            process.signal = None
        elif record.code != CLD_EXITED and process.code is not None:
            process.code = None
            fatal = [s.sig for s in process.received if s.result == 0 and s.sig not in HARMLESS | {SIGURG}]
            process.signal = fatal[-1] if fatal else None

    def _loss(self, record: Loss) -> None:
        counts = (
            (record.dropped, "events dropped"),
            (record.overrun, "events overrun"),
            (record.commit_overrun, "commits overrun"),
            (record.unparsed, "records not understood"),
        )
        said = ", ".join(f"{count} {what}" for count, what in counts if count)
        if record.stopped:
            self.gaps.append(Gap(record.since, _FOREVER, "the kernel's trace stopped"))
        else:
            self.gaps.append(Gap(record.since, record.t, said or "events lost"))


_FOREVER = 1 << 63
