"""The cycles of a run as its harness recorded them, and the way of each from the blow to the first commit.

Where the kernel's account has a phase it is taken from there; what only the server can tell (memory reset, redo)
is its own word and says so nowhere but here. Pure functions of records.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chaos.faults import FAULTS, Blow, Consequence
from chaos.oracles.evidence import Evidence
from chaos.oracles.supervision import Reign, reigns
from chaos.witness.account import Account, Process, surely_after
from reports.rundir import RunDirectory
from reports.verdict import Recovery

_FOREVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Cycle:
    """One cycle by the harness's record; None is what it did not come to.

    `landed` tells whether all that was meant to be done was done: the plan's fault, and the crash before it that a
    point of recovery needs.
    """

    cycle: int
    epoch: int
    fault: str
    begin_ns: int
    end_ns: int | None
    blows: tuple[Blow, ...]
    landed: bool
    ready_ns: int | None
    first_commit_ns: int | None

    @property
    def struck_ns(self) -> int | None:
        """When the first blow landed, as the harness knows it."""
        return min((blow.t for blow in self.blows if blow.landed), default=None)


def replaces_only(fault: str) -> bool:
    """Whether a fault calls for no recovery, but for another child in the place of one."""
    return fault in FAULTS and FAULTS[fault].causes is Consequence.REPLACEMENT


def fell_ns(cycle: Cycle, blow: Blow, account: Account) -> int | None:
    """When the kernel generated a blow's signal, or saw the exit that it was; None when it was not seen within the
    cycle.

    The harness notices a blow at a point a moment after it fell, and perhaps only when its victim's successor lives.
    """
    until = cycle.end_ns if cycle.end_ns is not None else account.end
    if blow.code is not None:
        ends = (process.end_begun_t for process in account.lives(blow.pid) if process.code == blow.code)
        return next((t for t in ends if t is not None and cycle.begin_ns <= t <= until), None)
    return next(
        (
            received.t
            for process in account.lives(blow.pid)
            for received in process.received
            if received.sig == blow.signal and cycle.begin_ns <= received.t <= until
        ),
        None,
    )


def cycles_of(harness: Iterable[Mapping[str, Any]]) -> list[Cycle]:
    """The cycles in their order."""
    found: dict[int, dict[str, Any]] = {}
    for record in harness:
        number = record.get("cycle")
        if record["ev"] == "cycle_begin" and number is not None:
            found[number] = {"begin": record["t"], "epoch": record["epoch"], "blows": [], "fault": "", "landed": {}}
        elif number in found:
            cycle = found[number]
            match record["ev"]:
                case "fault":
                    landed = record["outcome"] == "landed"
                    cycle["fault"] = record["fault"]
                    blow = Blow(
                        record["t"], record["child"], record["role"], record["sig"], landed,
                        record.get("part", 0), record.get("code"),
                    )  # fmt: skip
                    # Of several victims of one part of a fault, one will do.
                    part = record["fault"], blow.part
                    cycle["landed"][part] = landed or cycle["landed"].get(part, False)
                    cycle["blows"].append(blow)
                case "ready" | "first_commit" | "cycle_end":
                    cycle[record["ev"]] = record["t"]
    return [
        Cycle(
            cycle=number,
            epoch=cycle["epoch"],
            fault=cycle["fault"],
            begin_ns=cycle["begin"],
            end_ns=cycle.get("cycle_end"),
            blows=tuple(cycle["blows"]),
            landed=bool(cycle["landed"]) and all(cycle["landed"].values()),
            ready_ns=cycle.get("ready"),
            first_commit_ns=cycle.get("first_commit"),
        )
        for number, cycle in sorted(found.items())
    ]


def end_of_whole_cycles(run: RunDirectory) -> int:
    """When the cycle that did not end was begun, or whatever else came after the last that did (CLOCK_MONOTONIC ns)."""
    end = 0
    fresh = True
    for record in run.harness_records():
        if fresh:
            end, fresh = record["t"], False
        fresh = record["ev"] == "cycle_end"
        if fresh:
            end = record["t"] + 1
    return end


def recoveries(cycles: Sequence[Cycle], evidence: Evidence, run: RunDirectory) -> Iterator[Recovery]:
    """The phases of every cycle whose blow landed and called for a recovery, in ms since the blow."""
    lives = reigns(evidence)
    redo = sorted(
        (record["t"], record["ev"], record["lsn"])
        for record in run.server_records()
        if record["ev"] in ("redo_begin", "redo_end")
    )
    for cycle in cycles:
        first = min((blow for blow in cycle.blows if blow.landed), key=_time, default=None)
        if first is None or replaces_only(cycle.fault):
            continue
        struck = fell_ns(cycle, first, evidence.account) or first.t
        until = cycle.end_ns if cycle.end_ns is not None else evidence.account.end
        killed = evidence.account.at(first.pid, struck)
        times = _supervision(lives, killed, struck, until)
        ready = times["ready"] = became_ready_ns(cycle, lives, struck) or cycle.ready_ns
        replayed = _within(redo, struck, until if ready is None else ready)
        begun = [(t, lsn) for t, ev, lsn in replayed if ev == "redo_begin"]
        # Of a recovery that crashed itself, the one that came to its end counts.
        ended = [(t, lsn) for t, ev, lsn in replayed if ev == "redo_end"]
        times["redo_start"] = begun[0][0] if begun else None
        times["redo_end"] = ended[-1][0] if ended else None
        times["first_commit"] = cycle.first_commit_ns
        yield Recovery(
            cycle=cycle.cycle,
            epoch=cycle.epoch,
            fault=cycle.fault,
            victim=", ".join(dict.fromkeys(blow.role for blow in cycle.blows if blow.landed)),
            redo_bytes=ended[-1][1] - begun[-1][1] if begun and ended else None,
            **{name: None if t is None else (t - struck) / 1e6 for name, t in times.items()},
        )


def became_ready_ns(cycle: Cycle, lives: Sequence[Reign], since_ns: int) -> int | None:
    """When the postmaster reaped the first startup process forked after a time, within the cycle, that exited with 0:
    ready by generation and not by word. None when there was none."""
    until = cycle.end_ns if cycle.end_ns is not None else _FOREVER
    return min(
        (
            process.reaped_t
            for reign in lives
            for process in (child.process for child in reign.startups)
            if process.code == 0
            and process.reaped_t is not None
            and surely_after(process.born, since_ns)
            and process.reaped_t <= until
        ),
        default=None,
    )


def replaced_ns(cycle: Cycle, lives: Sequence[Reign], blow: Blow, since_ns: int) -> int | None:
    """When another child of a victim's role was forked after a time, within the cycle and by the same postmaster."""
    until = cycle.end_ns if cycle.end_ns is not None else _FOREVER
    return min(
        (
            child.process.born
            for reign in lives
            if reign.begin <= since_ns <= reign.end
            for child in reign.children
            if child.role == blow.role and surely_after(child.process.born, since_ns) and child.process.born <= until
        ),
        default=None,
    )


def _within(redo: Sequence[tuple[int, str, int]], since_ns: int, until_ns: int) -> Sequence[tuple[int, str, int]]:
    return redo[bisect_left(redo, (since_ns,)) : bisect_left(redo, (until_ns + 1,))]


def _time(blow: Blow) -> int:
    return blow.t


def _supervision(lives: Sequence[Reign], killed: Process | None, struck: int, until: int) -> dict[str, int | None]:
    """What the postmaster did, by the kernel's account; the reset by its journal."""
    reign = next((life for life in lives if life.begin <= struck <= life.end), None)
    if reign is None:
        return {}
    startup = next((child.process for child in reign.startups if struck < child.process.born <= until), None)
    before = startup.born if startup is not None else until
    quits = [sent.t for sent in reign.quits if struck <= sent.t <= before]
    reaped = [
        child.process.reaped_t
        for child in reign.children
        if child.process.reaped_t is not None and struck <= child.process.reaped_t <= before
    ]
    return {
        "noticed": killed.reaped_t if killed is not None and killed is not reign.postmaster else None,
        "fan_out_done": max(quits, default=None),
        "last_child_reaped": max(reaped, default=None),
        "memory_reset": next((r.t for r in reign.journal if r.ev == "memory" and struck <= r.t <= until), None),
    }
