"""Why an operation came to what it came to: a table of reasons, the first that the evidence bears.

Pure. A reason is only given when the facts show it; where they do not, the answer says what is missing. Which of
these cases is a failure is the oracles' rule (`workloads.workload` has the table of outcomes and fates).

What may be concluded from a COMMIT record that is not there: the log is written front to back, so if redo ended where
nothing follows (zeros, or the end of the file), nothing behind that place was ever written. If it ended at bytes that
failed a check, a record may have been there, and the next incarnation of the log has since been written over it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chaos.explain.trace import Place, Trace
from chaos.oracles.wal_replay import Redo
from supervisor.engine.wal.lsn import format_lsn
from workloads.workload import READ_KIND, Fate, Operation, Outcome


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one operation.

    `fate` is what the observation held that the story ends with, None when none covers the operation; `kept` tells
    that an earlier one had found it committed. `redo` is the one that followed the crash after it, None when none is
    recorded. `trace` is what the WAL holds of it, or in words why that cannot be said; `since_lsn` is a position that
    the log had reached before the operation began, None when none is known.
    """

    operation: Operation
    fate: Fate | None
    kept: bool
    redo: Redo | None
    trace: Trace | str
    since_lsn: int | None

    @property
    def lost(self) -> bool:
        """Whether it had to be there and is not."""
        return self.fate is Fate.ABSENT and (self.kept or self.operation.must_be_committed)

    @property
    def row(self) -> Place | None:
        """The record of its row, as far as the log tells."""
        return self.trace.row if isinstance(self.trace, Trace) else None

    @property
    def commit(self) -> Place | None:
        """Its transaction's COMMIT record, as far as the log tells."""
        return self.trace.commit if isinstance(self.trace, Trace) else None

    @property
    def span(self) -> str:
        """From where to where the kept log is whole."""
        if isinstance(self.trace, str):
            return "none"
        return f"{format_lsn(self.trace.begin_lsn)} to {format_lsn(self.trace.end_lsn)}"

    @property
    def covered(self) -> bool:
        """Whether the kept log holds everything from the operation's beginning to the end of redo."""
        return (
            isinstance(self.trace, Trace)
            and self.redo is not None
            and self.since_lsn is not None
            and self.trace.begin_lsn <= self.since_lsn
            and self.redo.end_lsn <= self.trace.end_lsn
        )


def explain(facts: Facts) -> str:
    """The reason, as one sentence or two: the first of the table that the facts bear."""
    return next(said for reason in REASONS if (said := reason(facts)) is not None)


def _only_read(facts: Facts) -> str | None:
    if facts.operation.kind != READ_KIND:
        return None
    return f"it only read, so a database holds no trace of it; {_told(facts)}"


def _not_observed(facts: Facts) -> str | None:
    if facts.fate is not None:
        return None
    return "not known: no observation covers the operation, so what the recovered server held of it is not recorded"


def _torn(facts: Facts) -> str | None:
    if facts.fate is not Fate.TORN:
        return None
    return f"its row is there, but not once and as it was asked for; {_told(facts)}; {_log_says(facts)}"


def _risen(facts: Facts) -> str | None:
    if facts.fate is not Fate.COMMITTED or facts.operation.may_be_committed:
        return None
    return f"it must not be there, for it was to be rolled back or was told so, and it is; {_log_says(facts)}"


def _never_answered(facts: Facts) -> str | None:
    if facts.lost or facts.operation.outcome is not Outcome.UNKNOWN or not facts.operation.may_be_committed:
        return None
    found = "it was found" if facts.fate is Fate.COMMITTED else "it was not found"
    return f"nothing is wrong: {_told(facts)}, so both fates are right, and {found}; {_log_says(facts)}"


def _as_told(facts: Facts) -> str | None:
    if facts.lost:
        return None
    found = "it is there" if facts.fate is Fate.COMMITTED else "it is not there"
    return f"nothing is wrong: {_told(facts)}, and {found}; {_log_says(facts)}"


def _before_the_acknowledged_lsn(facts: Facts) -> str | None:
    lsn, redo = facts.operation.lsn, facts.redo
    if lsn is None or redo is None or redo.end_lsn >= lsn:
        return None
    return (
        f"redo ended too early: at {format_lsn(redo.end_lsn)}, before {format_lsn(lsn)}, at which the operation had been "
        "acknowledged"
    )


def _no_redo(facts: Facts) -> str | None:
    if facts.redo is not None:
        return None
    return "not known: no redo is recorded between the operation and the observation that misses it; " + _log_says(
        facts
    )


def _no_wal(facts: Facts) -> str | None:
    if isinstance(facts.trace, Trace) and (facts.covered or facts.commit is not None):
        return None
    missing = facts.trace if isinstance(facts.trace, str) else f"what is kept of it is {facts.span}"
    return (
        f"not known: redo read the WAL to {_redo_end(facts)}, but whether the operation's records were in it cannot be "
        f"seen any more: {missing}"
    )


def _never_written(facts: Facts) -> str | None:
    if facts.commit is not None or not _nothing_followed(facts):
        return None
    behind = f"redo read all of it to {_redo_end(facts)}, and nothing had been written behind that"
    if facts.row is None:
        return f"it was {_promise(facts)} before any record of it was written: the WAL holds no record of its row; {behind}"
    return (
        f"it was {_promise(facts)} before its commit record was written: the record of its row is in the WAL at "
        f"{format_lsn(facts.row.lsn)}, but no COMMIT of its transaction {facts.row.xid}; {behind}"
    )


def _not_reached(facts: Facts) -> str | None:
    if facts.commit is not None or facts.redo is None:
        return None
    what = "record of its row" if facts.row is None else f"COMMIT of its transaction {facts.row.xid}"
    return (
        f"redo met no {what} before {_redo_end(facts)}, where it ended at bytes that failed a check "
        f"({facts.redo.end_reason}); whether they held it cannot be seen, for the log was continued over them"
    )


def _behind_the_end(facts: Facts) -> str | None:
    row, commit, redo = facts.row, facts.commit, facts.redo
    if row is None or commit is None or redo is None or commit.lsn < redo.end_lsn:
        return None
    where = f"the COMMIT of its transaction {row.xid} is at {format_lsn(commit.lsn)}"
    if commit.incarnation == row.incarnation:
        return f"redo ended too early: at {_redo_end(facts)}, and {where}, valid in the WAL behind that"
    return (
        f"it was {_promise(facts)} before its commit record was written: {where}, in the log of the server that had already "
        f"recovered, to {_redo_end(facts)}"
    )


def _left_out_by_a_checkpoint(facts: Facts) -> str | None:
    commit, redo = facts.commit, facts.redo
    if commit is None or redo is None or commit.lsn >= redo.begin_lsn:
        return None
    return (
        f"a checkpoint left it out: the COMMIT of its transaction {commit.xid} at {format_lsn(commit.lsn)} is before "
        f"{format_lsn(redo.begin_lsn)}, where redo began, so its pages should have been on disk by then"
    )


def _replayed_and_absent(facts: Facts) -> str:
    commit = facts.commit
    where = f"of its transaction {commit.xid} at {format_lsn(commit.lsn)} " if commit is not None else ""
    return (
        f"redo or visibility lost it: the COMMIT {where}is in the WAL that redo replayed to {_redo_end(facts)}, and it "
        "is absent all the same"
    )


REASONS: tuple[Callable[[Facts], str | None], ...] = (
    # Not lost, or not known to be.
    _only_read,
    _not_observed,
    _torn,
    _risen,
    _never_answered,
    _as_told,
    # Lost.
    _before_the_acknowledged_lsn,
    _no_redo,
    _no_wal,
    _never_written,
    _not_reached,
    _behind_the_end,
    _left_out_by_a_checkpoint,
    _replayed_and_absent,
)
"""In the order in which they are tried: each says its sentence, or None when it does not apply. The last one always
applies: by then the operation is lost, and its COMMIT lies between the beginning and the end of redo."""


def _told(facts: Facts) -> str:
    if facts.operation.answered_ns is None:
        return "no answer came"
    return f"it was told {facts.operation.outcome.value}"


def _promise(facts: Facts) -> str:
    """How somebody came to rely on it."""
    return "acknowledged" if facts.operation.outcome is Outcome.OK else "shown"


def _log_says(facts: Facts) -> str:
    """What the log has of it, for the cases in which that is a remark and not the reason."""
    if isinstance(facts.trace, str):
        return f"the WAL cannot tell more: {facts.trace}"
    if facts.row is None:
        return f"no record of its row is in the WAL that is kept ({facts.span})"
    if facts.commit is None:
        return f"its row is in the WAL at {format_lsn(facts.row.lsn)}, but no COMMIT of its transaction {facts.row.xid}"
    return f"the COMMIT of its transaction {facts.commit.xid} is in the WAL at {format_lsn(facts.commit.lsn)}"


def _redo_end(facts: Facts) -> str:
    return format_lsn(facts.redo.end_lsn) if facts.redo is not None else "an unknown LSN"


def _nothing_followed(facts: Facts) -> bool:
    """Whether redo ended where nothing had been written."""
    return facts.redo is not None and facts.redo.end_reason.endswith(("got 0", "No such file or directory"))
