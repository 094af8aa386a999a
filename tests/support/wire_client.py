"""The client's half of the protocol, for tests: what the server must understand, and its answers taken apart.

Written from the protocol's documentation and not from the server's codec, so that a mistake made there is not made
here again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple


class Answer(NamedTuple):
    """One message of the server: its type letter and its body."""

    kind: str
    body: bytes


def framed(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def untyped(body: bytes) -> bytes:
    return struct.pack("!I", len(body) + 4) + body


def string(text: str) -> bytes:
    return text.encode() + b"\0"


def ssl_request() -> bytes:
    return untyped(struct.pack("!I", 80877103))


def gssenc_request() -> bytes:
    return untyped(struct.pack("!I", 80877104))


def cancel_request(pid: int, key: bytes) -> bytes:
    return untyped(struct.pack("!Ii", 80877102, pid) + key)


def startup(version: int = 196608, **parameters: str) -> bytes:
    pairs = b"".join(string(name) + string(value) for name, value in parameters.items())
    return untyped(struct.pack("!I", version) + pairs + b"\0")


def query(text: str) -> bytes:
    return framed(b"Q", string(text))


def parse(text: str, name: str = "", types: Sequence[int] = ()) -> bytes:
    return framed(b"P", string(name) + string(text) + struct.pack(f"!H{len(types)}I", len(types), *types))


def bind(
    values: Sequence[bytes | None] = (),
    statement: str = "",
    portal: str = "",
    formats: Sequence[int] = (),
    result_formats: Sequence[int] = (),
) -> bytes:
    body = string(portal) + string(statement) + struct.pack(f"!H{len(formats)}H", len(formats), *formats)
    body += struct.pack("!H", len(values))
    for value in values:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return framed(b"B", body + struct.pack(f"!H{len(result_formats)}H", len(result_formats), *result_formats))


def describe(target: bytes, name: str = "") -> bytes:
    return framed(b"D", target + string(name))


def execute(portal: str = "", max_rows: int = 0) -> bytes:
    return framed(b"E", string(portal) + struct.pack("!i", max_rows))


def close(target: bytes, name: str = "") -> bytes:
    return framed(b"C", target + string(name))


SYNC = framed(b"S")
FLUSH = framed(b"H")
TERMINATE = framed(b"X")


def answers(data: bytes) -> list[Answer]:
    """All messages in what the server sent; fails on a message that is cut short."""
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("!I", data, at + 1)
        assert at + 1 + length <= len(data), f"the last message is cut short: {data[at:]!r}"
        found.append(Answer(chr(data[at]), data[at + 5 : at + 1 + length]))
        at += 1 + length
    return found


def kinds(data: bytes) -> str:
    """The type letters of what the server sent."""
    return "".join(answer.kind for answer in answers(data))


def report_fields(answer: Answer) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their letter."""
    assert answer.kind in "EN", answer
    assert answer.body.endswith(b"\0\0"), answer
    return {piece[:1].decode(): piece[1:].decode() for piece in answer.body[:-2].split(b"\0")}


def errors(data: bytes) -> list[dict[str, str]]:
    """The fields of every ErrorResponse in what the server sent."""
    return [report_fields(answer) for answer in answers(data) if answer.kind == "E"]


def row(answer: Answer) -> list[bytes | None]:
    """The values of a DataRow."""
    assert answer.kind == "D", answer
    (count,) = struct.unpack_from("!H", answer.body)
    values: list[bytes | None] = []
    at = 2
    for _ in range(count):
        (length,) = struct.unpack_from("!i", answer.body, at)
        at += 4
        values.append(None if length < 0 else answer.body[at : at + length])
        at += max(length, 0)
    assert at == len(answer.body), answer
    return values


def rows(data: bytes) -> list[list[bytes | None]]:
    """The values of every DataRow in what the server sent."""
    return [row(answer) for answer in answers(data) if answer.kind == "D"]


class Field(NamedTuple):
    """One column of a RowDescription."""

    name: str
    type_oid: int
    size: int
    form: int


def fields(answer: Answer) -> list[Field]:
    """The columns of a RowDescription."""
    assert answer.kind == "T", answer
    (count,) = struct.unpack_from("!H", answer.body)
    at, found = 2, []
    for _ in range(count):
        end = answer.body.index(b"\0", at)
        _, _, type_oid, size, _, form = struct.unpack_from("!IhIhih", answer.body, end + 1)
        found.append(Field(answer.body[at:end].decode(), type_oid, size, form))
        at = end + 19
    assert at == len(answer.body), answer
    return found


def tags(data: bytes) -> list[str]:
    """The command tags in what the server sent."""
    return [answer.body[:-1].decode() for answer in answers(data) if answer.kind == "C"]


def parameters(data: bytes) -> dict[str, str]:
    """What ParameterStatus told."""
    found = {}
    for answer in answers(data):
        if answer.kind == "S":
            name, value, rest = answer.body.split(b"\0")
            assert rest == b""
            found[name.decode()] = value.decode()
    return found
