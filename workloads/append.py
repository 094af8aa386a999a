"""The workload `append`: transactions that append to a few hot lists and read them (list-append, as in Elle).

    append          (id, slots, capacity)           one row: what it was set up with
    append_open     (slot, generation, elements)    the open list of each slot, 0 to `slots` - 1
    append_closed   (key, elements)                 lists that have `capacity` elements

A transaction does one to four steps, each an append to a list or a read of one, at READ COMMITTED or at
REPEATABLE READ. Every element is unique and names its writer: operation id * 4 + the step's number. So a read
of a list tells exactly which transactions it saw and in which order they wrote, and how transactions depend
on each other can be worked out afterwards (oracle `isolation`; Kingsbury and Alvaro, "Elle: Inferring
Isolation Anomalies from Experimental Observations", VLDB 2020). One request in 16 is rolled back.

A list is one row, because that is what makes two appends to it conflict: with a row for each element both
would succeed side by side. An append reads the row FOR UPDATE, so that at READ COMMITTED it continues the
newest committed version and no append is overwritten; a read takes no lock. A full list is closed: its row
is copied to `append_closed` and the slot begins its next generation, under the row lock that the append has
anyway. The list of a slot's generation has the key `generation * slots + slot`. The appends of a transaction
go in slot order, so that no two transactions wait for each other.

What is looked at, and why:

    none of an operation's elements there       absent
    all there, each once, in its slot's list    committed
    anything else                               torn
    an open list that does not continue what
    the observation before found in it          the invariant, rule integrity
    a list gone, there twice or invented; two
    open in one slot; a closed one without
    `capacity` elements                         the invariant, rule integrity
    what running transactions saw               the oracle `isolation`

A transaction that only reads leaves no trace and has no fate.

An observation carries the open lists and those closed ones that operations after a given one have appended
to, and as `base` the open lists of the previous judged observation.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from struct import Struct, unpack
from typing import Any, Final

import msgspec

from workloads.calls import procedures, require
from workloads.session import NO_DATA_FOUND, READ_COMMITTED, REPEATABLE_READ, Row, Session, WorkloadError
from workloads.workload import (
    EVERYTHING,
    ISOLATION,
    READ_KIND,
    ROLLBACK_KIND,
    Fate,
    Observation,
    Operation,
    Request,
    Rule,
    Violation,
)

APPEND_KIND: Final = "append"
APPEND: Final = "append"
OPEN: Final = "append_open"
CLOSED: Final = "append_closed"
SLOTS_DEFAULT: Final = 8
SLOTS_MAX: Final = 1000
CAPACITY_DEFAULT: Final = 100
CAPACITY_MAX: Final = 500
"""Half a page: a slot's row must find room for its next version."""
STEPS_MAX: Final = 4
STEPS: Final = "steps"
"""The name among a request's values of its steps: [slot, element] appends, [slot, null] reads."""
ROLLBACK_ONE_IN: Final = 16

_ELEMENT: Final = Struct(">Q")

Lists = dict[int, list[int]]
"""Elements by key."""


def element_of(operation: int, step: int) -> int:
    """The element that a step of an operation appends."""
    return operation * STEPS_MAX + step


def writer_of(element: int) -> int:
    """The operation that an element names as its writer."""
    return element // STEPS_MAX


class AppendObservation(msgspec.Struct, frozen=True):
    """What observed.jsonl holds of the lists: pairs (key, elements)."""

    after: int
    base: list[tuple[int, list[int]]]
    open: list[tuple[int, list[int]]]
    closed: list[tuple[int, list[int]]]


class Append:
    """Lists in `slots` slots, each closed at `capacity` elements; see the module for what it means."""

    __slots__ = ("capacity", "slots")

    name: Final = "append"

    def __init__(self, slots: int = SLOTS_DEFAULT, capacity: int = CAPACITY_DEFAULT) -> None:
        require("slots", slots, 1, SLOTS_MAX)
        require("capacity", capacity, 1, CAPACITY_MAX)
        self.slots = slots
        self.capacity = capacity

    # In the server or over a connection.

    def setup(self, session: Session) -> None:
        """Make the three tables and an empty list for each slot; the session refuses where they exist."""
        session.create_table(APPEND, [("id", "bigint"), ("slots", "bigint"), ("capacity", "bigint")], "id")
        session.create_table(OPEN, [("slot", "bigint"), ("generation", "bigint"), ("elements", "bytea")], "slot")
        session.create_table(CLOSED, [("key", "bigint"), ("elements", "bytea")], "key")
        session.begin()
        for slot in range(self.slots):
            session.insert(OPEN, (slot, 0, b""))
        session.insert(APPEND, (1, self.slots, self.capacity))
        session.commit()

    def requests(self, worker: int, first: int, count: int, seed: int) -> Iterator[Request]:
        """`count` requests with ids from `first`, drawn from `seed` in order."""
        draw = random.Random(seed).getrandbits
        for operation in range(first, first + count):
            # One draw for all that is chosen: the k-th request depends on the seed and k alone.
            bits = draw(64)
            rollback = not (bits & 0xFF) % ROLLBACK_ONE_IN
            isolation = REPEATABLE_READ if bits >> 8 & 1 else READ_COMMITTED
            length = 1 + (bits >> 9) % STEPS_MAX
            appends = [bool(bits >> 11 + step & 1) for step in range(length)]
            # What is to be rolled back must change something, or its absence would prove nothing.
            appends[0] |= rollback
            slots = [(bits >> 16 + 12 * step & 0xFFF) % self.slots for step in range(length)]
            locked = iter(sorted(slot for slot, append in zip(slots, appends, strict=True) if append))
            steps = [
                [next(locked), element_of(operation, step)] if append else [slots[step], None]
                for step, append in enumerate(appends)
            ]
            kind = APPEND_KIND if any(appends) else READ_KIND
            yield Request(operation, worker, ROLLBACK_KIND if rollback else kind, {ISOLATION: isolation, STEPS: steps})

    def perform(self, session: Session, request: Request) -> list[tuple[int, int | tuple[int, ...]]]:
        """Do the steps; returns for each the key, with the element appended or the list read."""
        return [
            self._read(session, slot) if element is None else self._append(session, slot, element)
            for slot, element in request.values[STEPS]
        ]

    def observe(self, session: Session, after: int) -> Iterator[Row]:
        """Rows as `OBSERVE_COLUMNS`: the open lists, and each closed one with an element of an operation after `after`.

        Two scans, hence two snapshots: only meaningful while nobody writes.
        """
        for slot, generation, elements in session.scan(OPEN):
            yield ("open", self._key(slot, generation), elements)
        for key, elements in session.scan(CLOSED):
            if any(writer_of(element) > after for element in _decode(elements)):
                yield ("closed", key, elements)

    def _key(self, slot: int, generation: int) -> int:
        return int(generation * self.slots + slot)

    def _read(self, session: Session, slot: int) -> tuple[int, tuple[int, ...]]:
        row = session.get(OPEN, slot)
        if row is None:
            raise WorkloadError(f"slot {slot} does not exist", sqlstate=NO_DATA_FOUND)
        return self._key(slot, row[1]), _decode(row[2])

    def _append(self, session: Session, slot: int, element: int) -> tuple[int, int]:
        row = session.get(OPEN, slot, True)
        if row is None:
            raise WorkloadError(f"slot {slot} does not exist", sqlstate=NO_DATA_FOUND)
        _, generation, elements = row
        if len(elements) >= self.capacity * _ELEMENT.size:
            session.insert(CLOSED, (self._key(slot, generation), elements))
            generation, elements = generation + 1, b""
        if session.update(OPEN, slot, (slot, generation, elements + _ELEMENT.pack(element))) is False:
            raise WorkloadError(f"slot {slot} went while it was locked", sqlstate=NO_DATA_FOUND)
        return self._key(slot, generation), element

    # In the judge.

    def observation(self, rows: Iterable[Row], after: int, previous: Observation | None) -> dict[str, Any]:
        """The rows of `observe` as an `AppendObservation`, continuing `previous` or from empty lists.

        Raises ValueError when `after` is not from the beginning and there is nothing to continue, or the
        other way round.
        """
        if (after == EVERYTHING) != (previous is None):
            raise ValueError(f"an observation after {after} {'continues none' if previous else 'continues another'}")
        found: dict[str, list[list[Any]]] = {"open": [], "closed": []}
        for kind, key, elements in rows:
            # As bytes in the server, as text over a connection.
            stored = bytes.fromhex(elements.removeprefix("\\x")) if isinstance(elements, str) else elements
            found[kind].append([key, list(_decode(stored))])
        if previous is None:
            base: list[list[Any]] = [[slot, []] for slot in range(self.slots)]
        else:
            base = [list(pair) for pair in previous["open"]]
        return {"after": after, "base": base, **found}

    def fates(self, operations: Iterable[Operation], observation: Observation) -> dict[int, Fate]:
        """Committed: each element once, in a list of its slot. Absent: none of them. Else torn.

        Operations found that are not among `operations` are committed, or torn when an element is there twice.
        """
        seen = _read_observation(observation)
        places: dict[int, list[tuple[int, int]]] = {}
        for key, elements in (*seen.open, *seen.closed):
            for element in elements:
                operation = writer_of(element)
                if operation > seen.after:
                    places.setdefault(operation, []).append((key % self.slots, element))
        fates: dict[int, Fate] = {}
        for asked in operations:
            # Also of one that only reads: an element that claims to be its own would be a stranger otherwise.
            found = places.pop(asked.operation, None)
            wanted = [(slot, element) for slot, element in asked.values[STEPS] if element is not None]
            if found is not None:
                fates[asked.operation] = Fate.COMMITTED if sorted(found) == sorted(wanted) else Fate.TORN
            elif wanted:
                fates[asked.operation] = Fate.ABSENT
        for operation, found in places.items():
            fates[operation] = Fate.COMMITTED if len(set(found)) == len(found) else Fate.TORN
        return fates

    def invariant(self, observation: Observation) -> list[Violation]:
        """Each slot's lists are there from the one open before to the one open now, and continue what was there."""
        seen = _read_observation(observation)
        texts = list(self._check_keys(seen))
        base = dict(seen.base)
        for key, elements in (*seen.closed, *seen.open):
            before = base.get(key, [])
            if elements[: len(before)] != before:
                at = next(n for n, element in enumerate(before) if elements[n : n + 1] != [element])
                texts.append(
                    f"list {key} held {len(before)} elements after the recovery before, and does not continue "
                    f"them: element {at + 1} was {before[at]} and is {elements[at] if at < len(elements) else 'gone'}"
                )
        texts += [
            f"closed list {key} has {len(elements)} elements instead of {self.capacity}"
            for key, elements in seen.closed
            if len(elements) != self.capacity
        ]
        texts += [
            f"open list {key} has {len(elements)} elements, more than {self.capacity}"
            for key, elements in seen.open
            if len(elements) > self.capacity
        ]
        return [Violation(Rule.INTEGRITY, text) for text in texts]

    def _check_keys(self, seen: AppendObservation) -> Iterator[str]:
        """Which lists are gone, there twice, or were never opened, in words."""
        times = Counter(key for key, _ in (*seen.open, *seen.closed))
        yield from (f"list {key} is there {n} times" for key, n in sorted(times.items()) if n > 1)
        first = {key % self.slots: key for key, _ in seen.base}
        opened = sorted(key for key, _ in seen.open)
        slots = Counter(key % self.slots for key in opened)
        yield from (f"slot {slot} has {n} open lists" for slot, n in sorted(slots.items()) if n > 1)
        last = {key % self.slots: key for key in opened}
        known: set[int] = set()
        for slot in range(self.slots):
            if slot not in last:
                yield f"the open list of slot {slot} is gone"
                continue
            begin = first.get(slot, slot)
            if last[slot] < begin:
                yield f"list {begin} of slot {slot} was open after the recovery before, and list {last[slot]} is now"
            # A list that was full already and is closed since has no element that is newer than `after`.
            elements = next((elements for key, elements in seen.base if key == begin), [])
            if len(elements) >= self.capacity and last[slot] > begin and begin not in times:
                begin += self.slots
            known.update(range(begin, last[slot] + 1, self.slots))
        yield from (f"list {key} is gone" for key in sorted(known - times.keys()))
        yield from (f"list {key} was never opened" for key in sorted(times.keys() - known) if key % self.slots in last)

    def lists(self, observation: Observation) -> Mapping[int, Sequence[int]]:
        """The observed lists by key, and those that were open before: one that was full and is closed since is not
        observed again."""
        seen = _read_observation(observation)
        return dict((*seen.base, *seen.closed, *seen.open))

    def found(self, operation: int, observation: Observation) -> str:
        """Where the elements of one operation are, in words."""
        seen = _read_observation(observation)
        places = [
            f"element {element} at place {place} of list {key}"
            for key, elements in (*seen.closed, *seen.open)
            for place, element in enumerate(elements, start=1)
            if writer_of(element) == operation
        ]
        return ", ".join(places) or f"no element of operation {operation} in any list"


def _read_observation(observation: Observation) -> AppendObservation:
    return msgspec.convert(observation, AppendObservation)


def _decode(elements: bytes) -> tuple[int, ...]:
    return unpack(f">{len(elements) // _ELEMENT.size}Q", elements)


# The procedures.

OBSERVE_COLUMNS: Final = (
    ("kind", "text"),  # open or closed
    ("key", "bigint"),
    ("elements", "bytea"),  # eight bytes each
)

WORKLOAD: Final = Append()
PROCEDURES: Final = procedures(
    APPEND,
    Append,
    (("slots", "integer", SLOTS_DEFAULT), ("capacity", "integer", CAPACITY_DEFAULT)),
    OBSERVE_COLUMNS,
    tells_reads=True,
)
