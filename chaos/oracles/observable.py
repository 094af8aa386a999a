"""The oracle of readability: what the recovered server holds can be read at all.

A server that lost a table answers an error instead of data; that is no fault of the harness but the plainest loss.
Its trials are the looks at the data, each as the harness recorded it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chaos.oracles.oracle import Failure, OracleResult
from reports.verdict import OracleStatus

NAME = "observable"
TITLE = "the recovered data can be read"


def judge(harness: Iterable[Mapping[str, Any]], observations: int) -> OracleResult:
    """`observations` are the looks that succeeded; those that did not are the harness's `unobservable` records."""
    failures = tuple(
        Failure(
            cycle=record["cycle"],
            t=record["t"],
            message=f"after cycle {record['cycle']} the data cannot be read: {record['error']}",
            evidence=(f"t={record['t']} CALL {record['workload']}_observe: {record['sqlstate']} {record['error']}",),
        )
        for record in harness
        if record["ev"] == "unobservable"
    )
    trials = observations + len(failures)
    status = OracleStatus.FAILED if failures else OracleStatus.HELD if trials else OracleStatus.NOT_JUDGED
    return OracleResult(
        name=NAME,
        title=TITLE,
        status=status,
        trials=trials,
        failed=len(failures),
        failures=failures,
        reason="" if trials else "nobody looked at the data",
    )
