"""One start of a command as the kernel's account shows it: its main process, its descendants, what hit them.

Owns what the oracles of a command have in common. Lives, signals and ends are the kernel's account; the role of a
process is what the harness saw in /proc, by the plan's patterns, at its last look while the process lived.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.oracles.evidence import Evidence, HarnessRecord, Seen
from chaos.oracles.supervision import Child, Reign, lived
from chaos.witness.account import TICK_NS, Process, surely_after

UNNAMED = frozenset({"main", "other", "unknown"})
"""Roles of which nothing is promised: the main process, who matches no pattern, who was never looked at."""
NOT_REPLACED = "not replaced"
"""The outcome of a cycle's answer that came although the promised processes had not."""
SECOND_NS = 1_000_000_000


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


class Service(Reign):
    """The life of one main process, with all its descendants as `children`, in the order of their forks."""

    title = "main"

    def __init__(self, main: Process, evidence: Evidence, looks: Sequence[HarnessRecord]) -> None:
        super().__init__(main, evidence)
        self.main = main
        self.children = [
            Child(process, _role(process, looks), None)
            for process in sorted(_descendants(main, evidence), key=lambda process: process.order)
        ]
        self.strikes = list(self._strikes())
        self._looks = looks

    @property
    def named(self) -> Sequence[Child]:
        """The descendants that have a role of the plan."""
        return [child for child in self.children if child.role not in UNNAMED]

    def stop(self) -> HarnessRecord | None:
        """The harness's record of the stop signal, if it sent one."""
        return next((r for r in self.evidence.harness if r.ev == "stop" and self._is_main(r)), None)

    def forked_between(self, since_ns: int, until_ns: int) -> list[Child]:
        """The descendants with a role that were surely forked after a time, until another."""
        return [c for c in self.named if surely_after(c.process.born, since_ns) and c.process.born <= until_ns]

    def seen_after(self, process: Process, t_ns: int) -> Iterator[tuple[int, Seen | None]]:
        """The looks at this service from a time until its main process ended: when, and the process if it was there."""
        end = self.main.end_begun_t
        for look in self._looks:
            if look.t >= t_ns and (end is None or look.t < end):
                yield look.t, next((seen for seen in look.processes if seen.pid == process.pid), None)

    def _is_main(self, record: HarnessRecord) -> bool:
        return record.child == self.main.pid and self.evidence.account.at(record.child, record.t) is self.main

    def _strikes(self) -> Iterator[Strike]:
        mine = {id(child.process): child for child in self.children}
        mine[id(self.main)] = Child(self.main, self.title, None)
        blows: list[HarnessRecord] = []
        for record in self.evidence.harness:
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
        looks = [record for record in evidence.harness if record.ev == "processes"]
        mains = [evidence.account.at(r.child, r.t) for r in evidence.harness if r.ev == "postmaster"]
        known = [Service(main, evidence, looks) for main in mains if main is not None]
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


def _role(process: Process, looks: Sequence[HarnessRecord]) -> str:
    role = "unknown"
    for look in looks:
        if look.t >= process.born and (process.exit_t is None or look.t <= process.exit_t):
            role = next((seen.role for seen in look.processes if seen.pid == process.pid), role)
    return role
