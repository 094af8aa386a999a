"""Explaining: which lines of a story are shown, and which reason is given.

What could go wrong: a story that drops the kill to show the fortieth signal, lines left out that nobody counts, an
effect that stands before its cause, and, worst, a reason that the evidence does not bear: a reader would mend the wrong
thing. So each reason has facts that call for it, and the facts that miss one piece of evidence get "not known".
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.explain.line import LeftOut, Line, Source, Weight, as_text, choose, merge
from chaos.explain.reasons import REASONS, Facts, explain
from chaos.explain.sources import Span, evidence_lines, log_entries, log_lines, wall_offset_ns
from chaos.explain.story import NothingToExplain, recovery_text, tell_operation
from chaos.explain.trace import ROWS, Place, Trace, find
from chaos.oracles.wal_replay import Redo
from reports.records import RecordWriter
from reports.rundir import RunDirectory
from reports.verdict import Recovery
from supervisor.engine.access.heap import INSERT, HeapInfo
from supervisor.engine.access.tuple import HEADER, Column, RowCodec
from supervisor.engine.transam.clog import TransactionInfo
from supervisor.engine.wal.record import BlockRef, WalRecord
from supervisor.engine.wal.rmgr import Rmgr
from tests.support.bank_history import Asked, World
from workloads.workload import READ_KIND, Fate, Operation, Outcome

MS = 1_000_000


def line(t: int, text: str, weight: Weight = Weight.DETAIL, kind: str = "signal") -> Line:
    return Line(t, Source.KERNEL, text, weight, kind)


# The lines.


def test_lines_stand_in_order_of_time_and_those_of_one_time_in_order_of_their_sources() -> None:
    kernel = [line(3, "reaped"), line(5, "forked")]
    journal = [Line(1, Source.JOURNAL, "ready"), Line(3, Source.JOURNAL, "state")]
    assert [merged.text for merged in merge(kernel, journal)] == ["ready", "reaped", "state", "forked"]


def test_a_story_that_fits_is_told_whole() -> None:
    lines = [line(t, str(t)) for t in range(5)]
    assert choose(lines, 5) == lines


def test_the_plot_is_kept_and_what_is_left_out_is_counted_where_it_was() -> None:
    kill = line(10, "kill", Weight.PLOT)
    ready = line(60, "ready", Weight.PLOT)
    signals = [line(t, f"signal {t}") for t in range(20, 40)]
    reaped = [line(t, f"reaped {t}", kind="reaping") for t in range(40, 43)]
    shown = choose([kill, *signals, *reaped, ready, line(70, "later")], 4)
    assert shown == [kill, LeftOut((("signal", 20), ("reaping", 3))), ready, LeftOut((("signal", 1),))]
    assert str(shown[1]) == "… 20 more signals, 3 more reapings" and str(shown[3]) == "… 1 more signal"


def test_of_equal_lines_the_earlier_are_kept() -> None:
    lines = [line(t, str(t)) for t in range(10)]
    assert choose(lines, 4) == [*lines[:3], LeftOut((("signal", 7),))]


@pytest.mark.parametrize("limit", range(1, 41))
def test_no_story_is_longer_than_asked_and_none_forgets_a_line(limit: int) -> None:
    lines = [line(t, str(t), Weight(t * 7 % 3), f"kind {t % 4}") for t in range(40)]
    shown = choose(lines, limit)
    assert len(shown) <= limit
    left_out = Counter[str]()
    for entry in shown:
        if isinstance(entry, LeftOut):
            left_out.update(dict(entry.counts))
    told = [entry for entry in shown if isinstance(entry, Line)]
    assert told == sorted(told, key=lambda told: told.t_ns)
    assert left_out + Counter(entry.kind for entry in told) == Counter(each.kind for each in lines)


def test_a_story_of_no_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="0 lines"):
        choose([], 0)


def test_a_line_says_when_and_who_says_so() -> None:
    assert as_text(line(2_500_000, "killed"), 1_000_000) == "    +1.500 ms  kernel   killed"
    placed = Line(0, Source.WAL, "no COMMIT", about=True)
    assert as_text(placed, 1_000_000) == "    -1.000 ms~ wal      no COMMIT"


# The server's log, which knows the time of day alone.

LOG = """\
2026-01-02 03:04:05.100 UTC [7] LOG:  database system is ready to accept connections
2026-01-02 03:04:05.205 UTC [7] LOG:  client backend (PID 8) was terminated by signal 9: Killed
	a continued line
2026-01-02 03:04:05.205 UTC [7] DETAIL:  Failed process was running: CALL bank()
2026-01-02 03:04:05.210 UTC [9] LOG:  redo starts at 0/1000020
2026-01-02 03:04:05.300 UTC [7] LOG:  database system is ready to accept connections
"""
# Each pair gives an offset that is too small by what the log's millisecond cut off: 0.9 ms and 0.2 ms.
JOURNAL = [
    {"t": 1_000 * MS + 900_000, "pid": 7, "ev": "ready", "gen": 1},
    {"t": 1_200 * MS + 200_000, "pid": 7, "ev": "ready", "gen": 2},
]


def test_the_log_is_aligned_and_no_line_of_it_stands_before_what_it_tells_of() -> None:
    entries = log_entries(LOG)
    offset = wall_offset_ns(entries, JOURNAL)
    assert offset is not None
    lines = log_lines(entries, offset, Span(1_050 * MS, 1_150 * MS))
    assert [(told.text, told.weight) for told in lines] == [
        ("[7] LOG: client backend (PID 8) was terminated by signal 9: Killed", Weight.DETAIL),
        ("[7] DETAIL: Failed process was running: CALL bank()", Weight.STEP),
    ], "the journal tells of redo better"
    # The backend's end was told between 105.0 and 106.0 ms after the first line's millisecond.
    assert all(told.t_ns == 1_106 * MS + 200_000 and told.about for told in lines)


def test_a_log_of_other_starts_than_the_journal_is_not_aligned() -> None:
    assert wall_offset_ns(log_entries(LOG), JOURNAL[:1]) is None
    assert wall_offset_ns(log_entries(""), []) is None


def test_an_oracles_evidence_stands_where_it_happened() -> None:
    at, without = evidence_lines(["t=300 after cycle 1: no row", "backend (PID 8) lived"], 100)
    assert (at.t_ns, at.text, at.about) == (300, "after cycle 1: no row", False)
    assert (without.t_ns, without.text, without.about) == (100, "backend (PID 8) lived", True)
    assert len(evidence_lines([f"line {n}" for n in range(100)], 0)) < 20, "room for the crash"


# The WAL.

ASKED = Operation(16, 3, "transfer", {"source": 95, "target": 62, "amount": 18}, Outcome.OK, 42, 100, 200)


TRANSFER = RowCodec(
    "bank_transfer", [Column(name, "bigint") for name in ("op", "worker", "source", "target", "amount")], 0
)


def wal_record(lsn: int, rmgr: Rmgr, info: int, xid: int, data: bytes = b"", incarnation: int = 1) -> WalRecord:
    blocks = (BlockRef(20, 0, None, data),) if data else ()
    return WalRecord(lsn, lsn + 64, lsn - 64, xid, rmgr, info, bytes(8), blocks, incarnation)


def inserted(lsn: int, xid: int, operation: Operation) -> WalRecord:
    values = operation.values
    row = (operation.operation, operation.worker, values["source"], values["target"], values["amount"])
    version = INSERT.pack(4) + HEADER.pack(xid, 0, 0, 0, 0) + TRANSFER.encode(row)
    return wal_record(lsn, Rmgr.HEAP, HeapInfo.INSERT, xid, version)


def committed(lsn: int, xid: int) -> WalRecord:
    return wal_record(lsn, Rmgr.TRANSACTION, TransactionInfo.COMMIT, xid)


def test_an_operations_records_are_found_by_its_whole_row_and_its_transaction() -> None:
    other = Operation(16, 3, "transfer", {"source": 95, "target": 62, "amount": 19}, Outcome.OK, 42, 100, 200)
    records = [committed(64, 9), inserted(128, 8, other), inserted(192, 9, ASKED), committed(256, 8), committed(320, 9)]
    row, commit = find(records, ROWS["bank"](ASKED))
    assert (row, commit) == (Place(192, 256, 9, 1), Place(320, 384, 9, 1))
    assert find(records[:4], ROWS["bank"](ASKED)) == (row, None)
    assert find(records[:2], ROWS["bank"](ASKED)) == (None, None)


# The reasons.

ROW, COMMIT = Place(0x1100, 0x1140, 9, 1), Place(0x1200, 0x1240, 9, 1)
ZEROS = "invalid record length at 0/1300: expected at least 32, got 0"
DAMAGED = "incorrect resource manager data checksum in record at 0/1300"
REDO = Redo(0x1000, 0x1300, 12, 3, ZEROS)
WHOLE = Trace(0x0800, 0x2000, ROW, COMMIT)
LOST = Facts(ASKED, Fate.ABSENT, kept=False, redo=REDO, trace=WHOLE, since_lsn=0x0900)
ONLY_READ = Operation(16, 3, READ_KIND, {}, Outcome.OK, 42, 100, 200)
UNANSWERED = Operation(16, 3, "transfer", ASKED.values, Outcome.UNKNOWN, 42, 100)
REFUSED = Operation(16, 3, "transfer", ASKED.values, Outcome.FAIL, 42, 100, 200, "40001")
ACKNOWLEDGED_AT = Operation(16, 3, "transfer", ASKED.values, Outcome.OK, 42, 100, 200, None, 0x1400)

CASES: dict[str, tuple[Facts, str]] = {
    "it only read": (
        replace(LOST, operation=ONLY_READ, fate=None),
        "it only read, so a database holds no trace of it; it was told ok",
    ),
    "nobody looked": (replace(LOST, fate=None), "not known: no observation covers the operation"),
    "torn": (replace(LOST, fate=Fate.TORN), "its row is there, but not once and as it was asked for; it was told ok"),
    "risen": (replace(LOST, operation=REFUSED, fate=Fate.COMMITTED), "it must not be there"),
    "unanswered": (
        replace(LOST, operation=UNANSWERED),
        "nothing is wrong: no answer came, so both fates are right, and it was not found",
    ),
    "there": (replace(LOST, fate=Fate.COMMITTED), "nothing is wrong: it was told ok, and it is there"),
    "refused": (replace(LOST, operation=REFUSED), "nothing is wrong: it was told fail, and it is not there"),
    "redo before the acknowledged LSN": (
        replace(LOST, operation=ACKNOWLEDGED_AT),
        "redo ended too early: at 0/1300, before 0/1400, at which the operation had been acknowledged",
    ),
    "no redo": (replace(LOST, redo=None), "not known: no redo is recorded"),
    "no WAL": (replace(LOST, trace="the data directory was not kept"), "not known: redo read the WAL to 0/1300"),
    "the WAL begins too late": (
        replace(LOST, trace=Trace(0x0A00, 0x2000, None, None)),
        "not known: redo read the WAL to 0/1300",
    ),
    "the WAL ends too early": (
        replace(LOST, trace=Trace(0x0800, 0x1280, ROW, None)),
        "not known: redo read the WAL to 0/1300",
    ),
    "where the log stood is not known": (
        replace(LOST, trace=Trace(0x0800, 0x2000, None, None), since_lsn=None),
        "not known: redo read the WAL to 0/1300",
    ),
    "no record": (
        replace(LOST, trace=Trace(0x0800, 0x2000, None, None)),
        "it was acknowledged before any record of it was written",
    ),
    "no commit record": (
        replace(LOST, trace=Trace(0x0800, 0x2000, ROW, None)),
        "it was acknowledged before its commit record was written: the record of its row is in the WAL at 0/1100, "
        "but no COMMIT of its transaction 9; redo read all of it to 0/1300",
    ),
    "shown once, no commit record": (
        replace(LOST, operation=UNANSWERED, kept=True, trace=Trace(0x0800, 0x2000, ROW, None)),
        "it was shown before its commit record was written",
    ),
    "redo met damage": (
        replace(LOST, redo=replace(REDO, end_reason=DAMAGED), trace=Trace(0x0800, 0x2000, ROW, None)),
        "redo met no COMMIT of its transaction 9 before 0/1300, where it ended at bytes that failed a check",
    ),
    "behind the end of redo": (
        replace(LOST, redo=replace(REDO, end_lsn=0x1180)),
        "redo ended too early: at 0/1180, and the COMMIT of its transaction 9 is at 0/1200, valid in the WAL behind",
    ),
    "committed by the next incarnation": (
        replace(LOST, trace=Trace(0x0800, 0x2000, ROW, Place(0x1400, 0x1440, 9, 2))),
        "it was acknowledged before its commit record was written: the COMMIT of its transaction 9 is at 0/1400, in "
        "the log of the server that had already recovered, to 0/1300",
    ),
    "left out by a checkpoint": (
        replace(LOST, redo=replace(REDO, begin_lsn=0x1280)),
        "a checkpoint left it out: the COMMIT of its transaction 9 at 0/1200 is before 0/1280",
    ),
    "replayed and absent": (
        LOST,
        "redo or visibility lost it: the COMMIT of its transaction 9 at 0/1200 is in the WAL that redo replayed",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_reason_is_the_one_that_the_evidence_bears(name: str) -> None:
    facts, said = CASES[name]
    assert explain(facts).startswith(said)


def test_every_reason_is_given_in_some_case() -> None:
    given = {next(reason for reason in REASONS if reason(facts) is not None) for facts, _ in CASES.values()}
    assert [reason.__name__ for reason in REASONS if reason not in given] == []


def test_a_recovery_is_told_by_its_steps_and_the_longest() -> None:
    recovery = Recovery(cycle=3, noticed=1.0, last_child_reaped=7.0, redo_start=9.5, redo_end=12.0, ready=14.0)
    told = recovery_text(recovery)
    assert told.startswith(
        "recovery, in ms since the kill: the postmaster noticed at 1.0, all children were gone at 7.0"
    )
    assert told.endswith("the longest step was the 6.0 ms until all children were gone")
    assert recovery_text(Recovery(cycle=3)) == "recovery: none of its phases was seen"


# A run directory without a server, a witness or a data directory.

KEPT, GONE, LATER = (
    Asked(0, 1, 2, 30, "ok", True),
    Asked(1, 2, 3, 7, "ok", False),
    Asked(50, 3, 4, 5, "ok", True, cycle=1),
)
KILL, READY = 10, 40


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Two epochs of one cycle; in the first a crash at 10, redo from 20 to 30, ready at 40, a look at 45."""
    run = RunDirectory.create(tmp_path, 7)
    plan = {"workload": "bank"}
    with run.harness_writer() as harness:
        for cycle, begin in ((0, -1), (1, 90)):
            harness.append({"t": begin - 1, "pid": 1, "ev": "epoch_begin", "epoch": cycle})
            harness.append({"t": begin, "pid": 1, "ev": "cycle_begin", "cycle": cycle, "epoch": cycle, "plan": plan})
            if cycle == 0:
                blow = {"fault": "sigkill-random", "child": 8, "role": "backend", "sig": 9, "outcome": "landed"}
                harness.append({"t": KILL, "pid": 1, "ev": "fault", "cycle": 0, **blow})
                harness.append({"t": READY, "pid": 1, "ev": "ready", "cycle": 0, "gen": 2})
            harness.append({"t": begin + 60, "pid": 1, "ev": "cycle_end", "cycle": cycle})
    world = World([KEPT, GONE])
    with run.observed_writer() as observed:
        observed.append({"t": 45, "cycle": 0, "workload": "bank", "observation": world.observe()})
    redo_end = {"lsn": 0x1300, "records": 12, "pages_changed": 3, "end_reason": ZEROS}
    with RecordWriter(run.server_events) as server:
        server.append({"t": 20, "pid": 9, "ev": "redo_begin", "lsn": 0x1000})
        server.append({"t": 30, "pid": 9, "ev": "redo_end", **redo_end})
    with RecordWriter(run.history / "7-0.jsonl") as history:
        history.extend(record for asked in (KEPT, GONE, LATER) for record in asked.records())
    return run


def test_a_story_stands_in_order_and_says_which_sources_are_missing(run: RunDirectory) -> None:
    title, how, *lines, why = tell_operation(run, GONE.id)
    assert title == f"operation {GONE.id}, cycle 0: told ok, found absent"
    assert how.startswith("ms since the kill of cycle 0") and how.endswith("the run has no account of the kernel")
    assert [line[15:23].strip() for line in lines] == [
        *("history", "history", "harness", "journal", "journal", "wal", "observed"),
    ], lines
    assert "not there to be read: the operation is of epoch 0" in lines[-2]
    assert why.startswith("why: not known: redo read the WAL to 0/1300, but whether the operation's records were in it")


def test_an_operation_that_no_crash_followed_and_nobody_looked_for(run: RunDirectory) -> None:
    title, how, *lines, why = tell_operation(run, LATER.id)
    assert title.endswith("told ok, no observation covers it")
    assert how.startswith("ms since its beginning, for no crash followed it")
    assert "the data directory was not kept" in lines[-1]
    assert why.startswith("why: not known: no observation covers the operation")


@pytest.mark.parametrize(
    "operation, said",
    [(LATER.id + 1, "cycle 1 has 1, from"), (5 << 32, "it would be of cycle 5, and it ran cycles 0 to 1")],
    ids=["of a cycle that ran", "of none"],
)
def test_what_there_is_is_told_when_the_operation_is_not(run: RunDirectory, operation: int, said: str) -> None:
    with pytest.raises(NothingToExplain, match=f"has no operation {operation}: {said}"):
        tell_operation(run, operation)
