"""What a client can say, as values.

Owns one frozen type per message of the protocol that this server understands (PostgreSQL's documentation, "Message
Formats"; `src/include/libpq/protocol.h` names the type bytes). The values carry text, not bytes, wherever the
protocol says string; parameters stay bytes, because only the statement knows their types. Nothing here reads,
writes or decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

PROTOCOL_VERSION = 3 << 16
"""Protocol 3.0, the newest this server speaks. A client that asks for 3.2 is told so and goes on."""

CANCEL_REQUEST_CODE = 80877102
SSL_REQUEST_CODE = 80877103
GSSENC_REQUEST_CODE = 80877104


@dataclass(frozen=True, slots=True)
class SSLRequest:
    """The client offers TLS; the answer is one byte."""


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    """The client offers GSSAPI encryption; the answer is one byte."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Somebody asks that process `pid` give up its statement, and proves by `key` that it may."""

    pid: int
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """The first real message: the protocol version (major << 16 | minor) and the parameters in the order sent."""

    version: int
    parameters: tuple[tuple[str, str], ...]


StartupPacket = SSLRequest | GSSENCRequest | CancelRequest | StartupMessage


class Target(Enum):
    """What Describe and Close speak of."""

    STATEMENT = b"S"
    PORTAL = b"P"


@dataclass(frozen=True, slots=True)
class Query:
    """Simple query: any number of statements in one text."""

    text: str


@dataclass(frozen=True, slots=True)
class Parse:
    """Prepare `text` under `name` ('' is the unnamed statement). A type OID of 0 leaves the type to the server."""

    name: str
    text: str
    parameter_types: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bind:
    """Make a portal of a prepared statement and its parameters (None is NULL).

    The format codes (0 text, 1 binary) number none, one for all, or one each.
    """

    portal: str
    statement: str
    parameter_formats: tuple[int, ...]
    parameters: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Describe:
    """Asks for the parameters and columns of a statement, or the columns of a portal."""

    target: Target
    name: str


@dataclass(frozen=True, slots=True)
class Execute:
    """Runs a portal; `max_rows` 0 means all."""

    portal: str
    max_rows: int


@dataclass(frozen=True, slots=True)
class Close:
    """Forgets a prepared statement or a portal; to close what does not exist is no error."""

    target: Target
    name: str


@dataclass(frozen=True, slots=True)
class Sync:
    """Ends a series of extended messages: errors stop being skipped, the answer is ReadyForQuery."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Asks for all answers so far."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """The client says goodbye."""


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """The obsolete fast path, understood only in order to be refused."""


@dataclass(frozen=True, slots=True)
class CopyMessage:
    """CopyData, CopyDone or CopyFail outside of a COPY: left over from one that failed, and ignored."""


FrontendMessage = (
    Query | Parse | Bind | Describe | Execute | Close | Sync | Flush | Terminate | FunctionCall | CopyMessage
)
