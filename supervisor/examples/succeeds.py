"""A background worker that succeeds: it adds a row in a transaction and exits 0, which is the end of it for good.

Try it: `crashbed serve` with `shared_preload_libraries = 'supervisor.examples.succeeds'`. The table keeps one row for
each life, so after a restart of the server, and only then, it has one more.
"""

from __future__ import annotations

from supervisor.background_worker import BackgroundWorker
from supervisor.errors import DUPLICATE_TABLE, ServerError
from supervisor.processes.bgworker import WorkerContext

TABLE = "example_succeeds"


def main(context: WorkerContext) -> None:
    """One transaction."""
    session = context.session
    if session is None:
        raise AssertionError("registered with a database connection")
    try:
        session.create_table(TABLE, [("life", "bigint"), ("pid", "bigint")], primary_key="life")
    except ServerError as error:
        if error.sqlstate != DUPLICATE_TABLE:
            raise
    session.begin()
    lives = sum(1 for _ in session.scan(TABLE))
    session.insert(TABLE, (lives + 1, context.pid))
    session.commit()
    context.log(f"{context.name}: life {lives + 1} is recorded")


BACKGROUND_WORKERS = (BackgroundWorker(name="succeeds", library=__name__, function="main", restart_time_s=1),)
