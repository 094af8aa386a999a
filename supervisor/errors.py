"""What can go wrong in the server, as types.

Owns the exception classes and the SQLSTATE codes that the server uses (PostgreSQL, Appendix A,
`errcodes.txt`). It never decides what happens next: the session turns a `ServerError` into an ERROR
response and a rolled-back transaction, a `SessionFatal` into a FATAL response and exit 1, and the
child runner turns a `Panic` into SIGABRT, which the postmaster takes for a crash.
"""

from __future__ import annotations

FEATURE_NOT_SUPPORTED = "0A000"
PROTOCOL_VIOLATION = "08P01"
CONNECTION_FAILURE = "08006"
NULL_VALUE_NOT_ALLOWED = "22004"
NUMERIC_VALUE_OUT_OF_RANGE = "22003"
INVALID_DATETIME_FORMAT = "22007"
DATETIME_FIELD_OVERFLOW = "22008"
INVALID_TIME_ZONE_DISPLACEMENT = "22009"
INVALID_PARAMETER_VALUE = "22023"
INVALID_TEXT_REPRESENTATION = "22P02"
INVALID_BINARY_REPRESENTATION = "22P03"
CHARACTER_NOT_IN_REPERTOIRE = "22021"
NOT_NULL_VIOLATION = "23502"
UNIQUE_VIOLATION = "23505"
ACTIVE_SQL_TRANSACTION = "25001"
NO_ACTIVE_SQL_TRANSACTION = "25P01"
IN_FAILED_SQL_TRANSACTION = "25P02"
INVALID_SQL_STATEMENT_NAME = "26000"
INVALID_AUTHORIZATION_SPECIFICATION = "28000"
INVALID_TRANSACTION_TERMINATION = "2D000"
INVALID_CURSOR_NAME = "34000"
SERIALIZATION_FAILURE = "40001"
DEADLOCK_DETECTED = "40P01"
SYNTAX_ERROR = "42601"
UNDEFINED_COLUMN = "42703"
UNDEFINED_OBJECT = "42704"
DATATYPE_MISMATCH = "42804"
UNDEFINED_FUNCTION = "42883"
UNDEFINED_PARAMETER = "42P02"
DUPLICATE_CURSOR = "42P03"
DUPLICATE_PREPARED_STATEMENT = "42P05"
UNDEFINED_TABLE = "42P01"
DUPLICATE_TABLE = "42P07"
INVALID_TABLE_DEFINITION = "42P16"
INSUFFICIENT_RESOURCES = "53000"
DISK_FULL = "53100"
OUT_OF_MEMORY = "53200"
TOO_MANY_CONNECTIONS = "53300"
PROGRAM_LIMIT_EXCEEDED = "54000"
STATEMENT_TOO_COMPLEX = "54001"
OBJECT_NOT_IN_PREREQUISITE_STATE = "55000"
LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"
ADMIN_SHUTDOWN = "57P01"
CRASH_SHUTDOWN = "57P02"
CANNOT_CONNECT_NOW = "57P03"
IO_ERROR = "58030"
LOCK_FILE_EXISTS = "F0001"
CONFIG_FILE_ERROR = "F0000"
INTERNAL_ERROR = "XX000"
DATA_CORRUPTED = "XX001"
INDEX_CORRUPTED = "XX002"


class ServerError(Exception):
    """An error that ends the statement and rolls its transaction back; the session goes on.

    `position` is the 1-based character in the statement that psql points at. `detail_log` is what the server log
    gets in the place of `detail` (PostgreSQL's `errdetail_log`): what the client must not see.
    """

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str,
        detail: str | None = None,
        detail_log: str | None = None,
        hint: str | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.detail = detail
        self.detail_log = detail_log
        self.hint = hint
        self.position = position


class SessionFatal(ServerError):
    """An error that ends the session: FATAL to the client, orderly clean-up, exit 1."""


class Panic(Exception):
    """Shared state can no longer be trusted, or durability was lost: the process dies by SIGABRT.

    Raised where PostgreSQL raises PANIC (an error in a critical section, a failed WAL write or
    fsync): nothing may be cleaned up, for clean-up would write what must be thrown away.
    """


class StartupError(Exception):
    """The server cannot start: the message names what and where, the hint what to do about it."""

    def __init__(self, message: str, *, hint: str | None = None, sqlstate: str | None = None, exit_code: int = 1):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.sqlstate = sqlstate
        self.exit_code = exit_code
