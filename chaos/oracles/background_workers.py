"""The oracle of background workers: started when it may be, and again only as its last end allows.

Which registration a process belongs to, when that may start and how long it waits after a failure is the journal's
claim, for only the server knows. When each process was forked, how it ended, whether the postmaster had sent it SIGTERM,
when recovery was over and when there was a crash is the kernel's account. The rules (specification 9.2 to 9.4):

- no life begins before its start condition holds, none in a crash cycle, none while another of the registration lives;
- after exit 1 the interval is waited for; after exit 0, after an end that the postmaster asked for by SIGTERM, and of
  one that never restarts, there is no other life;
- after a crash whoever restarts is back without waiting for anything but its start condition.

"Consistent" is judged as "recovery is over": this server has no hot standby, in which the two differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from signal import SIGCONT, SIGSTOP, SIGTERM, SIGUSR1

from chaos.oracles.evidence import Evidence, ServerRecord
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import Child, Crash, Reign, lived, reigns, when
from chaos.witness.account import TICK_NS, Process, surely_after

BACK_NS = 5_000_000_000
"""Within this time of its start condition a worker that waits for nothing else has been forked. It takes 10 to 20 ms; a
loaded machine may take a while, but far less than the minute that a restart interval usually is."""

PENDING_NS = 10_000_000_000
NEVER_RESTART = -1


class BackgroundWorkers:
    name = "background_workers"
    title = "a background worker is started when it may be, and again only as its last end allows"
    needs: tuple[Source, ...] = ("kernel", "server")

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        applies = False
        for reign in reigns(evidence):
            workers = _registrations(reign)
            applies = applies or bool(workers) or any(child.role == "bgworker" for child in reign.children)
            _judge_strangers(reign, workers, tally)
            for worker in workers:
                _judge_starts(reign, worker, tally)
                _judge_ends(reign, worker, tally)
                _judge_returns(reign, worker, tally)
        return tally.result(
            self,
            slack="from the end of the restart interval to the next start",
            longest="from a start condition after a crash to the worker's fork",
            applies=applies,
        )


@dataclass(slots=True)
class _Worker:
    """One registration, and the lives that it had, oldest first."""

    registered: ServerRecord
    lives: list[Child] = field(default_factory=list)
    unknown: int = 0
    """Lives that the journal tells of and the account does not show."""
    asked_away: bool = False
    """A session registered it, and by the journal it is off the list: somebody may have asked for its end while it did
    not run, which nobody else can see. One that was preloaded nobody can ask for."""

    def __str__(self) -> str:
        return f'background worker "{self.registered.name}"'

    @property
    def restarts(self) -> bool:
        return self.registered.restart_s != NEVER_RESTART

    @property
    def after_recovery(self) -> bool:
        return self.registered.start_time != "postmaster_start"


def _registrations(reign: Reign) -> list[_Worker]:
    """What the journal claims, with the processes that the account shows."""
    workers: dict[int, _Worker] = {}
    for record in reign.journal:
        if record.ev == "worker_registered":
            workers[record.worker] = _Worker(record)
        elif record.ev == "worker_started" and record.worker in workers:
            # The fork lies before its record, and a pid may have had another owner.
            lives = [
                c for c in reign.children if c.process.pid == record.child and c.process.born <= record.t + TICK_NS
            ]
            if lives:
                workers[record.worker].lives.append(lives[-1])
            else:
                workers[record.worker].unknown += 1
        elif record.ev == "worker_unregistered" and record.worker in workers:
            first = reign.startups[0].process.born if reign.startups else 0
            workers[record.worker].asked_away = workers[record.worker].registered.t > first
    return list(workers.values())


def _judge_strangers(reign: Reign, workers: Iterable[_Worker], tally: Tally) -> None:
    """Every background worker is somebody's life."""
    known = {life.process.order for worker in workers for life in worker.lives}
    for child in reign.children:
        if child.role != "bgworker" or child.process.order in known:
            continue
        born = child.process.born
        if reign.postmaster.signal is not None or reign.account.end - born < PENDING_NS:
            tally.leave("the journal ends before it could tell whose process a background worker was")
            continue
        tally.trial()
        tally.fail(born, f"{child} belongs to no registration", lived(child))


def _judge_starts(reign: Reign, worker: _Worker, tally: Tally) -> None:
    for life in worker.lives:
        born = life.process.born
        if not tally.whole(reign.generation_begin(born), born):
            continue
        tally.trial()
        crash = _unhandled_crash(reign, born)
        startup = reign.startup_before(born)
        if crash is not None:
            tally.fail(
                born, f"{worker} was started as {life} in a crash cycle", lived(crash.child), f"forked {when(born)}"
            )
        elif startup is None:
            tally.fail(born, f"{worker} was started as {life} before any startup process", lived(life))
        elif not _may_start(reign, worker, startup, born):
            what = "recovery had ended" if worker.after_recovery else "redo had begun after a crash"
            tally.fail(born, f"{worker} was started as {life} before {what}", lived(startup), lived(life))


def _may_start(reign: Reign, worker: _Worker, startup: Child, t_ns: int) -> bool:
    over = _recovered_t(startup)
    if over is not None and not surely_after(over, t_ns):
        return True
    if worker.after_recovery:
        return False
    begun = _redo_begun_t(reign, startup.process)
    return startup is reign.startups[0] or (begun is not None and not surely_after(begun, t_ns))


def _judge_ends(reign: Reign, worker: _Worker, tally: Tally) -> None:
    for life, following in _with_next(worker.lives):
        process = life.process
        reaped = process.reaped_t
        if reaped is None:
            if following is not None:
                tally.trial()
                tally.fail(following.process.born, f"{worker} runs twice", lived(life), lived(following))
            continue
        until = following.process.born if following is not None else reign.end
        if not tally.whole(process.born, min(until, reign.account.end)):
            continue
        if following is not None and surely_after(reaped, until):
            tally.trial()
            tally.fail(until, f"{worker} runs twice", lived(life), lived(following))
            continue
        over = _over_for_good(reign, worker, life)
        if over is not None:
            tally.trial()
            if following is not None:
                tally.fail(until, f"{worker} was started again as {following}, though {over}", lived(life))
        elif process.code == 1 and not reign.is_crash(life):
            _judge_interval(reign, worker, life, following, tally)


def _judge_interval(reign: Reign, worker: _Worker, life: Child, following: Child | None, tally: Tally) -> None:
    """After an orderly failure, unless a crash came between: then nothing is waited for."""
    reaped = life.process.reaped_t or 0
    due = reaped + worker.registered.restart_s * 1_000_000_000
    if following is not None:
        born = following.process.born
        if reign.generation_begin(born) > reaped:
            return  # a new memory since: `_judge_returns`
        tally.trial(slack_ns=born - due)
        if surely_after(due, born):
            early_ms = (due - born) / 1e6
            tally.fail(
                born,
                f"{worker} was started {early_ms:.0f} ms before its interval was over",
                lived(life),
                lived(following),
            )
    elif not worker.asked_away and _undisturbed(reign, reaped, due + BACK_NS):
        tally.trial()
        tally.fail(due, f"{worker} was not started again after its interval", lived(life))


def _judge_returns(reign: Reign, worker: _Worker, tally: Tally) -> None:
    """In each generation after a crash, whoever may restart is there soon."""
    for startup in reign.startups[1:]:
        born = startup.process.born
        before = [life for life in worker.lives if life.process.born < born]
        if worker.registered.t > born or not worker.restarts or worker.unknown or worker.asked_away:
            continue
        if any(_over_for_good(reign, worker, life) is not None for life in before):
            continue
        ready = _recovered_t(startup) if worker.after_recovery else _redo_begun_t(reign, startup.process)
        if ready is None or not tally.whole(born, min(ready + BACK_NS, reign.account.end)):
            continue
        begins = [life.process.born for life in worker.lives if life.process.born >= born]
        back = begins[0] if begins and begins[0] < reign.generation_end(born) else None
        if back is not None and _stood_still(reign, ready, back):
            tally.leave("the postmaster had been stopped")
            continue
        if back is not None:
            tally.trial(longest_ns=max(0, back - ready))
        elif not _undisturbed(reign, ready, ready + BACK_NS):
            tally.leave("the generation ended before a background worker had to be back")
            continue
        else:
            tally.trial()
        if back is None or back - ready > BACK_NS:
            tally.fail(
                ready,
                f"{worker} was not back {BACK_NS // 1_000_000_000} s after the recovery from a crash",
                lived(startup),
                *(lived(life) for life in before[-1:]),
            )


def _over_for_good(reign: Reign, worker: _Worker, life: Child) -> str | None:
    """Why this life was the last one of its registration; None when another may follow."""
    process = life.process
    if process.exit_t is None:
        return None
    if not worker.restarts:
        return "it never restarts"
    if any(r.sig == SIGTERM and r.by == reign.postmaster.pid for r in process.received):
        return "the postmaster had asked for its end"
    if process.code == 0 and not reign.is_crash(life):
        return "it had exited with 0"
    return None


def _unhandled_crash(reign: Reign, t_ns: int) -> Crash | None:
    """The last crash before a time, if no startup process has been forked since."""
    begin = reign.generation_begin(t_ns)
    past = [c for c in reign.crashes if c.excused is None and begin < c.t and surely_after(t_ns, c.t)]
    return past[-1] if past else None


def _recovered_t(startup: Child) -> int | None:
    """When the postmaster learned that recovery had succeeded."""
    return startup.process.reaped_t if startup.process.code == 0 else None


def _redo_begun_t(reign: Reign, startup: Process) -> int | None:
    """When the startup process first told the postmaster something, which is that redo begins."""
    told = (r.t for r in reign.postmaster.received if r.sig == SIGUSR1 and r.by == startup.pid and r.t >= startup.born)
    return next(told, startup.reaped_t if startup.code == 0 else None)


def _undisturbed(reign: Reign, since_ns: int, until_ns: int) -> bool:
    """Whether a server was up all that time that owed its workers a start: no crash, no request to stop, no fork that
    failed, and the account reaches so far."""
    if min(reign.end, reign.account.end) < until_ns or reign.requests(until_ns):
        return False
    if any(since_ns <= crash.t <= until_ns for crash in reign.crashes) or _stood_still(reign, since_ns, until_ns):
        return False
    return not any(_fork_failed(record) for record in reign.journal if since_ns <= record.t <= until_ns)


def _stood_still(reign: Reign, since_ns: int, until_ns: int) -> bool:
    """Whether somebody had stopped the postmaster for a part of a span."""
    stopped = False
    for signal in reign.postmaster.received:
        if signal.t > until_ns:
            break
        if signal.sig == SIGSTOP:
            stopped = True
        elif signal.sig == SIGCONT:
            if stopped and signal.t >= since_ns:
                return True
            stopped = False
    return stopped


def _fork_failed(record: ServerRecord) -> bool:
    return isinstance(record.event, Mapping) and record.event.get("type") == "ForkFailed"


def _with_next(lives: list[Child]) -> Iterator[tuple[Child, Child | None]]:
    yield from pairwise(lives)
    if lives:
        yield lives[-1], None
