"""What `CALL` needs to know of a procedure.

Owns the shape of a procedure that a workload offers to the server's `CALL name(parameter => value, ...)`.
The server knows it structurally and imports nothing from here; `REQUIRED` is therefore a value that both
sides can name without sharing a module, the built-in Ellipsis.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Final, Protocol

from workloads.session import Row, Session

REQUIRED: Final[EllipsisType] = ...
"""The default of a parameter that has none: CALL refuses to run without a value."""

Parameter = tuple[str, str, Any]
"""Name, type name (bool, integer, bigint, double precision, text, bytea, numeric,
timestamptz), default or REQUIRED."""


class Host(Protocol):
    """What a procedure may ask of the process it runs in."""

    random: random.Random

    def now_ns(self) -> int:
        """CLOCK_MONOTONIC in nanoseconds."""
        ...

    def check_interrupts(self) -> None:
        """Raise what a pending signal asks for: cancellation, the session's end."""
        ...


class Context(Protocol):
    """What a procedure is run with."""

    @property
    def session(self) -> Session:
        """The backend's session, outside a transaction."""
        ...

    @property
    def host(self) -> Host:
        """The process."""
        ...

    @property
    def history_directory(self) -> str | None:
        """Where histories are written; None when the server was not given a place."""
        ...

    @property
    def pid(self) -> int:
        """The process id, as the kernel's account has it."""
        ...


@dataclass(frozen=True, slots=True)
class Procedure:
    """One procedure: `run(context, **values)` gives the rows of its result, or None when it has none.

    An error that it raises with a `.sqlstate` is the statement's error; any other is a failure of the process.
    """

    name: str
    parameters: tuple[Parameter, ...]
    columns: tuple[tuple[str, str], ...]
    run: Callable[..., Iterable[Row] | None]
