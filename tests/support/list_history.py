"""Histories of transactions over lists, written as a few lines of text.

    x: 1 2 1'                       what list x was in the end: elements of T1, T2, and T1's second one
    T1 rc ok: append x, append x    at READ COMMITTED, told ok
    T2 rr ok: read x = 1, append x  at REPEATABLE READ; what it read; `read y =` is an empty list
    T3 rc fail: append y            told that it failed; also `rollback` (was to be rolled back) and `unknown`

An element is named after its transaction, with a prime for each element of it that is in the list before.
T0 is in no history: its elements are there from the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workloads.append import STEPS, element_of
from workloads.session import READ_COMMITTED, REPEATABLE_READ
from workloads.workload import ISOLATION, READ_KIND, ROLLBACK_KIND, Operation, Outcome

KEYS = {"x": 0, "y": 1, "z": 2}
LEVELS = {"rc": READ_COMMITTED, "rr": REPEATABLE_READ}
OUTCOMES = {"ok": Outcome.OK, "fail": Outcome.FAIL, "rollback": Outcome.FAIL, "unknown": Outcome.UNKNOWN}
OLDER_STEPS = {"x": 0, "y": 1, "z": 2}
"""Which step of T0 appended to each list."""


def parse(text: str) -> tuple[list[Operation], dict[int, list[int]]]:
    """The operations and the final lists of a history in text."""
    lines = [line.strip() for line in text.strip().splitlines()]
    transactions = [line for line in lines if line.startswith("T")]
    elements = {("T0", key): [element_of(0, step)] for key, step in OLDER_STEPS.items()}
    for line in transactions:
        head, steps = line.split(":")
        for number, step in enumerate(steps.split(",")):
            verb, key = step.split()[:2]
            if verb == "append":
                elements.setdefault((head.split()[0], key), []).append(element_of(int(head.split()[0][1:]), number))

    def named(key: str, names: Sequence[str]) -> list[int]:
        return [elements[f"T{name.rstrip(chr(39))}", key][name.count("'")] for name in names]

    lists = {
        KEYS[key]: named(key, names.split())
        for key, names in (line.split(":") for line in lines if not line.startswith("T"))
    }
    operations = []
    for line in transactions:
        head, steps = line.split(":")
        name, level, told = head.split()
        done: list[tuple[str, list[int] | None]] = []
        for step in steps.split(","):
            verb, key, *more = step.split()
            done.append((key, named(key, more[1:]) if verb == "read" else None))
        operations.append(operation(int(name[1:]), LEVELS[level], told, [(KEYS[key], read) for key, read in done]))
    return operations, lists


def operation(number: int, level: str, told: str, done: Sequence[tuple[int, list[int] | None]]) -> Operation:
    """One operation: its steps are (key, list read) or (key, None) for an append; told as in the text."""
    appends = any(read is None for _, read in done)
    kind = ROLLBACK_KIND if told == "rollback" else "append" if appends else READ_KIND
    steps = [[key, element_of(number, step) if read is None else None] for step, (key, read) in enumerate(done)]
    read: list[list[Any]] = [
        [key, element_of(number, step) if read is None else read] for step, (key, read) in enumerate(done)
    ]
    return Operation(
        operation=number,
        worker=number % 4,
        kind=kind,
        values={ISOLATION: level, STEPS: steps},
        outcome=OUTCOMES[told],
        pid=7,
        invoked_ns=2 * number,
        answered_ns=None if told == "unknown" else 2 * number + 1,
        read=read if told == "ok" else None,
    )
