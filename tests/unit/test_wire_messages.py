"""The codec: every message means one thing, and nothing that is not the protocol gets far.

What could go wrong: a message read short or long shifts everything after it; a length that nobody checks makes the
server collect gigabytes; a string without its end is read into the next field; a text that holds a NUL ends early; a
client that does not speak the protocol at all is listened to for too long.
"""

from __future__ import annotations

import struct

import pytest

from supervisor.errors import ServerError, SessionFatal
from supervisor.wire import codec
from supervisor.wire.codec import InputBuffer, decode, decode_startup_packet
from supervisor.wire.messages import (
    Bind,
    CancelRequest,
    Close,
    CopyMessage,
    Describe,
    Execute,
    Flush,
    FrontendMessage,
    FunctionCall,
    GSSENCRequest,
    Parse,
    Query,
    SSLRequest,
    StartupMessage,
    Sync,
    Target,
    Terminate,
)
from tests.support import wire_client as client

MESSAGES: list[tuple[bytes, FrontendMessage]] = [
    (client.query("select 'ü'"), Query("select 'ü'")),
    (client.query(""), Query("")),
    (client.parse("CALL p(a => $1)", "stored", [20, 0]), Parse("stored", "CALL p(a => $1)", (20, 0))),
    (
        client.bind([b"5", None, b""], "stored", "portal", [1, 0, 0], [1]),
        Bind("portal", "stored", (1, 0, 0), (b"5", None, b""), (1,)),
    ),
    (client.bind(), Bind("", "", (), (), ())),
    (client.describe(b"S", "stored"), Describe(Target.STATEMENT, "stored")),
    (client.describe(b"P"), Describe(Target.PORTAL, "")),
    (client.execute("portal", 7), Execute("portal", 7)),
    (client.close(b"S", "stored"), Close(Target.STATEMENT, "stored")),
    (client.close(b"P"), Close(Target.PORTAL, "")),
    (client.SYNC, Sync()),
    (client.FLUSH, Flush()),
    (client.TERMINATE, Terminate()),
    (client.framed(b"F", b"anything"), FunctionCall()),
    (client.framed(b"d", b"data"), CopyMessage()),
    (client.framed(b"c"), CopyMessage()),
    (client.framed(b"f", b"why\0"), CopyMessage()),
]


def take(data: bytes) -> tuple[int, bytes]:
    buffer = InputBuffer()
    buffer.feed(data)
    message = buffer.take_message()
    assert message is not None
    assert buffer.pending == 0
    return message


def take_packet(data: bytes) -> bytes:
    buffer = InputBuffer()
    buffer.feed(data)
    packet = buffer.take_startup_packet()
    assert packet is not None
    assert buffer.pending == 0
    return packet


@pytest.mark.parametrize(("data", "message"), MESSAGES)
def test_a_message_is_understood(data: bytes, message: FrontendMessage) -> None:
    assert decode(*take(data)) == message


@pytest.mark.parametrize(("data", "message"), MESSAGES)
def test_a_message_that_comes_byte_by_byte_is_understood_once_it_is_whole(
    data: bytes, message: FrontendMessage
) -> None:
    buffer = InputBuffer()
    for byte in data[:-1]:
        buffer.feed(bytes([byte]))
        assert buffer.take_message() is None
    buffer.feed(data[-1:])
    taken = buffer.take_message()
    assert taken is not None
    assert decode(*taken) == message


def test_messages_in_one_piece_are_taken_one_by_one() -> None:
    buffer = InputBuffer()
    buffer.feed(b"".join(data for data, _ in MESSAGES))
    for _, expected in MESSAGES:
        taken = buffer.take_message()
        assert taken is not None
        assert decode(*taken) == expected
    assert buffer.take_message() is None


@pytest.mark.parametrize(
    ("data", "message"), [(data, message) for data, message in MESSAGES if data[:1] not in b"FdcfSHX"]
)
def test_a_body_cut_short_or_with_more_at_its_end_is_a_protocol_violation(
    data: bytes, message: FrontendMessage
) -> None:
    kind, body = take(data)
    for length in range(len(body)):
        with pytest.raises(ServerError) as caught:
            decode(kind, body[:length])
        assert caught.value.sqlstate == "08P01"
        assert not isinstance(caught.value, SessionFatal)
    with pytest.raises(ServerError, match="invalid message format"):
        decode(kind, body + b"\0")


@pytest.mark.parametrize("kind", sorted(set(range(256)) - set(b"QPBFdEDCSHXcf")))
def test_an_unknown_type_ends_the_session_at_its_first_byte(kind: int) -> None:
    buffer = InputBuffer()
    buffer.feed(bytes([kind]))
    with pytest.raises(SessionFatal, match=f"invalid frontend message type {kind}") as caught:
        buffer.take_message()
    assert caught.value.sqlstate == "08P01"


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        (b"Q", 3),
        (b"Q", 0),
        (b"Q", 0xFFFFFFFF),
        (b"Q", codec.MAX_LARGE_MESSAGE_BYTES + 1),
        (b"E", codec.MAX_SMALL_MESSAGE_BYTES + 1),
    ],
)
def test_an_impossible_length_ends_the_session_before_the_body_is_collected(kind: bytes, length: int) -> None:
    buffer = InputBuffer()
    buffer.feed(kind + struct.pack("!I", length))
    with pytest.raises(SessionFatal, match="invalid message length"):
        buffer.take_message()


def test_a_length_at_its_limit_is_waited_for() -> None:
    buffer = InputBuffer()
    buffer.feed(b"Q" + struct.pack("!I", codec.MAX_LARGE_MESSAGE_BYTES))
    assert buffer.take_message() is None


@pytest.mark.parametrize(
    ("body", "sqlstate"),
    [(b"no end", "08P01"), (b"\xff\xfe\0", "22021"), (b"one\0two\0", "08P01")],
)
def test_a_string_that_is_none_is_refused(body: bytes, sqlstate: str) -> None:
    with pytest.raises(ServerError) as caught:
        decode(ord("Q"), body)
    assert caught.value.sqlstate == sqlstate


def test_bad_utf8_is_named_byte_by_byte() -> None:
    with pytest.raises(ServerError, match='invalid byte sequence for encoding "UTF8": 0xff 0xfe'):
        decode(ord("Q"), b"a\xff\xfe\0")


@pytest.mark.parametrize("length", [-2, 100, 2**31 - 1])
def test_a_parameter_length_that_lies_is_refused(length: int) -> None:
    body = b"\0\0" + struct.pack("!HHi", 0, 1, length) + b"abc" + struct.pack("!H", 0)
    with pytest.raises(ServerError, match="insufficient data left in message"):
        decode(ord("B"), body)


def test_an_unknown_format_code_is_refused() -> None:
    with pytest.raises(ServerError, match="unsupported format code: 2"):
        decode(*take(client.bind([b"1"], formats=[2])))


def test_an_unknown_describe_target_is_refused() -> None:
    with pytest.raises(ServerError, match="invalid statement or portal subtype 81"):
        decode(*take(client.describe(b"Q")))


# -- the start-up phase


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (client.ssl_request(), SSLRequest()),
        (client.gssenc_request(), GSSENCRequest()),
        (client.cancel_request(77, b"\1\2\3\4"), CancelRequest(77, b"\1\2\3\4")),
        (client.cancel_request(77, bytes(256)), CancelRequest(77, bytes(256))),
        (
            client.startup(user="anna", database="d"),
            StartupMessage(196608, (("user", "anna"), ("database", "d"))),
        ),
        (client.startup(), StartupMessage(196608, ())),
        (client.startup(196610, user=""), StartupMessage(196610, (("user", ""),))),
        (client.startup(2 << 16, user="old"), StartupMessage(2 << 16, ())),
    ],
)
def test_a_startup_packet_is_understood(data: bytes, message: object) -> None:
    for length in range(len(data)):
        buffer = InputBuffer()
        buffer.feed(data[:length])
        assert buffer.take_startup_packet() is None
    assert decode_startup_packet(take_packet(data)) == message


@pytest.mark.parametrize("length", [0, 4, 7, 10_005, 0x16030100, 0xFFFFFFFF])
def test_an_impossible_startup_length_is_refused_at_once(length: int) -> None:
    buffer = InputBuffer()
    buffer.feed(struct.pack("!I", length))
    with pytest.raises(SessionFatal, match="invalid length of startup packet"):
        buffer.take_startup_packet()


def test_an_http_request_is_no_startup_packet() -> None:
    buffer = InputBuffer()
    buffer.feed(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(SessionFatal):
        buffer.take_startup_packet()


@pytest.mark.parametrize(
    "parameters",
    [b"", b"user\0anna\0", b"user\0anna", b"user\0\0", b"\0anna\0\0", b"user\0anna\0\0x", b"user\0anna\0\0\0"],
)
def test_a_startup_packet_that_is_not_pairs_is_refused(parameters: bytes) -> None:
    with pytest.raises(SessionFatal, match="expected terminator as last byte"):
        decode_startup_packet(struct.pack("!I", 196608) + parameters)


@pytest.mark.parametrize("key", [b"", bytes(257)])
def test_a_cancel_request_of_wrong_length_is_refused(key: bytes) -> None:
    with pytest.raises(SessionFatal, match="invalid length of cancel request packet"):
        decode_startup_packet(take_packet(client.cancel_request(1, key)))


# -- to the client


def test_answers_are_laid_out_as_documented() -> None:
    assert codec.AUTHENTICATION_OK == b"R\0\0\0\x08\0\0\0\0"
    assert codec.parameter_status("a", "ü") == client.framed(b"S", b"a\0\xc3\xbc\0")
    assert codec.backend_key_data(258, b"abcd") == client.framed(b"K", b"\0\0\1\2abcd")
    assert codec.ready_for_query(b"I") == b"Z\0\0\0\5I"
    assert codec.command_complete("CALL") == client.framed(b"C", b"CALL\0")
    assert codec.parameter_description([20, 25]) == client.framed(b"t", b"\0\2\0\0\0\x14\0\0\0\x19")
    assert codec.negotiate_protocol_version(196608, ["_pq_.x"]) == client.framed(b"v", b"\0\3\0\0\0\0\0\1_pq_.x\0")


def test_rows_and_their_description_fit_together() -> None:
    description = client.answers(codec.row_description([("n", 20, 8), ("name", 25, -1)], [1]))[0]
    assert client.fields(description) == [client.Field("n", 20, 8, 1), client.Field("name", 25, -1, 1)]
    assert client.row(client.answers(codec.data_row([b"1", None, b""]))[0]) == [b"1", None, b""]


@pytest.mark.parametrize(("formats", "expected"), [((), [0, 0]), ((1,), [1, 1]), ((0, 1), [0, 1])])
def test_format_codes_follow_binds_rule(formats: tuple[int, ...], expected: list[int]) -> None:
    assert [codec.format_for(formats, index) for index in range(2)] == expected


def test_an_error_carries_all_that_is_known() -> None:
    error = ServerError("what", sqlstate="42601", detail="more", hint="try", position=7)
    expected = {"S": "ERROR", "V": "ERROR", "C": "42601", "M": "what", "D": "more", "H": "try", "P": "7"}
    answer = client.answers(codec.error_response("ERROR", error))[0]
    assert answer.kind == "E"
    assert client.report_fields(answer) == expected
    notice = client.answers(codec.notice_response("WARNING", ServerError("so", sqlstate="57P02")))[0]
    assert notice.kind == "N"
    assert client.report_fields(notice) == {"S": "WARNING", "V": "WARNING", "C": "57P02", "M": "so"}


def test_a_nul_in_a_message_does_not_shift_the_next_field() -> None:
    fields = client.report_fields(
        client.answers(codec.error_response("ERROR", ServerError("a\0Mb", sqlstate="XX000")))[0]
    )
    assert fields["M"] == "a\\0Mb"
