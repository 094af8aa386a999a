"""The oracle of exit statuses: the postmaster reads each child's end right and does what follows from it.

Two things: the wait status in the server's journal is the one of the kernel's account, and a round of SIGQUIT
is sent if, and only if, an end was a crash by the rules of specification 2.3 (or the operator asked for an
immediate end). Of a server without a journal only the second is judged. That the round is complete is `fan_out`'s to judge.
"""

from __future__ import annotations

from signal import SIGINT, SIGQUIT, SIGTERM

from chaos.oracles.evidence import Evidence, ServerRecord
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import PENDING_NS, PROMPT_NS, Child, Reign, lived, reigns, surely_alive, when
from chaos.witness.account import TICK_NS

CORE_FLAG = 0x80


class ExitStatus:
    name = "exit_status"
    title = "every child's end is read right and a crash cycle follows exactly from a crash"
    needs: tuple[Source, ...] = ("kernel", "server")

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for reign in reigns(evidence):
            if reign.journal:
                _judge_statuses(reign, tally)
            _judge_consequences(reign, tally)
            _judge_causes(reign, tally)
        return tally.result(self)


def _judge_statuses(reign: Reign, tally: Tally) -> None:
    reaped: dict[int, list[ServerRecord]] = {}
    for record in reign.journal:
        if record.ev == "reap":
            reaped.setdefault(record.child, []).append(record)
    for child in reign.children:
        process = child.process
        if process.reaped_t is None or process.reaped_by != reign.postmaster.pid:
            continue
        if not tally.whole(process.born, process.reaped_t):
            continue
        if process.status is None:
            tally.leave("the kernel's account does not tell how a process ended")
            continue
        said = next((r for r in reaped.get(process.pid, []) if r.t + TICK_NS >= process.reaped_t), None)
        if said is None:
            _judge_silence(reign, child, tally)
            continue
        tally.trial()
        if said.status & ~CORE_FLAG != process.status:
            tally.fail(
                said.t,
                f"{child} {process.ended_by()}, and the postmaster read wait status {said.status}",
                lived(child),
                f"server: reap child {said.child} status {said.status} {when(said.t)}",
            )


def _judge_silence(reign: Reign, child: Child, tally: Tally) -> None:
    reaped = child.process.reaped_t or 0
    if reign.postmaster.signal is not None or reign.account.end - reaped < PENDING_NS:
        tally.leave("the journal ends before it could tell of the reaping")
        return
    tally.trial()
    tally.fail(reaped, f"the postmaster reaped {child} and its journal does not tell", lived(child))


def _judge_consequences(reign: Reign, tally: Tally) -> None:
    """A crash that nothing excuses is followed by SIGQUIT to somebody, if somebody is there."""
    for crash in reign.crashes:
        if crash.excused is not None:
            continue
        until = reign.generation_end(crash.t)
        others = [c for c in reign.children if c is not crash.child and surely_alive(c, crash.t)]
        living = [c for c in others if c.process.end_begun_t is None or c.process.end_begun_t > crash.t + TICK_NS]
        if not living:
            continue
        if not tally.whole(reign.generation_begin(crash.t), max(crash.t, min(until, reign.account.end))):
            continue
        if reign.quits_between(crash.t - TICK_NS, until):
            tally.trial()
            continue
        if until == reign.end and (reign.postmaster.signal is not None or reign.account.end - crash.t < PENDING_NS):
            tally.leave("the postmaster or the account ended before the crash could be acted on")
            continue
        tally.trial()
        tally.fail(crash.t, f"{crash.child} crashed and nobody got SIGQUIT", lived(crash.child))


def _judge_causes(reign: Reign, tally: Tally) -> None:
    """The first SIGQUIT of each generation has a cause: a crash, or a request."""
    done: set[int] = set()
    for sent in reign.quits:
        begin = reign.generation_begin(sent.t)
        if begin in done:
            continue
        done.add(begin)
        if not tally.whole(begin, sent.t):
            continue
        crashed = any(begin - TICK_NS <= crash.t <= sent.t + TICK_NS for crash in reign.crashes)
        if crashed or _asked(reign, begin, sent.t):
            tally.trial()
            continue
        tally.trial()
        ordinary = [
            lived(child)
            for child in reign.children
            if child.process.reaped_t is not None and begin <= child.process.reaped_t <= sent.t
        ]
        tally.fail(
            sent.t,
            f"the postmaster sent SIGQUIT to PID {sent.child.pid} though no child had crashed and nobody had asked",
            *(ordinary[-5:] or ["no child had ended in this generation"]),
        )


def _asked(reign: Reign, begin_ns: int, t_ns: int) -> bool:
    """Whether an immediate end was asked for, or another prescribed reason stands in the journal.

    A smart or fast request while a crash is being handled ends in SIGQUIT too: to those who ignore SIGTERM.
    """
    if reign.requests(t_ns, (SIGQUIT,)):
        return True
    if not reign.evidence.kind.journal and reign.requests(t_ns, (SIGTERM, SIGINT)):
        return True  # what the request led to, only a journal could tell
    later = reign.startup_before(t_ns)
    restarted = later is not None and later is not reign.startups[0]
    if restarted and reign.requests(t_ns, (SIGTERM, SIGINT)):
        return True
    return reign.other_reason(begin_ns, t_ns + PROMPT_NS)
