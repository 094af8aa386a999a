"""The oracle of isolation: transactions saw of each other what their levels allow.

A failure is a read that is wrong by itself (G1a, G1b, internal, incompatible order), or a knot of transactions
that depend on each other in a circle that is forbidden (G0, G1c, and for transactions at REPEATABLE READ lost
update, G-single, G-nonadjacent); of a knot the shortest cycle is told. `isolation_levels` has the table and the
rule for mixed levels. Its trials are the transactions that depend on another one or on which another depends.

It judges workloads that have lists. Nothing is held against a transaction whose outcome nobody knows: its reads are
not known, and it counts as committed only where an element of its own is found. Nor is what a transaction read
that was acknowledged within the loss window of asynchronous commit: the crash may have taken what it saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from msgspec import structs

from chaos.oracles.isolation_cycles import Cycle, forbidden_cycles
from chaos.oracles.isolation_dependencies import RW, WR, WW, Dependencies, Lists, Misread, depend, level_of
from chaos.oracles.isolation_levels import Anomaly
from chaos.oracles.ledger import Count, Ledger, Story, tell
from workloads.append import writer_of
from workloads.workload import Operation, cycle_of

NAME = "isolation"
TITLE = "transactions saw of each other what their isolation levels allow"

_SHOWN = 2
"""How many elements of a list a sentence shows: its last ones."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What is wrong with a history, and how many transactions it might have been wrong with."""

    dependencies: Dependencies
    misreads: Sequence[Misread]
    cycles: Sequence[Cycle]
    trials: int


def judge(ledger: Ledger) -> Count | None:
    """All transactions of one epoch, by its lists as they were in the end; None for a workload without lists."""
    lists: dict[int, Sequence[int]] = {}
    operations: dict[int, Operation] = {}
    for judgement in ledger.judgements:
        observed = ledger.workload.lists(judgement.observation)
        if observed is None:
            return None
        lists.update(observed)
        operations.update(judgement.operations)
    if ledger.losses.crashes:
        operations = {
            id_: structs.replace(operation, read=None) if ledger.losses.crash_of(operation) else operation
            for id_, operation in operations.items()
        }
    found = examine(operations.values(), lists)
    return tell(stories(found), found.trials)


def examine(operations: Iterable[Operation], lists: Lists) -> Isolation:
    """What these operations saw of each other, given the lists as they were in the end.

    Raises ValueError for an isolation level that the table has not.
    """
    dependencies = depend(operations, lists)
    cycles = [
        _turned(
            dependencies,
            replace(cycle, anomaly=Anomaly.LOST_UPDATE) if _is_lost_update(dependencies, cycle) else cycle,
        )
        for cycle in forbidden_cycles(dependencies.edges)
    ]
    misreads = dependencies.misreads
    concerned = {node for node, following in enumerate(dependencies.edges) if following}
    concerned.update(edge >> 2 for following in dependencies.edges for edge in following)
    concerned.update(misread.reader for misread in misreads)
    return Isolation(dependencies, misreads, cycles, max(len(concerned), len(misreads) + len(cycles)))


def _turned(dependencies: Dependencies, cycle: Cycle) -> Cycle:
    """The cycle from the transaction on that is misled, or else from the one that was invoked first."""
    if RW in cycle.kinds:
        at = cycle.kinds.index(RW)
    else:
        at = min(range(len(cycle.nodes)), key=lambda at: dependencies.operations[cycle.nodes[at]].invoked_ns)
    nodes, kinds = cycle.nodes, cycle.kinds
    return replace(cycle, nodes=nodes[at:] + nodes[:at], kinds=kinds[at:] + kinds[:at])


def stories(found: Isolation) -> Iterator[Story]:
    """Each failure, with what finds the lines that show it."""
    operations = found.dependencies.operations
    for misread in found.misreads:
        operation = operations[misread.reader]
        message = (
            f"{misread.anomaly}, {misread.anomaly.meaning}: operation {operation.operation} "
            f"({level_of(operation)}) in list {misread.key}"
        )
        evidence = partial(_misread_in_words, found.dependencies, misread)
        yield cycle_of(operation.operation), _end_of(operation), message, evidence
    for cycle in found.cycles:
        last = max((operations[node] for node in cycle.nodes), key=_end_of)
        names = ", ".join(f"T{at} is {operations[node].operation}" for at, node in enumerate(cycle.nodes, start=1))
        more = f"; {len(cycle.knot)} transactions are in the knot" if len(cycle.knot) > len(cycle.nodes) else ""
        message = f"{cycle.anomaly}, {cycle.anomaly.meaning}: {names}{more}"
        evidence = partial(_cycle_in_words, found.dependencies, cycle)
        yield cycle_of(last.operation), _end_of(last), message, evidence


def _end_of(operation: Operation) -> int:
    return operation.answered_ns or operation.invoked_ns


# Words.


def _misread_in_words(dependencies: Dependencies, misread: Misread) -> tuple[str, ...]:
    operations = dependencies.operations
    reader = operations[misread.reader]
    lines = [_introduce("T1", reader)]
    lines += [
        f"T1 read list {key} = {_show(what)}"
        for key, what in reader.read
        if key == misread.key and not isinstance(what, int)
    ]
    if misread.element is not None:
        writer = next((o for o in operations if o.operation == writer_of(misread.element)), None)
        known = _introduce("T2", writer) if writer else f"operation {writer_of(misread.element)} is in no history"
        lines += [f"element {misread.element} is of T2", known]
    mine = [f"T1 appended {what} to list {key}" for key, what in reader.read if isinstance(what, int)]
    ending = dependencies.lists.get(misread.key, ())
    return (*lines, *mine, f"in the end list {misread.key} = {_show(ending)}")


def _cycle_in_words(dependencies: Dependencies, cycle: Cycle) -> tuple[str, ...]:
    names = [f"T{number}" for number in range(1, len(cycle.nodes) + 1)]
    introductions = [
        _introduce(name, dependencies.operations[node]) for name, node in zip(names, cycle.nodes, strict=True)
    ]
    sentences = [
        _edge_in_words(
            dependencies, kind, (names[at], node), (names[at + 1 - len(names)], cycle.nodes[at + 1 - len(names)])
        )
        for at, (node, kind) in enumerate(zip(cycle.nodes, cycle.kinds, strict=True))
    ]
    # What happened first: who shows but a few lines of evidence has the names from the message.
    return (*sentences, f"so {names[0]} comes before itself", *introductions)


def _edge_in_words(dependencies: Dependencies, kind: int, first: tuple[str, int], then: tuple[str, int]) -> str:
    (earlier, node), (later, target) = first, then
    key, place = _witness(dependencies, kind, node, target)
    elements = dependencies.lists[key]
    if kind == WW:
        return f"{earlier} appended to list {key} before {later} appended {elements[place]} to it (ww)"
    if kind == WR:
        return f"{later} read list {key} with {elements[place]} in it, which {earlier} had appended (wr)"
    return f"{earlier} read list {key} = {_show(elements[:place])} before {later} appended {elements[place]} to it (rw)"


def _witness(dependencies: Dependencies, kind: int, node: int, target: int) -> tuple[int, int]:
    """Where an edge comes from: the list, and the place in it of an element that shows it.

    Of wr the place of the earlier transaction's element, else that of the later one's.
    """
    operations, lists = dependencies.operations, dependencies.lists
    if kind == WW:
        # Who was told ok has said to which lists it appended.
        keys = [key for key, what in operations[node].read or () if isinstance(what, int)]
        for key in keys or dependencies.writers:
            writers = dependencies.writers.get(key, ())
            known = [place for place, writer in enumerate(writers) if writer >= 0]
            for place, following in pairwise(known):
                if writers[place] == node and writers[following] == target:
                    return key, following
    reader = operations[target if kind == WR else node]
    wanted = node if kind == WR else target
    for key, what in reader.read:
        if not isinstance(what, int):
            writers = dependencies.writers.get(key, ())
            there = set(lists.get(key, ()))
            length = sum(element in there for element in what)
            step, place = (-1, length - 1) if kind == WR else (1, length)
            while 0 <= place < len(writers) and writers[place] < 0:
                place += step
            if 0 <= place < len(writers) and writers[place] == wanted:
                return key, place
    raise AssertionError(f"no list shows the edge from node {node} to node {target}")


def _is_lost_update(dependencies: Dependencies, cycle: Cycle) -> bool:
    """Whether a transaction wrote to a list that others had written to since it read it."""
    if RW not in cycle.kinds or WR in cycle.kinds:
        return False
    following = (*cycle.nodes[1:], cycle.nodes[0])
    edges = zip(cycle.kinds, cycle.nodes, following, strict=True)
    return len({_witness(dependencies, kind, node, target)[0] for kind, node, target in edges}) == 1


def _introduce(name: str, operation: Operation) -> str:
    told = operation.outcome.value if operation.answered_ns is not None else "nothing"
    return (
        f"t={operation.invoked_ns} process {operation.pid}, worker {operation.worker}: {name} is {operation.kind} "
        f"{operation.operation} ({level_of(operation)}), told {told}"
    )


def _show(elements: Sequence[int]) -> str:
    shown = ", ".join(map(str, elements[-_SHOWN:]))
    return f"[... {shown}] ({len(elements)} elements)" if len(elements) > _SHOWN else f"[{shown}]"
