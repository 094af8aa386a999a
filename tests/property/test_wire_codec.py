"""The codec under any bytes: a client can send anything, and the worst that happens is an error with a SQLSTATE.

What could go wrong: an exception that is not the protocol's own ends the process, which the postmaster takes for a
crash, and every other session pays; pieces cut differently by the network mean something else.
"""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.errors import ServerError
from supervisor.wire import codec
from supervisor.wire.codec import InputBuffer, decode, decode_startup_packet
from supervisor.wire.messages import (
    Bind,
    Close,
    Describe,
    Execute,
    FrontendMessage,
    Parse,
    Query,
    StartupMessage,
    Sync,
    Target,
)
from tests.support import wire_client as client

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
TARGET = st.sampled_from(Target)
FORMATS = st.lists(st.integers(0, 1), max_size=4)
VALUES = st.lists(st.none() | st.binary(max_size=12), max_size=4)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, FrontendMessage]:
    match draw(st.integers(0, 6)):
        case 0:
            text = draw(TEXT)
            return client.query(text), Query(text)
        case 1:
            name, text = draw(TEXT), draw(TEXT)
            types = draw(st.lists(st.integers(0, 2**32 - 1), max_size=4))
            return client.parse(text, name, types), Parse(name, text, tuple(types))
        case 2:
            values, formats, results = draw(VALUES), draw(FORMATS), draw(FORMATS)
            name, portal = draw(TEXT), draw(TEXT)
            return (
                client.bind(values, name, portal, formats, results),
                Bind(portal, name, tuple(formats), tuple(values), tuple(results)),
            )
        case 3:
            target, name = draw(TARGET), draw(TEXT)
            return client.describe(target.value, name), Describe(target, name)
        case 4:
            target, name = draw(TARGET), draw(TEXT)
            return client.close(target.value, name), Close(target, name)
        case 5:
            portal, rows = draw(TEXT), draw(st.integers(-(2**31), 2**31 - 1))
            return client.execute(portal, rows), Execute(portal, rows)
        case _:
            return client.SYNC, Sync()


@settings(max_examples=150)
@given(st.lists(messages(), max_size=6), st.randoms(use_true_random=False))
def test_messages_survive_being_cut_into_any_pieces(sent: list[tuple[bytes, FrontendMessage]], random: object) -> None:
    stream = b"".join(data for data, _ in sent)
    cuts = sorted(random.randrange(len(stream) + 1) for _ in range(5)) if stream else []  # type: ignore[attr-defined]
    buffer, received = InputBuffer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer.feed(stream[start:end])
        while (taken := buffer.take_message()) is not None:
            received.append(decode(*taken))
    assert received == [message for _, message in sent]
    assert buffer.pending == 0


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_in_the_place_of_messages_end_in_messages_or_a_protocol_error(data: bytes) -> None:
    buffer = InputBuffer()
    buffer.feed(data)
    try:
        while (taken := buffer.take_message()) is not None:
            decode(*taken)
    except ServerError as error:
        assert error.sqlstate in ("08P01", "22021")


@settings(max_examples=300)
@given(st.sampled_from(sorted(b"QPBFdEDCSHXcf")), st.binary(max_size=80))
def test_any_body_of_any_type_is_a_message_or_a_protocol_error(kind: int, body: bytes) -> None:
    try:
        decode(kind, body)
    except ServerError as error:
        assert error.sqlstate in ("08P01", "22021")


@settings(max_examples=300)
@given(st.sampled_from([196608, 196610, 2 << 16, 80877102, 80877103, 80877104, 0]), st.binary(max_size=80))
def test_any_startup_packet_is_understood_or_refused(code: int, rest: bytes) -> None:
    buffer = InputBuffer()
    buffer.feed(client.untyped(struct.pack("!I", code) + rest))
    packet = buffer.take_startup_packet()
    assert packet is not None
    try:
        decode_startup_packet(packet)
    except ServerError as error:
        assert error.sqlstate in ("08P01", "22021")


NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=10)


@settings(max_examples=100)
@given(st.dictionaries(NAME, TEXT, max_size=5))
def test_startup_parameters_arrive_as_sent(parameters: dict[str, str]) -> None:
    pairs = b"".join(client.string(name) + client.string(value) for name, value in parameters.items())
    packet = struct.pack("!I", 196608) + pairs + b"\0"
    assert decode_startup_packet(packet) == StartupMessage(196608, tuple(parameters.items()))


@settings(max_examples=100)
@given(st.lists(st.none() | st.binary(max_size=30), max_size=6), st.lists(TEXT, max_size=4))
def test_rows_and_reports_can_be_taken_apart_again(values: list[bytes | None], texts: list[str]) -> None:
    assert client.row(client.answers(codec.data_row(values))[0]) == values
    optional = dict(zip(("detail", "hint"), texts, strict=False))
    error = ServerError("m", sqlstate="XX000", **optional)  # type: ignore[arg-type]
    fields = client.report_fields(client.answers(codec.error_response("ERROR", error))[0])
    assert [fields[letter] for letter, _ in zip("DH", texts, strict=False)] == texts[:2]
