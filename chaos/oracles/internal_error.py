"""The oracle of internal errors: no statement of the load is refused because the server found itself damaged.

A corrupt page, an index entry that leads nowhere or a failed read shows as an error of SQLSTATE class XX or 58 long
before any balance is wrong. Its trials are the cycles, each with all the statements of its load; a statement that was
refused for any other reason (a lock that came too late, a shutdown) is none of its business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chaos.oracles.oracle import Failure, OracleResult
from reports.verdict import OracleStatus

NAME = "internal_error"
TITLE = "no statement meets damaged data or an internal error"

DAMAGE = ("XX", "58")
"""SQLSTATE classes: internal error (corruption among it), system error outside of the server."""


def judge(harness: Iterable[Mapping[str, Any]]) -> OracleResult:
    """Judge the harness's `refused` records, one per statement of a load that was refused, and its `cycle_end`s."""
    records = [record for record in harness if record["ev"] in ("refused", "cycle_end")]
    failures = tuple(
        Failure(
            cycle=record["cycle"],
            t=record["t"],
            message=f"in cycle {record['cycle']} a worker was refused with {record['sqlstate']}: {record['message']}",
            evidence=(f"t={record['t']} worker {record['worker']}: {record['sqlstate']} {record['message']}",),
        )
        for record in records
        if record["ev"] == "refused" and str(record["sqlstate"]).startswith(DAMAGE)
    )
    trials = sum(record["ev"] == "cycle_end" for record in records)
    status = OracleStatus.FAILED if failures else OracleStatus.HELD if trials else OracleStatus.NOT_JUDGED
    return OracleResult(
        name=NAME,
        title=TITLE,
        status=status,
        trials=trials,
        failed=len(failures),
        failures=failures,
        reason="" if trials else "no cycle came to its end",
    )
