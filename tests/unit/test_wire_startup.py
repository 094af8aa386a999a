"""The first packets of a connection, and the child that only says no.

What could go wrong: a client that asks for encryption again and again keeps a process in a loop; a packet that cannot
be read is answered as if it could; a silent client is waited for without a bound; a client that cannot be served now
hears a SQLSTATE that pg_isready or a pool takes for something else.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from supervisor.config import Settings
from supervisor.errors import SessionFatal
from supervisor.log import Level, ServerLog
from supervisor.processes import dead_end
from supervisor.processes.child import Child
from supervisor.processes.dead_end import refusal
from supervisor.processes.parameters import session_parameters
from supervisor.processes.startup_packet import Startup, read_startup
from supervisor.wire.connection import DeadlineExpired
from supervisor.wire.messages import CancelRequest
from tests.support import wire_client as client
from tests.support.conversation import Conversation, converse

SETTINGS = Settings(authentication_timeout=7)
HELLO = client.startup(user="anna", database="d", application_name="test")


@pytest.fixture
def talk() -> Iterator[Conversation]:
    conversation = converse({})
    yield conversation
    conversation.close()


@pytest.fixture
def logged() -> Iterator[tuple[ServerLog, Any]]:
    read, write = os.pipe()
    os.set_blocking(read, False)

    def lines() -> str:
        try:
            return os.read(read, 65536).decode()
        except BlockingIOError:
            return ""

    yield ServerLog(write, minimum=Level.DEBUG1), lines
    os.close(read)
    os.close(write)


def read(talk: Conversation, log: ServerLog | None = None) -> Startup | CancelRequest | None:
    return read_startup(talk.connection, talk.host, SETTINGS, log or ServerLog.to_nowhere())


def test_a_client_says_who_it_is(talk: Conversation) -> None:
    talk.client.say(HELLO)
    assert read(talk) == Startup("anna", "d", (("application_name", "test"),))
    assert talk.client.heard() == b""
    assert talk.connection.deadline_ns is None


def test_the_database_is_named_after_the_user_if_after_nothing_else(talk: Conversation) -> None:
    talk.client.say(client.startup(user="anna"))
    startup = read(talk)
    assert isinstance(startup, Startup)
    assert startup.database == "anna"


@pytest.mark.parametrize("database", ["", "d"])
def test_a_client_without_a_name_is_refused(talk: Conversation, database: str) -> None:
    talk.client.say(client.startup(database=database))
    with pytest.raises(SessionFatal, match="no PostgreSQL user name specified") as caught:
        read(talk)
    assert caught.value.sqlstate == "28000"


@pytest.mark.parametrize(
    "requests",
    [
        [client.ssl_request()],
        [client.gssenc_request()],
        [client.ssl_request(), client.gssenc_request()],
        [client.gssenc_request(), client.ssl_request()],
    ],
)
def test_each_encryption_is_declined_once(talk: Conversation, requests: list[bytes]) -> None:
    # All in one piece: what follows a declined request is not thrown away.
    talk.client.say(*requests, HELLO)
    assert read(talk) is not None
    assert talk.client.heard() == b"N" * len(requests)


@pytest.mark.parametrize("again", [client.ssl_request(), client.gssenc_request()])
def test_asking_for_the_same_encryption_twice_is_an_error(talk: Conversation, again: bytes) -> None:
    talk.client.say(again, again)
    with pytest.raises(SessionFatal, match="unsupported frontend protocol 1234") as caught:
        read(talk)
    assert caught.value.sqlstate == "0A000"
    assert talk.client.heard() == b"N"


@pytest.mark.parametrize("version", [2 << 16, 4 << 16, 0])
def test_another_major_version_is_refused(talk: Conversation, version: int) -> None:
    talk.client.say(client.startup(version, user="anna"))
    with pytest.raises(SessionFatal, match="unsupported frontend protocol") as caught:
        read(talk)
    assert caught.value.sqlstate == "0A000"


def test_a_newer_minor_version_is_negotiated_down(talk: Conversation) -> None:
    parameters = {"user": "anna", "_pq_.command": "x"}
    talk.client.say(client.startup(196610, **parameters))
    assert read(talk) == Startup("anna", "anna", ())
    talk.connection.flush()
    (answer,) = client.answers(talk.client.heard())
    assert answer == ("v", struct.pack("!II", 196608, 1) + b"_pq_.command\0")


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (b"", ""),
        (HELLO[:-3], "LOG:  incomplete startup packet"),
        (b"GET / HTTP/1.1\r\n\r\n", "LOG:  invalid length of startup packet"),
        (client.untyped(struct.pack("!I", 196608) + b"user"), "LOG:  invalid startup packet layout"),
        (client.cancel_request(77, b""), "LOG:  invalid length of cancel request packet"),
    ],
)
def test_who_cannot_be_served_hears_nothing_and_the_log_knows(
    talk: Conversation, logged: tuple[ServerLog, Any], sent: bytes, line: str
) -> None:
    talk.client.say(sent)
    talk.client.hang_up()
    log, lines = logged
    assert read(talk, log) is None
    written = lines()
    assert line in written
    assert bool(written) == bool(line)
    assert talk.client.heard() == b""


def test_who_comes_only_to_cancel_is_told_apart_and_its_key_is_never_shown(talk: Conversation) -> None:
    talk.client.say(client.ssl_request(), client.cancel_request(77, b"1234"))
    request = read(talk)
    assert request == CancelRequest(77, b"1234")
    assert "1234" not in repr(request)


def test_a_silent_client_is_given_up_after_authentication_timeout(talk: Conversation) -> None:
    with pytest.raises(DeadlineExpired):
        read(talk)
    assert talk.host.now == 7_000_000_000


# -- the settings that a startup packet carries


def options(**values: str) -> Startup:
    return Startup("anna", "d", tuple(values.items()))


def test_the_settings_that_clients_keep_track_of_are_all_there() -> None:
    reported = session_parameters(options(application_name="tést"))
    assert reported["application_name"] == "t\\xc3\\xa9st"
    assert reported["session_authorization"] == "anna"
    assert reported["server_version"].startswith("18.0 (crashbed ")
    assert {
        "client_encoding",
        "DateStyle",
        "integer_datetimes",
        "IntervalStyle",
        "is_superuser",
        "server_encoding",
        "standard_conforming_strings",
        "TimeZone",
    } <= set(reported)


def test_an_application_name_is_cut_at_63_bytes() -> None:
    assert session_parameters(options(application_name="x" * 100))["application_name"] == "x" * 63


@pytest.mark.parametrize("encoding", ["UTF8", "utf-8", "'utf-8'", "UNICODE"])
def test_utf8_has_many_names(encoding: str) -> None:
    assert session_parameters(options(client_encoding=encoding))["client_encoding"] == "UTF8"


def test_what_drivers_always_send_is_accepted() -> None:
    session_parameters(
        options(DateStyle="ISO", TimeZone="Europe/Berlin", extra_float_digits="3", options=" ", replication="off")
    )


@pytest.mark.parametrize(
    ("name", "value", "sqlstate"),
    [
        ("client_encoding", "LATIN1", "22023"),
        ("options", "-c work_mem=1", "0A000"),
        ("replication", "database", "0A000"),
        ("nosuch", "1", "42704"),
    ],
)
def test_what_the_server_cannot_do_is_refused(name: str, value: str, sqlstate: str) -> None:
    with pytest.raises(SessionFatal) as caught:
        session_parameters(options(**{name: value}))
    assert caught.value.sqlstate == sqlstate


# -- the child that says no


@pytest.mark.parametrize(
    ("reason", "consistent", "sqlstate", "message", "detail"),
    [
        ("STARTUP", False, "57P03", "the database system is starting up", None),
        ("RECOVERY", False, "57P03", "the database system is in recovery mode", None),
        (
            "NOTHOTSTANDBY",
            False,
            "57P03",
            "the database system is not yet accepting connections",
            "Consistent recovery state has not been yet reached.",
        ),
        (
            "NOTHOTSTANDBY",
            True,
            "57P03",
            "the database system is not yet accepting connections",
            "Recovery snapshot is not yet ready for hot standby.",
        ),
        ("SHUTDOWN", False, "57P03", "the database system is shutting down", None),
        ("OK", False, "53300", "sorry, too many clients already", None),
    ],
)
def test_a_refusal_says_why(
    talk: Conversation, reason: str, consistent: bool, sqlstate: str, message: str, detail: str | None
) -> None:
    talk.client.say(client.ssl_request(), HELLO)
    assert refuse(talk, refusal(reason, reached_consistency=consistent)) == 1
    heard = talk.client.heard()
    assert heard[:1] == b"N"
    (error,) = client.errors(heard[1:])
    assert (error["S"], error["V"], error["C"], error["M"]) == ("FATAL", "FATAL", sqlstate, message)
    assert error.get("D") == detail


def refuse(talk: Conversation, answer: SessionFatal) -> int:
    child = SimpleNamespace(
        socket=talk.server_end,
        host=talk.host,
        settings=SETTINGS,
        log=ServerLog.to_nowhere(),
        refusal=answer,
        cancel_keys=None,
    )
    return dead_end.main(cast(Child, child))


def test_a_refusal_needs_a_whole_startup_packet(talk: Conversation) -> None:
    talk.client.say(HELLO[:-1])
    assert refuse(talk, refusal("RECOVERY")) == 1
    assert talk.client.heard() == b""
    assert talk.host.now == 7_000_000_000


def test_who_only_comes_to_cancel_is_not_refused(talk: Conversation) -> None:
    talk.client.say(client.cancel_request(0, b"1234"))
    assert refuse(talk, refusal("RECOVERY")) == 0
    assert talk.client.heard() == b""


def test_a_bad_startup_packet_is_told_so_instead(talk: Conversation) -> None:
    talk.client.say(client.startup(2 << 16, user="old"))
    assert refuse(talk, refusal("RECOVERY")) == 1
    assert client.errors(talk.client.heard())[0]["C"] == "0A000"
