"""The smallest durable transaction of the built-in server: one row counted up. Preloaded by the measured server.

It is what `UPDATE bench SET value = value + 1 WHERE id = 1 RETURNING value` is on PostgreSQL: one key looked up, one
row changed, one commit record flushed, the new value answered.
"""

from __future__ import annotations

from collections.abc import Iterable

from workloads.procedure import Context, Procedure
from workloads.session import Row

TABLE = "bench"


def _run_setup(context: Context) -> None:
    session = context.session
    session.create_table(TABLE, columns=[("id", "integer"), ("value", "bigint")], primary_key="id")
    session.insert(TABLE, (1, 0))


def _run_touch(context: Context) -> Iterable[Row]:
    session = context.session
    session.begin()
    row = session.get(TABLE, 1, for_update=True)
    assert row is not None
    session.update(TABLE, 1, (1, row[1] + 1))
    session.commit()
    return [(row[1] + 1,)]


PROCEDURES = (
    Procedure("bench_setup", (), (), _run_setup),
    Procedure("bench_touch", (), (("value", "bigint"),), _run_touch),
)
