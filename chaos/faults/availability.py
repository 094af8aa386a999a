"""Whether a fault can be done to a target of a kind, on this machine; and what a list of names on a command line means.

Owns the looking: the registry says what a fault needs, and here it is tried.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chaos.errors import PlanError
from chaos.faults import cgroup
from chaos.faults.fault import Fault, Need
from chaos.faults.registry import FAULTS

ALL: Final = "all"
WITH_POINTS: Final = frozenset({"builtin"})
"""The kinds of target whose server has named points."""


def unavailable(fault: Fault, target: str) -> str | None:
    """Why a fault cannot be done to a target of this kind here, with the remedy; None when it can."""
    for need in fault.needs:
        match need:
            case Need.POINTS if target not in WITH_POINTS:
                return f"the target {target} has no named points; use --target {', '.join(sorted(WITH_POINTS))}"
            case Need.MEMORY_CGROUP:
                why = cgroup.unavailable()
                if why is not None:
                    return why
            case _:
                continue
    return None


def select(names: Iterable[str], target: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The faults that a list of names means, and a line for each that `all` leaves out because it cannot be done.

    Raises PlanError for a name that there is not, and for one that is named and cannot be done.
    """
    chosen: dict[str, None] = {}
    left_out: list[str] = []
    for name in names:
        if name == ALL:
            for fault in FAULTS.values():
                why = unavailable(fault, target)
                if why is None:
                    chosen[fault.name] = None
                else:
                    left_out.append(f"without {fault.name}: {why}")
            continue
        if name not in FAULTS:
            raise PlanError(f"there is no fault '{name}'; there are {', '.join(FAULTS)}, and {ALL} for each of them")
        why = unavailable(FAULTS[name], target)
        if why is not None:
            raise PlanError(f"the fault {name} cannot be done here: {why}")
        chosen[name] = None
    return tuple(chosen), tuple(left_out)
