"""The oracle of durability over a server that does not wait for its flushes.

What could go wrong: a judge that excuses every loss once a window is known; one that excuses a loss outside it, or of
what an earlier recovery had kept; one that does not see that the log has lost its middle and kept its end; one that
calls a run without asynchronous commit by the milder rule.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from chaos.oracles import durability
from chaos.oracles.ledger import Count, totals
from chaos.oracles.loss_window import Crash, LossWindow, loss_window
from reports import verdict as report
from reports.page import ledger_rows
from tests.support.bank_history import Asked, World, ledger_of

# Operation n is invoked at 2n and answered at 2n + 1. The kill is at 20, the window begins at 12.
ASKED = [Asked(number, 1 + number % 5, 6, 10, "ok", True) for number in range(10)]
KILL_NS, WINDOW_NS, READY_NS = 20, 8, 30
LOSSES = loss_window([(KILL_NS, READY_NS)], WINDOW_NS)
IN_WINDOW = range(6, 10)


def judge(lost: list[int], losses: LossWindow = LOSSES) -> Count:
    world = World(ASKED)
    for number in lost:
        world.lose(ASKED[number])
    return durability.judge(ledger_of(ASKED, (40, world.observe()), losses=losses))


@pytest.mark.parametrize("first", IN_WINDOW)
def test_the_end_of_the_log_may_be_lost(first: int) -> None:
    count = judge(list(range(first, 10)))
    assert count.failures == 0
    assert count.trials == 6 + (10 - first), "what was promised, and what was lost in order"


def test_without_asynchronous_commit_nothing_may() -> None:
    assert loss_window([(KILL_NS, READY_NS)], 0) == LossWindow()
    assert judge([9], LossWindow()).failures == 1


def test_what_was_acknowledged_before_the_window_must_stay() -> None:
    count = judge(list(range(5, 10)))
    assert count.failures == 1
    assert count.told[0].message == f"operation {ASKED[5].id} was acknowledged and is lost"


@pytest.mark.parametrize("kept", [7, 8, 9])
def test_what_committed_after_a_lost_one_must_be_lost_too(kept: int) -> None:
    count = judge([number for number in IN_WINDOW if number != kept])
    assert count.failures == kept - 6, "each that came before the one that is there"
    assert str(ASKED[kept].id) in count.told[0].message and "is there" in count.told[0].message


def test_an_operation_under_way_with_the_lost_one_may_be_kept() -> None:
    """It may have committed before it: nobody knows their order."""
    world = World(ASKED)
    for number in range(6, 9):
        world.lose(ASKED[number])
    ledger = ledger_of(ASKED, (40, world.observe()), losses=LOSSES)
    kept, first_lost = ledger.entries[ASKED[9].id], ledger.entries[ASKED[6].id]
    assert durability.judge(ledger).failures == 3
    kept.operation = replace(kept.operation, invoked_ns=first_lost.operation.invoked_ns)
    assert durability.judge(ledger).failures == 0
    # Where the history carries LSNs, they know.
    kept.operation, first_lost.operation = replace(kept.operation, lsn=90), replace(first_lost.operation, lsn=60)
    assert durability.judge(ledger).failures == 1


def test_what_was_seen_after_a_recovery_is_not_excused_by_the_crash_before_it() -> None:
    world = World(ASKED)
    seen = world.observe()
    world.lose(ASKED[9])
    for losses, failures in ((LOSSES, 1), (loss_window([(KILL_NS, READY_NS), (26, 36)], WINDOW_NS), 0)):
        # It was seen at 25, between the crashes: only the second one may have taken it.
        count = durability.judge(ledger_of(ASKED, (25, seen), (40, world.observe()), losses=losses))
        assert count.failures == failures


def test_a_crash_takes_what_it_was_told_while_it_went_down_and_not_what_came_after() -> None:
    crash = Crash(since_ns=12, kill_ns=20, until_ns=30)
    (operation,) = (entry.operation for entry in ledger_of(ASKED[:1], (1, World([]).observe())).entries.values())
    for answered_ns, excused in ((11, False), (12, True), (20, True), (30, True), (31, False), (None, False)):
        moved = replace(operation, answered_ns=answered_ns)
        assert (LossWindow((crash,)).crash_of(moved) is crash) == excused, answered_ns


def test_the_report_does_not_call_it_lost() -> None:
    world = World(ASKED)
    world.lose(ASKED[9])
    table = totals([ledger_of(ASKED, (40, world.observe()), losses=LOSSES)])
    assert table.ok == report.Fate(committed=6)
    assert table.unflushed == report.Fate(committed=3, absent=1)
    assert (table.total, table.wrong) == (10, 0)
    assert [row.told for row in ledger_rows(table)][1].startswith("ok (not yet flushed")
    assert len(ledger_rows(report.Ledger(ok=report.Fate(committed=1)))) == 3
