"""Transactions of real backends that want the same rows: deadlocks, serialization failures, and no wake-up lost.

What could go wrong only between processes: a cycle of waits that nobody sees, or that everybody in it sees, so that
all give way; a victim that is in no cycle; a waiter that is woken by nobody when the transaction it waits for ends; an
update built on a version that its transaction has never seen. Three backends are the smallest cycle that is not a
pair; the fourth waits for it from outside, and must not be its victim.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from tests.conftest import MakeServer
from tests.support.row_scripts import ROWS
from tests.support.server import LiveServer

pytestmark = pytest.mark.live

PRELOAD = {"shared_preload_libraries": "tests.support.row_scripts"}
DEADLINE_S = 60.0


@dataclass
class Outcome:
    """How one backend's statement ended."""

    pid: int
    error: psycopg.Error | None = None
    rows: list[tuple[object, ...]] | None = None


def counters_server(make_server: MakeServer, **options: str) -> LiveServer:
    server = make_server(PRELOAD | options).start()
    with server.connect() as connection:
        connection.execute("CALL counters_setup()")
    return server


def run_together(server: LiveServer, statements: list[str]) -> list[Outcome]:
    """Each statement in a backend of its own, all at the same time; fails if one has no end."""
    sessions = [server.connect() for _ in statements]
    outcomes = [Outcome(session.info.backend_pid) for session in sessions]

    def run(number: int) -> None:
        try:
            cursor = sessions[number].execute(statements[number])
            outcomes[number].rows = cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            outcomes[number].error = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(statements))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    waiting = [outcome.pid for outcome, thread in zip(outcomes, threads, strict=True) if thread.is_alive()]
    assert not waiting, f"backends {waiting} still wait after {DEADLINE_S:g} s"
    for session in sessions:
        session.close()
    return outcomes


def counts(server: LiveServer) -> dict[object, object]:
    with server.connect() as connection:
        return dict(connection.execute("CALL counters()").fetchall())


def test_a_cycle_of_three_has_one_victim_and_the_bystander_none(make_server: MakeServer, tmp_path: Path) -> None:
    server = counters_server(make_server, deadlock_timeout="200ms")
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    orders = [(1, 2), (2, 3), (3, 1), (4, 1)]
    outcomes = run_together(
        server,
        [
            f"CALL counters_script(script => 'add {first}, meet, add {second}', meeting => '{meeting}', parties => 4)"
            for first, second in orders
        ],
    )
    victims = [number for number, outcome in enumerate(outcomes) if outcome.error is not None]
    assert len(victims) == 1 and victims[0] < 3, [outcome.error for outcome in outcomes]
    victim = victims[0]
    expected = dict.fromkeys(range(1, ROWS + 1), 0)
    for number, keys in enumerate(orders):
        for key in keys:
            expected[key] += number != victim
    assert counts(server) == expected

    error = outcomes[victim].error
    assert error is not None and error.sqlstate == "40P01"
    assert error.diag.message_primary == "deadlock detected"
    assert error.diag.message_hint == "See server log for query details."
    # From the victim on, each is blocked by the next, and the last by the victim.
    ring = [outcomes[(victim + step) % 3].pid for step in range(4)]
    detail = error.diag.message_detail or ""
    waits = [
        re.fullmatch(r"Process (\d+) waits for ShareLock on transaction \d+; blocked by process (\d+)\.", line)
        for line in detail.split("\n")
    ]
    assert [wait and (int(wait[1]), int(wait[2])) for wait in waits] == list(pairwise(ring))
    # What the others ran is for the log alone.
    for pid in ring:
        server.wait_log(f"Process {pid}: CALL counters_script(")
    assert "CALL" not in detail


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_an_update_behind_another_one(make_server: MakeServer, tmp_path: Path, isolation: str) -> None:
    """Both have read the row when one of them changes it. The other waits for it, or comes just after its commit."""
    server = counters_server(make_server)
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    first, second = run_together(
        server,
        [
            f"CALL counters_script(script => 'read 1, add 1, meet, add 2', meeting => '{meeting}')",
            f"CALL counters_script(script => 'read 1, meet, add 1', isolation => '{isolation}', "
            f"meeting => '{meeting}')",
        ],
    )
    assert first.error is None
    if isolation == "read committed":
        assert second.error is None
        assert counts(server)[1] == 2
    else:
        assert second.error is not None and second.error.sqlstate == "40001"
        assert second.error.diag.message_primary == "could not serialize access due to concurrent update"
        assert counts(server)[1] == 1


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_every_wait_ends_and_no_change_is_lost(make_server: MakeServer, isolation: str) -> None:
    """Six backends that lock the same few rows in any order, for ever at each other's throat: with a deadlock that
    nobody sees, or a wake-up that does not come, one of them would have no end, for no lock_timeout ends a wait."""
    backends, rounds = 6, 40
    server = counters_server(make_server, deadlock_timeout="10ms")
    outcomes = run_together(
        server,
        [
            f"CALL counters_shuffle(rounds => {rounds}, seed => {seed}, isolation => '{isolation}')"
            for seed in range(backends)
        ],
    )
    assert [outcome.error for outcome in outcomes] == [None] * backends
    retries = sum(int(str(outcome.rows[0][0])) for outcome in outcomes if outcome.rows)
    assert retries > 0, "nobody ever met anybody: the test has shown nothing"
    assert sum(int(str(count)) for count in counts(server).values()) == backends * rounds * 3
