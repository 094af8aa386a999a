"""The oracle of durability: what was acknowledged is there.

A failure is an operation told ok and absent, or one that an earlier observation saw committed and a later
one did not: recovery had kept it, so whoever read it then was told. Its trials are the operations told ok,
and those that were seen committed before. Torn operations are atomicity's: their traces are there.
"""

from __future__ import annotations

from collections.abc import Iterator

from chaos.oracles.ledger import Count, Ledger, Story, tell
from workloads.workload import Fate

NAME = "durability"
TITLE = "nothing acknowledged is lost"


def judge(ledger: Ledger) -> Count:
    """Every operation of one epoch that must be there."""
    trials = sum(
        entry.operation.must_be_committed or any(fate is Fate.COMMITTED for _, fate, _ in entry.seen[:-1])
        for entry in ledger.entries.values()
    )
    return tell(_failures(ledger), trials)


def _failures(ledger: Ledger) -> Iterator[Story]:
    for id_, entry in ledger.entries.items():
        judgement = entry.turned(Fate.COMMITTED, Fate.ABSENT)
        if judgement is not None:
            message = f"operation {id_} was committed after an earlier recovery and is lost"
        elif entry.operation.must_be_committed:
            judgement = entry.first(Fate.ABSENT)
            message = f"operation {id_} was acknowledged and is lost"
        if judgement is not None:
            yield ledger.story(entry.operation, judgement, message)
