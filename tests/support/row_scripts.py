"""Procedures for tests of concurrency, preloaded by the server under test: rows changed in a given order, and at random.

A script makes two backends meet at a known moment, which no client can do from outside: each says in a file that it is
there and goes on when all are. The rows are counters, so that a change that was lost, or made twice, shows in a sum.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from supervisor.session.session import Session
from workloads.procedure import REQUIRED, Context, Procedure
from workloads.session import Row, sqlstate_of

TABLE = "counters"
ROWS = 8
_DEADLINE_S = 30.0
_RETRIABLE = ("40001", "40P01")


def _run_setup(context: Context) -> None:
    session = context.session
    session.create_table(TABLE, columns=[("id", "integer"), ("n", "integer")], primary_key="id")
    for key in range(1, ROWS + 1):
        session.insert(TABLE, (key, 0))


def _add_one(context: Context, key: int) -> None:
    row = context.session.get(TABLE, key, for_update=True)
    assert row is not None
    context.session.update(TABLE, key, (key, row[1] + 1))


def _meet(context: Context, directory: Path, parties: int) -> None:
    (directory / str(context.pid)).touch()
    deadline = time.monotonic() + _DEADLINE_S
    while len(list(directory.iterdir())) < parties:
        if time.monotonic() > deadline:
            raise AssertionError(f"fewer than {parties} processes came to {directory}")
        context.host.check_interrupts()
        time.sleep(0.001)


def _run_script(context: Context, script: str, isolation: str, meeting: str, parties: int) -> None:
    """One transaction of the steps `read k`, `add k` (lock, then add one) and `meet`."""
    session = cast(Session, context.session)
    session.begin(isolation)
    for step in script.split(", "):
        match step.split():
            case ["read", key]:
                session.get(TABLE, int(key))
            case ["add", key]:
                _add_one(context, int(key))
            case ["meet"]:
                _meet(context, Path(meeting), parties)
            case _:
                raise AssertionError(f"no such step: {step}")
    session.commit()


def _run_shuffle(context: Context, rounds: int, seed: int, isolation: str) -> Iterable[Row]:
    """Transactions that each add one to three rows, in a random order; tried again until they commit."""
    session = cast(Session, context.session)
    choice = random.Random(seed)
    retries = 0
    for _ in range(rounds):
        keys = choice.sample(range(1, ROWS + 1), 3)
        while True:
            try:
                session.begin(isolation)
                for key in keys:
                    _add_one(context, key)
                session.commit()
                break
            except Exception as error:
                session.rollback()
                if sqlstate_of(error) not in _RETRIABLE:
                    raise
                retries += 1
    return [(retries,)]


def _run_counts(context: Context) -> Iterable[Row]:
    return list(context.session.scan(TABLE))


PROCEDURES = (
    Procedure("counters_setup", (), (), _run_setup),
    Procedure(
        "counters_script",
        (
            ("script", "text", REQUIRED),
            ("isolation", "text", "read committed"),
            ("meeting", "text", ""),
            ("parties", "integer", 2),
        ),
        (),
        _run_script,
    ),
    Procedure(
        "counters_shuffle",
        (("rounds", "integer", REQUIRED), ("seed", "bigint", REQUIRED), ("isolation", "text", "read committed")),
        (("retries", "integer"),),
        _run_shuffle,
    ),
    Procedure("counters", (), (("id", "integer"), ("n", "integer")), _run_counts),
)
