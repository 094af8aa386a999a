"""The workload `tpcb`: pgbench's tables and its transaction ("TPC-B (sort of)").

    tpcb           (id, branches, accounts)                             one row: what it was set up with
    tpcb_account   (id, branch, balance)                                `accounts` in each branch
    tpcb_teller    (id, branch, balance)                                ten in each branch
    tpcb_branch    (id, balance)
    tpcb_history   (op, worker, account, teller, branch, delta, balance)

A transaction adds a delta of -5,000 to 5,000 to an account, reads the account's balance, adds the delta to a teller
and to a branch, and inserts a row of history, in this order, as pgbench does (`builtin: tpcb-like`); the three are
drawn independently. Rows are locked in the order of the tables, so that no two transactions deadlock, and a branch
is what they all wait for. One request in 16 does all that and is then rolled back. Unlike pgbench's, a row of history
has its operation's id, and the balance that was read: no two rows of an account may have begun from one balance.

What is looked at, and why:

    row gone, its money moved or not            the operation's fate is absent
    row there with other values, or twice       torn
    the sums of accounts, tellers and branches
    not all what the history adds up to         the invariant, rule atomicity
    an account, teller or branch that does not
    hold what its rows of history add up to     the invariant, rule atomicity
    an account's rows that do not follow from
    each other (an update overwritten)          the invariant, rule integrity
    one gone, twice, invented, or moved to
    another branch                              the invariant, rule integrity

An observation carries the rows after a given operation and the balances that the previous judged one found (`base`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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

TPCB: Final = "tpcb"
ACCOUNT: Final = "tpcb_account"
TELLER: Final = "tpcb_teller"
BRANCH: Final = "tpcb_branch"
HISTORY: Final = "tpcb_history"
TRANSACTION_KIND: Final = "transaction"
BRANCHES_DEFAULT: Final = 4
BRANCHES_MAX: Final = 1000
ACCOUNTS_DEFAULT: Final = 100
"""In each branch. pgbench has 100,000; here every cycle looks at all of them."""
ACCOUNTS_MAX: Final = 100_000
TELLERS: Final = 10
"""In each branch, as in pgbench."""
DELTA_MAX: Final = 5000
ROLLBACK_ONE_IN: Final = 16

Balances = list[tuple[int, int]]
"""Pairs (id, balance)."""


class Books(msgspec.Struct, frozen=True):
    """The balances of one moment."""

    accounts: Balances
    tellers: Balances
    branches: Balances


class TpcbObservation(msgspec.Struct, frozen=True):
    """What observed.jsonl holds. `base` is what rows with ids up to `after` had led to; `history` has the later ones,
    as in `tpcb_history`; `misplaced` has (table, id, branch) of rows of another branch than they were made in."""

    after: int
    base: Books
    now: Books
    history: list[tuple[int, int, int, int, int, int, int]]
    misplaced: list[tuple[str, int, int]]


class Tpcb:
    """`branches` branches of `accounts` accounts; see the module for what it means."""

    __slots__ = ("accounts", "branches")

    name: Final = TPCB

    def __init__(self, branches: int = BRANCHES_DEFAULT, accounts: int = ACCOUNTS_DEFAULT) -> None:
        require("branches", branches, 1, BRANCHES_MAX)
        require("accounts", accounts, 1, ACCOUNTS_MAX)
        self.branches = branches
        self.accounts = accounts

    # In the server or over a connection.

    def setup(self, session: Session) -> None:
        """Make the tables, every balance 0; in a database that has them the session refuses."""
        for table, columns in (
            (TPCB, ("id", "branches", "accounts")),
            (ACCOUNT, ("id", "branch", "balance")),
            (TELLER, ("id", "branch", "balance")),
            (BRANCH, ("id", "balance")),
            (HISTORY, ("op", "worker", "account", "teller", "branch", "delta", "balance")),
        ):
            session.create_table(table, [(column, "bigint") for column in columns], columns[0])
        session.begin()
        for branch in range(1, self.branches + 1):
            session.insert(BRANCH, (branch, 0))
        for teller in range(1, self.branches * TELLERS + 1):
            session.insert(TELLER, (teller, self._branch_of(teller, TELLERS), 0))
        for account in range(1, self.branches * self.accounts + 1):
            session.insert(ACCOUNT, (account, self._branch_of(account, self.accounts), 0))
        session.insert(TPCB, (1, self.branches, self.accounts))
        session.commit()

    def requests(self, worker: int, first: int, count: int, seed: int) -> Iterator[Request]:
        """`count` requests with ids from `first`, drawn from `seed` in order."""
        draw = random.Random(seed).getrandbits
        for operation in range(first, first + count):
            # One draw for all that is chosen: the k-th request depends on the seed and k alone.
            bits = draw(96)
            values = {
                "account": 1 + (bits & 0xFFFFFFFF) % (self.branches * self.accounts),
                "teller": 1 + (bits >> 32 & 0xFFFF) % (self.branches * TELLERS),
                "branch": 1 + (bits >> 48 & 0xFFFF) % self.branches,
                "delta": (bits >> 64 & 0xFFFFFF) % (2 * DELTA_MAX + 1) - DELTA_MAX,
            }
            yield Request(
                operation, worker, TRANSACTION_KIND if (bits >> 88) % ROLLBACK_ONE_IN else ROLLBACK_KIND, values
            )

    def perform(self, session: Session, request: Request) -> None:
        """Account, teller, branch, history."""
        values = request.values
        delta = values["delta"]
        account, teller, branch = values["account"], values["teller"], values["branch"]
        balance = _add(session, ACCOUNT, account, delta)
        _add(session, TELLER, teller, delta)
        _add(session, BRANCH, branch, delta)
        session.insert(HISTORY, (request.operation, request.worker, account, teller, branch, delta, balance))

    def observe(self, session: Session, after: int) -> Iterator[Row]:
        """Rows as `OBSERVE_COLUMNS`: the balances, then the history with ids greater than `after`.

        Several scans, hence several snapshots: only meaningful while nobody writes.
        """
        nothing = (None, None, None, None)
        for table in (ACCOUNT, TELLER):
            for id_, branch, balance in session.scan(table):
                yield (table, id_, *nothing, branch, balance)
        for branch, balance in session.scan(BRANCH):
            yield (BRANCH, branch, *nothing, None, balance)
        for op, worker, account, teller, branch, delta, balance in session.scan(HISTORY, after):
            yield (HISTORY, op, worker, account, teller, delta, branch, balance)

    def _branch_of(self, id_: int, in_each: int) -> int:
        return (id_ - 1) // in_each + 1

    # In the judge.

    def observation(self, rows: Iterable[Row], after: int, previous: Observation | None) -> dict[str, Any]:
        """The rows of `observe` as a `TpcbObservation`, continuing `previous` or from balances of 0.

        Raises ValueError when `after` is not from the beginning and there is nothing to continue, or the
        other way round.
        """
        if (after == EVERYTHING) != (previous is None):
            raise ValueError(f"an observation after {after} {'continues none' if previous else 'continues another'}")
        books: dict[str, list[list[int]]] = {ACCOUNT: [], TELLER: [], BRANCH: []}
        history: list[list[int]] = []
        misplaced: list[list[Any]] = []
        in_each = {ACCOUNT: self.accounts, TELLER: TELLERS}
        for table, id_, worker, account, teller, delta, branch, balance in rows:
            if table == HISTORY:
                history.append([id_, worker, account, teller, branch, delta, balance])
                continue
            books[table].append([id_, balance])
            if table in in_each and branch != self._branch_of(id_, in_each[table]):
                misplaced.append([table, id_, branch])
        now = {"accounts": books[ACCOUNT], "tellers": books[TELLER], "branches": books[BRANCH]}
        base = self._beginning() if previous is None else previous["now"]
        return {"after": after, "base": base, "now": now, "history": history, "misplaced": misplaced}

    def _beginning(self) -> dict[str, list[list[int]]]:
        return {name: [[id_, 0] for id_ in range(1, count + 1)] for name, count in self._counts().items()}

    def _counts(self) -> dict[str, int]:
        return {
            "accounts": self.branches * self.accounts,
            "tellers": self.branches * TELLERS,
            "branches": self.branches,
        }

    def fates(self, operations: Iterable[Operation], observation: Observation) -> dict[int, Fate]:
        """Committed: exactly one row of history, with the values invoked. Torn: any other row. Else absent.

        Rows of operations that are not among `operations` are committed, or torn when there are several.
        """
        rows = _rows_by_operation(_read(observation))
        fates: dict[int, Fate] = {}
        for operation in operations:
            found = rows.pop(operation.operation, None)
            if found is None:
                fates[operation.operation] = Fate.ABSENT
            else:
                # The balance is not among them: the request could not know it. The invariant looks at it.
                as_asked = [row[:-1] for row in found] == [_asked_for(operation)]
                fates[operation.operation] = Fate.COMMITTED if as_asked else Fate.TORN
        for id_, found in rows.items():
            fates[id_] = Fate.COMMITTED if len(found) == 1 else Fate.TORN
        return fates

    def invariant(self, observation: Observation) -> list[Violation]:
        """Everybody is there once; sums and balances are the base plus the history; accounts' rows follow each other."""
        seen = _read(observation)
        violations = [Violation(Rule.INTEGRITY, text) for text in (*self._strangers(seen), *_overwritten(seen))]
        added = {
            "accounts": _added(seen, 2),
            "tellers": _added(seen, 3),
            "branches": _added(seen, 4),
        }
        total = sum(row[5] for row in seen.history)
        for name, deltas in added.items():
            base, now = dict(getattr(seen.base, name)), dict(getattr(seen.now, name))
            grown = sum(now.values()) - sum(base.values())
            if grown != total:
                violations.append(
                    Violation(
                        Rule.ATOMICITY,
                        f"the balances of {name} grew by {grown} in all, the history adds up to {total} ({grown - total:+d})",
                    )
                )
            for id_ in sorted(now):
                expected = base.get(id_, 0) + deltas[id_]
                if now[id_] != expected:
                    violations.append(
                        Violation(
                            Rule.ATOMICITY,
                            f"{name}: {id_} holds {now[id_]}, but {base.get(id_, 0)} before and the history found make "
                            f"{expected} ({now[id_] - expected:+d})",
                        )
                    )
        return violations

    def lists(self, observation: Observation) -> None:
        """None: there are no lists."""

    def found(self, operation: int, observation: Observation) -> str:
        """The rows of history of one operation, in words."""
        rows = _rows_by_operation(_read(observation)).get(operation)
        if not rows:
            return f"no row of operation {operation} in {HISTORY}"
        return "; ".join(
            f"{HISTORY} holds (op {op}, worker {worker}, account {account}, teller {teller}, branch {branch}, "
            f"delta {delta}, balance {balance})"
            for op, worker, account, teller, branch, delta, balance in rows
        )

    def _strangers(self, seen: TpcbObservation) -> Iterator[str]:
        for name, count in self._counts().items():
            known = range(1, count + 1)
            times = Counter(id_ for id_, _ in getattr(seen.now, name))
            yield from (f"{name}: {id_} is gone" for id_ in known if id_ not in times)
            yield from (f"{name}: {id_} is there {n} times" for id_, n in sorted(times.items()) if n > 1)
            yield from (f"{name}: {id_} was never made" for id_ in sorted(times) if id_ not in known)
            if seen.after == EVERYTHING and any(balance for _, balance in getattr(seen.base, name)):
                yield f"an observation of everything starts from {name} that hold 0"
            at = {"accounts": 2, "tellers": 3, "branches": 4}[name]
            yield from (
                f"row {row[0]} of the history names {row[at]} of {name}, which was never made"
                for row in seen.history
                if row[at] not in known
            )
        yield from (f"{table} {id_} says branch {branch}" for table, id_, branch in seen.misplaced)


def _add(session: Session, table: str, id_: int, delta: int) -> int:
    """Add to the balance of a row, whatever its other columns; returns the new balance."""
    row = session.get(table, id_, True)
    if row is None:
        raise WorkloadError(f"{table} {id_} does not exist", sqlstate=NO_DATA_FOUND)
    balance = int(row[-1]) + delta
    if session.update(table, id_, (*row[:-1], balance)) is False:
        raise WorkloadError(f"{table} {id_} went while it was locked", sqlstate=NO_DATA_FOUND)
    return balance


def _read(observation: Observation) -> TpcbObservation:
    return msgspec.convert(observation, TpcbObservation)


def _rows_by_operation(seen: TpcbObservation) -> dict[int, list[tuple[int, ...]]]:
    rows: dict[int, list[tuple[int, ...]]] = {}
    for row in seen.history:
        rows.setdefault(row[0], []).append(row)
    return rows


def _asked_for(operation: Operation) -> tuple[Any, ...]:
    values: Mapping[str, Any] = operation.values
    asked = (values["account"], values["teller"], values["branch"], values["delta"])
    return (operation.operation, operation.worker, *asked)


def _added(seen: TpcbObservation, at: int) -> Counter[int]:
    """What the history adds to each id in one of its columns."""
    added: Counter[int] = Counter()
    for row in seen.history:
        added[row[at]] += row[5]
    return added


def _overwritten(seen: TpcbObservation) -> Iterator[str]:
    """Accounts whose rows cannot be put in an order in which each begins with the balance that the one before left.

    Each row goes from a balance to a balance: such an order is a path over all of them from the balance before to the
    one now. There is one when every balance is left as often as it is begun from, the two ends apart, and all rows hang
    together with the balance before (Euler).
    """
    steps: dict[int, list[tuple[int, int]]] = {}
    for _, _, account, _, _, delta, balance in seen.history:
        steps.setdefault(account, []).append((balance - delta, balance))
    base, now = dict(seen.base.accounts), dict(seen.now.accounts)
    for account in sorted(steps.keys() & base.keys() & now.keys()):
        begun = Counter(begin for begin, _ in steps[account])
        left = Counter(end for _, end in steps[account])
        left[base[account]] += 1
        begun[now[account]] += 1
        wrong = sorted((begun - left) | (left - begun))
        if not wrong:
            wrong = sorted({begin for begin, _ in steps[account]} - _reached(base[account], steps[account]))
        if wrong:
            yield (
                f"account {account}: its rows of history do not follow from each other between {base[account]} and "
                f"{now[account]}: see balance {', '.join(map(str, wrong[:3]))}"
            )


def _reached(begin: int, steps: list[tuple[int, int]]) -> set[int]:
    """The balances that steps lead to from one."""
    reached, more = {begin}, [begin]
    while more:
        at = more.pop()
        found = {end for start, end in steps if start == at} - reached
        reached |= found
        more += found
    return reached


# The procedures.

OBSERVE_COLUMNS: Final = (
    ("table", "text"),
    ("id", "bigint"),  # the account's, teller's or branch's, or the operation's
    ("worker", "bigint"),
    ("account", "bigint"),
    ("teller", "bigint"),
    ("delta", "bigint"),
    ("branch", "bigint"),
    ("balance", "bigint"),
)

WORKLOAD: Final = Tpcb()
PROCEDURES: Final = procedures(
    TPCB,
    Tpcb,
    (("branches", "integer", BRANCHES_DEFAULT), ("accounts", "integer", ACCOUNTS_DEFAULT)),
    OBSERVE_COLUMNS,
)
