"""The session's own settings: what a client is told at the start, and what it may ask for.

Owns the list that is reported by ParameterStatus (PostgreSQL's GUC_REPORT; every name in it is one that some client
breaks without) and the few settings that a startup packet may carry. The server's settings are `supervisor.config`'s.
"""

from __future__ import annotations

from typing import Final

from supervisor import VERSION
from supervisor.errors import (
    FEATURE_NOT_SUPPORTED,
    INVALID_PARAMETER_VALUE,
    UNDEFINED_OBJECT,
    SessionFatal,
)
from supervisor.processes.startup_packet import Startup

SERVER_VERSION: Final = f"18.0 (crashbed {VERSION})"
"""Clients read the number and choose their queries by it; the grammar is PostgreSQL 18's."""

UNREPORTED: Final = {"server_version_num": "180000", "transaction_isolation": "read committed"}
"""What SHOW knows besides and no client keeps track of."""

_MAX_APPLICATION_NAME_BYTES: Final = 63
_UTF8_NAMES: Final = frozenset({"utf8", "utf-8", "unicode"})

_WITHOUT_EFFECT: Final = frozenset({"datestyle", "timezone", "intervalstyle", "extra_float_digits"})
"""Accepted and ignored: drivers send these always. A moment is sent back in UTC, with its zone, whatever was asked."""


def session_parameters(startup: Startup) -> dict[str, str]:
    """What a session reports at its start, by proper name.

    Raises SessionFatal for what the startup packet must not ask for: 22023 an encoding other than UTF-8, 42704 an
    unknown name, 0A000 command-line options or replication.
    """
    application_name = ""
    for name, value in startup.options:
        match name.lower():
            case "application_name":
                application_name = _printable(value)
            case "client_encoding":
                if value.strip("'\"").lower() not in _UTF8_NAMES:
                    raise SessionFatal(
                        f'invalid value for parameter "client_encoding": "{value}"',
                        sqlstate=INVALID_PARAMETER_VALUE,
                        hint="This server speaks UTF8 only.",
                    )
            case "options":
                if value.strip():
                    raise SessionFatal(
                        "command-line options in the startup packet are not supported",
                        sqlstate=FEATURE_NOT_SUPPORTED,
                    )
            case "replication":
                if value.lower() not in ("false", "off", "no", "0"):
                    raise SessionFatal("replication connections are not supported", sqlstate=FEATURE_NOT_SUPPORTED)
            case known if known in _WITHOUT_EFFECT:
                pass
            case _:
                raise SessionFatal(f'unrecognized configuration parameter "{name}"', sqlstate=UNDEFINED_OBJECT)
    return {
        "application_name": application_name,
        "client_encoding": "UTF8",
        "DateStyle": "ISO, MDY",
        "default_transaction_read_only": "off",
        "in_hot_standby": "off",
        "integer_datetimes": "on",
        "IntervalStyle": "postgres",
        "is_superuser": "on",
        "scram_iterations": "4096",
        "search_path": "public",
        "server_encoding": "UTF8",
        "server_version": SERVER_VERSION,
        "session_authorization": startup.user,
        "standard_conforming_strings": "on",
        "TimeZone": "UTC",
    }


def _printable(text: str) -> str:
    """As PostgreSQL keeps an application name: ASCII, other bytes escaped, at most 63 bytes."""
    clean = "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in text.encode("utf-8"))
    return clean[:_MAX_APPLICATION_NAME_BYTES]
