"""The oracle of internal errors, seen to hold and to fail.

A server that says "invalid page" to one worker and recovers in time would otherwise leave a note that nobody judges.
"""

from __future__ import annotations

from typing import Any

from chaos.oracles import internal_error
from reports.verdict import OracleStatus

CYCLE_END = {"ev": "cycle_end", "t": 9, "cycle": 3}


def refused(sqlstate: str) -> dict[str, Any]:
    return {"ev": "refused", "t": 5, "cycle": 3, "worker": 2, "sqlstate": sqlstate, "message": "invalid page"}


def test_a_corrupt_page_is_a_failure_of_its_cycle() -> None:
    result = internal_error.judge([refused("XX001"), CYCLE_END])
    assert (result.status, result.trials, result.failed) == (OracleStatus.FAILED, 1, 1)
    assert result.failures[0].cycle == 3
    assert "worker 2: XX001 invalid page" in result.failures[0].evidence[0]


def test_a_read_that_failed_is_one_too() -> None:
    assert internal_error.judge([refused("58030"), CYCLE_END]).status is OracleStatus.FAILED


def test_a_lock_that_came_too_late_is_none() -> None:
    result = internal_error.judge([refused("55P03"), refused("57P01"), CYCLE_END])
    assert (result.status, result.trials, result.failed) == (OracleStatus.HELD, 1, 0)


def test_without_a_cycle_there_is_nothing_to_judge() -> None:
    assert internal_error.judge([]).status is OracleStatus.NOT_JUDGED
