"""The oracle of shutdowns: each mode keeps what it promises, and the exit status tells the truth.

- Smart (SIGTERM): no session is ended by the server; nobody new gets one.
- Fast (SIGINT): every session and writer gets SIGTERM at once, and nobody SIGQUIT.
- Both: the shutdown checkpoint is asked for when the last process that could still write has gone, the checkpointer
  exits last, exit 0; the next start has nothing to redo.
- Immediate (SIGQUIT): everybody gets SIGQUIT at once, no checkpoint is asked for, exit 0.
- In all: no startup process is forked any more; a crash while one is under way, or under way when it was asked for,
  ends in exit 1.

Specification 1.5, 1.6 no. 1-5, checklist 41, 43, 44, 46-48. A stronger request takes over from a weaker one; what a
request obliges to is judged where no stronger one and no crash came in its time. Judged from the kernel's account; that
nothing was redone, and why a server ended without being asked, only the journal can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from signal import SIGINT, SIGQUIT, SIGTERM, SIGUSR2, Signals

from chaos.oracles.evidence import Evidence
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import PENDING_NS, PROMPT_NS, Child, Reign, Sent, is_lost, lived, outlived, reigns, when
from chaos.witness.account import TICK_NS, Received, surely_after

WRITERS = frozenset({"backend", "bgworker", "bgwriter", "walwriter", "startup"})
"""Roles that can still write WAL or pages, and must be gone before the shutdown checkpoint."""

_MODES = {SIGTERM: "smart", SIGINT: "fast", SIGQUIT: "immediate"}
_STRENGTH = (SIGTERM, SIGINT, SIGQUIT)


@dataclass(frozen=True, slots=True)
class _Shutdown:
    """One postmaster's shutdown: the requests that counted, each stronger than the one before, and its last
    generation from `begin` to `end`. `crashed` is when the postmaster learned of the first crash in it that was none of
    its own making; `sure` says that no other crash is uncertain."""

    reign: Reign
    requests: Sequence[Received]
    begin: int
    crashed: int | None
    sure: bool

    @property
    def t(self) -> int:
        """When the first request came."""
        return self.requests[0].t

    @property
    def end(self) -> int:
        return min(self.reign.end, self.reign.account.end)

    def until_stronger(self, request: Received) -> int:
        """Until when a request was the strongest and nothing had crashed; the end if it stayed so."""
        after = [r.t for r in self.requests if r.t > request.t]
        return min([*after, self.end if self.crashed is None else self.crashed])

    def request(self, sig: int) -> Received | None:
        return next((r for r in self.requests if r.sig == sig), None)


class Shutdowns:
    name = "shutdown"
    title = "a smart, fast or immediate shutdown keeps its promises, and its exit status is true"
    needs: tuple[Source, ...] = ("kernel",)

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        found = reigns(evidence)
        for place, reign in enumerate(found):
            shutdown = _find(reign)
            if shutdown is not None and tally.whole(shutdown.begin, shutdown.end):
                _judge(shutdown, tally)
                _judge_next_start(shutdown, found[place + 1 :], tally)
        return tally.result(
            self,
            slack="from the exit of the last process that could write to the order for the shutdown checkpoint",
            longest="from the request to the exit of the postmaster",
        )


def _find(reign: Reign) -> _Shutdown | None:
    requests: list[Received] = []
    for received in reign.postmaster.received:
        rank = _STRENGTH.index(received.sig) if received.sig in _STRENGTH else -1
        if rank > (_STRENGTH.index(requests[-1].sig) if requests else -1):
            requests.append(received)
    if not requests or not reign.startups:
        return None
    begin = reign.generation_begin(reign.end)
    crashes = [crash for crash in reign.crashes if crash.t >= begin]
    certain = [crash.t for crash in crashes if crash.excused is None]
    startup = reign.startups[-1].process
    # Until redo has begun a crash before this generation may still count.
    recovered = reign.startups[-1] is reign.startups[0] or startup.code == 0
    quits = reign.quits_between(begin, reign.end)
    uncertain = [crash for crash in crashes if crash.excused is not None and not (quits and quits[0].t <= crash.t)]
    sure = recovered and not uncertain and not reign.other_reason(begin, reign.end)
    return _Shutdown(reign, requests, begin, min(certain, default=None), sure)


def _judge(shutdown: _Shutdown, tally: Tally) -> None:
    reign = shutdown.reign
    if reign.postmaster.signal is not None:
        tally.leave("the postmaster was killed while it shut down")
        return
    if reign.stood_still(shutdown.t, shutdown.end):
        tally.leave("the postmaster was stopped while it shut down")
        return
    _judge_newcomers(shutdown, tally)
    _judge_smart(shutdown, tally)
    _judge_fast(shutdown, tally)
    _judge_immediate(shutdown, tally)
    if reign.postmaster.exit_t is None:
        if reign.account.end - shutdown.t < PENDING_NS:
            tally.leave("the account ended before the shutdown")
        return  # a shutdown has no deadline: a session may take as long as it likes
    tally.trial(longest_ns=reign.end - shutdown.t)
    _judge_status(shutdown, tally)
    if shutdown.request(SIGQUIT) is None and shutdown.crashed is None and shutdown.sure:
        _judge_checkpoint(shutdown, tally)


def _judge_newcomers(shutdown: _Shutdown, tally: Tally) -> None:
    """Nobody recovers any more, and nobody gets a session."""
    for child in shutdown.reign.children:
        if child.role in ("startup", "backend") and child.process.born > shutdown.t + PROMPT_NS:
            tally.trial()
            tally.fail(
                child.process.born, f"{child} was forked after a shutdown was asked for", *_told(shutdown), lived(child)
            )


def _judge_smart(shutdown: _Shutdown, tally: Tally) -> None:
    """Sessions end when their clients like."""
    request = shutdown.request(SIGTERM)
    if request is None:
        return
    until = shutdown.until_stronger(request)
    sessions = [child for child in shutdown.reign.children if child.role == "backend"]
    if any(outlived(child, request.t) for child in sessions):
        tally.trial()
    own = {child.process.order: child for child in sessions}
    for sent in shutdown.reign.sent_between(request.t + TICK_NS, until - TICK_NS):
        child = own.get(sent.child.order)
        if (
            child is not None
            and sent.sig in (SIGTERM, SIGINT, SIGQUIT)
            and not shutdown.reign.other_reason(shutdown.begin, sent.t + PROMPT_NS)
        ):
            name = Signals(sent.sig).name
            tally.fail(sent.t, f"{child} got {name} in a smart shutdown", *_told(shutdown), lived(child))


def _judge_fast(shutdown: _Shutdown, tally: Tally) -> None:
    """Everybody who could write is told to end at once, and in order."""
    request = shutdown.request(SIGINT)
    if request is None or not shutdown.sure:
        return
    due = request.t + PROMPT_NS
    if shutdown.until_stronger(request) < min(due, shutdown.end) - TICK_NS or due > shutdown.reign.account.end:
        return
    tally.trial()
    for child in _there(shutdown, request.t, due):
        if child.role in WRITERS and not _got(shutdown, child, SIGTERM, due):
            tally.fail(due, f"{child} got no SIGTERM in a fast shutdown", *_told(shutdown), lived(child))


def _judge_immediate(shutdown: _Shutdown, tally: Tally) -> None:
    """Everybody is told to quit at once, and nobody to write a checkpoint."""
    request = shutdown.request(SIGQUIT)
    if request is None:
        return
    due = request.t + PROMPT_NS
    if due <= shutdown.reign.account.end:
        tally.trial()
        for child in _there(shutdown, request.t, due):
            if not _got(shutdown, child, SIGQUIT, due):
                tally.fail(due, f"{child} got no SIGQUIT in an immediate shutdown", *_told(shutdown), lived(child))
    for sent in _orders(shutdown):
        if sent.t > due:
            tally.fail(
                sent.t,
                "a shutdown checkpoint was asked for in an immediate shutdown",
                *_told(shutdown),
                f"kernel: {Signals(sent.sig).name} to PID {sent.child.pid} {when(sent.t)}",
            )


def _there(shutdown: _Shutdown, since_ns: int, until_ns: int) -> list[Child]:
    """Who certainly lived from a request until what it obliges to was due."""
    return [
        child
        for child in shutdown.reign.children
        if surely_after(since_ns, child.process.born)
        and not is_lost(child, until_ns)
        and (child.process.end_begun_t is None or surely_after(child.process.end_begun_t, until_ns))
    ]


def _got(shutdown: _Shutdown, child: Child, sig: int, until_ns: int) -> bool:
    by = shutdown.reign.postmaster.pid
    return any(r.by == by and r.sig == sig and r.t <= until_ns + TICK_NS for r in child.process.received)


def _orders(shutdown: _Shutdown) -> list[Sent]:
    """The orders for a shutdown checkpoint: SIGINT to the checkpointer, until PostgreSQL 17 SIGUSR2."""
    checkpointers = {child.process.order for child in shutdown.reign.children if child.role == "checkpointer"}
    sent = shutdown.reign.sent_between(shutdown.t - TICK_NS, shutdown.reign.end)
    return [signal for signal in sent if signal.child.order in checkpointers and signal.sig in (SIGINT, SIGUSR2)]


def _judge_status(shutdown: _Shutdown, tally: Tally) -> None:
    reign, crashed = shutdown.reign, shutdown.crashed
    immediate = shutdown.request(SIGQUIT)
    if crashed is not None and (immediate is None or surely_after(immediate.t, crashed)):
        expected = 1
    elif crashed is None and shutdown.sure:
        expected = 0
    else:
        tally.leave("nobody knows whether a crash came before the immediate shutdown")
        return
    if reign.postmaster.code != expected:
        what = "a child had crashed" if expected else "nothing had crashed"
        ends = [lived(crash.child) for crash in reign.crashes if crash.t >= shutdown.begin]
        tally.fail(
            reign.end,
            f"the postmaster {reign.postmaster.ended_by()} after a shutdown in which {what}",
            *_told(shutdown),
            *ends[:5],
        )


def _judge_checkpoint(shutdown: _Shutdown, tally: Tally) -> None:
    """The last act of an orderly shutdown, after everybody who could write and before the checkpointer's exit."""
    reign = shutdown.reign
    orders = _orders(shutdown)
    if not orders:
        tally.trial()
        tally.fail(
            reign.end, "the postmaster ended in order and nobody asked for a shutdown checkpoint", *_told(shutdown)
        )
        return
    asked = orders[0]
    writers = [child for child in reign.children if child.role in WRITERS]
    alive = [child for child in writers if outlived(child, asked.t)]
    last = max((child.process.exit_t or 0 for child in writers), default=reign.begin)
    tally.trial(slack_ns=None if alive else asked.t - last)
    order = f"kernel: {Signals(asked.sig).name} to the checkpointer (PID {asked.child.pid}) {when(asked.t)}"
    for child in alive:
        tally.fail(asked.t, f"the shutdown checkpoint was asked for while {child} lived", order, lived(child))
    if asked.child.code != 0:
        tally.fail(reign.end, f"the checkpointer (PID {asked.child.pid}) {asked.child.ended_by()} at the end", order)


def _judge_next_start(shutdown: _Shutdown, later: Sequence[Reign], tally: Tally) -> None:
    """After an orderly end the next postmaster on the same data has nothing to redo, by its own word."""
    reign = shutdown.reign
    if reign.postmaster.code != 0 or shutdown.request(SIGQUIT) or reign.startups[-1].process.code != 0:
        return
    served = (new for new in later if new.data_directory and new.data_directory == reign.data_directory)
    new = next(served, None)
    if new is None or any(r.ev == "epoch_begin" for r in tally.evidence.harness_between(reign.end, new.begin)):
        return  # nobody came after it, or on another cluster
    over = next((record.t for record in new.journal if record.ev == "ready"), None)
    if over is None or reign.other_reason(shutdown.begin, reign.end):
        return
    tally.trial()
    for record in tally.evidence.server_between(new.begin, over):
        if record.ev == "redo_begin":
            tally.fail(
                record.t,
                "the start after an orderly shutdown had WAL to redo",
                *_told(shutdown),
                f"server: redo_begin by PID {record.pid} {when(record.t)}",
            )


def _told(shutdown: _Shutdown) -> list[str]:
    """The requests, as the lines of evidence show them."""
    return [f"kernel: {_MODES[Signals(r.sig)]} shutdown asked for by PID {r.by} {when(r.t)}" for r in shutdown.requests]
