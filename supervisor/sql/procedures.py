"""What `CALL` may call, known by shape alone.

A module that is preloaded by name offers `PROCEDURES`, and each of them has the attributes of `Procedure` below (or
it offers background workers alone, which is `supervisor.background_worker`'s business). The server imports no workload's types, and no workload imports the server: the value that says "this parameter
has no default" is therefore one that both can name without a shared module, the built-in Ellipsis.

`preload` checks a module's procedures once, before the postmaster forks anything: a procedure that names a type that
does not exist must not be found out by the first client that calls it.
"""

from __future__ import annotations

import importlib
import keyword
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from supervisor.errors import StartupError
from supervisor.host import Host
from supervisor.shmem.dynamic_workers import DynamicWorkers
from supervisor.sql.types import DataType, type_named

REQUIRED: Final = ...
"""The default of a parameter that has none."""


class TransactionalSession(Protocol):
    """What SQL needs of the session: whether a transaction is open, and to end it. Procedures know the rest."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction block is open, a failed one included."""
        ...

    def fail(self) -> None:
        """Undo whatever an error left behind, in a block or outside one; a block stays open and failed."""
        ...

    def rollback(self) -> None:
        """End the block and undo it; does nothing outside one."""
        ...


class Procedure(Protocol):
    """One procedure: `run(context, **values)` gives the rows of its result, or None when it has none.

    `parameters` are (name, type name, default or REQUIRED), `columns` are (name, type name); a procedure without
    columns gives no rows. An error that `run` raises with a `.sqlstate` ends the statement; any other ends the process.
    """

    @property
    def name(self) -> str:
        """The name, in lower case."""
        ...

    @property
    def parameters(self) -> tuple[tuple[str, str, Any], ...]:
        """What it takes, in the order of positional arguments."""
        ...

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """What its rows hold."""
        ...

    @property
    def run(self) -> Callable[..., Iterable[tuple[Any, ...]] | None]:
        """What it does."""
        ...


@dataclass(frozen=True, slots=True)
class ProcedureContext:
    """What a procedure is run with: the session, outside a transaction, and the process it runs in."""

    session: TransactionalSession
    host: Host
    history_directory: str | None
    pid: int
    procno: int
    report_activity: Callable[[str], None]
    workers: DynamicWorkers | None = None  # None: outside of a server


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter with its type looked up."""

    name: str
    type: DataType
    default: Any

    @property
    def required(self) -> bool:
        """Whether a call must give it."""
        return self.default is REQUIRED


def parameters_of(procedure: Procedure) -> tuple[Parameter, ...]:
    """A procedure's parameters with their types."""
    return tuple(Parameter(name, type_named(kind), default) for name, kind, default in procedure.parameters)


def preload(modules: Iterable[str]) -> dict[str, Procedure]:
    """Imports the modules and gives their procedures by name.

    Raises StartupError naming the module for one that cannot be imported, offers nothing, or offers a procedure that
    CALL could not run.
    """
    found: dict[str, Procedure] = {}
    for name in modules:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # importing runs the module's own code, which may raise anything
            raise StartupError(
                f'could not load library "{name}": {error}',
                hint="shared_preload_libraries names importable Python modules that define PROCEDURES, "
                "for instance workloads.bank.",
            ) from error
        offered = getattr(module, "PROCEDURES", ())
        if not (hasattr(module, "PROCEDURES") or hasattr(module, "BACKGROUND_WORKERS")):
            raise StartupError(
                f'library "{name}" offers no procedures and no background workers',
                hint="It must define PROCEDURES or BACKGROUND_WORKERS.",
            )
        for procedure in offered.values() if isinstance(offered, Mapping) else offered:
            _check(name, procedure)
            if procedure.name in found:
                raise StartupError(
                    f'procedure "{procedure.name}" of library "{name}" is already offered by another library'
                )
            found[procedure.name] = procedure
    return found


def _check(module: str, procedure: Procedure) -> None:
    names = [name for name, _, _ in procedure.parameters]
    bad = [name for name in names if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower()]
    if bad or len(set(names)) != len(names):
        raise StartupError(
            f'procedure "{procedure.name}" of library "{module}" has unusable parameter names: {", ".join(names)}'
        )
    kinds = [kind for _, kind, _ in procedure.parameters] + [kind for _, kind in procedure.columns]
    for kind in kinds:
        try:
            type_named(kind)
        except KeyError:
            raise StartupError(
                f'procedure "{procedure.name}" of library "{module}" names the unknown type "{kind}"'
            ) from None
