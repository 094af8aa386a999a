"""Histories of a bank and what a database made of them, as plain values for judges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from chaos.oracles import atomicity, durability, invariant, resurrection
from chaos.oracles.ledger import Count, Ledger, judge_observation
from chaos.oracles.loss_window import LossWindow
from workloads.bank import Bank
from workloads.history import read_history
from workloads.workload import EVERYTHING, operation_id

ACCOUNTS = 6
INITIAL = 100
BANK = Bank(ACCOUNTS, INITIAL)
ORACLES: dict[str, Callable[[Ledger], Count]] = {
    "durability": durability.judge,
    "atomicity": atomicity.judge,
    "resurrection": resurrection.judge,
    "invariant": invariant.judge,
}


@dataclass(frozen=True)
class Asked:
    """One operation of a generated history: what was asked, told, and whether a right database holds it."""

    number: int
    source: int
    target: int
    amount: int
    told: str  # ok, fail, unknown, nothing
    kept: bool
    rollback: bool = False
    cycle: int = 0

    @property
    def id(self) -> int:
        return operation_id(self.cycle, self.number % 3, self.number)

    @property
    def row(self) -> list[int]:
        return [self.id, self.number % 3, self.source, self.target, self.amount]

    def records(self) -> list[dict[str, Any]]:
        common = {
            "pid": 7,
            "op": self.id,
            "worker": self.number % 3,
            "kind": "rollback" if self.rollback else "transfer",
        }
        asked = {"source": self.source, "target": self.target, "amount": self.amount}
        records = [{"t": 2 * self.number, "ev": "invoke", **common, **asked}]
        if self.told != "nothing":
            sqlstate = {} if self.told == "ok" else {"sqlstate": "40001"}
            records.append({"t": 2 * self.number + 1, "ev": self.told, **common, **sqlstate})
        return records


class World:
    """What a database holds: rows and balances, to be taken apart."""

    def __init__(self, asked: Iterable[Asked]) -> None:
        self.rows: list[list[int]] = []
        self.money = dict.fromkeys(range(1, ACCOUNTS + 1), INITIAL)
        for operation in asked:
            if operation.kept:
                self.apply(operation)

    def apply(self, operation: Asked) -> None:
        self.rows.append(operation.row)
        self.move(operation, 1)

    def lose(self, operation: Asked) -> None:
        self.rows.remove(operation.row)
        self.move(operation, -1)

    def move(self, operation: Asked, times: int) -> None:
        self.money[operation.source] -= times * operation.amount
        self.money[operation.target] += times * operation.amount

    def observe(self, after: int = EVERYTHING, previous: dict[str, Any] | None = None) -> dict[str, Any]:
        rows: list[tuple[Any, ...]] = [("account", k, None, None, None, v) for k, v in self.money.items()]
        rows += [("transfer", *row) for row in self.rows if row[0] > after]
        return BANK.observation(rows, after, previous)


def judge(asked: Sequence[Asked], *observations: tuple[int, dict[str, Any]]) -> dict[str, Count]:
    """Every oracle's count over observations (cycle, observation), the first cycle being 0."""
    ledger = ledger_of(asked, *observations)
    return {name: oracle(ledger) for name, oracle in ORACLES.items()}


def ledger_of(
    asked: Sequence[Asked], *observations: tuple[int, dict[str, Any]], losses: LossWindow | None = None
) -> Ledger:
    """The ledger that oracles judge; an observation's time is the number of its cycle."""
    history = read_history([[record for operation in asked for record in operation.records()]])
    return Ledger(
        BANK,
        [
            judge_observation(BANK, history, first_cycle=0, cycle=cycle, t=cycle, observation=observation)
            for cycle, observation in observations
        ],
        losses,
    )


def failing(counts: dict[str, Count]) -> set[str]:
    for name, count in counts.items():
        assert count.failures <= count.trials, f"{name} has more failures than trials"
    return {name for name, count in counts.items() if count.failures}
