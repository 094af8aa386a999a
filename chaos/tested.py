"""What a run tests, put together from its order: a target, the points it has, and the driver that reaches it.

Owns which driver and which settings go with which target. One table entry a kind (`SERVERS`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import supervisor
from chaos.drivers.calls import Calls
from chaos.drivers.clients import Clients
from chaos.drivers.driver import Driver
from chaos.order import Order
from chaos.plan import WAL_WRITER_DELAY_MS, CampaignPlan
from chaos.targets.builtin import CODE_ROOT, BuiltinTarget
from chaos.targets.choice import TargetChoice, TargetKind
from chaos.targets.postgres import PostgresTarget
from chaos.targets.postgres_programs import find_programs
from chaos.targets.target import Target
from reports.rundir import RunDirectory
from supervisor.points import PointMap
from workloads.history import HistoryWriter
from workloads.registry import MODULES

OTHER_CONNECTIONS: Final = 8
"""Of the harness's own, and those that a server reserves."""
BACKGROUND_WORKER: Final = "supervisor.examples.heartbeat"
"""Preloaded beside the workloads, so that a background worker is among the victims."""


@dataclass(frozen=True, slots=True)
class TestedServer:
    """A target with all that a campaign needs to reach it; `close` it. `points` is None where it has none."""

    __test__ = False  # no test, whatever its name begins with

    target: Target
    points: PointMap | None
    driver: Callable[[HistoryWriter], Driver]

    def close(self) -> None:
        """End the server, and let go of the map of points."""
        self.target.close()
        if self.points is not None:
            self.points.close()


def tested_versions(choice: TargetChoice) -> dict[str, str]:
    """The version of what is to be tested, before it runs. Raises TargetError when there is none of it here."""
    if choice.kind is TargetKind.POSTGRES:
        return {"server": f"PostgreSQL {find_programs(_bindir(choice)).version}"}
    return {"server": supervisor.SERVER_VERSION} if choice.kind is TargetKind.BUILTIN else {}


def tested_server(run: RunDirectory, order: Order, plan: CampaignPlan, code: Path | None) -> TestedServer:
    """The server of an order and its plan; `code` is a copy of the built-in one's, with a defect. Raises TargetError."""
    return SERVERS[order.target.kind](run, order.target, plan, code)


def _builtin(run: RunDirectory, choice: TargetChoice, plan: CampaignPlan, code: Path | None) -> TestedServer:
    options = {
        **_common_settings(plan),
        "shared_preload_libraries": ",".join((*(MODULES[name] for name in plan.workloads), BACKGROUND_WORKER)),
        "crashbed.run_name": run.path.name,
        "crashbed.history_directory": str(run.history.absolute()),
        "crashbed.points_map": str(run.points_map.absolute()),
    }
    # One that was made already has the coverage of earlier sittings.
    points = PointMap(run.points_map, create=not run.points_map.exists())
    target = BuiltinTarget(
        run.pgdata.absolute(), options=options, log=run.server_log.absolute(), journal=run.server_events.absolute(),
        code=code,
    )  # fmt: skip
    return TestedServer(target, points, lambda history: Calls(target.conninfo, run.history, history))


def _postgres(run: RunDirectory, choice: TargetChoice, plan: CampaignPlan, code: Path | None) -> TestedServer:
    target = PostgresTarget(
        run.pgdata.absolute(),
        programs=find_programs(_bindir(choice)),
        options={**_common_settings(plan), **choice.settings},
        log=run.server_log.absolute(),
    )
    return TestedServer(target, None, lambda history: Clients(target.conninfo, run.history, history, CODE_ROOT))


SERVERS: Final[Mapping[TargetKind, Callable[[RunDirectory, TargetChoice, CampaignPlan, Path | None], TestedServer]]] = {
    TargetKind.BUILTIN: _builtin,
    TargetKind.POSTGRES: _postgres,
}


def _common_settings(plan: CampaignPlan) -> dict[str, str]:
    settings = {"max_connections": str(plan.backends + OTHER_CONNECTIONS)}
    if not plan.synchronous_commit:
        settings |= {"synchronous_commit": "off", "wal_writer_delay": f"{WAL_WRITER_DELAY_MS}ms"}
    return settings


def _bindir(choice: TargetChoice) -> Path | None:
    return None if choice.pg_bindir is None else Path(choice.pg_bindir)
