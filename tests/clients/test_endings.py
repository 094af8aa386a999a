"""How sessions end, byte by byte, as their clients hear it (specification 4.5, 4.6, 8.2).

What could go wrong: a survivor of a crash that cleans up what it must not touch, or is kept from leaving by a client
that does not read; a client that says nothing holding a slot for ever, or holding up recovery; an ending that looks
to a driver like another one. Two sessions where one dies: the other one's ending is what is looked at.
"""

from __future__ import annotations

import array
import fcntl
import os
import signal
import termios
from pathlib import Path

import pytest

from tests.conftest import MakeServer
from tests.support import wire_client as client
from tests.support.raw_client import RawClient
from tests.support.server import LiveServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

CRASH = {
    "S": "WARNING",
    "V": "WARNING",
    "C": "57P02",
    "M": "terminating connection because of crash of another server process",
    "D": "The postmaster has commanded this server process to roll back the current transaction and exit, because "
    "another server process exited abnormally and possibly corrupted shared memory.",
    "H": "In a moment you should be able to reconnect to the database and repeat your command.",
}


def knock(server: LiveServer) -> RawClient:
    return RawClient(server.target.socket_directory)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def only_report(heard: bytes) -> dict[str, str]:
    (answer,) = client.answers(heard)
    return client.report_fields(answer)


def test_a_survivor_of_a_crash_is_told_and_the_killed_one_is_not(server: LiveServer) -> None:
    with knock(server) as survivor, knock(server) as killed:
        survivor.log_in()
        pid = killed.log_in()
        os.kill(pid, signal.SIGKILL)
        assert killed.hear_the_end() == b""
        assert only_report(survivor.hear_the_end()) == CRASH
    server.wait_generation(1)


def test_a_client_that_never_reads_does_not_delay_recovery(server: LiveServer) -> None:
    with knock(server) as deaf, knock(server) as other:
        deaf_pid = deaf.log_in()
        other_pid = other.log_in()
        # More than any socket takes: its backend is stuck in a send that the client never ends.
        deaf.say(client.query("SHOW ALL;" * 1500))
        wait_until("the backend to be stuck", lambda: sleeps(deaf_pid) and unread(deaf) > 65536)
        os.kill(other_pid, signal.SIGKILL)
        server.wait_generation(1)
        assert gone(deaf_pid)
        assert "recalcitrant" not in server.log()
        heard = deaf.hear_the_end()
        assert b"57P02" not in heard[-400:], "last words were put into the middle of a row"


def sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def unread(session: RawClient) -> int:
    """Bytes that have arrived and were not read."""
    waiting = array.array("i", [0])
    fcntl.ioctl(session.socket, termios.FIONREAD, waiting)
    return waiting[0]


def test_sigquit_by_hand_is_told_and_is_a_crash(server: LiveServer) -> None:
    with knock(server) as session:
        os.kill(session.log_in(), signal.SIGQUIT)
        report = only_report(session.hear_the_end())
    assert report == {
        "S": "WARNING",
        "V": "WARNING",
        "C": "57P01",
        "M": "terminating connection because of unexpected SIGQUIT signal",
    }
    server.wait_generation(1)


def test_sigterm_ends_one_session_in_order(server: LiveServer) -> None:
    with knock(server) as session, knock(server) as other:
        pid = session.log_in()
        other.log_in()
        os.kill(pid, signal.SIGTERM)
        report = only_report(session.hear_the_end())
        assert (report["S"], report["C"]) == ("FATAL", "57P01")
        assert report["M"] == "terminating connection due to administrator command"
        wait_until("the backend to be reaped", lambda: gone(pid))
        assert client.tags(other.ask("SHOW port")) == ["SHOW"]
    assert server.generation == 1


@pytest.mark.parametrize(
    ("number", "letter", "sqlstate", "message"),
    [
        (signal.SIGINT, "E", "57P01", "terminating connection due to administrator command"),
        (signal.SIGQUIT, "N", "57P01", "terminating connection due to immediate shutdown command"),
        (signal.SIGKILL, "E", "57P01", "terminating connection due to unexpected postmaster exit"),
    ],
)
def test_every_end_of_the_postmaster_has_its_words(
    server: LiveServer, number: signal.Signals, letter: str, sqlstate: str, message: str
) -> None:
    with knock(server) as session:
        pid = session.log_in()
        os.kill(server.pid, number)
        heard = session.hear_the_end()
        assert client.kinds(heard) == letter
        report = only_report(heard)
        assert (report["C"], report["M"]) == (sqlstate, message)
        wait_until("the backend to be gone", lambda: gone(pid))


def test_a_client_that_hangs_up_leaves_nothing_behind(server: LiveServer) -> None:
    for ending in ([client.TERMINATE], [], [b"Q\0\0"]):
        with knock(server) as session:
            pid = session.log_in()
            session.say(*ending)
        wait_until("the backend to be reaped", lambda pid=pid: gone(pid))  # type: ignore[misc]
    assert server.generation == 1


def test_garbage_ends_the_session_with_a_protocol_violation(server: LiveServer) -> None:
    with knock(server) as session:
        session.log_in()
        session.say(b"GET / HTTP/1.1\r\n\r\n")
        report = only_report(session.hear_the_end())
        assert (report["S"], report["C"]) == ("FATAL", "08P01")
    with knock(server) as session:
        session.say(b"GET / HTTP/1.1\r\n\r\n")
        assert session.hear_the_end() == b""
    assert server.generation == 1


def test_a_silent_client_is_dropped_without_a_word(make_server: MakeServer) -> None:
    server = make_server({"authentication_timeout": "1s"}).start()
    with knock(server) as silent, knock(server) as slow:
        slow.say(client.ssl_request(), client.startup(user="anna")[:9])
        assert silent.hear_the_end() == b""
        assert slow.hear_the_end() == b"N"
    assert server.generation == 1


def test_silent_clients_beyond_all_slots_are_still_answered(make_server: MakeServer) -> None:
    server = make_server({"max_connections": "3"}).start()
    silent = [knock(server) for _ in range(10)]
    try:
        for one in silent:
            one.say(client.ssl_request())
            assert one.hear_byte() == b"N"
        silent[-1].say(client.startup(user="anna"))
        report = only_report(silent[-1].hear_the_end())
        assert (report["S"], report["C"], report["M"]) == ("FATAL", "53300", "sorry, too many clients already")
    finally:
        for one in silent:
            one.socket.close()


def test_a_silent_connection_does_not_hold_up_recovery(server: LiveServer) -> None:
    with knock(server) as before, knock(server) as session:
        pid = session.log_in()
        os.kill(pid, signal.SIGKILL)
        assert before.hear_the_end() == b""
    server.wait_generation(1)
    assert "recalcitrant" not in server.log()


def test_a_client_that_is_refused_hears_it_after_its_startup_packet(make_server: MakeServer) -> None:
    server = make_server().start()
    with knock(server) as session:
        session.log_in()
        os.kill(server.pid, signal.SIGTERM)
        server.wait_log("received smart shutdown request")
        with knock(server) as late:
            late.say(client.ssl_request())
            assert late.hear_byte() == b"N"
            late.say(client.startup(user="anna"))
            report = only_report(late.hear_the_end())
        assert (report["S"], report["C"], report["M"]) == (
            "FATAL",
            "57P03",
            "the database system is shutting down",
        )
