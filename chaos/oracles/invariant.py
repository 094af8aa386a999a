"""The oracle of the workload's own invariant: what no history could have led to.

A failure is any violation that the workload finds in an observation, of whatever rule. Its trials are the
observations.
"""

from __future__ import annotations

from functools import partial

from chaos.oracles.ledger import Count, Judgement, Ledger, tell

NAME = "invariant"
TITLE = "the workload's invariant holds"


def judge(ledger: Ledger) -> Count:
    """Every observation of one epoch; a failure is an observation with at least one violation."""
    return tell(
        (
            (
                judgement.cycle,
                judgement.t,
                f"{len(judgement.violations)} violations after cycle {judgement.cycle}: {judgement.violations[0].text}",
                partial(_texts, judgement),
            )
            for judgement in ledger.judgements
            if judgement.violations
        ),
        len(ledger.judgements),
    )


def _texts(judgement: Judgement) -> tuple[str, ...]:
    return tuple(violation.text for violation in judgement.violations[:10])
