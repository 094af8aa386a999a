"""The oracle of atomicity: a transaction is there with all its parts or with none.

A failure is an operation whose fate is torn, whatever its client was told, and a violation of rule atomicity:
for the bank, balances that differ from the ones before plus the rows found. Its trials are the operations
judged, and the violations.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from chaos.oracles.ledger import Count, Judgement, Ledger, Story, tell
from workloads.workload import Fate, Rule

NAME = "atomicity"
TITLE = "a transaction is there whole or not at all"


def judge(ledger: Ledger) -> Count:
    """Every operation of one epoch, and what its observations say of the sum of all."""
    failures = list(_failures(ledger))
    torn = sum(entry.first(Fate.TORN) is not None for entry in ledger.entries.values())
    return tell(failures, len(ledger.entries) + len(failures) - torn)


def _failures(ledger: Ledger) -> Iterator[Story]:
    for id_, entry in ledger.entries.items():
        judgement = entry.first(Fate.TORN)
        if judgement is not None:
            yield ledger.story(entry.operation, judgement, f"operation {id_} is there in part or changed")
    for judgement in ledger.judgements:
        for violation in judgement.violations:
            if violation.rule is Rule.ATOMICITY:
                yield judgement.cycle, judgement.t, violation.text, partial(_where, judgement)


def _where(judgement: Judgement) -> tuple[str, ...]:
    return (f"t={judgement.t} after cycle {judgement.cycle}: the observation in history/observed.jsonl",)
