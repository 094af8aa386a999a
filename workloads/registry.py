"""The workloads there are, by the name that `--workload` takes; what `crashbed run` and the judge look up.

Owns the entry point group `crashbed.workloads`, in which a distribution offers a workload: the entry's name is the
workload's, its value is the module that a server preloads. That module holds `WORKLOAD`, a `Workload` of the entry's
name, and `PROCEDURES`, which run it inside a server (`workloads.calls.procedures` makes them).

A module is imported when its workload is asked for and not before: one that is broken is no trouble to a campaign of
another. The built-in entries stand here and not in the metadata of the distribution, so that a checkout that nobody
installed has them too; for the rest they are entries like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Final

from workloads.workload import Workload

GROUP: Final = "crashbed.workloads"
BUILT_IN: Final = tuple(
    EntryPoint(name, f"workloads.{name}", GROUP) for name in ("bank", "append", "tpcb", "customers")
)


class WorkloadUnavailable(KeyError):
    """A workload that cannot be had; the message says why, and who can mend it."""

    def __str__(self) -> str:
        return str(self.args[0])


class Registry(Mapping[str, Workload]):
    """Workloads by name, each imported when it is first looked up.

    A look-up raises WorkloadUnavailable: nobody or more than one distribution offers the name, the module cannot be
    imported, or it is no workload's.
    """

    def __init__(self, entries: Iterable[EntryPoint]) -> None:
        self._entries: dict[str, list[EntryPoint]] = {}
        self._found: dict[str, Workload] = {}
        for entry in entries:
            self._entries.setdefault(entry.name, []).append(entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        """Whether somebody offers it, usable or not."""
        return name in self._entries

    def __getitem__(self, name: str) -> Workload:
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = _workload(self.entry(name))
        return found

    def entry(self, name: str) -> EntryPoint:
        """The one entry that offers a workload. Raises WorkloadUnavailable."""
        offers = self._entries.get(name)
        if offers is None:
            raise WorkloadUnavailable(
                f"there is no workload '{name}'; there are {', '.join(self._entries)}. If a distribution offers it "
                f"(entry point group {GROUP}), install that beside crashbed"
            )
        if len(offers) > 1:
            raise WorkloadUnavailable(
                f"the workload name '{name}' is taken: {' and '.join(map(_who, offers))} offer it; "
                "uninstall one of them, or have its entry point renamed"
            )
        return offers[0]


class Modules(Mapping[str, str]):
    """The module that a server preloads for each workload, by the workload's name; look-ups raise as in `Registry`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry)

    def __len__(self) -> int:
        return len(self._registry)

    def __getitem__(self, name: str) -> str:
        return self._registry.entry(name).module


def _workload(entry: EntryPoint) -> Workload:
    """The workload of an entry's module, looked over. Raises WorkloadUnavailable."""

    def refuse(why: str) -> WorkloadUnavailable:
        return WorkloadUnavailable(f"the workload '{entry.name}' of {_who(entry)} cannot be used: {why}")

    if entry.attr:
        raise refuse(f"its entry point must name a module alone, without ':{entry.attr}'")
    try:
        module = import_module(entry.module)
    except Exception as error:  # importing runs the module's own code, which may raise anything
        raise refuse(f"its module cannot be imported: {type(error).__name__}: {error}") from error
    workload = getattr(module, "WORKLOAD", None)
    if workload is None:
        raise refuse("its module has no WORKLOAD")
    if getattr(workload, "name", None) != entry.name:
        raise refuse(f"its WORKLOAD has the name {getattr(workload, 'name', None)!r} instead of the entry point's")
    missing = sorted({f"{entry.name}_setup", entry.name, f"{entry.name}_observe"} - _procedures_of(module))
    if missing:
        raise refuse(f"its module has no procedure {', '.join(missing)} in PROCEDURES")
    return workload  # type: ignore[no-any-return]


def _procedures_of(module: ModuleType) -> set[str]:
    return {procedure.name for procedure in getattr(module, "PROCEDURES", ())}


def _who(entry: EntryPoint) -> str:
    if entry in BUILT_IN:
        return f"crashbed itself ({entry.value})"
    return f"{entry.dist.name if entry.dist else 'a distribution'} ({entry.value})"


WORKLOADS: Final = Registry((*BUILT_IN, *entry_points(group=GROUP)))
MODULES: Final = Modules(WORKLOADS)
