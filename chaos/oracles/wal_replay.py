"""The oracle of WAL replay: recovery really replayed what the crash left only in the WAL.

A SIGKILL empties no disk, but the reset throws the buffers away: what was committed since the last checkpoint
is in the WAL and, but for pages written back early, nowhere else. So a recovery after acknowledged commits
must have read records, and in a verified cycle must have changed pages that were older than them. Redo that
did nothing would go unnoticed by the oracles of data if every page had happened to be written back.

The account of redo is the server's own journal, a claim. It is judged for what it admits; the operations are
judged from the history.

What counts as needing redo is chosen so that a healthy server cannot fail: only operations invoked after the
last checkpoint had ended, and none at all when a later checkpoint had begun, for its redo point may lie after
them. That pages changed is asked only where at least 20 such operations were acknowledged and another was
under way: workers that write without pause keep changing pages after the background writer has been round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from chaos.oracles.ledger import Count, tell
from workloads.history import History
from workloads.workload import READ_KIND, Operation, Outcome, cycle_of

NAME = "wal_replay"
TITLE = "redo really replayed the WAL"

ENOUGH_COMMITS = 20
"""Acknowledged operations since the checkpoint from which on redo must have changed pages."""

EVENTS = frozenset({"redo_begin", "redo_end", "ready", "checkpoint_begin", "checkpoint_end"})
"""The records of the server's journal that this oracle reads."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Redo:
    """One redo that the server's journal says was completed. LSNs are byte positions."""

    begin_lsn: int
    end_lsn: int
    records: int
    pages_changed: int
    end_reason: str = ""


@dataclass(frozen=True, slots=True)
class Recovery:
    """One crash cycle as this oracle sees it; `t` is when its recovery began (CLOCK_MONOTONIC ns).

    `commits` counts the acknowledged operations that certainly were written after the redo point;
    `greatest_lsn` is the greatest LSN among their acknowledgements, where the history carries LSNs.
    `redo` holds every redo completed before the server was ready; `cut_short` says that one before them was not:
    what it changed may have been written back, and the next one then finds nothing older.
    """

    cycle: int
    t: int
    commits: int
    in_flight: int
    redo: tuple[Redo, ...]
    greatest_lsn: int | None = None
    cut_short: bool = False


def judge(recoveries: Iterable[Recovery]) -> Count:
    """Every recovery in which redo had something to do that it can be held to."""
    trials = [recovery for recovery in recoveries if _is_trial(recovery)]
    return tell(
        (
            (recovery.cycle, recovery.t, message, partial(_evidence, recovery))
            for recovery in trials
            if (message := _broken(recovery)) is not None
        ),
        len(trials),
    )


def _is_trial(recovery: Recovery) -> bool:
    return recovery.commits > 0 and (
        _verified(recovery) or _broken(recovery) is not None or any(redo.pages_changed for redo in recovery.redo)
    )


def _verified(recovery: Recovery) -> bool:
    return recovery.commits >= ENOUGH_COMMITS and recovery.in_flight > 0


def _broken(recovery: Recovery) -> str | None:
    """What recovery did not do, in words; None when nothing can be held against it."""
    needed = f"{recovery.commits} operations were acknowledged after the last checkpoint"
    if not recovery.redo:
        return f"{needed}, and the server became ready without redo"
    if not any(redo.records for redo in recovery.redo):
        return f"{needed}, and redo read no record"
    end_lsn = max(redo.end_lsn for redo in recovery.redo)
    if recovery.greatest_lsn is not None and end_lsn < recovery.greatest_lsn:
        return f"redo ended at {_lsn(end_lsn)}, before the acknowledged {_lsn(recovery.greatest_lsn)}"
    if _verified(recovery) and not recovery.cut_short and not any(redo.pages_changed for redo in recovery.redo):
        return f"{needed}, and redo changed no page"
    return None


def _evidence(recovery: Recovery) -> tuple[str, ...]:
    return (
        f"cycle {recovery.cycle}: {recovery.commits} acknowledged operations, {recovery.in_flight} under way",
        *(
            f"redo from {_lsn(redo.begin_lsn)} to {_lsn(redo.end_lsn)}: {redo.records} records, "
            f"{redo.pages_changed} pages changed; {redo.end_reason}"
            for redo in recovery.redo
        ),
    )


def _lsn(position: int) -> str:
    """An LSN as PostgreSQL writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:08X}"


def recoveries(
    harness: Iterable[Record], server: Iterable[Record], history: History, loss_window_ns: int = 0
) -> Iterator[Recovery]:
    """The crash cycles of a run, from the harness's and the server's journals and the history.

    A cycle counts when the harness saw the server ready again in it. Of the server's journal `redo_begin`,
    `redo_end`, `ready`, `checkpoint_begin` and `checkpoint_end` are read; a server that journals no
    checkpoints is taken to have made none between its recoveries. What was acknowledged within `loss_window_ns`
    before the kill need not be in the log: it is not counted.
    """
    journal = sorted((record for record in server if record["ev"] in EVENTS), key=lambda record: record["t"])
    begun: dict[int, int] = {}
    killed: dict[int, int] = {}
    ended: dict[int, int] = {}
    ready: set[int] = set()
    for record in harness:
        match record["ev"]:
            case "cycle_begin":
                begun[record["cycle"]] = record["t"]
            case "fault" if record.get("outcome") != "missed":
                killed.setdefault(record["cycle"], record["t"])
            case "ready" if record["cycle"] in begun:
                ready.add(record["cycle"])
            case "cycle_end":
                ended[record["cycle"]] = record["t"]
    by_cycle: dict[int, list[Operation]] = {cycle: [] for cycle in ready}
    for operation in history.operations.values():
        cycle = cycle_of(operation.operation)
        if cycle in by_cycle and operation.operation not in history.contradicted:
            by_cycle[cycle].append(operation)
    for cycle in sorted(ready):
        end = ended.get(cycle)
        # Checkpoints count from the beginning of the run; redo only within the cycle.
        upto = journal if end is None else [record for record in journal if record["t"] <= end]
        promised_ns = killed[cycle] - loss_window_ns if loss_window_ns and cycle in killed else None
        yield _recovery(cycle, upto, begun[cycle], by_cycle[cycle], promised_ns)


def _recovery(
    cycle: int, journal: list[Record], begin_ns: int, operations: list[Operation], promised_ns: int | None
) -> Recovery:
    inside = [record for record in journal if record["t"] >= begin_ns]
    # Recovery began with the first redo, or, if the journal has none, was over with the first ready.
    first = next((r["t"] for r in inside if r["ev"] == "redo_begin"), None)
    if first is None:
        first = next((r["t"] for r in inside if r["ev"] == "ready"), journal[-1]["t"] if journal else begin_ns)
    over = next((r["t"] for r in inside if r["ev"] == "ready" and r["t"] >= first), None)
    redo: list[Redo] = []
    begin_lsn = begun = 0
    for record in inside:
        if over is not None and record["t"] > over:
            break
        if record["ev"] == "redo_begin":
            begin_lsn = record["lsn"]
            begun += 1
        elif record["ev"] == "redo_end":
            redo.append(
                Redo(
                    begin_lsn=begin_lsn,
                    end_lsn=record["lsn"],
                    records=record["records"],
                    pages_changed=record["pages_changed"],
                    end_reason=str(record.get("end_reason", "")),
                )
            )
    since = _redo_point_is_before(journal, first)
    commits = [
        operation
        for operation in operations
        if operation.outcome is Outcome.OK
        and operation.kind != READ_KIND
        and operation.answered_ns is not None
        and operation.answered_ns < (first if promised_ns is None else promised_ns)
        and since is not None
        and operation.invoked_ns > since
    ]
    return Recovery(
        cycle=cycle,
        t=first,
        commits=len(commits),
        in_flight=sum(o.outcome is Outcome.UNKNOWN and o.invoked_ns < first for o in operations),
        redo=tuple(redo),
        cut_short=begun > len(redo),
        greatest_lsn=max((o.lsn for o in commits if o.lsn is not None), default=None),
    )


def _redo_point_is_before(journal: list[Record], crash_ns: int) -> int | None:
    """A time before which the redo point that recovery started from was certainly set; None if none is."""
    since: int | None = 0
    for record in journal:
        if record["t"] >= crash_ns:
            break
        if record["ev"] == "checkpoint_begin":
            since = None
        elif record["ev"] in ("checkpoint_end", "ready"):
            # A recovery that ended has made its checkpoint, whatever one it interrupted.
            since = record["t"]
    return since
