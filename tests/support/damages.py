"""What a damage is, and tables of them: a name, the change of bytes, the kind and place that must be reported.

The tables are `damages_heap.py`, `damages_index.py` and `damages_cluster.py`, over the cluster of `damage.build`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from supervisor.engine.verify.corruption import Kind
from tests.support.damage import Files

Where = tuple[str, int | None, int | None]
"""File, block, offset."""
Plant = Callable[[Files], Where]


@dataclass(frozen=True, slots=True)
class Damage:
    """One way to damage a cluster: `plant` does it and says where it must be reported, as `kind`.

    `also` are the kinds of what follows from it elsewhere.
    """

    name: str
    kind: Kind
    also: frozenset[Kind]
    plant: Plant


class Table(list[Damage]):
    """Damages, each entered by decorating the function that plants it; its name is the damage's."""

    def of(self, kind: Kind, *also: Kind) -> Callable[[Plant], Plant]:
        def enter(plant: Plant) -> Plant:
            self.append(Damage(plant.__name__.replace("_", " "), kind, frozenset(also), plant))
            return plant

        return enter


def in_file(relation: int, block: int | None = None, offset: int | None = None) -> Where:
    return f"base/{relation}", block, offset
