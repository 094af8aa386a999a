"""The cycles of a run as its harness recorded them, and the way of each from the blow to the first commit.

Where the kernel's account has a phase it is taken from there; what only the server can tell (memory reset, redo)
is its own word and says so nowhere but here. Pure functions of records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chaos.faults.fault import Blow
from chaos.oracles.evidence import Evidence
from chaos.oracles.supervision import Reign, reigns
from chaos.witness.account import Process
from reports.rundir import RunDirectory
from reports.verdict import Recovery


@dataclass(frozen=True, slots=True)
class Cycle:
    """One cycle by the harness's record; None is what it did not come to."""

    cycle: int
    epoch: int
    fault: str
    begin_ns: int
    end_ns: int | None
    blows: tuple[Blow, ...]
    ready_ns: int | None
    first_commit_ns: int | None

    @property
    def struck_ns(self) -> int | None:
        """When the first blow landed."""
        return min((blow.t for blow in self.blows if blow.landed), default=None)


def cycles_of(harness: Iterable[Mapping[str, Any]]) -> list[Cycle]:
    """The cycles in their order."""
    found: dict[int, dict[str, Any]] = {}
    for record in harness:
        number = record.get("cycle")
        if record["ev"] == "cycle_begin" and number is not None:
            found[number] = {"begin": record["t"], "epoch": record["epoch"], "blows": [], "fault": ""}
        elif number in found:
            cycle = found[number]
            match record["ev"]:
                case "fault":
                    landed = record["outcome"] == "landed"
                    cycle["fault"] = record["fault"]
                    cycle["blows"].append(Blow(record["t"], record["child"], record["role"], record["sig"], landed))
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
            ready_ns=cycle.get("ready"),
            first_commit_ns=cycle.get("first_commit"),
        )
        for number, cycle in sorted(found.items())
    ]


def recoveries(cycles: Sequence[Cycle], evidence: Evidence, run: RunDirectory) -> Iterator[Recovery]:
    """The phases of every cycle whose blow landed, in ms since the blow."""
    lives = reigns(evidence)
    redo = sorted(
        (record["t"], record["ev"]) for record in run.server_records() if record["ev"] in ("redo_begin", "redo_end")
    )
    for cycle in cycles:
        struck = cycle.struck_ns
        if struck is None:
            continue
        until = cycle.end_ns if cycle.end_ns is not None else evidence.account.end
        victim = next(blow for blow in cycle.blows if blow.landed)
        killed = evidence.account.at(victim.pid, struck)
        if killed is not None:
            # A blow at a point is noticed by the harness a moment later than it falls: the kernel knows when.
            struck = _fell(killed, victim.signal, cycle.begin_ns) or struck
        times = _supervision(lives, killed, struck, until)
        times["redo_start"] = next((t for t, ev in redo if struck <= t <= until and ev == "redo_begin"), None)
        times["redo_end"] = next((t for t, ev in redo if struck <= t <= until and ev == "redo_end"), None)
        times["first_commit"] = cycle.first_commit_ns
        times["ready"] = times.get("ready") or cycle.ready_ns
        yield Recovery(
            cycle=cycle.cycle,
            epoch=cycle.epoch,
            fault=cycle.fault,
            victim=", ".join(dict.fromkeys(blow.role for blow in cycle.blows if blow.landed)),
            **{name: None if t is None else (t - struck) / 1e6 for name, t in times.items()},
        )


def _fell(process: Process, signal: int, since_ns: int) -> int | None:
    return next((r.t for r in process.received if r.sig == signal and r.t >= since_ns), None)


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
    ready = startup.reaped_t if startup is not None and startup.code == 0 else None
    return {
        "noticed": killed.reaped_t if killed is not None else None,
        "fan_out_done": max(quits, default=None),
        "last_child_reaped": max(reaped, default=None),
        "memory_reset": next((r.t for r in reign.journal if r.ev == "memory" and struck <= r.t <= until), None),
        "ready": ready if ready is not None and ready <= until else None,
    }
