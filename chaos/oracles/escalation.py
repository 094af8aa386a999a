"""The oracle of escalation: SIGKILL is the last resort, on time, and for those alone who would not go.

After SIGQUIT (a crash, an immediate shutdown) a stopwatch runs for five seconds; then every child that is still there
gets SIGKILL from the postmaster, once. PostgreSQL counts whole seconds, so that four may have passed; six is its limit
(specification 1.4, 5.3, checklist 26 and 27), and a second more is what a loaded machine may add. Version 19 looks at
its stopwatch only when something else wakes it, up to a minute late: that is what "on time" is about.

A trial is a round: the SIGQUITs of one generation and what became of those who got them. Each could have ended in a
SIGKILL too early, or to somebody who had never been told; one in which somebody stayed, in none at all. No signal that
ends a process may reach one that is no child of the postmaster: a pid that was freed belongs to a stranger. Judged
from the kernel's account alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from signal import SIGABRT, SIGINT, SIGKILL, SIGQUIT, SIGTERM, Signals

from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import AHEAD_OF_STARTUP, PROMPT_NS, Child, Reign, Sent, is_lost, lived, reigns, when
from chaos.witness.account import TICK_NS, Process, Received, surely_after

EARLIEST_KILL_NS = 4_000_000_000
LATEST_KILL_NS = 6_000_000_000 + PROMPT_NS
_ENDING = frozenset({SIGTERM, SIGINT, SIGQUIT, SIGABRT, SIGKILL})


@dataclass(frozen=True, slots=True)
class _Round:
    """One generation's orders to go and its SIGKILLs, in the order in which they were sent."""

    begin: int
    until: int
    told: Sequence[Sent]
    kills: Sequence[Sent]

    @property
    def due(self) -> int:
        """When the stopwatch must have run out. An immediate shutdown in the middle of a crash sets it anew."""
        first_kill = self.kills[0].t if self.kills else self.until
        return max(sent.t for sent in self.told if sent is self.told[0] or sent.t < first_kill) + LATEST_KILL_NS


class Escalation:
    name = "escalation"
    title = "SIGKILL comes 5 s after SIGQUIT, to whoever is still there and to nobody else"
    needs: tuple[Source, ...] = ("kernel",)

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for reign in reigns(evidence):
            for round_ in _rounds(reign):
                _judge_round(reign, round_, tally)
            _judge_strangers(reign, tally)
        return tally.result(
            self,
            slack="from a SIGKILL to the nearer end of its time, 4 to 7 s after SIGQUIT",
            longest="from the first SIGQUIT of a round to its last SIGKILL",
        )


def _rounds(reign: Reign) -> Iterator[_Round]:
    spans = {(reign.generation_begin(sent.t), reign.generation_end(sent.t)) for sent in (*reign.quits, *reign.kills)}
    for begin, until in sorted(spans):
        sent = reign.sent_between(begin, until)
        told = [signal for signal in sent if _is_order_to_go(reign, signal)]
        kills = [signal for signal in sent if signal.sig == SIGKILL]
        yield _Round(begin, until, told, kills)


def _is_order_to_go(reign: Reign, sent: Sent) -> bool:
    """Whether a signal may have started the stopwatch: SIGQUIT, and SIGTERM in a restart after a crash that is shut
    down before redo has begun. Such a drain is limited too, for its end is abnormal in any case."""
    return sent.sig in (SIGQUIT, SIGABRT) or (sent.sig == SIGTERM and reign.fatal_error_may_stand(sent.t))


def _judge_round(reign: Reign, round_: _Round, tally: Tally) -> None:
    if not round_.told:
        if tally.whole(round_.begin, round_.kills[-1].t):
            tally.trial()
            for kill, who in _killed(reign, round_):
                tally.fail(kill.t, f"{who} got SIGKILL from the postmaster and nobody had got SIGQUIT", lived(who))
        return
    first, due = round_.told[0].t, round_.due
    known = min(round_.until, reign.end, reign.account.end)
    last_kill = round_.kills[-1].t if round_.kills else first
    if not tally.whole(round_.begin, max(last_kill, min(due, known))):
        return
    if reign.stood_still(first, max(due, last_kill)):
        tally.leave("the postmaster was stopped while its stopwatch ran")
        return
    staying = [child for child in reign.children if _stays(child, round_, min(due, known))]
    if staying and (known < due or not any(sent.sig != SIGTERM for sent in round_.told)):
        tally.leave("the postmaster or the account ended before the stopwatch had surely run out")
        return
    _count(round_, last_kill, tally)
    story = f"kernel: the first SIGQUIT of the round {when(first)}"
    for kill, who in _killed(reign, round_):
        _judge_kill(round_, kill, who, story, tally)
    for child in staying:
        tally.fail(
            due, f"{child} outlived SIGQUIT by {LATEST_KILL_NS / 1e9:.0f} s and got no SIGKILL", story, lived(child)
        )


def _count(round_: _Round, last_kill: int, tally: Tally) -> None:
    first = round_.told[0].t
    spare = [min(kill.t - first - EARLIEST_KILL_NS, round_.due - kill.t) for kill in round_.kills]
    tally.trial(slack_ns=min(spare, default=None), longest_ns=last_kill - first if round_.kills else None)


def _killed(reign: Reign, round_: _Round) -> Iterator[tuple[Sent, Child]]:
    """The first SIGKILL to each child that got one."""
    seen: set[int] = set()
    for kill in round_.kills:
        if kill.child.order not in seen:
            seen.add(kill.child.order)
            yield kill, next(child for child in reign.children if child.process is kill.child)


def _stays(child: Child, round_: _Round, until_ns: int) -> bool:
    """Whether a child was there when the volley came, is there at a later time, and has got no SIGKILL."""
    process = child.process
    there = round_.told[0].t + EARLIEST_KILL_NS > process.born and process.born < round_.until
    gone = process.end_begun_t is not None and not surely_after(process.end_begun_t, until_ns)
    gone = gone or is_lost(child, until_ns)
    ahead = child.role in AHEAD_OF_STARTUP and _after_the_drain(process, round_)
    return there and not gone and not ahead and not any(kill.child is process for kill in round_.kills)


def _after_the_drain(process: Process, round_: _Round) -> bool:
    """Whether a process was forked when everybody who had been told to go was gone: it is of the next generation."""
    return all(sent.child.exit_t is not None and sent.child.exit_t <= process.born for sent in round_.told)


def _judge_kill(round_: _Round, kill: Sent, who: Child, story: str, tally: Tally) -> None:
    first = round_.told[0].t
    after_ms = (kill.t - first) / 1e6
    if kill.t - first < EARLIEST_KILL_NS - TICK_NS:
        tally.fail(kill.t, f"{who} got SIGKILL {after_ms:.0f} ms after the first SIGQUIT, not 5 s", story, lived(who))
    elif surely_after(kill.t, round_.due):
        tally.fail(kill.t, f"{who} got SIGKILL late, {after_ms:.0f} ms after the first SIGQUIT", story, lived(who))
    if surely_after(first, who.process.born) and not any(
        sent.child is who.process and sent.t <= kill.t for sent in round_.told
    ):
        tally.fail(kill.t, f"{who} got SIGKILL and had never got SIGQUIT", story, lived(who))


def _judge_strangers(reign: Reign, tally: Tally) -> None:
    children = {child.process.pid for child in reign.children}
    for process, signal in _sent_by(tally.evidence).get(reign.postmaster.pid, ()):
        if not reign.begin <= signal.t <= reign.end or signal.sig not in _ENDING:
            continue
        # The group of a child may hold what that child started.
        own = process is reign.postmaster or process.parent == reign.postmaster.pid or process.parent in children
        if not own and reign.account.whole(process.born, signal.t):
            name = Signals(signal.sig).name
            tally.trial()
            tally.fail(
                signal.t,
                f"the postmaster sent {name} to PID {process.pid}, which is none of its children",
                f"kernel: PID {process.pid} was forked by {process.parent} {when(process.born)}",
                f"kernel: {name} to it {when(signal.t)}",
            )


def _sent_by(evidence: Evidence) -> dict[int, list[tuple[Process, Received]]]:
    """Every signal of the account by its sender; worked out once."""
    known: dict[int, list[tuple[Process, Received]]] | None = evidence.derived.get("sent_by")
    if known is None:
        known = evidence.derived["sent_by"] = {}
        for process in evidence.account.processes:
            for signal in process.received:
                known.setdefault(signal.by, []).append((process, signal))
    return known
