"""The contract of a workload: what it asks of a database, and how it tells what became of it.

Owns the vocabulary of judging: an operation has an *outcome* (what its client was told) and a *fate* (what
the recovered database holds of it), and the two may disagree. Never judges the two against each other: that
is the oracles' part, and each disagreement has an oracle of its own name.

| told \\ found | committed    | absent     | torn      |
|--------------|--------------|------------|-----------|
| ok           | as promised  | durability | atomicity |
| unknown      | allowed      | allowed    | atomicity |
| fail         | resurrection | as told    | atomicity |

Unknown is an outcome: a commit whose acknowledgement never came is neither done nor failed, and both fates
are right. A request of kind `rollback` never asks for COMMIT, so only absence is right, told or not. One of
kind `read` changes nothing, so it has no fate.

What transactions saw of each other while they ran is judged apart (oracle `isolation`), from what `perform`
says it read and from the final lists of `lists`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from workloads.session import Row, Session

ROLLBACK_KIND: Final = "rollback"
"""The kind of a request whose work is done and then rolled back on purpose, so that resurrection has trials."""
READ_KIND: Final = "read"
"""The kind of a request that only reads: a database holds no trace of it."""
ISOLATION: Final = "isolation"
"""The name among a request's values of the level that its transaction begins with; without it the default's."""

REFUSED: Final = "refused"
"""The name among a request's values of the SQLSTATE that a healthy server refuses it with: the worker then goes on."""
EVERYTHING: Final = -1
"""The `after` that observes all operations: ids begin at 0."""

WORKERS: Final = 1 << 12
OPERATIONS_PER_WORKER: Final = 1 << 20


def operation_id(cycle: int, worker: int, number: int) -> int:
    """The identity of an operation in a run: later cycles have greater ids, and it fits a bigint.

    Raises ValueError when the worker (at most 4,095) or its number within the cycle (20 bits) is out of range.
    """
    if not (0 <= cycle < 1 << 31 and 0 <= worker < WORKERS and 0 <= number < OPERATIONS_PER_WORKER):
        raise ValueError(f"no operation id for cycle {cycle}, worker {worker}, number {number}")
    return cycle << 32 | worker << 20 | number


def cycle_of(operation: int) -> int:
    """The cycle that an operation id was made for."""
    return operation >> 32


def last_operation_of(cycle: int) -> int:
    """The greatest operation id of a cycle; `last_operation_of(cycle - 1)` is the `after` of a cycle's own."""
    return ((cycle + 1) << 32) - 1


class Request(NamedTuple):
    """One operation before it is performed: everything that its invoke record says."""

    operation: int
    worker: int
    kind: str
    values: dict[str, Any]


class Outcome(Enum):
    """What the client was told."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Fate(Enum):
    """What the recovered database holds of an operation."""

    COMMITTED = "committed"
    ABSENT = "absent"
    TORN = "torn"


class Operation(msgspec.Struct, frozen=True):
    """One operation as its history tells it. Times are CLOCK_MONOTONIC nanoseconds.

    `read` is what `Workload.perform` returned; only an operation told ok has it.
    """

    operation: int
    worker: int
    kind: str
    values: Mapping[str, Any]
    outcome: Outcome
    pid: int
    invoked_ns: int
    answered_ns: int | None = None
    sqlstate: str | None = None
    lsn: int | None = None
    read: Any = None

    @property
    def may_be_committed(self) -> bool:
        """Whether a database that kept its word may hold it."""
        return self.outcome is not Outcome.FAIL and self.kind != ROLLBACK_KIND

    @property
    def must_be_committed(self) -> bool:
        """Whether a database that kept its word holds it."""
        return self.outcome is Outcome.OK


class Rule(Enum):
    """What a violated invariant says was broken."""

    ATOMICITY = "atomicity"  # parts of transactions are there without the others
    INTEGRITY = "integrity"  # the data contradicts itself, whatever was asked of it


@dataclass(frozen=True, slots=True)
class Violation:
    """One sentence about an observation that no history could have led to."""

    rule: Rule
    text: str


Observation = Mapping[str, Any]
"""What a recovered database was seen to hold, as the workload writes it into observed.jsonl (plain JSON)."""


class Workload(Protocol):
    """One workload. All but `setup`, `perform` and `observe` are pure and run in the judge."""

    @property
    def name(self) -> str:
        """The name it is asked for by."""
        ...

    def setup(self, session: Session) -> None:
        """Make the tables and their first rows in an empty database."""
        ...

    def requests(self, worker: int, first: int, count: int, seed: int) -> Iterator[Request]:
        """The requests of ids `first` to `first + count - 1`: a function of the arguments alone."""
        ...

    def perform(self, session: Session, request: Request) -> Any:
        """Do a request's work inside the transaction that is open; neither begins nor ends one.

        Returns what the history is to keep of what was read (plain JSON), or None.
        """
        ...

    def observe(self, session: Session, after: int) -> Iterator[Row]:
        """What the database holds of operations with ids greater than `after`, as rows, while nobody writes."""
        ...

    def observation(self, rows: Iterable[Row], after: int, previous: Observation | None) -> dict[str, Any]:
        """The rows that `observe` gave as one JSON-able record.

        `previous` is the judged observation that `after` continues; without it the database began empty.
        """
        ...

    def fates(self, operations: Iterable[Operation], observation: Observation) -> dict[int, Fate]:
        """The fate of each operation, and of each one found in the observation that is not among them.

        Operations of kind `read` are left out.
        """
        ...

    def invariant(self, observation: Observation) -> list[Violation]:
        """What no history could have led to, whatever was asked and told."""
        ...

    def lists(self, observation: Observation) -> Mapping[int, Sequence[int]] | None:
        """The observed lists by key, for a workload whose transactions append to lists and read them.

        None for any other. Elements are unique and name their writer (`workloads.append`); what `perform`
        returns then has one pair for each step: (key, element appended) or (key, list read).
        """
        ...

    def found(self, operation: int, observation: Observation) -> str:
        """What the observation holds of one operation, in words: a line of evidence."""
        ...
