"""The oracles of data: each fails when its rule is broken, and for the reason that it was made for.

What could go wrong: an oracle that never fails, one that fails for another's reason, one that takes an unknown
outcome for a promise, a loss after the first look that nobody sees, a failure without the evidence that shows
it, an epoch that is blamed for the operations of the one before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chaos.oracles import wal_replay
from chaos.oracles.data import OF_EVERY_WORKLOAD, judge_latest, judge_run, last_record
from chaos.oracles.ledger import Ledger, judge_observation, totals
from chaos.oracles.wal_replay import Recovery, Redo, recoveries
from reports import verdict as report
from reports.records import RecordWriter
from reports.rundir import RunDirectory
from reports.verdict import OracleStatus
from tests.support.bank_history import BANK, Asked, World, failing, judge
from workloads.history import History, read_history
from workloads.workload import last_operation_of

ACKED = Asked(0, 1, 2, 30, "ok", True)
ACKED_TOO = Asked(1, 2, 3, 7, "ok", True)
REFUSED = Asked(2, 3, 4, 5, "fail", False)
UNANSWERED_KEPT = Asked(3, 4, 5, 9, "nothing", True)
UNANSWERED_GONE = Asked(4, 5, 6, 11, "nothing", False)
ROLLED_BACK = Asked(5, 1, 6, 3, "fail", False, rollback=True)
ROLLBACK_UNANSWERED = Asked(6, 1, 5, 4, "nothing", False, rollback=True)
HISTORY = [ACKED, ACKED_TOO, REFUSED, UNANSWERED_KEPT, UNANSWERED_GONE, ROLLED_BACK, ROLLBACK_UNANSWERED]


@pytest.fixture
def world() -> World:
    return World(HISTORY)


def test_a_database_that_kept_its_word_passes(world: World) -> None:
    counts = judge(HISTORY, (0, world.observe()))
    assert failing(counts) == set()
    assert {name: count.trials for name, count in counts.items()} == {
        "durability": 2,
        "atomicity": 7,
        "resurrection": 3,
        "invariant": 1,
    }


def test_an_acknowledged_operation_that_is_lost_whole_fails_durability_alone(world: World) -> None:
    world.lose(ACKED)
    counts = judge(HISTORY, (0, world.observe()))
    assert failing(counts) == {"durability"}
    (failure,) = counts["durability"].told
    assert failure.message == f"operation {ACKED.id} was acknowledged and is lost"
    asked, told, found = failure.evidence
    assert "invoke transfer" in asked and "amount 30" in asked
    assert told.endswith("told ok")
    assert "no row" in found


def test_a_row_lost_without_its_money_fails_atomicity_too(world: World) -> None:
    world.rows.remove(ACKED.row)
    assert failing(judge(HISTORY, (0, world.observe()))) == {"durability", "atomicity", "invariant"}


@pytest.mark.parametrize("operation", [ACKED, UNANSWERED_KEPT], ids=["acknowledged", "unanswered"])
def test_money_lost_without_its_row_fails_atomicity(world: World, operation: Asked) -> None:
    world.move(operation, -1)
    counts = judge(HISTORY, (0, world.observe()))
    assert failing(counts) == {"atomicity", "invariant"}
    assert counts["atomicity"].failures == 2, "one for each account"


@pytest.mark.parametrize("operation", [ACKED, UNANSWERED_KEPT, REFUSED], ids=["acknowledged", "unanswered", "refused"])
def test_a_row_with_other_values_fails_atomicity_whatever_was_told(world: World, operation: Asked) -> None:
    if not operation.kept:
        world.apply(operation)
    world.rows[world.rows.index(operation.row)][1] = 99
    assert failing(judge(HISTORY, (0, world.observe()))) == {"atomicity"}


@pytest.mark.parametrize("operation", [REFUSED, ROLLED_BACK, ROLLBACK_UNANSWERED])
def test_what_must_be_absent_and_is_there_fails_resurrection(world: World, operation: Asked) -> None:
    world.apply(operation)
    counts = judge(HISTORY, (0, world.observe()))
    assert failing(counts) == {"resurrection"}
    assert str(operation.id) in counts["resurrection"].told[0].message


def test_a_row_that_nobody_asked_for_fails_resurrection(world: World) -> None:
    world.apply(Asked(77, 1, 2, 3, "ok", True))
    counts = judge(HISTORY, (0, world.observe()))
    assert failing(counts) == {"resurrection"}
    assert "never invoked" in counts["resurrection"].told[0].message


def test_a_row_that_is_there_twice_fails_atomicity(world: World) -> None:
    world.rows.append(ACKED.row)
    world.move(ACKED, 1)
    assert failing(judge(HISTORY, (0, world.observe()))) == {"atomicity"}


def test_an_account_that_is_gone_fails_the_invariant(world: World) -> None:
    del world.money[6]
    assert failing(judge(HISTORY, (0, world.observe()))) == {"invariant"}


def test_what_is_lost_after_the_first_look_is_seen_at_the_epochs_end(world: World) -> None:
    first = world.observe()
    for operation in (ACKED, UNANSWERED_KEPT):
        world.lose(operation)
    counts = judge(HISTORY, (0, first), (3, world.observe()))
    assert failing(counts) == {"durability"}
    assert counts["durability"].failures == 2
    assert counts["durability"].trials == 3, "an unanswered operation seen committed has become a promise"
    assert counts["durability"].told[0].cycle == 3


def test_what_comes_after_it_was_seen_absent_fails_resurrection(world: World) -> None:
    first = world.observe()
    world.apply(UNANSWERED_GONE)
    assert failing(judge(HISTORY, (0, first), (3, world.observe()))) == {"resurrection"}


def test_an_early_operation_lost_whole_shows_in_the_next_cycle_as_money(world: World) -> None:
    first = world.observe()
    later = Asked(10, 1, 2, 1, "ok", True, cycle=1)
    world.apply(later)
    right = world.observe(last_operation_of(0), first)
    assert failing(judge([*HISTORY, later], (0, first), (1, right))) == set()
    world.lose(ACKED)
    second = world.observe(last_operation_of(0), first)
    counts = judge([*HISTORY, later], (0, first), (1, second))
    assert failing(counts) == {"atomicity", "invariant"}
    # The base goes on from there: one loss is not told again by every cycle that follows, but by the end.
    third = world.observe(last_operation_of(1), second)
    assert failing(judge([], (2, third))) == set()
    assert "durability" in failing(judge([*HISTORY, later], (0, first), (1, second), (1, world.observe())))


def test_failures_are_counted_in_full_and_told_in_part() -> None:
    asked = [Asked(number, 1, 2, 1, "ok", True) for number in range(200)]
    count = judge(asked, (0, World([]).observe()))["durability"]
    assert (count.trials, count.failures, len(count.told)) == (200, 200, 20)
    result = count.result("durability", "")
    assert (result.status, result.failed) == (OracleStatus.FAILED, 200)


def test_nothing_to_judge_is_not_held() -> None:
    count = judge([], (0, World([]).observe()))["durability"]
    assert count.result("durability", "").status is OracleStatus.NOT_JUDGED


def test_contradicting_records_are_not_judged(world: World) -> None:
    records = [record for operation in HISTORY for record in operation.records()]
    history = read_history([records, ACKED.records()])
    world.lose(ACKED)
    judgement = judge_observation(BANK, history, first_cycle=0, cycle=0, t=0, observation=world.observe())
    assert ACKED.id not in judgement.fates
    world.apply(ACKED)
    judgement = judge_observation(BANK, history, first_cycle=0, cycle=0, t=0, observation=world.observe())
    assert judgement.strangers == {}


def test_the_ledger_counts_what_was_told_against_what_was_found(world: World) -> None:
    history = read_history([[record for operation in HISTORY for record in operation.records()]])
    world.lose(ACKED)
    judgement = judge_observation(BANK, history, first_cycle=0, cycle=0, t=0, observation=world.observe())
    ledger = Ledger(BANK, [judgement])
    table = totals([ledger])
    assert table.ok == report.Fate(committed=1, absent=1)
    assert table.failed == report.Fate(absent=3)
    assert table.unknown == report.Fate(committed=1, absent=1)
    assert ledger.unjudged(history, 0, 0) == ()
    assert Ledger(BANK, []).unjudged(history, 0, 0) == (ACKED.id, ACKED_TOO.id)


# WAL replay.

REDO = Redo(begin_lsn=100, end_lsn=900, records=40, pages_changed=5, end_reason="invalid record length")


def recovery(*redo: Redo, commits: int = 30, in_flight: int = 4, greatest_lsn: int | None = None) -> Recovery:
    return Recovery(cycle=1, t=5, commits=commits, in_flight=in_flight, redo=redo, greatest_lsn=greatest_lsn)


def test_redo_that_replayed_passes() -> None:
    count = wal_replay.judge([recovery(REDO), recovery(REDO, commits=1, greatest_lsn=900)])
    assert (count.trials, count.failures) == (2, 0)


NO_RECORDS = Redo(100, 100, 0, 0)
NO_PAGES = Redo(100, 900, 40, 0)


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (recovery(), "without redo"),
        (recovery(NO_RECORDS, commits=1, in_flight=0), "no record"),
        (recovery(NO_PAGES), "changed no page"),
        (recovery(REDO, greatest_lsn=901), "before the acknowledged"),
    ],
    ids=["not-done", "a-no-op", "nothing-changed", "ended-early"],
)
def test_redo_that_did_not_replay_fails(broken: Recovery, text: str) -> None:
    count = wal_replay.judge([broken])
    assert (count.trials, count.failures) == (1, 1)
    assert text in count.told[0].message


@pytest.mark.parametrize(
    "idle",
    [recovery(NO_RECORDS, commits=0), recovery(NO_PAGES, commits=19), recovery(NO_PAGES, in_flight=0)],
    ids=["all-checkpointed", "too-few-to-tell", "idle-and-written-back"],
)
def test_recovery_that_had_little_to_do_is_no_trial(idle: Recovery) -> None:
    assert wal_replay.judge([idle]).trials == 0


def cycle(begin: int, *, ready: int) -> list[dict[str, Any]]:
    return [
        {"ev": "cycle_begin", "cycle": 0, "t": begin},
        {"ev": "ready", "cycle": 0, "t": ready},
        {"ev": "cycle_end", "cycle": 0, "t": ready + 1},
    ]


def history(*times: tuple[int, int | None]) -> History:
    records: list[dict[str, Any]] = []
    for op, (invoked, answered) in enumerate(times):
        common = {"pid": 1, "op": op, "worker": 0, "kind": "transfer"}
        records.append({"t": invoked, "ev": "invoke", **common})
        if answered is not None:
            records.append({"t": answered, "ev": "ok", "lsn": answered, **common})
    return read_history([records])


def redo(begin: int, end: int, records: int) -> list[dict[str, Any]]:
    return [
        {"ev": "redo_begin", "t": begin, "lsn": 7},
        {"ev": "redo_end", "t": end, "lsn": 70, "records": records, "pages_changed": 1, "end_reason": "r"},
    ]


def test_recoveries_are_read_from_the_journals() -> None:
    server = [
        *redo(1, 2, 99),
        {"ev": "ready", "t": 3, "gen": 1},
        *redo(50, 60, 8),
        {"ev": "ready", "t": 65},
        *redo(70, 71, 5),
    ]
    told = history((11, 12), (20, 21), (40, None), (80, 81))
    (found,) = recoveries(cycle(10, ready=66), server, told)
    assert (found.commits, found.in_flight, found.greatest_lsn) == (2, 1, 21)
    assert found.redo == (Redo(7, 70, 8, 1, "r"),)
    assert list(recoveries(cycle(10, ready=66)[:1], server, told)) == [], "it never became ready"


def test_a_crash_during_redo_counts_the_redo_that_was_finished() -> None:
    server = [*redo(50, 60, 8)[:1], *redo(62, 64, 9), {"ev": "ready", "t": 65}]
    (found,) = recoveries(cycle(10, ready=66), server, history((11, 12)))
    assert [redo.records for redo in found.redo] == [9]
    assert found.t == 50


@pytest.mark.parametrize(
    ("checkpoints", "commits"),
    [
        ([], 3),
        ([("begin", 15), ("end", 18)], 2),
        ([("begin", 15), ("end", 25)], 1),
        ([("begin", 15)], 0),
        ([("begin", 15), ("end", 18), ("begin", 45)], 0),
    ],
    ids=["none", "early", "later", "unfinished", "another-begun"],
)
def test_only_what_came_after_the_last_checkpoint_needs_redo(checkpoints: list[tuple[str, int]], commits: int) -> None:
    server = [{"ev": f"checkpoint_{what}", "t": t} for what, t in checkpoints]
    server += [*redo(50, 60, 8), {"ev": "ready", "t": 65}]
    (found,) = recoveries(cycle(10, ready=66), server, history((11, 12), (20, 21), (30, 31)))
    assert found.commits == commits


# A whole run directory.


def write_run(tmp_path: Path, *, lose: bool = False) -> RunDirectory:
    """Two epochs of one cycle each; the second cluster holds nothing of the first."""
    run = RunDirectory.create(tmp_path, 1)
    observed, harness = run.observed_writer(), run.harness_writer()
    for epoch in (0, 1):
        begin = 10_000 * epoch
        asked = [Asked(number, 1 + number % 5, 6, 5, "ok", True, cycle=epoch) for number in range(25)]
        asked += [
            Asked(30, 1, 2, 3, "fail", False, rollback=True, cycle=epoch),
            Asked(31, 1, 2, 3, "nothing", True, cycle=epoch),
        ]
        with RecordWriter(run.history / f"{7 + epoch}-{begin + 1}.jsonl") as writer:
            for operation in asked:
                writer.extend({**record, "t": begin + 10 + record["t"]} for record in operation.records())
        world = World(asked)
        if lose and epoch == 1:
            world.lose(asked[3])
        harness.append({"ev": "cycle_begin", "cycle": epoch, "epoch": epoch, "t": begin})
        harness.append({"ev": "fault", "cycle": epoch, "t": begin + 100})
        harness.append({"ev": "ready", "cycle": epoch, "t": begin + 300})
        first = world.observe()
        for t in (400, 500):
            observed.append({"t": begin + t, "cycle": epoch, "workload": "bank", "observation": first})
        harness.append({"ev": "cycle_end", "cycle": epoch, "t": begin + 600})
        with RecordWriter(run.server_events) as server:
            server.extend(
                {**record, "t": record["t"] + begin} for record in [*redo(150, 160, 80), {"ev": "ready", "t": 300}]
            )
    observed.close()
    harness.close()
    return run


def test_a_run_is_judged_epoch_by_epoch(tmp_path: Path) -> None:
    judged = judge_run(write_run(tmp_path), {"bank": BANK})
    assert [result.name for result in judged.results] == list(OF_EVERY_WORKLOAD)
    assert {result.name: (result.status, result.trials) for result in judged.results} == {
        "durability": (OracleStatus.HELD, 52),  # the unanswered one was seen committed and looked at again
        "atomicity": (OracleStatus.HELD, 54),
        "resurrection": (OracleStatus.HELD, 2),
        "invariant": (OracleStatus.HELD, 4),
        "wal_replay": (OracleStatus.HELD, 2),
    }
    assert judged.ledger.ok == report.Fate(committed=50)
    for counts in judged.cycles.values():
        assert (counts.acknowledged, counts.in_flight, counts.unjudged, counts.contradictions) == (25, 1, 0, 0)


def test_a_loss_in_a_run_is_found_by_both_ways_of_judging(tmp_path: Path) -> None:
    run = write_run(tmp_path, lose=True)
    for judged in (judge_run(run, {"bank": BANK}), judge_latest(run, {"bank": BANK})):
        failed = {result.name for result in judged.results if result.failed}
        assert failed == {"durability"}
        assert judged.results[0].failures[0].cycle == 1


def test_what_nobody_observed_is_unjudged(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.observed.unlink()
    judged = judge_run(run, {"bank": BANK})
    assert [counts.unjudged for counts in judged.cycles.values()] == [25, 25]
    assert judged.results[0].status is OracleStatus.NOT_JUDGED
    assert judge_latest(run, {"bank": BANK}).results[0].status is OracleStatus.NOT_JUDGED


def test_the_last_record_is_found_behind_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert last_record(path) is None
    path.write_bytes(b'\n{"a": 1}\n{"b": "' + b"x" * 200_000 + b'"}\n{"c": 1')
    record = last_record(path)
    assert record is not None and set(record) == {"b"}
    path.write_bytes(b'{"a"')
    assert last_record(path) is None
