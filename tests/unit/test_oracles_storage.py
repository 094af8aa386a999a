"""The oracle of storage.

What could go wrong: a campaign whose server leaves a damaged index is called held, because no statement met the entry; a
walk that ended before it had begun counts as nothing looked at; a run that was cut off before any look is called held.
"""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.oracles import storage
from chaos.oracles.oracle import DETAILED
from reports.verdict import OracleStatus
from supervisor.engine.verify.corruption import Corruption, Kind, RelationChecked, Verification

HEAP = RelationChecked("base/16", "bank_account", "heap", 2, 140, 0)
INDEX = RelationChecked("base/17", "bank_account_pkey", "index", 1, 100, 0)
STALE = Corruption(Kind.INDEX_ENTRY, "base/17", "bank_account_pkey", 0, 3, "the entry of 7 leads nowhere")
CYCLE_END: dict[str, Any] = {"t": 6, "pid": 1, "ev": "cycle_end", "cycle": 2}


def walked(*corruptions: Corruption, relations: tuple[RelationChecked, ...] = (HEAP, INDEX)) -> dict[str, Any]:
    found = msgspec.to_builtins(Verification("shut down", False, 512, relations, corruptions))
    return {"t": 7, "pid": 1, "ev": "files_checked", "cycle": 2, "epoch": 0, "verification": found}


def test_every_relation_of_every_walk_is_a_trial() -> None:
    result = storage.judge([CYCLE_END, walked(), walked()])
    assert (result.status, result.trials, result.failed) == (OracleStatus.HELD, 4, 0)


def test_a_corruption_fails_with_its_file_and_block() -> None:
    result = storage.judge([walked(), walked(STALE)])
    assert (result.status, result.trials, result.failed) == (OracleStatus.FAILED, 4, 1)
    (failure,) = result.failures
    assert (failure.cycle, failure.t) == (2, 7)
    assert "base/17 block 0 offset 3" in failure.message and "base/17 block 0 offset 3" in failure.evidence[0]


def test_a_walk_that_could_not_begin_for_damage_fails() -> None:
    lost = Corruption(Kind.CONTROL_FILE, "global/pg_control", "", None, None, "there is none")
    result = storage.judge([walked(lost, relations=())])
    assert (result.status, result.trials, result.failed) == (OracleStatus.FAILED, 1, 1)


def test_of_many_corruptions_the_first_are_told_and_all_are_counted() -> None:
    result = storage.judge([walked(*[STALE] * 15), walked(*[STALE] * 15)])
    assert (result.failed, len(result.failures)) == (30, DETAILED)


def test_a_run_that_was_cut_off_before_any_look_is_not_judged() -> None:
    result = storage.judge([CYCLE_END])
    assert result.status is OracleStatus.NOT_JUDGED
    assert "no epoch came to its end" in result.reason
