"""Histories with one fault each, and histories with none: what the oracle of isolation says of every one of them.

What could go wrong: a checker that cries wolf over what a level allows (write skew, a lost update at READ COMMITTED)
or over what a crash leaves (transactions that nobody answered), and one that cannot see. So each anomaly is planted in
several ways and must be found under its own name and no other; and for each history that is good a neighbour is bad.
"""

from __future__ import annotations

import pytest

from chaos.oracles.isolation import examine, stories
from chaos.oracles.isolation_levels import Anomaly
from tests.support.list_history import operation, parse
from workloads.append import element_of

GOOD = {
    "one after the other": """
        x: 1 2
        T1 rr ok: append x
        T2 rr ok: read x = 1, append x, read x = 1 2
        T3 rc ok: read x = 1 2""",
    "an empty list is read before anybody writes": """
        x: 2
        T1 rr ok: read x =, read y =
        T2 rr ok: append x""",
    "write skew is not forbidden to snapshots": """
        x: 1
        y: 2
        T1 rr ok: read y =, append x
        T2 rr ok: read x =, append y""",
    "write skew of three": """
        x: 1
        y: 2
        z: 3
        T1 rr ok: read y =, append x
        T2 rr ok: read z =, append y
        T3 rr ok: read x =, append z""",
    "the read-only anomaly of snapshots": """
        x: 1
        y: 2
        T1 rr ok: read y =, append x
        T2 rr ok: read x =, append y
        T3 rr ok: read y = 2, read x =""",
    "a lost update is allowed at read committed": """
        x: 2 1
        T1 rc ok: read x =, append x
        T2 rr ok: append x""",
    "a read that does not repeat is allowed at read committed": """
        x: 1 2
        T1 rc ok: append x
        T2 rc ok: append x
        T3 rc ok: read x =, read x = 1, read x = 1 2""",
    "read skew is allowed at read committed": """
        x: 1
        y: 1
        T1 rr ok: append x, append y
        T2 rc ok: read x =, read y = 1""",
    "two levels side by side": """
        x: 1 3
        y: 2 3
        T1 rr ok: read y =, append x
        T2 rc ok: read x =, append y
        T3 rc ok: read x = 1, append x, append y
        T4 rr ok: read x = 1, read y = 2""",
    "two appends of one transaction": """
        x: 1 1' 2
        T1 rr ok: append x, append x, read x = 1 1'
        T2 rc ok: read x = 1 1', append x""",
    "an own append between two reads": """
        x: 1 2
        T1 rr ok: append x
        T2 rr ok: read x = 1, append x, read x = 1 2, read y =""",
    "nobody answered and it is there": """
        x: 1 2
        T1 rr unknown: append x
        T2 rr ok: read x = 1, append x""",
    "nobody answered and it is gone": """
        x: 2
        T1 rr unknown: append x
        T2 rr ok: read x =, append x""",
    "a crash took some and left some": """
        x: 1 3
        y: 4
        T1 rr ok: append x
        T2 rr unknown: read x = 1, append y
        T3 rc unknown: append x, append z
        T4 rr ok: read x = 1 3, read y =, append y
        T5 rr fail: append x
        T6 rr rollback: append y""",
    "a failed one that nobody saw": """
        x: 2
        T1 rc fail: append x
        T2 rc ok: append x, read x = 2""",
    "lists older than the history": """
        x: 0 1
        y: 0
        T1 rr ok: read x = 0, append x, read y = 0
        T2 rr ok: read x = 0, read y = 0""",
    "acknowledged, read and lost is a matter of durability": """
        x: 3
        T1 rr ok: append x
        T2 rr ok: read x = 1
        T3 rr ok: read x =, append x""",
    "risen and unread is a matter of resurrection": """
        x: 1
        T1 rr rollback: append x
        T2 rr ok: read x =, read y =""",
    "an element that is there twice is a matter of atomicity": """
        x: 1 2 1
        T1 rr ok: append x
        T2 rr ok: append x""",
}

BAD = {
    "two lists written in two orders": (Anomaly.G0, """
        x: 1 2
        y: 2 1
        T1 rc ok: append x, append y
        T2 rc ok: append x, append y"""),
    "one list written in turns": (Anomaly.G0, """
        x: 1 2 1'
        T1 rr ok: append x, append x
        T2 rc ok: append x"""),
    "three lists written in a ring": (Anomaly.G0, """
        x: 1 2
        y: 2 3
        z: 3 1
        T1 rc ok: append x, append z
        T2 rr ok: append x, append y
        T3 rc ok: append y, append z"""),
    "written in two orders by one that nobody answered": (Anomaly.G0, """
        x: 1 2
        y: 2 1
        T1 rc unknown: append x, append y
        T2 rc ok: append x, append y"""),
    "read of one that failed": (Anomaly.G1A, """
        x: 2
        T1 rc fail: append x
        T2 rc ok: append x
        T3 rc ok: read x = 1"""),
    "read of one that was rolled back, in the middle": (Anomaly.G1A, """
        x: 2 3
        T1 rr rollback: append x
        T2 rr ok: append x
        T3 rr ok: append x
        T4 rr ok: read x = 2 1 3"""),
    "read of one that a crash took": (Anomaly.G1A, """
        x:
        T1 rr unknown: append x
        T2 rr ok: read x = 1"""),
    "read of one that failed and rose again": (Anomaly.G1A, """
        x: 1
        T1 rr fail: append x
        T2 rc ok: read x = 1"""),
    "read of one that was never invoked": (Anomaly.G1A, """
        x: 2
        T2 rc ok: append x
        T3 rc ok: read x = 2 0"""),
    "read between two appends": (Anomaly.G1B, """
        x: 1 1'
        T1 rc ok: append x, append x
        T2 rc ok: read x = 1"""),
    "snapshot between two appends": (Anomaly.G1B, """
        x: 0 1 1' 1''
        T1 rr ok: append x, append x, append x
        T2 rr ok: read x = 0 1 1'"""),
    "read between two appends of one that nobody answered": (Anomaly.G1B, """
        x: 2 1 1'
        T1 rc unknown: append x, append x
        T2 rc ok: append x
        T3 rc ok: read x = 2 1"""),
    "two that read each other": (Anomaly.G1C, """
        x: 1
        y: 2
        T1 rc ok: append x, read y = 2
        T2 rc ok: append y, read x = 1"""),
    "one that read what was written after it": (Anomaly.G1C, """
        x: 1 2
        y: 2
        T1 rr ok: append x, read y = 2
        T2 rr ok: append x, append y"""),
    "three that read in a ring": (Anomaly.G1C, """
        x: 1
        y: 2
        z: 3
        T1 rc ok: append x, read z = 3
        T2 rr ok: append y, read x = 1
        T3 rc ok: append z, read y = 2"""),
    "own append not seen": (Anomaly.INTERNAL, """
        x: 1 2
        T1 rc ok: append x
        T2 rc ok: append x, read x = 1"""),
    "own append seen and another after it": (Anomaly.INTERNAL, """
        x: 1 2
        T1 rr ok: append x, read x = 1 2
        T2 rr unknown: append x"""),
    "own append seen before it was made": (Anomaly.INTERNAL, """
        x: 1
        T1 rr ok: read x = 1, append x"""),
    "only the first of two own appends seen": (Anomaly.INTERNAL, """
        x: 1 1'
        T1 rc ok: append x, append x, read x = 1"""),
    "read in another order": (Anomaly.INCOMPATIBLE_ORDER, """
        x: 1 2
        T1 rc ok: append x
        T2 rc ok: append x
        T3 rc ok: read x = 2 1"""),
    "read with one left out": (Anomaly.INCOMPATIBLE_ORDER, """
        x: 1 2 3
        T1 rc ok: append x
        T2 rc ok: append x
        T3 rc ok: append x
        T4 rr ok: read x = 1 3"""),
    "read with an element twice": (Anomaly.INCOMPATIBLE_ORDER, """
        x: 1 2
        T1 rc ok: append x
        T2 rc ok: append x
        T3 rc ok: read x = 1 1"""),
    "two updates of one version": (Anomaly.LOST_UPDATE, """
        x: 0 1 2
        T1 rr ok: read x = 0, append x
        T2 rr ok: read x = 0, append x"""),
    "an update over one at read committed": (Anomaly.LOST_UPDATE, """
        x: 1 2
        T1 rc ok: append x
        T2 rr ok: read x =, append x"""),
    "an update over two others": (Anomaly.LOST_UPDATE, """
        x: 1 2 3
        T1 rc ok: append x
        T2 rc ok: append x
        T3 rr ok: read x =, append x"""),
    "an update over one that nobody answered": (Anomaly.LOST_UPDATE, """
        x: 1 2
        T1 rr unknown: append x
        T2 rr ok: read x =, append x"""),
    "read skew": (Anomaly.G_SINGLE, """
        x: 1
        y: 1
        T1 rr ok: append x, append y
        T2 rr ok: read x =, read y = 1"""),
    "read skew, its writer at read committed": (Anomaly.G_SINGLE, """
        x: 1
        y: 1
        T1 rc ok: append x, append y
        T2 rr ok: read y = 1, read x ="""),
    "a read that does not repeat": (Anomaly.G_SINGLE, """
        x: 1
        T1 rc ok: append x
        T2 rr ok: read x =, read x = 1"""),
    "a snapshot that sees the effect and not the cause": (Anomaly.G_SINGLE, """
        x: 1
        y: 2
        T1 rc ok: append x
        T2 rc ok: read x = 1, append y
        T3 rr ok: read y = 2, read x ="""),
    "read skew past an element of nobody known": (Anomaly.G_SINGLE, """
        x: 0 1
        y: 1 0
        T1 rr ok: append x, append y
        T2 rr ok: read x =, read y = 1 0"""),
    "a write over what the snapshot missed": (Anomaly.G_SINGLE, """
        x: 1
        y: 1 2
        T1 rr ok: append x, append y
        T2 rr ok: read x =, append y"""),
    "two snapshots that saw two writers in two orders": (Anomaly.G_NONADJACENT, """
        x: 1
        y: 2
        T1 rr ok: append x
        T2 rr ok: append y
        T3 rr ok: read x = 1, read y =
        T4 rr ok: read x =, read y = 2"""),
    "the same, their writers at read committed": (Anomaly.G_NONADJACENT, """
        x: 0 1
        y: 0 2
        T1 rc ok: append x
        T2 rc unknown: append y
        T3 rr ok: read x = 0 1, read y = 0
        T4 rr ok: read x = 0, read y = 0 2"""),
    "the same, the one snapshot writes over the first": (Anomaly.G_NONADJACENT, """
        x: 1 3
        y: 2
        T1 rr ok: append x
        T2 rr ok: append y
        T3 rr ok: append x, read y =
        T4 rr ok: read x =, read y = 2"""),
}  # fmt: skip


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_a_good_history_is_not_flagged(text: str) -> None:
    found = examine(*parse(text))
    assert found.misreads == ()
    assert found.cycles == []


@pytest.mark.parametrize(("anomaly", "text"), BAD.values(), ids=BAD.keys())
def test_a_bad_history_is_called_by_its_name(anomaly: Anomaly, text: str) -> None:
    found = examine(*parse(text))
    assert {misread.anomaly for misread in found.misreads} | {cycle.anomaly for cycle in found.cycles} == {anomaly}
    assert found.trials >= len(found.misreads) + len(found.cycles)


@pytest.mark.parametrize("anomaly", list(Anomaly))
def test_every_anomaly_is_planted_at_least_three_ways(anomaly: Anomaly) -> None:
    assert sum(planted is anomaly for planted, _ in BAD.values()) >= 3


def test_a_cycle_is_told_in_words() -> None:
    _, text = BAD["a snapshot that sees the effect and not the cause"]
    operations, lists = parse(text)
    ((cycle, t, message, evidence),) = stories(examine(operations, lists))
    assert (cycle, t) == (0, 7), "the last answer of those in it"
    assert message == ("G-single, a transaction saw one part of the past and missed another: T1 is 3, T2 is 1, T3 is 2")
    assert evidence() == (
        "T1 read list 0 = [] before T2 appended 4 to it (rw)",
        "T3 read list 0 with 4 in it, which T2 had appended (wr)",
        "T1 read list 1 with 9 in it, which T3 had appended (wr)",
        "so T1 comes before itself",
        "t=6 process 7, worker 3: T1 is read 3 (repeatable read), told ok",
        "t=2 process 7, worker 1: T2 is append 1 (read committed), told ok",
        "t=4 process 7, worker 2: T3 is append 2 (read committed), told ok",
    )


def test_a_wrong_read_is_told_in_words() -> None:
    _, text = BAD["read of one that a crash took"]
    ((_, _, message, evidence),) = stories(examine(*parse(text)))
    assert message == "G1a, a read saw what never committed: operation 2 (repeatable read) in list 0"
    assert evidence() == (
        "t=4 process 7, worker 2: T1 is read 2 (repeatable read), told ok",
        "T1 read list 0 = [4]",
        "element 4 is of T2",
        "t=2 process 7, worker 1: T2 is append 1 (repeatable read), told nothing",
        "in the end list 0 = []",
    )


@pytest.mark.parametrize("text", [text for _, text in BAD.values()], ids=BAD.keys())
def test_every_finding_has_its_words(text: str) -> None:
    for _, _, message, evidence in stories(examine(*parse(text))):
        assert ": operation" in message or ": T1 is" in message
        assert len(evidence()) >= 3


def test_a_knot_of_many_is_told_once_by_its_shortest_cycle() -> None:
    """A ring of 500 that nobody could read, with a chord that makes two of them a circle of their own."""
    count = 500
    steps = [
        [(number, None), ((number + 1) % count, [element_of(1 + (number + 1) % count, 0)])] for number in range(count)
    ]
    steps[7].append((6, [element_of(7, 0)]))
    operations = [operation(1 + number, "read committed", "ok", done) for number, done in enumerate(steps)]
    lists = {number: [element_of(1 + number, 0)] for number in range(count)}
    (cycle,) = examine(operations, lists).cycles
    assert len(cycle.knot) == count
    assert {operations[node].operation for node in cycle.nodes} == {7, 8}


def test_a_level_that_the_table_has_not_is_refused() -> None:
    operations = [operation(1, "chaos", "ok", [(0, [])])]
    with pytest.raises(ValueError, match="no isolation level 'chaos'; there are read committed, repeatable read"):
        examine(operations, {})
