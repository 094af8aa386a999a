"""One start of a command as the kernel's account shows it: its main process, its descendants, what hit them.

Owns what the oracles of a command have in common. Lives, signals and ends are the kernel's account; the role of a
process is what the harness saw in /proc, by the plan's patterns, at its last look while the process lived.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from chaos.oracles.evidence import Evidence, HarnessRecord, Seen
from chaos.oracles.supervision import Child, Reign, lived
from chaos.witness.account import TICK_NS, Process, surely_after

UNNAMED = frozenset({"main", "other", "unknown"})
"""Roles of which nothing is promised: the main process, who matches no pattern, who was never looked at."""
NOT_REPLACED = "not replaced"
"""The outcome of a cycle's answer that came although the promised processes had not."""
SECOND_NS = 1_000_000_000
_FOREVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Strike:
    """One cycle's blow. `others` lived when it fell, have a role of the plan, and were not meant; `until` is the end of
    the cycle, before which the harness signalled nobody else."""

    cycle: int
    t: int
    until: int
    fault: str
    victims: tuple[Child, ...]
    others: tuple[Child, ...]
    hits_main: bool

    @property
    def ended_t(self) -> int | None:
        """When the first victim had ended; None when none did within the cycle."""
        ends = [v.process.exit_t for v in self.victims if v.process.exit_t is not None]
        return min((t for t in ends if t <= self.until), default=None)


class Looks:
    """What the harness saw in /proc: all processes of the command, again and again."""

    def __init__(self, records: Iterable[HarnessRecord]) -> None:
        self._times: list[int] = []
        self._seen: dict[int, list[tuple[int, Seen]]] = {}
        for record in records:
            self._times.append(record.t)
            for seen in record.processes:
                self._seen.setdefault(seen.pid, []).append((record.t, seen))

    def role(self, process: Process) -> str:
        """The role that it was seen to have, the last time while it lived."""
        end = process.exit_t if process.exit_t is not None else _FOREVER
        seen = self._seen.get(process.pid, [])
        index = bisect_right(seen, end, key=_when)
        return seen[index - 1][1].role if index and seen[index - 1][0] >= process.born else "unknown"

    def first_since(self, process: Process, t_ns: int) -> tuple[int, Seen | None] | None:
        """The first look from a time on: when it was, and the process if it was seen; None without another look."""
        index = bisect_left(self._times, t_ns)
        if index == len(self._times):
            return None
        t = self._times[index]
        seen = self._seen.get(process.pid, [])
        place = bisect_left(seen, t, key=_when)
        return t, seen[place][1] if place < len(seen) and seen[place][0] == t else None


class Service(Reign):
    """The life of one main process, with all its descendants as `children`, in the order of their forks.

    `records` are the harness's, from this start of the command until the next.
    """

    title = "main"

    def __init__(self, main: Process, evidence: Evidence, records: Sequence[HarnessRecord], looks: Looks) -> None:
        super().__init__(main, evidence)
        self.main = main
        self.looks = looks
        self.children = [
            Child(process, looks.role(process), None)
            for process in sorted(_descendants(main, evidence), key=lambda process: process.order)
        ]
        self.strikes = list(self._strikes(records))
        self.stop = next((record for record in records if record.ev == "stop"), None)
        """The harness's record of the stop signal, if it sent one."""

    @property
    def named(self) -> Sequence[Child]:
        """The descendants that have a role of the plan."""
        return [child for child in self.children if child.role not in UNNAMED]

    def forked_between(self, since_ns: int, until_ns: int) -> list[Child]:
        """The descendants with a role that were surely forked after a time, until another."""
        return [c for c in self.named if surely_after(c.process.born, since_ns) and c.process.born <= until_ns]

    def _strikes(self, records: Sequence[HarnessRecord]) -> Iterator[Strike]:
        mine = {id(child.process): child for child in self.children}
        mine[id(self.main)] = Child(self.main, self.title, None)
        blows: list[HarnessRecord] = []
        for record in records:
            if record.ev == "cycle_begin":
                blows = []
            elif record.ev == "fault" and record.outcome == "landed":
                blows.append(record)
            elif record.ev == "cycle_end" and blows:
                hit = [mine.get(id(self.account.at(blow.child, blow.t))) for blow in blows]
                if victims := tuple(child for child in hit if child is not None):
                    yield self._strike(blows, victims, record)

    def _strike(self, blows: Sequence[HarnessRecord], victims: tuple[Child, ...], end: HarnessRecord) -> Strike:
        first = min(blow.t for blow in blows)
        hit = {id(child.process) for child in victims}
        return Strike(
            cycle=end.cycle or 0,
            t=_fell_t(victims, blows) or first,
            until=end.t,
            fault=blows[0].fault,
            victims=victims,
            others=tuple(c for c in self.named if id(c.process) not in hit and lives(c.process, first)),
            hits_main=id(self.main) in hit,
        )


def services(evidence: Evidence) -> list[Service]:
    """Every start of the command, oldest first."""
    known: list[Service] | None = evidence.derived.get("services")
    if known is None:
        looks = Looks(record for record in evidence.harness if record.ev == "processes")
        starts = [record for record in evidence.harness if record.ev == "postmaster"]
        ends = [*(record.t for record in starts[1:]), _FOREVER]
        known = [
            Service(main, evidence, evidence.harness_between(start.t, end), looks)
            for start, end in zip(starts, ends, strict=True)
            if (main := evidence.account.at(start.child, start.t)) is not None
        ]
        evidence.derived["services"] = evidence.derived["reigns"] = known
    return known


def lives(process: Process, t_ns: int) -> bool:
    """Whether a process certainly lived at a time, and its end had not begun."""
    ending = process.end_begun_t
    return surely_after(t_ns, process.born) and (ending is None or surely_after(ending, t_ns))


def stories(children: Sequence[Child]) -> list[str]:
    """Their lives, a line each, at most ten."""
    return [lived(child) for child in children[:10]]


def seconds(t_ns: float) -> str:
    """A span for people."""
    return f"{t_ns / SECOND_NS:.3g} s"


def _fell_t(victims: Sequence[Child], blows: Sequence[HarnessRecord]) -> int | None:
    """When the kernel generated the first of the blows' signals."""
    since = min(blow.t for blow in blows) - TICK_NS
    numbers = {blow.sig for blow in blows}
    return min(
        (r.t for child in victims for r in child.process.received if r.sig in numbers and r.t >= since), default=None
    )


def _descendants(main: Process, evidence: Evidence) -> Iterator[Process]:
    waiting = [main]
    while waiting:
        for child in evidence.account.children(waiting.pop()):
            waiting.append(child)
            yield child


def _when(seen: tuple[int, Seen]) -> int:
    return seen[0]
