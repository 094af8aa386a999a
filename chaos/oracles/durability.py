"""The oracle of durability: what was acknowledged is there.

A failure is an operation told ok and absent, or one that an earlier observation saw committed and a later
one did not: recovery had kept it, so whoever read it then was told. Its trials are the operations told ok,
and those that were seen committed before. Torn operations are atomicity's: their traces are there.

If the run's server did not wait for flushes (`synchronous_commit` off), an operation acknowledged within the
loss window before a crash (`loss_window`) may be gone. Then the log's order is what it is held to: the log
ends somewhere, so whatever committed after a lost operation must be lost too. An operation that began when
the lost one had been acknowledged committed after it; where the history carries LSNs, they say it of more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chaos.oracles.ledger import Count, Entry, Judgement, Ledger, Story, tell
from chaos.oracles.loss_window import Crash
from workloads.workload import Fate, Operation

NAME = "durability"
TITLE = "nothing acknowledged is lost"

Lost = tuple[Entry, Judgement]
"""A lost operation, and the judgement that first saw it gone."""


def judge(ledger: Ledger) -> Count:
    """Every operation of one epoch that must be there, and every one that was lost though it need not be."""
    broken: list[Story] = []
    excused: dict[Crash, list[Lost]] = {}
    trials = 0
    for entry in ledger.entries.values():
        seen = [judgement.t for _, fate, judgement in entry.seen[:-1] if fate is Fate.COMMITTED]
        crash = ledger.losses.crash_of(entry.operation, max(seen, default=0))
        lost = _lost(entry)
        trials += bool(entry.operation.must_be_committed or seen) and (crash is None or lost is not None)
        if lost is None:
            continue
        judgement, how = lost
        if crash is None:
            broken.append(ledger.story(entry.operation, judgement, f"operation {entry.operation.operation} {how}"))
        else:
            excused.setdefault(crash, []).append((entry, judgement))
    for crash, gone in excused.items():
        broken.extend(_out_of_order(ledger, crash, gone))
    return tell(broken, trials)


def _lost(entry: Entry) -> tuple[Judgement, str] | None:
    """The judgement that saw an operation gone which had been promised, and which promise it was."""
    judgement = entry.turned(Fate.COMMITTED, Fate.ABSENT)
    if judgement is not None:
        return judgement, "was committed after an earlier recovery and is lost"
    if entry.operation.must_be_committed:
        judgement = entry.first(Fate.ABSENT)
        if judgement is not None:
            return judgement, "was acknowledged and is lost"
    return None


def _out_of_order(ledger: Ledger, crash: Crash, gone: Sequence[Lost]) -> Iterator[Story]:
    """The operations that one crash took though it left a later one: what is lost must be the end of the log."""
    kept = [
        entry.operation
        for entry in ledger.entries.values()
        if entry.fate is Fate.COMMITTED and entry.operation.invoked_ns <= crash.kill_ns
    ]
    latest = max(kept, key=lambda operation: operation.invoked_ns, default=None)
    last = max(kept, key=lambda operation: operation.lsn or 0, default=None)
    for entry, judgement in gone:
        for survivor in (latest, last):
            if survivor is not None and _follows(survivor, entry.operation):
                message = (
                    f"operation {entry.operation.operation} is lost, which asynchronous commit allows, but operation "
                    f"{survivor.operation}, which committed after it, is there"
                )
                yield ledger.story(entry.operation, judgement, message)
                break


def _follows(later: Operation, earlier: Operation) -> bool:
    """Whether an operation certainly committed after another one."""
    if later.lsn is not None and earlier.lsn is not None:
        return later.lsn > earlier.lsn
    return earlier.answered_ns is not None and later.invoked_ns > earlier.answered_ns
