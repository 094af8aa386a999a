"""A checkpoint that takes its time, in a live server: everything else goes on, and whoever is in a hurry is not kept.

What could go wrong: a session that says CHECKPOINT waits out the pauses of the one that runs; so does a shutdown, until
somebody loses patience and sends SIGKILL; a reload in a pause is not noticed for minutes; a crash during one is
recovered from pages that it never wrote. Its virtual time is in tests/unit; here are the processes and their signals.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from chaos.descriptors import readable
from tests.conftest import MakeServer
from tests.support import wire_client as client
from tests.support.bank_client import acknowledge, transfers
from tests.support.scene import planted
from tests.support.server import LiveServer

pytestmark = pytest.mark.live

ACCOUNTS = 8000
"""Some seventy pages: with a pause after each, seven seconds."""
QUICK_S = 4.0
BEGUN = "checkpoint starting: time"
COMPLETE = "checkpoint complete"
CHECKPOINTER = "supervisor/processes/checkpointer.py"


def spreading(make_server: MakeServer, code: Path | None = None) -> LiveServer:
    """A server in the midst of a checkpoint that nobody waits for, and that goes as slowly as it may."""
    server = make_server({"bgwriter_lru_maxpages": "0"}, code=code).start()
    with server.connect() as session:
        session.execute("CALL bank_setup(accounts => %s)", (ACCOUNTS,))
    configuration = server.data / "postgresql.conf"
    configuration.write_text("checkpoint_timeout = 1s\n")
    server.signal_postmaster(signal.SIGHUP)
    server.wait_log(BEGUN)
    # Heard in a pause, or the checkpoint would be over in a second.
    configuration.write_text("checkpoint_timeout = 1h\n")
    server.signal_postmaster(signal.SIGHUP)
    server.wait_log('parameter "checkpoint_timeout" changed to "1h"')
    return server


def test_it_takes_its_time_and_hears_of_a_reload_meanwhile(make_server: MakeServer) -> None:
    server = spreading(make_server)
    began_s = time.monotonic()
    acknowledged = acknowledge(server, range(10, 20))
    server.wait_log(COMPLETE, deadline_s=30)
    assert time.monotonic() - began_s > QUICK_S, "it was over before a session could have been in its way"
    assert acknowledged, "and nobody was served meanwhile"


def hurried(server: LiveServer) -> bool:
    """Whether a session that asks for a checkpoint of its own has it in a moment, though a slow one runs."""
    with server.knock() as session:
        session.log_in()
        session.say(client.query("CHECKPOINT"))
        if not readable(session.socket.fileno(), QUICK_S):
            return False
        assert client.tags(session.hear("Z")) == ["CHECKPOINT"]
    return True


def test_who_says_checkpoint_does_not_wait_for_its_pauses(make_server: MakeServer) -> None:
    server = spreading(make_server)
    assert hurried(server)
    log = server.log()
    assert log.index(BEGUN) < log.index(COMPLETE) < log.index("checkpoint starting: immediate force wait")


def test_the_rule_sees_a_checkpoint_that_is_not_hurried(make_server: MakeServer, tmp_path: Path) -> None:
    edit = (CHECKPOINTER, "if self._obey() or CheckpointFlags.FAST in self._requests.pending():", "if self._obey():")
    server = spreading(make_server, planted(tmp_path, "a running checkpoint is not hurried", edit))
    assert not hurried(server)


def test_a_statement_that_waits_for_it_can_be_cancelled(make_server: MakeServer, tmp_path: Path) -> None:
    edit = (CHECKPOINTER, "if self._obey() or CheckpointFlags.FAST in self._requests.pending():", "if self._obey():")
    server = spreading(make_server, planted(tmp_path, "a running checkpoint is not hurried", edit))
    with server.knock() as session:
        pid = session.log_in()
        session.say(client.query("CHECKPOINT"))
        server.wait_log(BEGUN)
        with server.knock() as stranger:
            stranger.say(client.cancel_request(pid, session.cancel_key))
            stranger.hear_the_end()
        (error,) = client.errors(session.hear("Z"))
        assert (error["C"], error["M"]) == ("57014", "canceling statement due to user request")
    assert COMPLETE not in server.log()


def shut_down_in_s(server: LiveServer) -> float:
    began_s = time.monotonic()
    server.signal_postmaster(signal.SIGINT)
    assert server.wait_exit() == 0
    return time.monotonic() - began_s


def test_a_fast_shutdown_does_not_wait_for_its_pauses(make_server: MakeServer) -> None:
    server = spreading(make_server)
    assert shut_down_in_s(server) < QUICK_S
    assert "checkpoint starting: shutdown immediate" in server.log()


def test_the_rule_sees_a_shutdown_that_is_kept_waiting(make_server: MakeServer, tmp_path: Path) -> None:
    edit = (CHECKPOINTER, "if self._obey() or CheckpointFlags", "if (self._obey() and False) or CheckpointFlags")
    server = spreading(make_server, planted(tmp_path, "a shutdown does not hurry a checkpoint", edit))
    assert shut_down_in_s(server) > QUICK_S


def test_a_crash_in_a_pause_is_recovered_from_the_checkpoint_before(make_server: MakeServer) -> None:
    server = spreading(make_server)
    acknowledged = acknowledge(server, range(10, 20))
    server.kill("walwriter")
    began_s = time.monotonic()
    server.wait_generation(1)
    assert time.monotonic() - began_s < QUICK_S, "the pause heard no SIGQUIT: it took a SIGKILL"
    assert acknowledged
    assert acknowledged <= transfers(server)
