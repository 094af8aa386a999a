"""The three procedures that a workload offers to `CALL`, whichever workload it is: set up, run requests, observe.

Owns their parameters and ranges, the history file of a call, and the form of its answer. A workload's `PROCEDURES`
are what `procedures(...)` makes of it. What it was set up with is one row of the table that has its name, so that a
call finds the same workload again, and a row lost elsewhere changes nobody's requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from workloads.history import HistoryWriter
from workloads.procedure import REQUIRED, Context, Parameter, Procedure
from workloads.session import INVALID_PARAMETER_VALUE, NO_DATA_FOUND, Row, Session, WorkloadError
from workloads.worker import Tally, run_requests, run_unrecorded
from workloads.workload import EVERYTHING, OPERATIONS_PER_WORKER, WORKERS, Request, Workload

READ_COLUMN: Final = "read"
"""The column of the answer that tells, as JSON, what the one request of a client outside has read."""


def procedures(
    name: str,
    make: Callable[..., Workload],
    settings: tuple[Parameter, ...],
    observed: tuple[tuple[str, str], ...],
    *,
    tells_reads: bool = False,
) -> tuple[Procedure, ...]:
    """`name_setup(settings)`, `name(...)` as in `load`, and `name_observe(after)` with the columns `observed`.

    `make` makes the workload of its settings, in the order of their names in `settings`, which is also that of the
    columns behind the key of the row that `setup` leaves.
    """

    def of(session: Session) -> Workload:
        row = session.get(name, 1)
        if row is None:
            raise WorkloadError(f"no {name} was set up here: CALL {name}_setup()", sqlstate=NO_DATA_FOUND)
        return make(*row[1:])

    def set_up(context: Context, **values: Any) -> None:
        make(*(values[setting] for setting, _, _ in settings)).setup(context.session)

    def observe(context: Context, *, after: int) -> Iterator[Row]:
        return of(context.session).observe(context.session, after)

    return (
        Procedure(f"{name}_setup", settings, (), set_up),
        load(name, of, tells_reads=tells_reads),
        Procedure(f"{name}_observe", (("after", "bigint", EVERYTHING),), observed, observe),
    )


def load(name: str, of: Callable[[Session], Workload], *, tells_reads: bool = False) -> Procedure:
    """The procedure `name(worker, first, transactions, seed, history)` of the workload that `of` finds.

    With `history => false` it performs one request, and its end is that request's acknowledgement. `tells_reads`
    adds the column `read` to the answer.
    """

    def run(context: Context, *, worker: int, first: int, transactions: int, seed: int, history: bool) -> Iterable[Row]:
        require("worker", worker, 0, WORKERS - 1)
        require("transactions", transactions, 1, OPERATIONS_PER_WORKER)
        require("first", first, 0, (1 << 63) - 1 - transactions)
        if not history and transactions != 1:
            raise WorkloadError(
                "history => false needs transactions => 1: the statement's end acknowledges one operation",
                sqlstate=INVALID_PARAMETER_VALUE,
            )
        workload = of(context.session)
        requests = workload.requests(worker, first, transactions, seed)
        if history:
            tally, read = _run_recorded(context, workload, requests), None
        else:
            tally, read = Tally(1, 0), run_unrecorded(workload.perform, context.session, next(requests))
        if not tells_reads:
            return [tally]
        return [(*tally, None if read is None else msgspec.json.encode(read).decode())]

    columns = (("committed", "bigint"), ("failed", "bigint"))
    return Procedure(
        name,
        (
            ("worker", "integer", REQUIRED),
            ("first", "bigint", REQUIRED),
            ("transactions", "integer", REQUIRED),
            ("seed", "bigint", REQUIRED),
            ("history", "bool", True),
        ),
        (*columns, (READ_COLUMN, "text")) if tells_reads else columns,
        run,
    )


def require(name: str, value: int, least: int, most: int) -> None:
    """Raises WorkloadError 22023 for a parameter out of its range."""
    if not least <= value <= most:
        raise WorkloadError(
            f"{name} is {value}, outside the valid range ({least} .. {most})", sqlstate=INVALID_PARAMETER_VALUE
        )


def _run_recorded(context: Context, workload: Workload, requests: Iterator[Request]) -> Tally:
    directory = context.history_directory
    if directory is None:
        raise WorkloadError(
            "history => true needs a place for it: set crashbed.history_directory", sqlstate=INVALID_PARAMETER_VALUE
        )
    writer = HistoryWriter(directory, context.pid, context.host.now_ns)
    try:
        return run_requests(workload.perform, context.session, requests, writer, context.host.check_interrupts)
    finally:
        writer.close()
