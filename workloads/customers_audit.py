"""What the tables of the workload `customers` must say to each other, whatever was asked and told.

Owns the form of what is observed of them, and the rules: that the log and the data say the same is rule atomicity; that
people, orders and e-mails are there once and belong together is rule integrity. Which of several moves of a person came
last nobody knows: the house must be that of one of them, and the number of moves the number of rows in the log.

Pure, and run in the judge. It knows neither requests nor answers: the fates of operations are `customers`' business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import msgspec

from workloads.workload import EVERYTHING, Rule, Violation

LINES_MAX: Final = 4
LINES_SET_UP: Final = 2
QUANTITY_SET_UP: Final = 1


class CustomersObservation(msgspec.Struct, frozen=True):
    """What observed.jsonl holds; `houses` and `quantities` are what was set up and may change."""

    after: int
    base_houses: dict[str, tuple[int, int]]
    base_quantities: dict[str, int]
    people: list[tuple[int, str, int, int]]  # id, e-mail, house, moves
    emails: list[tuple[str, int | None]]  # e-mail, person
    orders: list[tuple[int, int, int]]  # id, customer, total
    lines: list[tuple[int, int, int]]  # id, quantity, price
    log: list[tuple[int, str, int, int]]  # operation, action, subject, amount


def audit(seen: CustomersObservation, customers: int) -> list[Violation]:
    """What is wrong with an observation of a database in which `customers` people were set up."""
    return [
        *(Violation(Rule.ATOMICITY, text) for text in (*_unlogged(seen), *_unchanged(seen), *_totals(seen))),
        *(Violation(Rule.INTEGRITY, text) for text in (*_strangers(seen, customers), *_emails(seen))),
    ]


def _unlogged(seen: CustomersObservation) -> Iterator[str]:
    """Orders and people that the log does not know, and those that it alone knows."""
    placed = {order for order in seen.orders if order[0] >= 0}
    logged = {(op, subject, amount) for op, action, subject, amount in seen.log if action == "place"}
    for order in sorted(placed ^ logged):
        yield f"order {order[0]} (customer {order[1]}, total {order[2]}) is {'there' if order in placed else 'logged'} alone"
    registered = {id_ for id_, *_ in seen.people if id_ >= 0}
    known = {op for op, action, _, _ in seen.log if action in ("register", "duplicate")}
    yield from (f"person {id_} is there and was not logged" for id_ in sorted(registered - known))
    yield from (f"person {id_} was logged and is not there" for id_ in sorted(known - registered))


def _unchanged(seen: CustomersObservation) -> Iterator[str]:
    """Houses and quantities that do not follow from the ones before and the log."""
    houses: dict[int, list[int]] = {}
    quantities: dict[int, list[int]] = {}
    for _, action, subject, amount in seen.log:
        if action == "move":
            houses.setdefault(subject, []).append(amount)
        elif action == "change":
            quantities.setdefault(subject, []).append(amount)
    for id_, _, house, moves in seen.people:
        before, moved = seen.base_houses.get(str(id_), (0, 0))
        since = houses.get(id_, [])
        if moves != moved + len(since):
            yield f"person {id_} has moved {moves} times, but {moved} before and {len(since)} logged since"
        if house not in (since or [before]):
            yield f"person {id_} lives in house {house}, and never moved there"
    for id_, quantity, _ in seen.lines:
        if id_ < 0 and quantity not in quantities.get(id_, [seen.base_quantities.get(str(id_), QUANTITY_SET_UP)]):
            yield f"order line {id_} has quantity {quantity}, which nobody gave it"


def _totals(seen: CustomersObservation) -> Iterator[str]:
    """Orders whose total is not the sum of their lines, and lines without an order."""
    sums: Counter[int] = Counter()
    for id_, quantity, price in seen.lines:
        sums[id_ // LINES_MAX] += quantity * price
    for id_, _, total in seen.orders:
        if total != sums[id_]:
            yield f"order {id_} has total {total}, and lines of {sums[id_]}"
    yield from (
        f"order {id_} is gone, and its lines are there" for id_ in sorted(sums.keys() - {o[0] for o in seen.orders})
    )


def _strangers(seen: CustomersObservation, customers: int) -> Iterator[str]:
    """What was set up and is gone, and what is there twice or was never made."""
    known = range(-customers, 0)
    lines = {order * LINES_MAX + n for order in known for n in range(LINES_SET_UP)}
    for what, ids, expected in (
        ("person", [row[0] for row in seen.people], set(known)),
        ("order", [row[0] for row in seen.orders], set(known)),
        ("order line", [row[0] for row in seen.lines], lines),
        ("row of the log of operation", [row[0] for row in seen.log], set()),
    ):
        times = Counter(ids)
        yield from (f"{what} {id_} is gone" for id_ in sorted(expected - times.keys()))
        yield from (f"{what} {id_} is there {n} times" for id_, n in sorted(times.items()) if n > 1)
        yield from (f"{what} {id_} was never made" for id_ in sorted(times) if id_ < 0 and id_ not in expected)
    yield from (f"operation {op} registered an e-mail that was taken" for op, a, _, _ in seen.log if a == "duplicate")


def _emails(seen: CustomersObservation) -> Iterator[str]:
    """E-mails that several people have; of an observation of everything, also those that are not their person's."""
    owners: dict[str, list[int]] = {}
    for id_, email, _, _ in seen.people:
        owners.setdefault(email, []).append(id_)
    yield from (f"people {ids} have the e-mail {email}" for email, ids in sorted(owners.items()) if len(ids) > 1)
    if seen.after != EVERYTHING:
        return
    unique = dict(seen.emails)
    yield from (
        f"e-mail {email} is there {n} times" for email, n in Counter(e for e, _ in seen.emails).items() if n > 1
    )
    for email in sorted(owners.keys() | unique.keys()):
        if owners.get(email, [None])[0] != unique.get(email):
            yield f"e-mail {email} belongs to {unique.get(email)}, and {owners.get(email)} has it"
