"""What a run left, as the supervision oracles read it: the kernel's account beside the others' claims.

Owns the shapes of those records of the server's journal, the harness' journal and the histories that
supervision is judged by, and their reading from a run directory. It interprets nothing: `supervision` does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import msgspec

from chaos.oracles.server_kind import BUILTIN, ServerKind, kind_of
from chaos.witness.account import Account, Process
from chaos.witness.records import read
from reports.rundir import RunDirectory
from workloads.workload import cycle_of

_T = TypeVar("_T")

SERVED = "served"
"""The harness's record of the backend that a worker outside the server was connected to."""


class ServerRecord(msgspec.Struct, frozen=True):
    """One record of events/server.jsonl; `pid` wrote it. Fields that its kind does not have are empty.

    `slot` 0 is no slot. `status` is a raw wait status. `event`, `before`, `after` are those of a step.
    `data_directory` is that of a postmaster's start.
    `worker` is the number of a background worker's registration; `name`, `start_time` and `restart_s` are its.
    """

    t: int
    ev: str
    pid: int = 0
    child: int = 0
    role: str | None = None
    slot: int = 0
    gen: int = 0
    ino: int = 0
    status: int = 0
    sig: int = 0
    clean: bool = True
    worker: int = 0
    name: str = ""
    start_time: str = ""
    restart_s: int = 0
    event: Any = None
    before: Any = None
    after: Any = None
    data_directory: str = ""


class Seen(msgspec.Struct, frozen=True):
    """One process as the harness saw it in /proc: `state` is proc(5)'s letter, "Z" a zombie."""

    pid: int
    parent: int = 0
    role: str = ""
    state: str = ""


class HarnessRecord(msgspec.Struct, frozen=True):
    """One record of events/harness.jsonl. Fields that its kind does not have are empty.

    `inos` are the memories that `pid` was seen to map at `t`. `child`, `role`, `sig`, `fault` and `outcome` are those of
    a blow; `child` may also have been seen to have a `role`, or to serve a `worker`; `processes` are all of a command's that were there at `t`.
    """

    t: int
    ev: str
    cycle: int | None = None
    pid: int = 0
    inos: tuple[int, ...] = ()
    child: int = 0
    role: str | None = None
    worker: int = 0
    sig: int = 0
    fault: str = ""
    outcome: str = ""
    processes: tuple[Seen, ...] = ()


_R = TypeVar("_R", ServerRecord, HarnessRecord)


class Invoke(NamedTuple):
    """An operation begun: when, by which process (that of the server which performs it, where it is known)."""

    t: int
    pid: int
    op: int


class Evidence:
    """Everything that supervision is judged by. The sequences are in order of time."""

    def __init__(
        self,
        account: Account,
        server: Iterable[ServerRecord] = (),
        harness: Iterable[HarnessRecord] = (),
        invokes: Iterable[Invoke] = (),
        kind: ServerKind = BUILTIN,
    ) -> None:
        self.account = account
        self.kind = kind
        self.server: Sequence[ServerRecord] = sorted(server, key=lambda record: record.t)
        self.harness: Sequence[HarnessRecord] = sorted(harness, key=lambda record: record.t)
        self.invokes: Sequence[Invoke] = sorted(invokes)
        self.derived: dict[str, Any] = {}
        """What was worked out from this evidence once, for all oracles; `supervision` keeps its reigns here."""

    @classmethod
    def of(cls, run: RunDirectory) -> Evidence:
        """Read a run directory, or one sitting of it. Raises RunDirectoryError."""
        info = run.read_info()
        harness = list(harness_records(run.harness_records()))
        backends = {(record.cycle, record.worker): record.child for record in harness if record.ev == SERVED}
        return cls(
            Account(record for record in read(run.kernel_events) if run.covers(record.t)),
            server_records(run.server_records()),
            harness,
            (
                Invoke(record["t"], _server_process(record, backends), record["op"])
                for reader in run.history_records()
                for record in reader
                if record.get("ev") == "invoke"
            ),
            kind_of(info.target, info.versions),
        )

    def missing(self, source: str) -> str | None:
        """Why nothing of this source can be judged, with the remedy; None when there is something."""
        if source == "kernel":
            if self.account.unavailable is not None:
                return f"no witness: {self.account.unavailable.reason}; {self.account.unavailable.remedy}"
            return None if self.account.opened is not None else "the run has no account of the kernel"
        has = {"server": self.server, "harness": self.harness, "history": self.invokes}[source]
        return None if has else f"the run has no record of the {source}"

    def server_between(self, since_ns: int, until_ns: int) -> Sequence[ServerRecord]:
        """The server's records of a span, both ends included."""
        return _between(self.server, since_ns, until_ns)

    def harness_between(self, since_ns: int, until_ns: int) -> Sequence[HarnessRecord]:
        """The harness' records of a span, both ends included."""
        return _between(self.harness, since_ns, until_ns)

    def role_seen(self, process: Process) -> str | None:
        """The role that the harness saw this process to have; None when it saw none."""
        return self._roles_seen.get(process.order)

    @cached_property
    def _roles_seen(self) -> dict[int, str]:
        seen: dict[int, str] = {}
        for record in self.harness:
            role = record.role if record.ev == "role" else "backend" if record.ev == SERVED else None
            process = self.account.at(record.child, record.t) if role is not None else None
            if process is not None and role is not None:
                seen[process.order] = role
        return seen

    def cycle_at(self, t_ns: int) -> int | None:
        """The cycle that was under way at a time; None before the first."""
        index = bisect_right(self._cycle_begins, t_ns, key=lambda item: item[0])
        return self._cycle_begins[index - 1][1] if index else None

    @cached_property
    def _cycle_begins(self) -> list[tuple[int, int]]:
        return [(r.t, r.cycle) for r in self.harness if r.ev == "cycle_begin" and r.cycle is not None]


def _server_process(invoke: Mapping[str, Any], backends: Mapping[tuple[int | None, int], int]) -> int:
    """The process that performs an operation: who began it, unless that is a client outside with a backend."""
    pid: int = backends.get((cycle_of(invoke["op"]), invoke["worker"]), invoke["pid"])
    return pid


def _between(records: Sequence[_R], since_ns: int, until_ns: int) -> Sequence[_R]:
    begin = bisect_left(records, since_ns, key=_time)
    return records[begin : bisect_right(records, until_ns, key=_time)]


def _time(record: ServerRecord | HarnessRecord) -> int:
    return record.t


def server_records(values: Iterable[Mapping[str, Any]]) -> Iterator[ServerRecord]:
    """Typed records of the server's journal; what has another shape is none of this module's."""
    return _convert(values, ServerRecord)


def harness_records(values: Iterable[Mapping[str, Any]]) -> Iterator[HarnessRecord]:
    """Typed records of the harness' journal."""
    return _convert(values, HarnessRecord)


def _convert(values: Iterable[Mapping[str, Any]], kind: type[_T]) -> Iterator[_T]:
    for value in values:
        try:
            yield msgspec.convert(value, kind)
        except msgspec.ValidationError:
            continue  # a claim that cannot be read claims nothing; what it should have said is then missing
