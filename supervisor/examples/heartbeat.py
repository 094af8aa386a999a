"""A background worker that lives: it counts its beats in a table, so it keeps writing WAL as long as the server is up.

Campaigns preload it, so that a background worker is among the victims. Its restart interval is a minute: whoever kills
it sees it come back at once all the same, for a crash is not waited for; told to go by SIGTERM it stays away that long.
"""

from __future__ import annotations

from typing import cast

from supervisor.background_worker import BackgroundWorker
from supervisor.errors import DUPLICATE_TABLE, ServerError
from supervisor.processes.bgworker import WorkerContext

TABLE = "example_heartbeat"
PAUSE_S = 0.05


def main(context: WorkerContext) -> None:
    """Beat until somebody ends it; SIGTERM raises out of the wait."""
    session = context.session
    if session is None:
        raise AssertionError("registered with a database connection")
    context.wait(PAUSE_S)  # those who recover, and the first clients, want the processor
    try:
        session.create_table(TABLE, [("id", "integer"), ("beats", "bigint")], primary_key="id")
    except ServerError as error:
        if error.sqlstate != DUPLICATE_TABLE:
            raise
    while True:
        session.begin()
        row = session.get(TABLE, 1, for_update=True)
        if row is None:
            session.insert(TABLE, (1, 1))
        else:
            session.update(TABLE, 1, (1, cast(int, row[1]) + 1))
        session.commit()
        context.wait(PAUSE_S)


BACKGROUND_WORKERS = (BackgroundWorker(name="heartbeat", library=__name__, function="main"),)
