"""The rule by which rows and counts become one word and one exit code (design: Evidence, Verdict).

What could go wrong: a run in which an oracle saw nothing counts as held; a failure hides behind an
interruption; an oracle that the plan did not ask for makes a run inconclusive; a run of no cycles holds.
"""

from __future__ import annotations

import pytest

from reports.verdict import Fate, Ledger, OracleRow, OracleStatus, Status, decide

HELD, FAILED, UNJUDGED = OracleStatus.HELD, OracleStatus.FAILED, OracleStatus.NOT_JUDGED


def _row(status: OracleStatus = HELD, trials: int = 9, failures: int = 0, *, required: bool = True) -> OracleRow:
    return OracleRow(name="o", title="O", status=status, trials=trials, failures=failures, required=required)


@pytest.mark.parametrize(
    ("rows", "cycles", "conclusive", "interrupted", "expected"),
    [
        ([_row()], 100, 95, False, (Status.HELD, 0)),
        ([_row()], 100, 94, False, (Status.INCONCLUSIVE, 5)),
        ([_row(), _row(trials=0)], 100, 100, False, (Status.INCONCLUSIVE, 5)),
        ([_row(), _row(UNJUDGED, trials=0)], 100, 100, False, (Status.INCONCLUSIVE, 5)),
        ([_row(), _row(UNJUDGED, trials=0, required=False)], 100, 100, False, (Status.HELD, 0)),
        ([], 100, 100, False, (Status.INCONCLUSIVE, 5)),
        ([_row()], 0, 0, False, (Status.INCONCLUSIVE, 5)),
        ([_row()], 100, 100, True, (Status.INTERRUPTED, 2)),
        ([_row(), _row(FAILED, failures=1)], 100, 0, False, (Status.FINDING, 1)),
        ([_row(FAILED, failures=1)], 3, 3, True, (Status.FINDING, 1)),
        ([_row(), _row(FAILED, failures=2, required=False)], 9, 9, False, (Status.FINDING, 1)),
    ],
)
def test_decide(
    rows: list[OracleRow], cycles: int, conclusive: int, interrupted: bool, expected: tuple[Status, int]
) -> None:
    assert decide(rows, cycles=cycles, conclusive_cycles=conclusive, interrupted=interrupted) == expected


def test_the_ledger_counts_what_breaks_a_promise() -> None:
    ledger = Ledger(
        ok=Fate(committed=1000, absent=2, torn=4),
        failed=Fate(committed=8, absent=1000, torn=16),
        unknown=Fate(committed=1000, absent=1000, torn=32),
    )
    assert ledger.wrong == 2 + 4 + 8 + 16 + 32
    assert ledger.total == 4000 + 62
