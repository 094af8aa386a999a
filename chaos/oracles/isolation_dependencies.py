"""Who depends on whom: the dependency graph of transactions that append to lists and read them.

Owns the edges and the reads that no graph is needed to condemn. Pure, and made for many transactions: nodes are
places in a sequence, an edge is one int in the adjacency of the node that comes first, `target << 2 | kind`.

A list's order is the order of its versions, and an element names its writer, so nothing is guessed:

    ww  the writers of two neighbouring elements                 T1 appended, and T2 after it
    wr  the writer of the last element of a read, and the reader  T2 read what T1 appended
    rw  a reader, and the writer of the next element              T1 read, and T2 appended after it

An operation counts as committed if one of its elements is in a list, whatever its client was told: of one that
nobody answered nothing else can be known, and that a failed one is there is resurrection's to tell. One that was
told ok and whose elements are gone is durability's. A read that is wrong by itself gives no edges: it is told as such. Elements of operations that are not given (older ones, those
whose records contradict each other) have no node, and an element that is there twice counts where it is first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from chaos.oracles.isolation_levels import COUNTS_ANTI_DEPENDENCIES, COUNTS_READS, FORBIDS, Anomaly
from workloads.append import writer_of
from workloads.session import READ_COMMITTED
from workloads.workload import ISOLATION, Operation, Outcome

WW: Final = 0
WR: Final = 1
RW: Final = 2

Lists = Mapping[int, Sequence[int]]


class Misread(NamedTuple):
    """A read that is wrong by itself: who read which list, and, of G1a and G1b, which element was wrong to see."""

    anomaly: Anomaly
    reader: int
    key: int
    element: int | None = None


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The graph over `operations`. `writers` has, by key, the node that wrote each element of `lists`, or -1."""

    operations: Sequence[Operation]
    lists: Lists
    writers: Mapping[int, Sequence[int]]
    edges: Sequence[Sequence[int]]
    misreads: Sequence[Misread]


def level_of(operation: Operation) -> str:
    """The level that an operation's transaction began with. Raises ValueError for one that the table has not."""
    level: str = operation.values.get(ISOLATION, READ_COMMITTED)
    if level not in FORBIDS:
        raise ValueError(
            f"operation {operation.operation}: no isolation level '{level}'; there are {', '.join(FORBIDS)}"
        )
    return level


def depend(operations: Iterable[Operation], lists: Lists) -> Dependencies:
    """The dependencies of these operations, given the lists as they were in the end.

    Raises ValueError for an isolation level that the table has not.
    """
    nodes = tuple(operations)
    node_of = {operation.operation: node for node, operation in enumerate(nodes)}
    histories = {key: _ListHistory(elements, nodes, node_of) for key, elements in lists.items()}
    edges: list[list[int]] = [[] for _ in nodes]
    for history in histories.values():
        before = -1
        for writer in history.writers:
            if writer != before and writer >= 0:
                if before >= 0:
                    edges[before].append(writer << 2 | WW)
                before = writer
    reading = _Reading(nodes, node_of, histories, edges)
    for node, operation in enumerate(nodes):
        if operation.read is not None and operation.outcome is Outcome.OK:
            reading.read(node, operation)
    writers = {key: history.writers for key, history in histories.items()}
    whole = {key: history.elements for key, history in histories.items()}
    return Dependencies(nodes, whole, writers, edges, tuple(dict.fromkeys(reading.misreads)))


class _ListHistory:
    """One list as it was in the end, place by place."""

    __slots__ = ("aborted", "elements", "unfinished", "writers")

    def __init__(self, elements: Sequence[int], nodes: Sequence[Operation], node_of: Mapping[int, int]) -> None:
        # An element that is there twice is atomicity's to tell; no read that saw it twice is right.
        self.elements = list(dict.fromkeys(elements))
        self.writers = [node_of.get(writer_of(element), -1) for element in self.elements]
        # Places of elements that should not be there, and of those whose writer has a later one in this list.
        self.aborted = [
            p for p, writer in enumerate(self.writers) if writer >= 0 and not nodes[writer].may_be_committed
        ]
        self.unfinished: set[int] = set()
        if len(set(self.writers)) < len(self.writers):
            later: set[int] = set()
            for place in range(len(self.writers) - 1, -1, -1):
                writer = self.writers[place]
                if writer in later:
                    self.unfinished.add(place)
                elif writer >= 0:
                    later.add(writer)

    def misread(self, node: int, key: int, length: int) -> Misread | None:
        """What is wrong with having read the first `length` elements; None when nothing is."""
        if self.aborted and self.aborted[0] < length:
            return Misread(Anomaly.G1A, node, key, self.elements[self.aborted[0]])
        if length - 1 in self.unfinished and self.writers[length - 1] != node:
            return Misread(Anomaly.G1B, node, key, self.elements[length - 1])
        return None


_NEVER_OPENED: Final = _ListHistory((), (), {})


class _Reading:
    """Adds the edges of reads to a graph, and collects the reads that are wrong by themselves."""

    __slots__ = ("_edges", "_histories", "_node_of", "_nodes", "misreads")

    def __init__(
        self,
        nodes: Sequence[Operation],
        node_of: Mapping[int, int],
        histories: Mapping[int, _ListHistory],
        edges: list[list[int]],
    ) -> None:
        self._nodes = nodes
        self._node_of = node_of
        self._histories = histories
        self._edges = edges
        self.misreads: list[Misread] = []

    def read(self, node: int, operation: Operation) -> None:
        """All reads of one committed transaction, in the order of its steps."""
        level = level_of(operation)
        depends, anti_depends = level in COUNTS_READS, level in COUNTS_ANTI_DEPENDENCIES
        edges, histories = self._edges, self._histories
        mine = [what for _, what in operation.read if isinstance(what, int)]
        own: dict[int, list[int]] = {}
        for key, what in operation.read:
            if isinstance(what, int):
                own.setdefault(key, []).append(what)
                continue
            if mine and not _is_own_work(what, own.get(key, []), mine):
                self.misreads.append(Misread(Anomaly.INTERNAL, node, key))
                continue
            history = histories.get(key) or _NEVER_OPENED
            length = len(what)
            if history.elements[:length] != what:
                misread, length = self._compare(node, key, what, history)
            else:
                misread = history.misread(node, key, length)
            if misread is not None:
                self.misreads.append(misread)
                continue
            writers = history.writers
            # Of what nobody wrote that is known here it is known that it lies between: what is on its other side counts.
            last, following = length - 1, length
            while last >= 0 and writers[last] < 0:
                last -= 1
            if depends and last >= 0 and writers[last] != node:
                edges[writers[last]].append(node << 2 | WR)
            while following < len(writers) and writers[following] < 0:
                following += 1
            if anti_depends and following < len(writers) and writers[following] != node:
                edges[node].append(writers[following] << 2 | RW)

    def _compare(self, node: int, key: int, what: Sequence[int], history: _ListHistory) -> tuple[Misread | None, int]:
        """What is wrong with a read that is no beginning of the list as it was in the end, or the version it saw.

        Elements that are gone are left out: they were not committed, or durability tells of their loss.
        """
        there = set(history.elements)
        for element in what:
            if element not in there:
                writer = self._node_of.get(writer_of(element), -1)
                if writer < 0 or self._nodes[writer].outcome is not Outcome.OK:
                    return Misread(Anomaly.G1A, node, key, element), 0
        kept = [element for element in what if element in there]
        if history.elements[: len(kept)] != kept:
            return Misread(Anomaly.INCOMPATIBLE_ORDER, node, key), 0
        return history.misread(node, key, len(kept)), len(kept)


def _is_own_work(what: Sequence[int], own: list[int], mine: Sequence[int]) -> bool:
    """Whether a read ends with what its transaction had appended to the list, and has nothing else of `mine`."""
    return what[len(what) - len(own) :] == own and not any(element in what for element in mine if element not in own)
