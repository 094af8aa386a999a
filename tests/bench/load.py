"""Bank transfers without a history, preloaded by the server whose redo is measured: what fills its log.

Histories are what campaigns pay for each operation; here the log is to be filled and nobody asks who was told what.
"""

from __future__ import annotations

from collections.abc import Iterable

from workloads.bank import Bank
from workloads.procedure import REQUIRED, Context, Procedure
from workloads.session import Row


def _run_load(context: Context, worker: int, first: int, transactions: int) -> Iterable[Row]:
    session, bank = context.session, Bank()
    for request in bank.requests(worker, first, transactions, seed=first):
        context.host.check_interrupts()
        session.begin()
        bank.perform(session, request)
        session.commit()
    return [(transactions,)]


PROCEDURES = (
    Procedure(
        "bench_load",
        (("worker", "integer", REQUIRED), ("first", "bigint", REQUIRED), ("transactions", "integer", REQUIRED)),
        (("committed", "bigint"),),
        _run_load,
    ),
)
