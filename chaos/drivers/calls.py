"""Workers inside the server: each is one `CALL` that runs a workload in a backend (see `chaos.driver`).

It needs a server that has the workloads' procedures preloaded: the built-in one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from chaos.driver import ConnectError, OutsideClient, connect, run_call, run_statement
from chaos.load import Load, probe_request
from chaos.people import setup_arguments
from chaos.plan import CyclePlan
from workloads.history import HistoryWriter
from workloads.session import Row
from workloads.workload import Workload

NOT_YET = "57P03"


class Calls:
    """The driver of the built-in server."""

    def __init__(self, conninfo: str, history_directory: Path, history: HistoryWriter) -> None:
        """`history` is this process's own, for what it sends itself."""
        self._conninfo = conninfo
        self._directory = history_directory
        self._history = history

    def set_up(self, workloads: Iterable[Workload], seed: int) -> None:
        """See `Driver.set_up`."""
        for workload in workloads:
            values = setup_arguments(workload.name, seed)
            texts = {name: msgspec.json.encode(value).decode() for name, value in values.items()}
            run_call(self._conninfo, f"{workload.name}_setup", texts)
        run_statement(self._conninfo, b"CHECKPOINT")

    def load(self, workload: Workload, plan: CyclePlan) -> Load:
        """See `Driver.load`."""
        return Load(self._conninfo, workload, plan, self._directory, self._history)

    def commit_one(self, workload: Workload, plan: CyclePlan, *, deadline_s: float) -> bool | None:
        """See `Driver.commit_one`."""
        deadline = time.monotonic() + deadline_s
        while True:
            try:
                connection = connect(self._conninfo)
                break
            except ConnectError as error:
                # Ready was the server's word; a connection refused now is part of the time to recover.
                if error.sqlstate != NOT_YET or time.monotonic() >= deadline:
                    raise
        client = OutsideClient(connection, workload.name, [probe_request(workload, plan)], self._history)
        try:
            while not client.done:
                client.read()
                if time.monotonic() >= deadline:
                    return None
        finally:
            client.close()
        return client.acknowledged > 0

    def observe(self, workload: Workload, after: int) -> list[Row]:
        """See `Driver.observe`."""
        rows = run_call(self._conninfo, f"{workload.name}_observe", {"after": after})
        return [tuple(_value(value) for value in row) for row in rows]

    def close(self) -> None:
        """It holds nothing between cycles."""


def _value(text: str | None) -> int | str | None:
    """A column of an observation: bigint or text, as the procedure's columns say."""
    if text is None:
        return None
    return int(text) if text.lstrip("-").isdigit() else text
