"""The verdict: held is earned, a finding is never talked away, and inconclusive says what would help.

What could go wrong: a run in which nothing happened that counts as held, a cycle without load that counts as
proof, a reason that names a consequence and not its cause, an exit code that a script takes for another.
"""

from __future__ import annotations

import dataclasses

import pytest

from chaos.verdict import CycleFacts, ExitCode, Reason, conclude, inconclusive, reach
from reports.verdict import EXIT_CODES, OracleRow, OracleStatus, Status

VERIFIED = CycleFacts(
    cycle=1, fault_landed=True, acknowledged=20, in_flight=1, kill_witnessed=True, ready=True, unjudged=0
)


def row(
    name: str = "durability",
    trials: int = 100,
    failures: int = 0,
    status: OracleStatus = OracleStatus.HELD,
    required: bool = True,
) -> OracleRow:
    return OracleRow(name=name, title="", status=status, trials=trials, failures=failures, required=required)


GOOD: tuple[Reason, ...] = ()
BAD = (Reason.FEW_ACKNOWLEDGED,)


def test_a_verified_cycle_has_no_reason_against_it() -> None:
    assert conclude(VERIFIED) == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"acknowledged": 19}, Reason.FEW_ACKNOWLEDGED),
        ({"in_flight": 0}, Reason.NOTHING_IN_FLIGHT),
        ({"kill_witnessed": False}, Reason.NOT_WITNESSED),
        ({"ready": False}, Reason.NOT_READY),
        ({"unjudged": 1}, Reason.NOT_JUDGED),
        ({"fault_landed": False}, Reason.FAULT_MISSED),
        ({"contradictions": 1}, Reason.CONTRADICTION),
    ],
    ids=lambda value: value.name if isinstance(value, Reason) else "",
)
def test_each_part_of_the_rule_is_asked(change: dict[str, int], reason: Reason) -> None:
    assert conclude(dataclasses.replace(VERIFIED, **change)) == (reason,)
    assert reason.remedy


def test_the_cause_comes_before_its_consequences() -> None:
    missed = dataclasses.replace(VERIFIED, fault_landed=False, kill_witnessed=False, ready=False, unjudged=30)
    assert conclude(missed) == (Reason.FAULT_MISSED, Reason.NOT_READY, Reason.NOT_JUDGED)


def test_held_needs_every_oracle_and_95_percent_of_the_cycles() -> None:
    assert reach([row()], [GOOD] * 19 + [BAD]).status is Status.HELD
    assert reach([row()], [GOOD] * 18 + [BAD] * 2).status is Status.INCONCLUSIVE
    assert reach([row(), row("wal_replay", 0, 0, OracleStatus.NOT_JUDGED)], [GOOD] * 20).status is Status.INCONCLUSIVE
    unasked = row("fan_out", 0, 0, OracleStatus.NOT_JUDGED, required=False)
    assert reach([row(), unasked], [GOOD] * 20).status is Status.HELD
    assert reach([row()], []).status is Status.INCONCLUSIVE
    assert reach([], [GOOD] * 20).status is Status.INCONCLUSIVE


def test_the_share_is_exact_for_every_number_of_cycles() -> None:
    for cycles in range(1, 2001):
        needed = -(-cycles * 19 // 20)
        for conclusive in (needed - 1, needed):
            decision = reach([row()], [GOOD] * conclusive + [BAD] * (cycles - conclusive))
            assert (decision.status is Status.HELD) == (conclusive == needed), cycles


def test_any_failure_is_a_finding() -> None:
    failed = row("atomicity", 5, 1, OracleStatus.FAILED)
    for cycles, interrupted in (([GOOD] * 20, False), ([BAD] * 20, False), ([], True)):
        decision = reach([row(), failed], cycles, interrupted=interrupted)
        assert (decision.status, decision.exit_code) == (Status.FINDING, 1)
    unasked = row("atomicity", 5, 1, OracleStatus.FAILED, required=False)
    assert reach([row(), unasked], [GOOD]).status is Status.FINDING, "also of an oracle that the plan did not ask for"


def test_an_interrupted_run_is_called_so() -> None:
    decision = reach([row()], [GOOD] * 20, interrupted=True)
    assert (decision.status, decision.exit_code) == (Status.INTERRUPTED, 2)


def test_exit_codes_are_those_of_the_design() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "HELD": 0,
        "FINDING": 1,
        "INTERRUPTED": 2,
        "HARNESS_ERROR": 3,
        "USAGE": 4,
        "INCONCLUSIVE": 5,
    }
    assert all(ExitCode[status.name] == code for status, code in EXIT_CODES.items())


def test_inconclusive_names_the_commonest_reason_and_its_remedy() -> None:
    cycles = [GOOD] * 10 + [(Reason.NOT_READY,)] * 2 + [(Reason.FEW_ACKNOWLEDGED, Reason.NOTHING_IN_FLIGHT)] * 3
    decision = reach([row()], cycles)
    assert decision.exit_code == 5
    assert decision.conclusive_cycles == 10
    assert decision.reason.startswith(Reason.FEW_ACKNOWLEDGED.value) and "3 of 15" in decision.reason
    assert decision.remedy == Reason.FEW_ACKNOWLEDGED.remedy
    assert [(entry.reason, entry.cycles) for entry in decision.inconclusive] == [
        (Reason.FEW_ACKNOWLEDGED.value, 3),
        (Reason.NOT_READY.value, 2),
    ]


def test_an_oracle_without_trials_is_named() -> None:
    silent = OracleRow(name="wal_replay", title="", status=OracleStatus.NOT_JUDGED, reason="no journal")
    decision = reach([row(), silent], [GOOD] * 20)
    assert decision.reason == "wal_replay was not judged: no journal"
    assert decision.remedy


def test_other_verdicts_have_no_reason_to_give() -> None:
    assert reach([row()], [GOOD]).reason == ""
    assert inconclusive([GOOD]) == ()
    assert reach([row()], []).reason == "no cycle was run"
