"""Bytes to messages and messages to bytes, without a socket.

Owns the framing (type byte, four bytes of length that count themselves), the bounds on it, and the layout of each
message. It never waits, never sends, and keeps no state but the bytes not yet taken, so that every truncation and
every piece of garbage can be tried on it directly. Two kinds of error leave here: `SessionFatal` when the stream can
no longer be followed (there is no telling where the next message begins), `ServerError` when one well-framed message
is nonsense (the session goes on), both 08P01 as in PostgreSQL's `pqcomm.c` and `pqformat.c`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from supervisor.errors import CHARACTER_NOT_IN_REPERTOIRE, PROTOCOL_VIOLATION, ServerError, SessionFatal
from supervisor.wire.messages import (
    CANCEL_REQUEST_CODE,
    GSSENC_REQUEST_CODE,
    SSL_REQUEST_CODE,
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
    StartupPacket,
    Sync,
    Target,
    Terminate,
)

MAX_STARTUP_BYTES: Final = 10_000
"""Longest startup packet without its length word (`MAX_STARTUP_PACKET_LENGTH`)."""

MAX_SMALL_MESSAGE_BYTES: Final = 10_000
"""Longest message of a type that carries no user data (`PQ_SMALL_MESSAGE_LIMIT`)."""

MAX_LARGE_MESSAGE_BYTES: Final = 16 << 20
"""Longest message of a type that does. PostgreSQL allows 1 GB; nothing this server stores comes near that."""

_LARGE_TYPES: Final = frozenset(b"QPBFd")
_SMALL_TYPES: Final = frozenset(b"EDCSHXcf")

_U16 = struct.Struct("!H")
_I32 = struct.Struct("!i")
_U32 = struct.Struct("!I")
_HEADER = struct.Struct("!cI")
_FIELD = struct.Struct("!IhIhih")


class InputBuffer:
    """The bytes received and not yet understood. Taking from it is linear: an offset moves, bytes do not."""

    __slots__ = ("_data", "_offset")

    def __init__(self) -> None:
        self._data = bytearray()
        self._offset = 0

    def feed(self, data: bytes) -> None:
        """Appends what was received."""
        if self._offset:
            del self._data[: self._offset]
            self._offset = 0
        self._data += data

    @property
    def pending(self) -> int:
        """How many received bytes wait to be taken."""
        return len(self._data) - self._offset

    def take_startup_packet(self) -> bytes | None:
        """The next packet of the start-up phase, which has no type byte, without its length; None while incomplete.

        Raises SessionFatal 08P01 for an impossible length, as soon as the length is there.
        """
        if self.pending < 4:
            return None
        (length,) = _U32.unpack_from(self._data, self._offset)
        if not 8 <= length <= MAX_STARTUP_BYTES + 4:
            raise SessionFatal("invalid length of startup packet", sqlstate=PROTOCOL_VIOLATION)
        if self.pending < length:
            return None
        return self._take(4, length)

    def take_message(self) -> tuple[int, bytes] | None:
        """The next message as (type byte, body); None while incomplete.

        Raises SessionFatal 08P01 for an unknown type as soon as its byte is there, and for an impossible length as
        soon as that is there: a stream that is not the protocol must not be collected first.
        """
        if not self.pending:
            return None
        kind = self._data[self._offset]
        if kind in _LARGE_TYPES:
            limit = MAX_LARGE_MESSAGE_BYTES
        elif kind in _SMALL_TYPES:
            limit = MAX_SMALL_MESSAGE_BYTES
        else:
            raise SessionFatal(f"invalid frontend message type {kind}", sqlstate=PROTOCOL_VIOLATION)
        if self.pending < 5:
            return None
        (length,) = _U32.unpack_from(self._data, self._offset + 1)
        if not 4 <= length <= limit:
            raise SessionFatal("invalid message length", sqlstate=PROTOCOL_VIOLATION)
        if self.pending < 1 + length:
            return None
        return kind, self._take(5, 1 + length)

    def _take(self, skip: int, length: int) -> bytes:
        taken = bytes(self._data[self._offset + skip : self._offset + length])
        self._offset += length
        return taken


class _Body:
    """Reads one message body from front to back; every shortfall is 08P01."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def raw(self, length: int) -> bytes:
        if length < 0 or self._offset + length > len(self._data):
            raise ServerError("insufficient data left in message", sqlstate=PROTOCOL_VIOLATION)
        taken = self._data[self._offset : self._offset + length]
        self._offset += length
        return taken

    def u16(self) -> int:
        return int.from_bytes(self.raw(2), "big")

    def i32(self) -> int:
        return int.from_bytes(self.raw(4), "big", signed=True)

    def string(self) -> str:
        end = self._data.find(b"\0", self._offset)
        if end < 0:
            raise ServerError("invalid string in message", sqlstate=PROTOCOL_VIOLATION)
        taken = self._data[self._offset : end]
        self._offset = end + 1
        return decode_text(taken)

    def target(self) -> Target:
        kind = self.raw(1)
        if kind not in (b"S", b"P"):
            raise ServerError(f"invalid statement or portal subtype {kind[0]}", sqlstate=PROTOCOL_VIOLATION)
        return Target(kind)

    def end(self) -> None:
        if self._offset != len(self._data):
            raise ServerError("invalid message format", sqlstate=PROTOCOL_VIOLATION)


def decode_text(data: bytes) -> str:
    """UTF-8, the only encoding this server speaks; 22021 names the bytes that are not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        shown = " ".join(f"0x{byte:02x}" for byte in data[error.start : error.start + 4])
        raise ServerError(
            f'invalid byte sequence for encoding "UTF8": {shown}', sqlstate=CHARACTER_NOT_IN_REPERTOIRE
        ) from error


# ---------------------------------------------------------------------------------------------------- from the client


def decode_startup_packet(packet: bytes) -> StartupPacket:
    """What a packet of the start-up phase says; `packet` comes from `InputBuffer.take_startup_packet`.

    An unknown version comes back as a StartupMessage without parameters: its layout is not ours to guess, and the
    caller refuses it. Raises SessionFatal 08P01 for a packet that breaks off (`ProcessStartupPacket`).
    """
    (code,) = _U32.unpack_from(packet)
    if code == SSL_REQUEST_CODE:
        return SSLRequest()
    if code == GSSENC_REQUEST_CODE:
        return GSSENCRequest()
    if code == CANCEL_REQUEST_CODE:
        # 4 bytes of process id, then a key: 4 bytes in protocol 3.0, up to 256 later.
        if not 9 <= len(packet) <= 264:
            raise SessionFatal("invalid length of cancel request packet", sqlstate=PROTOCOL_VIOLATION)
        return CancelRequest(_I32.unpack_from(packet, 4)[0], packet[8:])
    if code >> 16 != 3:
        return StartupMessage(code, ())
    return StartupMessage(code, _startup_parameters(packet[4:]))


def _startup_parameters(data: bytes) -> tuple[tuple[str, str], ...]:
    """Name and value pairs, each NUL-terminated, closed by one empty name that is the last byte."""
    layout = SessionFatal(
        "invalid startup packet layout: expected terminator as last byte", sqlstate=PROTOCOL_VIOLATION
    )
    if not data.endswith(b"\0"):
        raise layout
    pieces = data[:-1].split(b"\0")
    # "a\0b\0" + "\0" leaves [a, b, ''] and the bare terminator leaves [''].
    if pieces.pop() != b"" or len(pieces) % 2:
        raise layout
    if any(not name for name in pieces[0::2]):
        raise layout
    try:
        texts = [piece.decode("utf-8") for piece in pieces]
    except UnicodeDecodeError as error:
        raise SessionFatal("startup packet is not valid UTF-8", sqlstate=CHARACTER_NOT_IN_REPERTOIRE) from error
    return tuple(zip(texts[0::2], texts[1::2], strict=True))


def decode(kind: int, data: bytes) -> FrontendMessage:
    """What one message says; `kind` and `data` come from `InputBuffer.take_message`.

    Raises ServerError 08P01 (22021 for text that is not UTF-8) when the body does not fit the type. The stream is
    still in step: the caller answers with an ERROR and reads on.
    """
    body = _Body(data)
    message = _DECODERS[kind](body)
    body.end()
    return message


def _decode_parse(body: _Body) -> Parse:
    name, text = body.string(), body.string()
    return Parse(name, text, tuple(body.i32() & 0xFFFFFFFF for _ in range(body.u16())))


def _decode_bind(body: _Body) -> Bind:
    portal, statement = body.string(), body.string()
    parameter_formats = _formats(body)
    parameters: list[bytes | None] = []
    for _ in range(body.u16()):
        length = body.i32()
        parameters.append(None if length == -1 else body.raw(length))
    return Bind(portal, statement, parameter_formats, tuple(parameters), _formats(body))


def _formats(body: _Body) -> tuple[int, ...]:
    formats = tuple(body.u16() for _ in range(body.u16()))
    for code in formats:
        if code not in (0, 1):
            raise ServerError(f"unsupported format code: {code}", sqlstate=PROTOCOL_VIOLATION)
    return formats


def _rest_ignored(message: FrontendMessage) -> Callable[[_Body], FrontendMessage]:
    """For messages that are consumed whole, whatever they hold."""

    def decode_rest(body: _Body) -> FrontendMessage:
        body.raw(len(body._data) - body._offset)
        return message

    return decode_rest


_DECODERS: Final[dict[int, Callable[[_Body], FrontendMessage]]] = {
    ord("Q"): lambda body: Query(body.string()),
    ord("P"): _decode_parse,
    ord("B"): _decode_bind,
    ord("D"): lambda body: Describe(body.target(), body.string()),
    ord("E"): lambda body: Execute(body.string(), body.i32()),
    ord("C"): lambda body: Close(body.target(), body.string()),
    ord("S"): lambda body: Sync(),
    ord("H"): lambda body: Flush(),
    ord("X"): lambda body: Terminate(),
    ord("F"): _rest_ignored(FunctionCall()),
    ord("d"): _rest_ignored(CopyMessage()),
    ord("c"): _rest_ignored(CopyMessage()),
    ord("f"): _rest_ignored(CopyMessage()),
}


# ------------------------------------------------------------------------------------------------------ to the client


def _message(kind: bytes, body: bytes = b"") -> bytes:
    return _HEADER.pack(kind, len(body) + 4) + body


def _string(text: str) -> bytes:
    # A NUL would end the field early and shift all that follows; nothing the server says contains one on purpose.
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace") + b"\0"


REFUSE_ENCRYPTION: Final = b"N"
"""The one-byte answer to SSLRequest and GSSENCRequest."""

AUTHENTICATION_OK: Final = _message(b"R", _I32.pack(0))
PARSE_COMPLETE: Final = _message(b"1")
BIND_COMPLETE: Final = _message(b"2")
CLOSE_COMPLETE: Final = _message(b"3")
NO_DATA: Final = _message(b"n")
EMPTY_QUERY_RESPONSE: Final = _message(b"I")
PORTAL_SUSPENDED: Final = _message(b"s")


def negotiate_protocol_version(newest: int, unrecognized_options: Sequence[str]) -> bytes:
    """NegotiateProtocolVersion: the newest version spoken and the `_pq_.` options not known."""
    options = b"".join(map(_string, unrecognized_options))
    return _message(b"v", _U32.pack(newest) + _I32.pack(len(unrecognized_options)) + options)


def parameter_status(name: str, value: str) -> bytes:
    """ParameterStatus: a setting that clients keep track of."""
    return _message(b"S", _string(name) + _string(value))


def backend_key_data(pid: int, key: bytes) -> bytes:
    """BackendKeyData: what a CancelRequest must repeat; the key has four bytes in protocol 3.0."""
    return _message(b"K", _I32.pack(pid) + key)


def ready_for_query(status: bytes) -> bytes:
    """ReadyForQuery; `status` is b"I" idle, b"T" in a transaction, b"E" in a failed one."""
    return _message(b"Z", status)


def row_description(fields: Iterable[tuple[str, int, int]], formats: Sequence[int] = ()) -> bytes:
    """RowDescription; each field is (column name, type OID, type size in bytes or -1), of no table.

    `formats` is as in Bind: none, one for all, or one each.
    """
    packed = [
        _string(name) + _FIELD.pack(0, 0, type_oid, size, -1, format_for(formats, column))
        for column, (name, type_oid, size) in enumerate(fields)
    ]
    return _message(b"T", _U16.pack(len(packed)) + b"".join(packed))


def format_for(formats: Sequence[int], index: int) -> int:
    """The format code of value `index` under Bind's rule: none is all text, one is for all, else one each."""
    if not formats:
        return 0
    return formats[0] if len(formats) == 1 else formats[index]


def data_row(values: Iterable[bytes | None]) -> bytes:
    """DataRow; None is NULL."""
    packed = [b"\xff\xff\xff\xff" if value is None else _I32.pack(len(value)) + value for value in values]
    return _message(b"D", _U16.pack(len(packed)) + b"".join(packed))


def parameter_description(type_oids: Sequence[int]) -> bytes:
    """ParameterDescription: the types of a prepared statement's parameters."""
    return _message(b"t", _U16.pack(len(type_oids)) + b"".join(map(_U32.pack, type_oids)))


def command_complete(tag: str) -> bytes:
    """CommandComplete: for a statement that changes something, the acknowledgement."""
    return _message(b"C", _string(tag))


def error_response(severity: str, error: ServerError) -> bytes:
    """ErrorResponse; `severity` is ERROR, FATAL or PANIC, unlocalised."""
    return _message(b"E", _report_fields(severity, error))


def notice_response(severity: str, report: ServerError) -> bytes:
    """NoticeResponse; `severity` is WARNING, NOTICE, DEBUG, INFO or LOG. The report is not raised, only told."""
    return _message(b"N", _report_fields(severity, report))


def _report_fields(severity: str, report: ServerError) -> bytes:
    fields: list[tuple[bytes, str]] = [
        (b"S", severity),
        (b"V", severity),
        (b"C", report.sqlstate),
        (b"M", report.message),
    ]
    if report.detail is not None:
        fields.append((b"D", report.detail))
    if report.hint is not None:
        fields.append((b"H", report.hint))
    if report.position is not None:
        fields.append((b"P", str(report.position)))
    return b"".join(code + _string(text) for code, text in fields) + b"\0"
