"""The model of details.json: what a report draws beside its verdict.

Owns the shapes of the pictures' data: the processes of some cycles, the postmaster's states and how often it
moved between them, what processes used and how that grew. The judge writes it and the report lays it out; nothing
here decides a verdict. A run directory without the file still makes a page, without these pictures.

Times are milliseconds since the blow of their cycle, negative before it; rounded to microseconds, which is what
the kernel's account resolves.
"""

from __future__ import annotations

import msgspec

SCHEMA = 1


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that a process received: when, which, and from whom ("postmaster", "harness", "itself", ...)."""

    ms: float
    signal: str
    sender: str


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One server process within one cycle.

    `begin` and `end` are cut to the cycle; `forked` and `reaped` are None where that lies outside it or was not
    seen, `ended` is empty while the process lives. `marks_left_out` counts the signals beyond those in `marks`.
    """

    pid: int
    role: str
    begin: float
    end: float
    forked: float | None = None
    reaped: float | None = None
    ended: str = ""
    marks: tuple[Mark, ...] = ()
    marks_left_out: int = 0


class StateSpan(msgspec.Struct, frozen=True, kw_only=True):
    """The postmaster in one state. `kind` is what that means for a client: starting, serving or stopping."""

    state: str
    kind: str
    begin: float
    end: float


class BlowMark(msgspec.Struct, frozen=True, kw_only=True):
    """What the harness did to a process: `landed` tells whether it took effect."""

    ms: float
    pid: int
    role: str
    fault: str
    landed: bool


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """One cycle in full. `reason` is why this one is shown: see `Timelines`."""

    cycle: int
    epoch: int
    reason: str
    begin: float
    end: float
    lanes: tuple[Lane, ...]
    states: tuple[StateSpan, ...]
    blows: tuple[BlowMark, ...]


class RoleLives(msgspec.Struct, frozen=True, kw_only=True):
    """All processes of one role over the whole run: how they ended, and which signals they received."""

    role: str
    processes: int
    exited_0: int = 0
    exited_other: int = 0
    signaled: int = 0
    living: int = 0
    median_ms: float | None = None
    signals: dict[str, int] = {}


class Timelines(msgspec.Struct, frozen=True, kw_only=True):
    """The cycles that are shown in full, of `cycles` that there were, and all of them together by role.

    `source` is "kernel", or "journal" where there was no witness and the server's own word had to do.
    """

    cycles: int = 0
    source: str = ""
    shown: tuple[Timeline, ...] = ()
    roles: tuple[RoleLives, ...] = ()


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """One way from state to state, for what causes, and how often this run took it."""

    source: str
    target: str
    causes: tuple[str, ...]
    taken: int = 0


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The postmaster's states in their order, and every edge that it has. The end is a state as well."""

    states: tuple[str, ...] = ()
    edges: tuple[Edge, ...] = ()


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity of one owner, cycle by cycle: `values[i]` at the end of cycle `cycles[i]`, in life `lives[i]`.

    A life is one postmaster's, counted from 0; `owner` is "postmaster", "children" (their sum) or "data directory".
    """

    owner: str
    quantity: str
    unit: str
    cycles: tuple[int, ...] = ()
    lives: tuple[int, ...] = ()
    values: tuple[float, ...] = ()


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """How a quantity grew per cycle: the slope and its 95 % interval, over so many cycles of so many lives.

    `most` is the rate above which the interval would be a finding; None where growth is shown and not judged.
    """

    owner: str
    quantity: str
    unit: str
    lives: int
    cycles: int
    slope: float
    low: float
    high: float
    most: float | None = None
    judged: bool = False


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What processes used, and how it grew."""

    series: tuple[Series, ...] = ()
    trends: tuple[Trend, ...] = ()


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """details.json."""

    timelines: Timelines = Timelines()
    machine: Machine = Machine()
    resources: Resources = Resources()
    schema: int = SCHEMA
