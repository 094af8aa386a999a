"""The workload `bank`: transfers between accounts, each leaving a row under its operation's id.

    bank            (id, accounts, initial)                one row: what it was set up with
    bank_account    (id, balance)                          ids 1 to `accounts`
    bank_transfer   (op, worker, source, target, amount)   one row per committed transfer

A transfer locks its two accounts in key order (so that no two transfers deadlock), moves an amount of 1 to
100 and inserts its row, all in one transaction. Balances may go negative: a transfer that depends on nothing
but the id of its operation can be judged alone. One request in 16 does all that and is then rolled back.

What is looked at, and why: the row says whether the transfer is there, and the balances must equal the ones
before plus the rows found. A constant sum of balances would not do: a transfer that is lost whole leaves it
as it was. Each way to be wrong shows in a place of its own:

    row gone, its money moved or not        the operation's fate is absent
    row there with other values, or twice   torn
    row there, money not moved; or money
    moved more or less than the rows say    the invariant, rule atomicity
    an account gone, twice or invented      the invariant, rule integrity
    a row that nobody asked for             a fate for an operation that is not among those asked for

What it cannot see: a transfer whose row and money are both right says nothing of *when* it became visible to
others (isolation is not bank's business); and two faults in the money of one pair of accounts that cancel out
to the last unit leave no trace in balances.

An observation carries only the rows after a given operation and the balances that the previous judged
observation found (`base`), so that a cycle costs what its own operations cost. A transfer of an earlier cycle
that is lost whole shows as money missing at once, and by its row when the epoch's end looks at everything.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from workloads.calls import procedures, require
from workloads.session import NO_DATA_FOUND, Row, Session, WorkloadError
from workloads.workload import (
    EVERYTHING,
    ROLLBACK_KIND,
    Fate,
    Observation,
    Operation,
    Request,
    Rule,
    Violation,
)

TRANSFER_KIND: Final = "transfer"
BANK: Final = "bank"
ACCOUNT: Final = "bank_account"
TRANSFER: Final = "bank_transfer"
ACCOUNTS_DEFAULT: Final = 100
INITIAL_DEFAULT: Final = 1000
ACCOUNTS_MAX: Final = 100_000
INITIAL_MAX: Final = 1_000_000_000_000
AMOUNT_MAX: Final = 100
ROLLBACK_ONE_IN: Final = 16


class BankObservation(msgspec.Struct, frozen=True):
    """What observed.jsonl holds of a bank: pairs (account, balance), rows as in `bank_transfer`.

    `base` holds the balances that rows with ids up to `after` had led to.
    """

    after: int
    base: list[tuple[int, int]]
    accounts: list[tuple[int, int]]
    transfers: list[tuple[int, int, int, int, int]]


class Bank:
    """A bank of `accounts` accounts holding `initial` each; see the module for what it means."""

    __slots__ = ("accounts", "initial")

    name: Final = "bank"

    def __init__(self, accounts: int = ACCOUNTS_DEFAULT, initial: int = INITIAL_DEFAULT) -> None:
        require("accounts", accounts, 2, ACCOUNTS_MAX)
        require("initial", initial, 0, INITIAL_MAX)
        self.accounts = accounts
        self.initial = initial

    # In the server or over a connection.

    def setup(self, session: Session) -> None:
        """Make the three tables and the accounts; in a database that has them the session refuses."""
        columns = [("id", "bigint"), ("accounts", "bigint"), ("initial", "bigint")]
        session.create_table(BANK, columns, "id")
        session.create_table(ACCOUNT, [("id", "bigint"), ("balance", "bigint")], "id")
        columns = [(name, "bigint") for name in ("op", "worker", "source", "target", "amount")]
        session.create_table(TRANSFER, columns, "op")
        session.begin()
        for account in range(1, self.accounts + 1):
            session.insert(ACCOUNT, (account, self.initial))
        session.insert(BANK, (1, self.accounts, self.initial))
        session.commit()

    def requests(self, worker: int, first: int, count: int, seed: int) -> Iterator[Request]:
        """`count` requests with ids from `first`, drawn from `seed` in order."""
        draw = random.Random(seed).getrandbits
        accounts = self.accounts
        for operation in range(first, first + count):
            # One draw for all that is chosen: the k-th request depends on the seed and k alone.
            bits = draw(64)
            source = (bits & 0xFFFFFF) % accounts
            target = (source + 1 + (bits >> 24 & 0xFFFFFF) % (accounts - 1)) % accounts
            kind = ROLLBACK_KIND if not (bits >> 48 & 0xFF) % ROLLBACK_ONE_IN else TRANSFER_KIND
            amount = 1 + (bits >> 56) % AMOUNT_MAX
            values = {"source": source + 1, "target": target + 1, "amount": amount}
            yield Request(operation, worker, kind, values)

    def perform(self, session: Session, request: Request) -> None:
        """One transfer and its row."""
        operation, worker, _, values = request
        source, target, amount = values["source"], values["target"], values["amount"]
        if source < target:
            debited = session.get(ACCOUNT, source, True)
            credited = session.get(ACCOUNT, target, True)
        else:
            credited = session.get(ACCOUNT, target, True)
            debited = session.get(ACCOUNT, source, True)
        if debited is None or credited is None:
            missing = source if debited is None else target
            raise WorkloadError(f"account {missing} does not exist", sqlstate=NO_DATA_FOUND)
        if (
            session.update(ACCOUNT, source, (source, debited[1] - amount)) is False
            or session.update(ACCOUNT, target, (target, credited[1] + amount)) is False
        ):
            raise WorkloadError(f"account {source} or {target} went while it was locked", sqlstate=NO_DATA_FOUND)
        session.insert(TRANSFER, (operation, worker, source, target, amount))

    def observe(self, session: Session, after: int) -> Iterator[Row]:
        """Rows as `OBSERVE_COLUMNS`: every account, then the transfers with ids greater than `after`.

        Two scans, hence two snapshots: only meaningful while nobody writes.
        """
        for account, balance in session.scan(ACCOUNT):
            yield ("account", account, None, None, None, balance)
        for row in session.scan(TRANSFER, after):
            yield ("transfer", *row)

    # In the judge.

    def observation(self, rows: Iterable[Row], after: int, previous: Observation | None) -> dict[str, Any]:
        """The rows of `observe` as a `BankObservation`, continuing `previous` or from the initial balances.

        Raises ValueError when `after` is not from the beginning and there is nothing to continue, or the
        other way round.
        """
        if (after == EVERYTHING) != (previous is None):
            raise ValueError(f"an observation after {after} {'continues none' if previous else 'continues another'}")
        accounts: list[list[int]] = []
        transfers: list[list[int]] = []
        for kind, id_, *rest in rows:
            if kind == "account":
                accounts.append([id_, rest[3]])
            else:
                transfers.append([id_, *rest])
        if previous is None:
            base = [[account, self.initial] for account in range(1, self.accounts + 1)]
        else:
            base = [list(pair) for pair in previous["accounts"]]
        return {"after": after, "base": base, "accounts": accounts, "transfers": transfers}

    def fates(self, operations: Iterable[Operation], observation: Observation) -> dict[int, Fate]:
        """Committed: exactly one row, with exactly the values invoked. Torn: any other row. Else absent.

        Rows of operations that are not among `operations` are committed, or torn when there are several.
        """
        rows = _rows_by_operation(_read(observation))
        fates: dict[int, Fate] = {}
        for operation in operations:
            found = rows.pop(operation.operation, None)
            if found is None:
                fates[operation.operation] = Fate.ABSENT
            elif found == [_row_asked_for(operation)]:
                fates[operation.operation] = Fate.COMMITTED
            else:
                fates[operation.operation] = Fate.TORN
        for id_, found in rows.items():
            fates[id_] = Fate.COMMITTED if len(found) == 1 else Fate.TORN
        return fates

    def invariant(self, observation: Observation) -> list[Violation]:
        """Accounts 1 to n, each once; every balance the base plus what the rows moved."""
        seen = _read(observation)
        violations = self._check_accounts(seen)
        balances = dict(seen.accounts)
        base = dict(seen.base)
        expected = Counter(base)
        for _, _, source, target, amount in seen.transfers:
            expected[source] -= amount
            expected[target] += amount
        wrong = {
            account: balance - expected[account]
            for account, balance in balances.items()
            if account in expected and balance != expected[account]
        }
        hint = _explain(wrong, seen)
        violations += [
            Violation(
                Rule.ATOMICITY,
                f"account {account} holds {balances[account]}, but {base.get(account, 0)} before and "
                f"the rows found make {expected[account]} ({difference:+d}){hint}",
            )
            for account, difference in sorted(wrong.items())
        ]
        return violations

    def lists(self, observation: Observation) -> None:
        """None: the bank has no lists."""

    def found(self, operation: int, observation: Observation) -> str:
        """The rows of one operation, in words."""
        rows = _rows_by_operation(_read(observation)).get(operation)
        if not rows:
            return f"no row of operation {operation} in {TRANSFER}"
        return "; ".join(
            f"{TRANSFER} holds (op {op}, worker {worker}, source {source}, target {target}, amount {amount})"
            for op, worker, source, target, amount in rows
        )

    def _check_accounts(self, seen: BankObservation) -> list[Violation]:
        times = Counter(account for account, _ in seen.accounts)
        known = range(1, self.accounts + 1)
        texts = [f"account {account} is gone" for account in known if account not in times]
        texts += [f"account {account} is there {n} times" for account, n in sorted(times.items()) if n > 1]
        texts += [f"account {account} was never opened" for account in sorted(times) if account not in known]
        texts += [
            f"transfer {op} names account {account}, which was never opened"
            for op, _, source, target, _ in seen.transfers
            for account in (source, target)
            if account not in known
        ]
        if seen.after == EVERYTHING and any(balance != self.initial for _, balance in seen.base):
            texts.append(f"an observation of everything starts from {self.initial} in each account")
        return [Violation(Rule.INTEGRITY, text) for text in texts]


def _read(observation: Observation) -> BankObservation:
    return msgspec.convert(observation, BankObservation)


def _rows_by_operation(seen: BankObservation) -> dict[int, list[tuple[int, ...]]]:
    rows: dict[int, list[tuple[int, ...]]] = {}
    for row in seen.transfers:
        rows.setdefault(row[0], []).append(row)
    return rows


def _row_asked_for(operation: Operation) -> tuple[Any, ...]:
    values = operation.values
    return (operation.operation, operation.worker, values["source"], values["target"], values["amount"])


def _explain(wrong: dict[int, int], seen: BankObservation) -> str:
    """Which one row would explain two wrong accounts: the commonest shape of a torn transfer."""
    if len(wrong) != 2:
        return ""
    candidates = [
        op
        for op, _, source, target, amount in seen.transfers
        if wrong.get(source) == amount and wrong.get(target) == -amount
    ]
    if not candidates:
        return ""
    return f"; as if the row of operation {' or '.join(map(str, candidates[:3]))} were there and its money not moved"


# The procedures.

OBSERVE_COLUMNS: Final = (
    ("kind", "text"),  # account or transfer
    ("id", "bigint"),  # the account's, or the operation's
    ("worker", "bigint"),
    ("source", "bigint"),
    ("target", "bigint"),
    ("value", "bigint"),  # the balance, or the amount
)

WORKLOAD: Final = Bank()
PROCEDURES: Final = procedures(
    BANK,
    Bank,
    (("accounts", "integer", ACCOUNTS_DEFAULT), ("initial", "bigint", INITIAL_DEFAULT)),
    OBSERVE_COLUMNS,
)
