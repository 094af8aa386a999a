"""The processes of a cycle on one axis of time: who lived, what each received, which state the postmaster was in.

Owns which cycles a report shows in full, and their lanes. A cycle with a finding is shown, one that did not recover,
the slowest, and an even selection of the others; all processes of all cycles are counted by role. The kernel's
account is the source; without a witness it is the server's journal, and the outcome says so. Pure functions.
"""

from __future__ import annotations

import os
import signal
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from chaos.machine import Change, changes, spans
from chaos.oracles.evidence import Evidence, ServerRecord
from chaos.oracles.supervision import Reign, reigns
from chaos.phases import Cycle
from chaos.witness.account import Process
from reports.details import BlowMark, Lane, Mark, RoleLives, Timeline, Timelines
from reports.verdict import Recovery

MOST_OF_A_KIND = 8
"""Cycles shown in full for each reason."""

MOST_MARKS = 100
"""Signals shown on one lane; those beyond are counted."""

FINDING, NOT_RECOVERED, SLOWEST, SAMPLE = "finding", "not recovered", "slowest", "sample"


@dataclass(frozen=True, slots=True)
class Life:
    """One server process over its whole life, from whichever source. Times are ns; None was not seen.

    `signals` are (time, number, sender), in order of time.
    """

    pid: int
    role: str
    forked_ns: int | None
    gone_ns: int | None
    reaped_ns: int | None
    ended: str
    signals: tuple[tuple[int, int, str], ...]

    @property
    def born_ns(self) -> int:
        return self.forked_ns or 0


def timelines(
    cycles: Sequence[Cycle], recoveries: Iterable[Recovery], failed: Collection[int | None], evidence: Evidence
) -> Timelines:
    """The pictures of a run; `failed` are the cycles that findings belong to."""
    witnessed = evidence.account.opened is not None
    lives = _of_account(evidence) if witnessed else _of_journal(evidence.server)
    by_number = {recovery.cycle: recovery for recovery in recoveries}
    states = changes(evidence.server)
    shown = [
        _timeline(cycle, why, by_number.get(cycle.cycle), lives, states)
        for cycle, why in chosen(cycles, by_number, failed)
    ]
    return Timelines(
        cycles=len(cycles),
        source="kernel" if witnessed else "journal",
        shown=tuple(shown),
        roles=tuple(_by_role(lives)),
    )


def chosen(
    cycles: Sequence[Cycle], recoveries: Mapping[int, Recovery], failed: Collection[int | None]
) -> list[tuple[Cycle, str]]:
    """The cycles to show and why, those that need a look first; a cycle is shown once, for its first reason."""

    def first_commit(cycle: Cycle) -> float | None:
        recovery = recoveries.get(cycle.cycle)
        return None if recovery is None else recovery.first_commit

    timed = sorted(
        (cycle for cycle in cycles if first_commit(cycle) is not None),
        key=lambda cycle: (-(first_commit(cycle) or 0.0), cycle.cycle),
    )
    wanted = (
        (FINDING, [cycle for cycle in cycles if cycle.cycle in failed]),
        (NOT_RECOVERED, [cycle for cycle in cycles if first_commit(cycle) is None]),
        (SLOWEST, timed),
    )
    taken: dict[int, tuple[Cycle, str]] = {}
    for why, some in wanted:
        fresh = [cycle for cycle in some if cycle.cycle not in taken]
        taken.update((cycle.cycle, (cycle, why)) for cycle in fresh[:MOST_OF_A_KIND])
    others = [cycle for cycle in cycles if cycle.cycle not in taken]
    room = min(MOST_OF_A_KIND, len(others))
    for slot in range(room):
        cycle = others[len(others) * slot // room]
        taken[cycle.cycle] = (cycle, SAMPLE)
    return list(taken.values())


def _timeline(
    cycle: Cycle, why: str, recovery: Recovery | None, lives: Sequence[Life], states: Sequence[Change]
) -> Timeline:
    zero, until = _zero(cycle, recovery), _until(cycle, states)

    def ms(t_ns: int) -> float:
        return round((t_ns - zero) / 1e6, 3)

    def within(t_ns: int | None) -> float | None:
        return ms(t_ns) if t_ns is not None and cycle.begin_ns <= t_ns <= until else None

    def lane(life: Life) -> Lane:
        low = bisect_left(life.signals, (cycle.begin_ns,))
        high = bisect_right(life.signals, (until + 1,))
        gone = life.gone_ns
        return Lane(
            pid=life.pid,
            role=life.role,
            begin=ms(max(life.born_ns, cycle.begin_ns)),
            end=ms(until if gone is None else min(gone, until)),
            forked=within(life.forked_ns),
            reaped=within(life.reaped_ns),
            ended=life.ended if within(gone) is not None else "",
            marks=tuple(
                Mark(ms=ms(t), signal=_signal_name(number), sender=sender)
                for t, number, sender in life.signals[low : min(high, low + MOST_MARKS)]
            ),
            marks_left_out=max(0, high - low - MOST_MARKS),
        )

    return Timeline(
        cycle=cycle.cycle,
        epoch=cycle.epoch,
        reason=why,
        begin=ms(cycle.begin_ns),
        end=ms(until),
        lanes=tuple(
            lane(life)
            for life in lives
            if life.born_ns <= until and (life.gone_ns is None or life.gone_ns >= cycle.begin_ns)
        ),
        states=tuple(spans(states, cycle.begin_ns, until, zero)),
        blows=tuple(
            BlowMark(ms=ms(blow.t), pid=blow.pid, role=blow.role, fault=cycle.fault, landed=blow.landed)
            for blow in cycle.blows
        ),
    )


def _zero(cycle: Cycle, recovery: Recovery | None) -> int:
    """The moment that the cycle's times count from: the one that its recovery counts from, so that both agree."""
    if recovery is not None and recovery.first_commit is not None and cycle.first_commit_ns is not None:
        return cycle.first_commit_ns - round(recovery.first_commit * 1e6)
    return cycle.struck_ns if cycle.struck_ns is not None else cycle.begin_ns


def _until(cycle: Cycle, states: Sequence[Change]) -> int:
    if cycle.end_ns is not None:
        return cycle.end_ns
    last = states[-1].t if states else cycle.begin_ns
    return max(last, *(blow.t for blow in cycle.blows), cycle.begin_ns)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _of_account(evidence: Evidence) -> list[Life]:
    """Every postmaster, each followed by its children in the order of their forks."""
    found: list[Life] = []
    for reign in reigns(evidence):
        found.append(_life(reign.postmaster, reign.title, reign, evidence))
        found.extend(_life(child.process, child.role, reign, evidence) for child in reign.children)
    return found


def _life(process: Process, role: str, reign: Reign, evidence: Evidence) -> Life:
    return Life(
        pid=process.pid,
        role=role,
        forked_ns=process.forked_t,
        gone_ns=process.exit_t,
        reaped_ns=process.reaped_t,
        ended=process.ended_by() if process.exit_t is not None else "",
        signals=tuple((r.t, r.sig, _sender(r.by, r.t, process, reign, evidence)) for r in process.received),
    )


def _sender(by: int, t_ns: int, receiver: Process, reign: Reign, evidence: Evidence) -> str:
    account = evidence.account
    if by == reign.postmaster.pid:
        return reign.title
    if by == receiver.pid:
        return "itself"
    if account.opened is not None and by == account.opened.pid:
        return "harness"
    sender = account.at(by, t_ns)
    return f"{(sender.role if sender is not None else None) or 'process'} {by}"


def _of_journal(records: Sequence[ServerRecord]) -> list[Life]:
    """The same by the server's word: what it forked, signalled and reaped."""
    begun: dict[int, ServerRecord] = {}
    reaped: dict[int, ServerRecord] = {}
    received: dict[int, list[tuple[int, int, str]]] = {}
    found: list[Life] = []

    def take(pid: int) -> None:
        fork, end = begun.pop(pid, None), reaped.pop(pid, None)
        if fork is None:
            return
        gone = None if end is None else end.t
        ended = "" if end is None else _ended_by(end)
        role = fork.role or "unknown"
        found.append(Life(pid, role, fork.t, gone, gone, ended, tuple(received.pop(pid, ()))))

    for record in records:
        if record.ev == "postmaster_start":
            take(record.pid)
            begun[record.pid] = ServerRecord(t=record.t, ev="fork", role="postmaster")
        elif record.ev == "fork":
            take(record.child)
            begun[record.child] = record
        elif record.ev == "signal" and record.child in begun:
            received.setdefault(record.child, []).append((record.t, record.sig, "postmaster"))
        elif record.ev == "reap":
            reaped[record.child] = record
    for pid in list(begun):
        take(pid)
    return sorted(found, key=lambda life: life.born_ns)


def _ended_by(record: ServerRecord) -> str:
    code = os.waitstatus_to_exitcode(record.status)
    return f"was terminated by signal {-code}" if code < 0 else f"exited with exit code {code}"


def _by_role(lives: Sequence[Life]) -> Iterator[RoleLives]:
    grouped: dict[str, list[Life]] = {}
    for life in lives:
        grouped.setdefault(life.role, []).append(life)
    for role, some in sorted(grouped.items(), key=lambda item: (-len(item[1]), item[0])):
        spent = [life.gone_ns - life.forked_ns for life in some if life.gone_ns is not None and life.forked_ns]
        signals = Counter(_signal_name(number) for life in some for _, number, _ in life.signals)
        ends = [life.ended for life in some]
        zero = sum(end.endswith("exit code 0") for end in ends)
        yield RoleLives(
            role=role,
            processes=len(some),
            exited_0=zero,
            exited_other=sum("exit code" in end for end in ends) - zero,
            signaled=sum("by signal" in end for end in ends),
            living=sum(not end for end in ends),
            median_ms=round(statistics.median(spent) / 1e6, 3) if spent else None,
            signals=dict(sorted(signals.items())),
        )
