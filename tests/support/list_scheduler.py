"""A database of lists that keeps its word, run by a scheduler that may choose anything: what it writes is a good history.

READ COMMITTED reads the committed list, REPEATABLE READ the one of its first step, both with what they have appended
themselves. An append locks its list until the transaction ends; at REPEATABLE READ it fails if the list has grown since
the snapshot. Locks are held to the end and lists only grow, so that a version of a list is a length.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.list_history import operation
from workloads.append import element_of
from workloads.session import READ_COMMITTED, REPEATABLE_READ
from workloads.workload import Operation

Lists = dict[int, list[int]]


@dataclass
class Transaction:
    number: int
    level: str
    steps: list[tuple[int, bool]]  # (slot, whether it appends)
    snapshot: dict[int, int] | None = None
    mine: Lists = field(default_factory=dict)
    done: list[tuple[int, list[int] | None]] = field(default_factory=list)


class Scheduler:
    """Runs transactions over `slots` slots, `active` of them at a time; a list is closed at `capacity` elements.

    Of those that end, one in `fail_one_in` fails and as many are not answered; those that are under way at the end,
    where the server crashes, are not answered either. A transaction appends to its slots in any order: when all wait
    for each other, one fails.
    """

    def __init__(
        self, choose: random.Random, *, slots: int, active: int, capacity: int = 100, fail_one_in: int = 8
    ) -> None:
        self.choose = choose
        self.slots = slots
        self.active = active
        self.capacity = capacity
        self.fail_one_in = fail_one_in
        self.lists: Lists = {slot: [] for slot in range(slots)}
        self.newest = list(range(slots))
        self.locks: dict[int, Transaction] = {}
        self.operations: list[Operation] = []

    def run(self, transactions: int) -> tuple[list[Operation], Lists]:
        """The operations in the order in which they ended, and the lists as they were in the end."""
        waiting: list[Transaction] = []
        fresh = self._fresh(transactions)
        running: list[Transaction] = []
        more = True
        while more or running:
            while more and len(running) + len(waiting) < self.active:
                transaction = next(fresh, None)
                more = transaction is not None
                if transaction is not None:
                    running.append(transaction)
            if not running:
                if not waiting:
                    break
                self._end(waiting.pop(), "fail")
                running, waiting = waiting, []
                continue
            if not more and not self.choose.getrandbits(4):
                break
            at = self.choose.randrange(len(running))
            transaction = running[at]
            told = self._step(transaction)
            if told == "wait":
                waiting.append(running.pop(at))
            elif told:
                self._end(running.pop(at), told)
                running, waiting = running + waiting, []
        for transaction in running + waiting:
            self._end(transaction, "unknown")
        return self.operations, self.lists

    def _fresh(self, count: int) -> Iterator[Transaction]:
        bits = self.choose.getrandbits
        for number in range(1, count + 1):
            steps = [(self.choose.randrange(self.slots), bool(bits(1))) for _ in range(1 + bits(2))]
            yield Transaction(number, REPEATABLE_READ if bits(1) else READ_COMMITTED, steps)

    def _step(self, transaction: Transaction) -> str:
        """Do one step; what its client is told if it ends there, "wait" if it cannot go on."""
        if len(transaction.done) == len(transaction.steps):
            return self._commit(transaction)
        if transaction.level == REPEATABLE_READ and transaction.snapshot is None:
            transaction.snapshot = {key: len(self.lists[key]) for key in self.newest}
        slot, appends = transaction.steps[len(transaction.done)]
        if appends:
            if self.locks.setdefault(slot, transaction) is not transaction:
                return "wait"
            key = self._writable(transaction, slot)
            if transaction.snapshot is not None and len(self.lists.get(key, ())) != transaction.snapshot.get(key, 0):
                return "fail"
            transaction.mine.setdefault(key, []).append(element_of(transaction.number, len(transaction.done)))
            transaction.done.append((key, None))
            return ""
        key = self._visible(transaction, slot)
        seen = len(self.lists.get(key, ())) if transaction.snapshot is None else transaction.snapshot.get(key, 0)
        transaction.done.append((key, [*self.lists.get(key, ())[:seen], *transaction.mine.get(key, ())]))
        return ""

    def _visible(self, transaction: Transaction, slot: int) -> int:
        """The key of a slot's list that a read sees: its own, or the newest of its snapshot."""
        own = [key for key in transaction.mine if key % self.slots == slot]
        if own:
            return max(own)
        if transaction.snapshot is None:
            return self.newest[slot]
        return next(key for key in transaction.snapshot if key % self.slots == slot)

    def _writable(self, transaction: Transaction, slot: int) -> int:
        """The key of a slot's list that an append goes to: the next one where the newest is full."""
        key = max([self.newest[slot], *(key for key in transaction.mine if key % self.slots == slot)])
        full = len(self.lists.get(key, ())) + len(transaction.mine.get(key, ())) >= self.capacity
        return key + self.slots if full else key

    def _commit(self, transaction: Transaction) -> str:
        outcome = self.choose.randrange(self.fail_one_in)
        if outcome == 0:
            return "rollback" if transaction.mine else "fail"
        for key, elements in transaction.mine.items():
            self.lists.setdefault(key, []).extend(elements)
            self.newest[key % self.slots] = max(self.newest[key % self.slots], key)
        return "unknown" if outcome == 1 else "ok"

    def _end(self, transaction: Transaction, told: str) -> None:
        for slot in [slot for slot, holder in self.locks.items() if holder is transaction]:
            del self.locks[slot]
        steps = [(slot, None if appends else []) for slot, appends in transaction.steps[len(transaction.done) :]]
        self.operations.append(operation(transaction.number, transaction.level, told, [*transaction.done, *steps]))
