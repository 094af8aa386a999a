"""The people that the workload `customers` is set up with.

Owns the arguments that a workload's set-up needs from outside the server. Faker is loaded here, in the harness, and
never in a server process: people travel as an argument of `CALL customers_setup`. A seed makes the same people always.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from workloads.customers import CUSTOMERS_DEFAULT, Person


def people(seed: int, count: int = CUSTOMERS_DEFAULT) -> list[Person]:
    """`count` people whose e-mails differ, at domains that nobody can own (RFC 2606)."""
    from faker import Faker  # takes a second to load, which no other workload should pay

    faker = Faker()
    faker.seed_instance(seed)
    return [Person(faker.name(), faker.city(), faker.unique.safe_email()) for _ in range(count)]


SETUP_ARGUMENTS: Final[Mapping[str, Callable[[int], dict[str, Any]]]] = {
    "customers": lambda seed: {"people": people(seed)},
}
"""By workload, what its set-up takes besides a session, made of the campaign's seed; one that is not here takes nothing."""


def setup_arguments(workload: str, seed: int) -> dict[str, Any]:
    """What to call a workload's set-up with, by name: in process as it is, over `CALL` as JSON."""
    make = SETUP_ARGUMENTS.get(workload)
    return {} if make is None else make(seed)
