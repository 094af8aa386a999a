"""The oracle of resurrection: what failed, and what nobody asked for, is not there.

A failure is an operation told to have failed and found committed; one that was to be rolled back and never
asked for COMMIT, found committed; one that an earlier observation saw absent and a later one committed; and a
row of an operation that was never invoked. Its trials are the operations that must be absent.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from chaos.oracles.ledger import Count, Entry, Judgement, Ledger, Story, tell
from workloads.workload import Fate, Outcome

NAME = "resurrection"
TITLE = "nothing that failed or was never asked for is there"


def judge(ledger: Ledger) -> Count:
    """Every operation of one epoch that must be absent, and every row found that nobody asked for."""
    trials = sum(_must_be_absent(entry) for entry in ledger.entries.values())
    strangers = {id_ for judgement in ledger.judgements for id_ in judgement.strangers}
    return tell(_failures(ledger), trials + len(strangers))


def _must_be_absent(entry: Entry) -> bool:
    return not entry.operation.may_be_committed or any(
        # What is told to be there and was not is durability's, also when it comes back later.
        fate is Fate.ABSENT and entry.operation.outcome is Outcome.UNKNOWN
        for _, fate, _ in entry.seen[:-1]
    )


def _failures(ledger: Ledger) -> Iterator[Story]:
    for id_, entry in ledger.entries.items():
        if not _must_be_absent(entry):
            continue
        operation = entry.operation
        if operation.may_be_committed:
            judgement = entry.turned(Fate.ABSENT, Fate.COMMITTED)
            message = f"operation {id_} was absent after an earlier recovery and is there now"
        else:
            judgement = entry.first(Fate.COMMITTED)
            told = "failed" if operation.outcome is Outcome.FAIL else "was to be rolled back"
            message = f"operation {id_} {told} and is there"
        if judgement is not None:
            yield ledger.story(operation, judgement, message)
    known: set[int] = set()
    for judgement in ledger.judgements:
        for id_ in judgement.strangers:
            if id_ not in known:
                known.add(id_)
                message = f"operation {id_} was never invoked and is there"
                yield judgement.cycle, judgement.t, message, partial(_stranger, ledger, judgement, id_)


def _stranger(ledger: Ledger, judgement: Judgement, id_: int) -> tuple[str, ...]:
    found = ledger.workload.found(id_, judgement.observation)
    return ("no history holds its invoke", f"t={judgement.t} after cycle {judgement.cycle}: {found}")
