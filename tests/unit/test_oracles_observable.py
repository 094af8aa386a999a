"""The oracle of readability.

What could go wrong: a server that recovered without its tables answers an error instead of data. No observation is
written, so the oracles of data see nothing and would have nothing to say; the plainest loss must not end as a run
that proved little.
"""

from __future__ import annotations

from typing import Any

from chaos.oracles import observable
from reports.verdict import OracleStatus

LOOKED_IN_VAIN: dict[str, Any] = {
    "t": 7,
    "pid": 1,
    "ev": "unobservable",
    "cycle": 3,
    "workload": "bank",
    "error": 'relation "bank_account" does not exist',
    "sqlstate": "42P01",
}
CYCLE_END: dict[str, Any] = {"t": 6, "pid": 1, "ev": "cycle_end", "cycle": 2}


def test_data_that_cannot_be_read_fails() -> None:
    result = observable.judge([CYCLE_END, LOOKED_IN_VAIN], 3)
    assert (result.status, result.trials, result.failed) == (OracleStatus.FAILED, 4, 1)
    (failure,) = result.failures
    assert failure.cycle == 3
    assert "does not exist" in failure.message
    assert "42P01" in failure.evidence[0]


def test_every_look_that_succeeded_is_a_trial() -> None:
    result = observable.judge([CYCLE_END], 3)
    assert (result.status, result.trials, result.failed) == (OracleStatus.HELD, 3, 0)


def test_a_run_that_never_looked_is_not_judged() -> None:
    result = observable.judge([CYCLE_END], 0)
    assert result.status is OracleStatus.NOT_JUDGED
    assert result.reason
