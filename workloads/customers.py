"""The workload `customers`: people with unique e-mail addresses, who order, change an order, and move.

    customers         (id, customers)                        one row: how many it was set up with
    customers_person  (id, name, email, city, house, moves)  set up: -1 to -`customers`; registered: the operation's id
    customers_email   (email, person)                        what makes an e-mail unique
    customers_order   (id, customer, total)                  set up: one for each person, of its id; placed: the operation's
    customers_line    (id, quantity, price)                  id is that of the order * 4 + the line's number
    customers_log     (op, action, subject, amount)          what each operation did

The engine's only index is that of a primary key, so an e-mail is the key of a table of its own, and to register inserts
into both. One registration in four asks for an e-mail that somebody has: it must be refused with 23505. That is a
certain failure that the worker expects (`REFUSED`); any other error ends its work, as ever. The people are made outside
and come as an argument of `customers_setup` (`chaos/people.py`): what makes them has no place in a server process.

    place      an order of one to four lines, and its total
    change     the quantity of a line that was set up, and by it the order's total
    register   a person and the e-mail
    move       to another house
    duplicate  a registration that must be refused

Every operation leaves a row in the log under its id, which tells its fate: there as asked, committed; otherwise, torn;
not there, absent. What the tables must say besides is the invariant, which is in `customers_audit`.

An observation carries what was set up, what operations after a given one have made, and as `base` the previous one's.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from workloads.calls import load, require
from workloads.customers_audit import LINES_MAX, LINES_SET_UP, QUANTITY_SET_UP, CustomersObservation, audit
from workloads.procedure import REQUIRED, Context, Procedure
from workloads.session import INVALID_PARAMETER_VALUE, NO_DATA_FOUND, UNIQUE_VIOLATION, Row, Session, WorkloadError
from workloads.workload import (
    EVERYTHING,
    REFUSED,
    ROLLBACK_KIND,
    Fate,
    Observation,
    Operation,
    Request,
    Violation,
)

CUSTOMERS: Final = "customers"
PERSON: Final = "customers_person"
EMAIL: Final = "customers_email"
ORDER: Final = "customers_order"
LINE: Final = "customers_line"
LOG: Final = "customers_log"
CUSTOMERS_DEFAULT: Final = 50
CUSTOMERS_MAX: Final = 10_000
PRICE_SET_UP: Final = 100
ROLLBACK_ONE_IN: Final = 16
DUPLICATE: Final = "duplicate"
ACTIONS: Final = ("place", "place", "place", "change", "change", "move", "register", "register")
DUPLICATE_ONE_IN: Final = 4


class Person(msgspec.Struct, frozen=True, array_like=True):
    """One new customer, as `customers_setup` is given them."""

    name: str
    city: str
    email: str


class Customers:
    """`customers` people that were set up; see the module for what it means."""

    __slots__ = ("customers",)

    name: Final = CUSTOMERS

    def __init__(self, customers: int = CUSTOMERS_DEFAULT) -> None:
        require("customers", customers, 1, CUSTOMERS_MAX)
        self.customers = customers

    # In the server or over a connection.

    def setup(self, session: Session, people: Iterable[Person] = ()) -> None:
        """Make the tables, the people, and an order of two lines for each; the session refuses where they exist."""
        integers = ("bigint",) * 6
        for table, names, types in (
            (CUSTOMERS, ("id", "customers"), integers),
            (PERSON, ("id", "name", "email", "city", "house", "moves"), ("bigint", "text", "text", "text", *integers)),
            (EMAIL, ("email", "person"), ("text", "bigint")),
            (ORDER, ("id", "customer", "total"), integers),
            (LINE, ("id", "quantity", "price"), integers),
            (LOG, ("op", "action", "subject", "amount"), ("bigint", "text", "bigint", "bigint")),
        ):
            session.create_table(table, list(zip(names, types, strict=False)), names[0])
        session.begin()
        for number, person in enumerate(people, start=1):
            session.insert(PERSON, (-number, person.name, person.email, person.city, 0, 0))
            session.insert(EMAIL, (person.email, -number))
            _insert_order(session, -number, -number, [(QUANTITY_SET_UP, PRICE_SET_UP)] * LINES_SET_UP)
        session.insert(CUSTOMERS, (1, self.customers))
        session.commit()

    def requests(self, worker: int, first: int, count: int, seed: int) -> Iterator[Request]:
        """`count` requests with ids from `first`, drawn from `seed` in order."""
        draw = random.Random(seed).getrandbits
        for operation in range(first, first + count):
            # One draw for all that is chosen: the k-th request depends on the seed and k alone.
            bits = draw(128)
            action = ACTIONS[bits % len(ACTIONS)]
            customer = -1 - (bits >> 8 & 0xFFFF) % self.customers
            values: dict[str, Any] = {"action": action, "customer": customer}
            if action == "place":
                lines = 1 + (bits >> 24) % LINES_MAX
                values["lines"] = [
                    [1 + (bits >> 32 + 16 * n & 0xFF) % 9, 1 + (bits >> 40 + 16 * n & 0xFF)] for n in range(lines)
                ]
            elif action == "change":
                values |= {"line": customer * LINES_MAX + (bits >> 24) % LINES_SET_UP, "quantity": 1 + (bits >> 32) % 9}
            elif action == "move":
                values["house"] = 1 + (bits >> 32) % 1000
            elif not (bits >> 24 & 0xFF) % DUPLICATE_ONE_IN:
                values |= {"action": DUPLICATE, REFUSED: UNIQUE_VIOLATION}
            kind = values["action"]
            # What is refused needs no rolling back.
            if kind != DUPLICATE and not (bits >> 120) % ROLLBACK_ONE_IN:
                kind = ROLLBACK_KIND
            yield Request(operation, worker, kind, values)

    def perform(self, session: Session, request: Request) -> None:
        """Do what is asked, and log it."""
        values, operation = request.values, request.operation
        match values["action"]:
            case "place":
                _row(session, PERSON, values["customer"])
                _insert_order(session, operation, values["customer"], values["lines"])
            case "change":
                _change(session, values["customer"], values["line"], values["quantity"])
            case "move":
                *row, _, moves = _row(session, PERSON, values["customer"], for_update=True)
                session.update(PERSON, values["customer"], (*row, values["house"], moves + 1))
            case "register":
                _register(session, operation, f"{operation}@new.example")
            case _:
                _register(session, operation, _row(session, PERSON, values["customer"])[2])
        session.insert(LOG, logged_row(operation, values))

    def observe(self, session: Session, after: int) -> Iterator[Row]:
        """Rows as `OBSERVE_COLUMNS`: what was set up, and what operations after `after` have made.

        Several scans, hence several snapshots: only meaningful while nobody writes.
        """
        for table in (PERSON, ORDER, LINE):
            last = (after + 1) * LINES_MAX - 1 if table == LINE else after
            # What was set up has keys below 0 and comes first, also where some of it is gone.
            for row in session.scan(table):
                if row[0] >= 0:
                    break
                yield from _shown(session, table, row)
            for row in session.scan(table, max(last, -1)):
                yield from _shown(session, table, row)
        if after == EVERYTHING:
            for email, person in session.scan(EMAIL):
                yield (EMAIL, person, None, None, email)
        for operation, action, subject, amount in session.scan(LOG, after):
            yield (LOG, operation, subject, amount, action)

    # In the judge.

    def observation(self, rows: Iterable[Row], after: int, previous: Observation | None) -> dict[str, Any]:
        """The rows of `observe` as a `CustomersObservation`, continuing `previous` or from what is set up.

        Raises ValueError when `after` is not from the beginning and there is nothing to continue, or the
        other way round.
        """
        if (after == EVERYTHING) != (previous is None):
            raise ValueError(f"an observation after {after} {'continues none' if previous else 'continues another'}")
        found: dict[str, list[list[Any]]] = {table: [] for table in (PERSON, EMAIL, ORDER, LINE, LOG)}
        for table, key, one, other, text in rows:
            match table:
                case "customers_person":
                    found[table].append([key, text, one, other])
                case "customers_email":
                    found[table].append([text, key])
                case "customers_log":
                    found[table].append([key, text, one, other])
                case _:
                    found[table].append([key, one, other])
        if previous is None:
            everybody = range(-self.customers, 0)
            houses = {str(id_): [0, 0] for id_ in everybody}
            lines = (id_ * LINES_MAX + n for id_ in everybody for n in range(LINES_SET_UP))
            quantities = {str(line): QUANTITY_SET_UP for line in lines}
        else:
            houses = {str(id_): [house, moves] for id_, _, house, moves in previous["people"] if id_ < 0}
            quantities = {str(id_): quantity for id_, quantity, _ in previous["lines"] if id_ < 0}
        return {
            "after": after,
            "base_houses": houses,
            "base_quantities": quantities,
            "people": found[PERSON],
            "emails": found[EMAIL],
            "orders": found[ORDER],
            "lines": found[LINE],
            "log": found[LOG],
        }

    def fates(self, operations: Iterable[Operation], observation: Observation) -> dict[int, Fate]:
        """Committed: one row of the log, as invoked. Torn: any other. Else absent.

        Rows of operations that are not among `operations` are committed, or torn when there are several.
        """
        rows: dict[int, list[Row]] = {}
        for row in observation["log"]:
            rows.setdefault(row[0], []).append(tuple(row))
        fates: dict[int, Fate] = {}
        for asked in operations:
            found = rows.pop(asked.operation, None)
            if found is None:
                fates[asked.operation] = Fate.ABSENT
            else:
                as_asked = found == [logged_row(asked.operation, asked.values)]
                fates[asked.operation] = Fate.COMMITTED if as_asked else Fate.TORN
        for operation, found in rows.items():
            fates[operation] = Fate.COMMITTED if len(found) == 1 else Fate.TORN
        return fates

    def invariant(self, observation: Observation) -> list[Violation]:
        """Log and data say the same; people, orders and e-mails are there once and belong together."""
        return audit(msgspec.convert(observation, CustomersObservation), self.customers)

    def lists(self, observation: Observation) -> None:
        """None: there are no lists."""

    def found(self, operation: int, observation: Observation) -> str:
        """The row of the log of one operation, in words."""
        rows = [row for row in observation["log"] if row[0] == operation]
        if not rows:
            return f"no row of operation {operation} in {LOG}"
        return "; ".join(f"{LOG} holds (op {o}, {a}, subject {s}, amount {n})" for o, a, s, n in rows)


def _shown(session: Session, table: str, row: Row) -> Iterator[Row]:
    if table != PERSON:
        yield (table, *row, None)
        return
    id_, _, email, _, house, moves = row
    yield (PERSON, id_, house, moves, email)


def _row(session: Session, table: str, key: int, *, for_update: bool = False) -> Row:
    row = session.get(table, key, for_update)
    if row is None:
        raise WorkloadError(f"{table} {key} does not exist", sqlstate=NO_DATA_FOUND)
    return row


def _insert_order(session: Session, id_: int, customer: int, lines: Iterable[Iterable[int]]) -> None:
    total = 0
    for number, (quantity, price) in enumerate(lines):
        session.insert(LINE, (id_ * LINES_MAX + number, quantity, price))
        total += quantity * price
    session.insert(ORDER, (id_, customer, total))


def _change(session: Session, order: int, line: int, quantity: int) -> None:
    # The order is locked first: two changes of its lines must not both start from one total.
    _, customer, total = _row(session, ORDER, order, for_update=True)
    _, before, price = _row(session, LINE, line, for_update=True)
    session.update(LINE, line, (line, quantity, price))
    session.update(ORDER, order, (order, customer, total + (quantity - before) * price))


def _register(session: Session, id_: int, email: str) -> None:
    session.insert(EMAIL, (email, id_))
    session.insert(PERSON, (id_, f"Customer {id_}", email, "", 0, 0))


def logged_row(operation: int, values: Mapping[str, Any]) -> tuple[int, str, int, int]:
    """The row of the log that an operation of these values leaves."""
    action = values["action"]
    match action:
        case "place":
            return operation, action, values["customer"], sum(quantity * price for quantity, price in values["lines"])
        case "change":
            return operation, action, values["line"], values["quantity"]
        case "move":
            return operation, action, values["customer"], values["house"]
        case _:
            return operation, action, operation, 0


OBSERVE_COLUMNS: Final = (
    ("table", "text"),
    ("id", "bigint"),
    ("one", "bigint"),  # a house, a customer, a quantity, or the subject of a row of the log
    ("other", "bigint"),  # moves, a total, a price, or an amount
    ("text", "text"),  # an e-mail, or an action
)


def _of(session: Session) -> Customers:
    row = session.get(CUSTOMERS, 1)
    if row is None:
        raise WorkloadError("no customers were set up here: CALL customers_setup(...)", sqlstate=NO_DATA_FOUND)
    return Customers(row[1])


def _run_setup(context: Context, *, people: str) -> None:
    try:
        made = msgspec.json.decode(people.encode(), type=list[Person])
    except msgspec.DecodeError as error:
        raise WorkloadError(
            f"people is no list of [name, city, e-mail]: {error}", sqlstate=INVALID_PARAMETER_VALUE
        ) from error
    Customers(len(made)).setup(context.session, made)


def _run_observe(context: Context, *, after: int) -> Iterator[Row]:
    return _of(context.session).observe(context.session, after)


WORKLOAD: Final = Customers()
PROCEDURES: Final = (
    Procedure("customers_setup", (("people", "text", REQUIRED),), (), _run_setup),
    load(CUSTOMERS, _of),
    Procedure("customers_observe", (("after", "bigint", EVERYTHING),), OBSERVE_COLUMNS, _run_observe),
)
