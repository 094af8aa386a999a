"""The oracle of isolation: transactions a second that it judges, on one processor, by its own processor time.

The history is a good one, the worst case for the search: everything must be looked at and there is no early end. A
database in memory runs eight transactions at a time over eight lists, as the workload `append` does; half of them are
at REPEATABLE READ. A bad one has two transactions in a hundred at READ COMMITTED claim that they were at REPEATABLE
READ, so that knots of all sizes are found and told.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from msgspec.structs import replace

from chaos.oracles.isolation import examine, stories
from tests.bench import results
from tests.support.list_scheduler import Lists, Scheduler
from workloads.session import READ_COMMITTED, REPEATABLE_READ
from workloads.workload import ISOLATION, Operation

TRANSACTIONS = (2_000, 20_000, 100_000)
ROUNDS = 5


def main() -> None:
    """Measure and print."""
    results.OUT.mkdir(exist_ok=True)
    rows = []
    for count in TRANSACTIONS:
        operations, lists = Scheduler(random.Random(count), slots=8, active=8).run(count)
        rates, _ = rates_of(operations, lists)
        rows.append({"history": "good", "transactions": count, **results.summary(rates), "failures": 0})
        operations = with_false_claims(operations)
        rates, failures = rates_of(operations, lists)
        rows.append({"history": "bad", "transactions": count, **results.summary(rates), "failures": failures})
    head = ("history", "transactions", "failures", "min", "median", "max")
    print("\nisolation: transactions judged per second of processor time")
    results.table(head, [[row[name] for name in head] for row in rows])
    results.write("isolation", {"rounds": ROUNDS, "rows": rows})


def rates_of(operations: Sequence[Operation], lists: Lists) -> tuple[list[float], int]:
    """(transactions per second of each round, failures found)."""
    rates = []
    failures = 0
    for _ in range(ROUNDS):
        began = time.process_time()
        failures = sum(1 for _ in stories(examine(operations, lists)))
        rates.append(len(operations) / (time.process_time() - began))
    return rates, failures


def with_false_claims(operations: Sequence[Operation]) -> list[Operation]:
    """The history with some transactions at a level at which they were not run."""
    choose = random.Random(1)
    return [
        replace(operation, values={**operation.values, ISOLATION: REPEATABLE_READ})
        if operation.values[ISOLATION] == READ_COMMITTED and choose.randrange(50) == 0
        else operation
        for operation in operations
    ]
