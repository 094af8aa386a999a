"""The oracle of storage: what a server leaves when it stops is sound, page by page.

A row without its index entry, an entry without its row, a page of the future, a leaf that no search reaches: each can
stay unseen by every statement of the load and lose data later. At the end of an epoch, with the server stopped, a walk
over its files looks for them (`supervisor.engine.verify`). Its trials are the relations that were walked, its failures
the corruptions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from chaos.oracles.oracle import DETAILED, Failure, OracleResult
from reports.verdict import OracleStatus
from supervisor.engine.verify.corruption import Verification

NAME = "storage"
TITLE = "the files of a stopped server are sound, heap and index agree"


def judge(harness: Iterable[Mapping[str, Any]]) -> OracleResult:
    """Judge the harness's `files_checked` records, one per walk, whose `cycle` is the epoch's last.

    A run that was cut off before an epoch's end has none.
    """
    trials = failed = 0
    failures: list[Failure] = []
    for record in harness:
        if record["ev"] != "files_checked":
            continue
        found = msgspec.convert(record["verification"], Verification)
        # A walk that could not begin for damage looked at nothing, and found it.
        trials += len(found.relations) or 1
        failed += len(found.corruptions)
        failures += [
            Failure(
                cycle=record["cycle"],
                t=record["t"],
                message=f"after cycle {record['cycle']} {one.place} is corrupt: {one.kind}: {one.message}",
                evidence=(f"t={record['t']} {one.place} ({one.relation or one.file}): {one.kind}: {one.message}",),
            )
            for one in found.corruptions[: DETAILED - len(failures)]
        ]
    status = OracleStatus.FAILED if failed else OracleStatus.HELD if trials else OracleStatus.NOT_JUDGED
    return OracleResult(
        name=NAME,
        title=TITLE,
        status=status,
        trials=trials,
        failed=failed,
        failures=tuple(failures),
        reason="" if trials else "no epoch came to its end, where the files are looked at",
    )
