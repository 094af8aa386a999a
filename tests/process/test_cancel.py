"""Cancelling a statement from outside, wherever it waits, and nothing but the statement.

What could go wrong: a cancel that ends the session, or none at all because the backend sleeps where it looks at no
signal; one that interrupts a commit whose record is written, and tells the client that nothing happened; one that
hits the next statement; a wrong key that is obeyed; a key that no client could know being the only thing between a
stranger and everybody's statements, and standing in the log. Two sessions, because a statement only waits for another
one's row or flush.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from chaos.descriptors import readable
from supervisor.points import Point
from tests.conftest import MakeServer
from tests.support import wire_client as client
from tests.support.bank_client import transfers
from tests.support.held_up import ELSEWHERE, SEED, held_up, passed, transfer, with_bank
from tests.support.scene import Points, planted
from tests.support.server import LiveServer
from tests.support.waiting import wait_until
from workloads.bank import TRANSFER_KIND, Bank

pytestmark = pytest.mark.live

CANCELLED = ("57014", "canceling statement due to user request")
FLUSH = "supervisor/engine/wal/flush.py"


def cancel(server: LiveServer, pid: int, key: bytes) -> None:
    """A cancel request; it is answered by nothing, and has been acted upon when the server hangs up."""
    with server.knock() as stranger:
        stranger.say(client.cancel_request(pid, key))
        assert stranger.hear_the_end() == b""


def error(heard: bytes) -> tuple[str, str]:
    (fields,) = client.errors(heard)
    return fields["C"], fields["M"]


@pytest.fixture
def bank(make_server: MakeServer, points: Points) -> LiveServer:
    """A server whose sessions' points can be armed, with a bank."""
    return with_bank(make_server, points)


def test_a_wait_for_a_row_is_cancelled_and_the_session_goes_on(bank: LiveServer, points: Points) -> None:
    with bank.knock() as waiter:
        pid = waiter.log_in()
        with held_up(bank, points, Point.COMMIT_BEFORE_RECORD):
            waiter.say(transfer(2))
            wait_until("it to wait for the row", lambda: passed(points, Point.ROW_LOCK_WAIT))
            cancel(bank, pid, waiter.cancel_key)
            assert error(waiter.hear("Z")) == CANCELLED
            assert client.errors(waiter.ask("SHOW port")) == []
        waiter.say(transfer(3))
        assert client.errors(waiter.hear("Z")) == []
    assert transfers(bank) == {1, 3}


def test_the_seeds_are_of_transfers_that_do_not_wait_for_each_other() -> None:
    (first,), (other,) = (Bank(10).requests(0, 1, 1, seed) for seed in (SEED, ELSEWHERE))
    assert first.kind == other.kind == TRANSFER_KIND
    assert not {first.values["source"], first.values["target"]} & {other.values["source"], other.values["target"]}


def cancelled_in_its_flush(server: LiveServer, points: Points) -> tuple[bool, bytes]:
    """A commit whose record waits for another session's flush is cancelled: whether it is answered before that flush is
    over, and its answer."""
    with server.knock() as session:
        with held_up(server, points, Point.WAL_FLUSH_BEFORE_FSYNC):
            pid = session.log_in()
            before = passed(points, Point.COMMIT_AFTER_RECORD)
            session.say(transfer(2, ELSEWHERE))
            wait_until("its commit record to be written", lambda: passed(points, Point.COMMIT_AFTER_RECORD) > before)
            cancel(server, pid, session.cancel_key)
            early = readable(session.socket.fileno(), 0.5)
        return early, session.hear("Z")


def test_a_commit_that_waits_for_its_flush_is_not_undone_by_a_cancel(bank: LiveServer, points: Points) -> None:
    """The record is in the log: a client that is told of the cancel then must not be told that nothing happened."""
    early, heard = cancelled_in_its_flush(bank, points)
    assert not early
    assert error(heard) == CANCELLED, "at the first place behind the commit where nothing is half done"
    assert transfers(bank) == {1, 2}


def test_the_rule_sees_a_flush_that_a_cancel_interrupts(
    make_server: MakeServer, points: Points, tmp_path: Path
) -> None:
    waits = "            self._host.wait(self._latch, None)\n"
    code = planted(
        tmp_path,
        "a wait for the flush looks at interrupts",
        (FLUSH, waits, waits + "            self._host.check_interrupts()\n"),
    )
    early, heard = cancelled_in_its_flush(with_bank(make_server, points, code), points)
    assert early
    assert error(heard) == CANCELLED


def test_a_cancel_between_statements_is_forgotten(server: LiveServer) -> None:
    with server.knock() as session:
        pid = session.log_in()
        cancel(server, pid, session.cancel_key)
        assert client.errors(session.ask("SHOW port")) == []


def test_a_wrong_key_does_nothing_and_no_key_is_ever_logged(bank: LiveServer, points: Points) -> None:
    with bank.knock() as waiter, bank.knock() as other:
        pid, stranger = waiter.log_in(), other.log_in()
        assert waiter.cancel_key != other.cancel_key, "the same secret for everybody"
        with held_up(bank, points, Point.COMMIT_BEFORE_RECORD):
            waiter.say(transfer(2))
            wait_until("it to wait for the row", lambda: passed(points, Point.ROW_LOCK_WAIT))
            cancel(bank, pid, other.cancel_key)
            cancel(bank, pid, b"")
            cancel(bank, pid, waiter.cancel_key[:3])
            cancel(bank, pid, waiter.cancel_key + b"\0")
            cancel(bank, bank.pid, waiter.cancel_key)
            cancel(bank, bank.child("checkpointer").pid, waiter.cancel_key)
            cancel(bank, 0, waiter.cancel_key)
        assert client.errors(waiter.hear("Z")) == []
        secrets = [key for session in (waiter, other) for key in (session.cancel_key.hex(), repr(session.cancel_key))]
    log = bank.log()
    assert log.count(f"LOG:  wrong key in cancel request for process {pid}\n") == 3
    assert f"LOG:  PID {bank.pid} in cancel request did not match any process\n" in log
    assert "LOG:  invalid cancel request with PID 0\n" in log
    assert "LOG:  invalid length of cancel request packet\n" in log
    written = log + bank.journal_path.read_text()
    assert not [secret for secret in secrets if secret in written]
    assert stranger != pid
    assert transfers(bank) == {1, 2}


def test_the_rule_sees_a_key_that_is_not_compared(make_server: MakeServer, points: Points, tmp_path: Path) -> None:
    keys = "supervisor/shmem/cancel_keys.py"
    edit = (keys, "return Match.RIGHT if right else Match.WRONG_KEY", "return Match.RIGHT")
    server = with_bank(make_server, points, planted(tmp_path, "a cancel key is not compared", edit))
    with server.knock() as waiter, held_up(server, points, Point.COMMIT_BEFORE_RECORD):
        pid = waiter.log_in()
        waiter.say(transfer(2))
        wait_until("it to wait for the row", lambda: passed(points, Point.ROW_LOCK_WAIT))
        cancel(server, pid, bytes(4))
        assert error(waiter.hear("Z")) == CANCELLED


def test_a_statement_can_be_cancelled_while_nobody_new_is_let_in(bank: LiveServer, points: Points) -> None:
    """A smart shutdown waits for a session, and the request comes to a dead-end child."""
    with bank.knock() as waiter:
        pid = waiter.log_in()
        with held_up(bank, points, Point.COMMIT_BEFORE_RECORD):
            waiter.say(transfer(2))
            wait_until("it to wait for the row", lambda: passed(points, Point.ROW_LOCK_WAIT))
            bank.signal_postmaster(signal.SIGTERM)
            bank.wait_log("received smart shutdown request")
            cancel(bank, pid, waiter.cancel_key)
            assert error(waiter.hear("Z")) == CANCELLED
    assert bank.wait_exit() == 0
