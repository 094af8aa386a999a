"""A second checker of isolation, written from the definitions and not from the first: sets of pairs and their closure.

Shares no code with the oracle. It takes every pair of transactions and every read by itself, and is as slow as that.
Where the two disagree, one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from workloads.workload import Operation

Pairs = set[tuple[int, int]]


@dataclass(frozen=True)
class Findings:
    """By operation id: what is wrong with its reads; who is caught in a cycle of each kind."""

    misread: Mapping[int, frozenset[str]]
    overwrote_in_a_circle: frozenset[int]
    depend_in_a_circle: frozenset[int]
    snapshots_in_a_circle: frozenset[int]


def check(operations: Iterable[Operation], lists: Mapping[int, Sequence[int]]) -> Findings:
    """Operations, and the lists as they were in the end."""
    known = {operation.operation: operation for operation in operations}
    finals = {key: list(dict.fromkeys(elements)) for key, elements in lists.items()}
    orders = {key: [e for e in final if e // 4 in known] for key, final in finals.items()}
    ww: Pairs = {(order[i] // 4, order[i + 1] // 4) for order in orders.values() for i in range(len(order) - 1)}
    wr: Pairs = set()
    rw: Pairs = set()
    misread: dict[int, frozenset[str]] = {}
    for operation in known.values():
        if operation.outcome.value != "ok":
            continue
        me = operation.operation
        for step, (key, read) in enumerate(operation.read):
            if isinstance(read, int):
                continue
            own = [e for k, e in operation.read[:step] if k == key and isinstance(e, int)]
            wrong = _wrong(known, me, own, read, finals.get(key, []))
            if wrong:
                misread[me] = misread.get(me, frozenset()) | wrong
                continue
            order = orders.get(key, [])
            seen = [e for e in read if e in order]
            if seen:
                wr.add((seen[-1] // 4, me))
            later = [e for e in order if e not in seen]
            if later and operation.values["isolation"] == "repeatable read":
                rw.add((me, later[0] // 4))
    direct = _proper(ww) | _proper(wr)
    skipping = direct | {(a, d) for a, b in direct for c, d in _proper(rw) if b == c}
    return Findings(misread, _circular(_proper(ww)), _circular(direct), _circular(skipping))


def _wrong(
    known: Mapping[int, Operation], me: int, own: list[int], read: list[int], final: list[int]
) -> frozenset[str]:
    def committed(element: int) -> bool:
        writer = known.get(element // 4)
        if writer is not None and writer.outcome.value == "unknown":
            return element in final and writer.kind != "rollback"
        # Of an element in the list that nobody here wrote all is known that must be: it is older.
        return element in final if writer is None else writer.outcome.value == "ok"

    names = set()
    if {e for e in read if e // 4 == me} != set(own) or read[len(read) - len(own) :] != own:
        names.add("internal")
    if not all(committed(e) for e in read):
        names.add("G1a")
    seen = [e for e in read if e in final]
    if final[: len(seen)] != seen:
        names.add("incompatible order")
    last = seen[-1] // 4 if seen else me
    if last != me and last in known and any(e // 4 == last for e in final[len(seen) :] if e not in seen):
        names.add("G1b")
    return frozenset(names)


def _proper(pairs: Pairs) -> Pairs:
    return {(a, b) for a, b in pairs if a != b}


def _circular(pairs: Pairs) -> frozenset[int]:
    """Who comes before himself in the closure of a relation."""
    closure = set(pairs)
    while more := {(a, d) for a, b in closure for c, d in pairs if b == c} - closure:
        closure |= more
    return frozenset(a for a, b in closure if a == b)
