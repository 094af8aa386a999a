"""Cycles in a dependency graph: which knots of transactions there are, and the shortest cycle in each.

Owns the search, and knows of isolation only which kinds of edges a cycle may have. Graphs are adjacencies of
ints, `target << 2 | kind`, as `isolation_dependencies` makes them. Nothing here recurses: a knot may hold every
transaction of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from chaos.oracles.isolation_dependencies import RW, WW
from chaos.oracles.isolation_levels import Anomaly

Edges = Sequence[Sequence[int]]
STARTS_MAX = 1000
"""From how many transactions of one knot the shortest cycle is looked for: beyond, it may be a longer one."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """A cycle as it is told: `nodes[i]` comes before `nodes[i + 1]` by an edge of `kinds[i]`, the last before the first.

    `knot` are all nodes that are caught in such cycles with each other.
    """

    anomaly: Anomaly
    nodes: tuple[int, ...]
    kinds: tuple[int, ...]
    knot: frozenset[int]


def components(edges: Edges) -> list[list[int]]:
    """The strongly connected components of more than one node (Tarjan 1972, with a stack of its own)."""
    number = [0] * len(edges)  # 0: not visited yet
    low = [0] * len(edges)
    stacked = bytearray(len(edges))
    stack: list[int] = []
    found: list[list[int]] = []
    count = 0
    for root in range(len(edges)):
        if number[root]:
            continue
        count += 1
        number[root] = low[root] = count
        stack.append(root)
        stacked[root] = 1
        work = [(root, iter(edges[root]))]
        while work:
            node, rest = work[-1]
            for edge in rest:
                target = edge >> 2
                if not number[target]:
                    count += 1
                    number[target] = low[target] = count
                    stack.append(target)
                    stacked[target] = 1
                    work.append((target, iter(edges[target])))
                    break
                if stacked[target] and number[target] < low[node]:
                    low[node] = number[target]
            else:
                work.pop()
                if work and low[node] < low[work[-1][0]]:
                    low[work[-1][0]] = low[node]
                if low[node] == number[node]:
                    at = len(stack) - 1
                    while stack[at] != node:
                        at -= 1
                    members = stack[at:]
                    del stack[at:]
                    for member in members:
                        stacked[member] = 0
                    if len(members) > 1:
                        found.append(members)
    return found


def forbidden_cycles(edges: Edges) -> list[Cycle]:
    """One cycle for each knot that no level allows, given the dependencies that count at the levels asked for.

    Without anti-dependencies any cycle is forbidden: G0 if it can be made of write dependencies alone, else G1c.
    With them, a cycle in which no two follow each other. A knot of the second kind is told only if it holds none
    of the first: it would be told twice.
    """
    return [cycle for knot in components(edges) for cycle in _in_knot(edges, knot)]


def _in_knot(edges: Edges, knot: Sequence[int]) -> list[Cycle]:
    inside = _restrict(edges, knot, lambda kind: kind != RW)
    caught = [[knot[node] for node in component] for component in components(inside)]
    found = [_without_anti_dependencies(edges, component) for component in caught]
    taken = {node for component in caught for node in component}
    # Two states for each node: reached by an anti-dependency (odd) or not. From the first none goes on.
    doubled: list[list[int]] = []
    for from_node in _restrict(edges, knot, lambda _: True):
        every = [(edge >> 2) * 2 + (edge & 3 == RW) << 2 | edge & 3 for edge in from_node]
        doubled += [every, [edge for edge in every if edge & 3 != RW]]
    for component in components(doubled):
        members = frozenset(knot[state >> 1] for state in component)
        if not members & taken:
            states, kinds = _shortest(_restrict(doubled, component, lambda _: True), _evens(component))
            nodes = tuple(knot[component[state] >> 1] for state in states)
            found.append(Cycle(_name(kinds), nodes, kinds, members))
    return found


def _without_anti_dependencies(edges: Edges, component: Sequence[int]) -> Cycle:
    writes = _restrict(edges, component, lambda kind: kind == WW)
    circular = components(writes)
    anomaly = Anomaly.G0 if circular else Anomaly.G1C
    graph = writes if circular else _restrict(edges, component, lambda kind: kind != RW)
    starts = [node for members in circular for node in members] if circular else range(len(component))
    nodes, kinds = _shortest(graph, starts)
    return Cycle(anomaly, tuple(component[node] for node in nodes), kinds, frozenset(component))


def _name(kinds: Sequence[int]) -> Anomaly:
    """G-single with one anti-dependency, G-nonadjacent with more."""
    return Anomaly.G_SINGLE if sum(kind == RW for kind in kinds) == 1 else Anomaly.G_NONADJACENT


def _evens(component: Sequence[int]) -> list[int]:
    """Where in a component of doubled states those are that no anti-dependency led to: each cycle has one."""
    return [at for at, state in enumerate(component) if not state & 1]


def _restrict(edges: Edges, nodes: Sequence[int], wanted: Callable[[int], bool]) -> list[list[int]]:
    """The graph among some nodes, renumbered by their places, with the kinds of edges that are wanted."""
    place = {node: at for at, node in enumerate(nodes)}
    return [
        [place[edge >> 2] << 2 | edge & 3 for edge in edges[node] if edge >> 2 in place and wanted(edge & 3)]
        for node in nodes
    ]


def _shortest(edges: Edges, starts: Iterable[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The nodes and kinds of the shortest cycle through one of some nodes, the first of several; there is one."""
    best: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    for start in sorted(starts)[:STARTS_MAX]:
        found = _cycle_through(edges, start, len(best[0]) or len(edges) + 1)
        if found is not None:
            best = found
    return best


def _cycle_through(edges: Edges, start: int, limit: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The shortest cycle through a node, by breadth-first search; None if it has not fewer than `limit` nodes."""
    came: dict[int, tuple[int, int]] = {}
    level, length = [start], 1
    while level and length < limit:
        reached: list[int] = []
        for node in level:
            for edge in edges[node]:
                target = edge >> 2
                if target == start:
                    nodes, kinds = [node], [edge & 3]
                    while nodes[-1] != start:
                        before, kind = came[nodes[-1]]
                        nodes.append(before)
                        kinds.append(kind)
                    return tuple(reversed(nodes)), tuple(reversed(kinds))
                if target not in came:
                    came[target] = (node, edge & 3)
                    reached.append(target)
        level, length = reached, length + 1
    return None
