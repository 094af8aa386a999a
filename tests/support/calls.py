"""What a backend gives a procedure, over a database in memory; and `CALL` as the server does it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.memory_session import Clock, MemorySession
from workloads.history import parse_records, read_history
from workloads.procedure import REQUIRED, Procedure
from workloads.workload import Operation


class Host(Clock):
    random = random.Random(0)


class Context:
    """The context of one call."""

    def __init__(self, session: MemorySession, history_directory: Path | None = None) -> None:
        self.session = session
        self.host = Host(session.database)
        self.history_directory = str(history_directory) if history_directory else None
        self.pid = 4711


def call(procedures: Iterable[Procedure], context: Context, name: str, **values: Any) -> list[tuple[Any, ...]]:
    """CALL with the defaults filled in."""
    (procedure,) = (known for known in procedures if known.name == name)
    filled = {parameter: values.get(parameter, default) for parameter, _, default in procedure.parameters}
    assert REQUIRED not in filled.values()
    return list(procedure.run(context, **filled) or ())


def operations_of(directory: Path) -> dict[int, Operation]:
    """What the histories in a directory tell."""
    history = read_history([parse_records(path.read_bytes())[0] for path in sorted(directory.iterdir())])
    assert history.contradictions == ()
    return dict(history.operations)
