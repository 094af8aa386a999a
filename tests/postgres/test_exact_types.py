"""numeric and timestamptz are read and written as a real PostgreSQL reads and writes them.

What could go wrong: our idea of PostgreSQL's forms is wrong, and our own tests share it. So each text is given to both,
and both formats of the answer must be the same to the byte, or both must refuse it with the same SQLSTATE. What is
known to differ is a list of its own, and must differ: a list that nobody checks grows old.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from supervisor.engine.access.numeric import Declared
from supervisor.errors import ServerError
from supervisor.sql.types import NUMERIC, TIMESTAMPTZ, DataType
from tests.bench.results import workplace
from tests.bench.servers import Postgres

pytestmark = pytest.mark.live

NUMBERS = (
    *("0", "-0.00", "1e5", "1.50e1", "1E-7", ".5", "5.", " 7 ", "NaN", "nan", "12345.6780", "0.00001", "20000"),
    *("100000000", "00012.300", "1e131071", "1e-16383", "0e200000", "9" * 50, "-123456789012345678901234.5000"),
    *("1e131072", "1e-16384", "0e-20000", "1e99999999999", "1e-99999999999", "", ".", "-NaN", "1e", "--1", "1 2", "x"),
)
MOMENTS = (
    *("2026-01-02 03:04:05.678901+00", "2026-01-02T03:04:05Z", "2026-1-2", "2026-01-02 03:04-05:30"),
    *("2026-01-02 03:04+0530", "2026-01-02 24:00:00", "2026-01-02 03:04:60", "2026-01-02 03:04:05.9999999"),
    *("0001-01-01", "9999-12-31 23:59:59.999999", "2026-01-02 3:4:5", "2026-01-02z", "2026-01-02 03:04:05 gmt"),
    *("2026-01-02  03:04", "2026-01-02 03:04:05.123456 AD", "2026-01-02 00:00+15:59:59", "2026-01-02 03:04+5"),
    *("1999-12-31 23:59:59.5", "2026-01-02 03:04+530", "2026-01-02 24:00:01", "2026-01-02 03:04:61", "never"),
    *("2026-01-02 03", "2026-01-02+", "2026-13-02", "2026-02-29", "2026-01-02 03:60", "2026-01-02 00:00+16"),
    *("0000-01-01", "2026-01-02 00:00+15:60"),
)
DIFFERENT = (
    *((NUMERIC, text) for text in ("1_0", "0x1f")),
    *((TIMESTAMPTZ, text) for text in ("infinity", "0044-03-15 BC", "10000-01-01", "0001-01-01 00:00+01", "20260102")),
)
DECLARED = (
    *((5, 2, text) for text in ("1.005", "-1.005", "999.994", "999.995")),
    *((3, -2, text) for text in ("99949", "99950", "50", "-49")),
    *((2, 4, text) for text in ("0.00994", "0.00995")),
    *((3, 0, text) for text in ("NaN", "inf", "999.5")),
    (2, 2, "1"),
)


@pytest.fixture(scope="module")
def postgres() -> Iterator[psycopg.Connection[tuple[str, str]]]:
    with workplace() as directory:
        server = Postgres(directory)
        try:
            server.start()
            with psycopg.connect(
                host=str(server.socket.parent), dbname="postgres", user="crashbed", autocommit=True
            ) as connection:
                connection.execute("SET timezone = 'UTC'")
                yield connection
        finally:
            server.stop()


def ours(kind: DataType, text: str) -> tuple[str, str]:
    """(text form, binary form in hex), or (SQLSTATE, "")."""
    try:
        value = kind.from_text(text)
        return kind.to_text(value).decode(), kind.to_binary(value).hex()
    except ServerError as error:
        return error.sqlstate, ""


def theirs(postgres: psycopg.Connection[tuple[str, str]], kind: DataType, text: str) -> tuple[str, str]:
    name = "numeric" if kind is NUMERIC else "timestamptz"
    statement = f"SELECT x::text, encode({name}_send(x), 'hex') FROM (SELECT %s::{name} AS x) AS given"
    try:
        found = postgres.execute(statement, (text,)).fetchone()  # type: ignore[call-overload]
    except psycopg.Error as error:
        return error.sqlstate or "", ""
    assert found is not None
    return found[0], found[1]


@pytest.mark.parametrize(
    ("kind", "text"), [*((NUMERIC, text) for text in NUMBERS), *((TIMESTAMPTZ, text) for text in MOMENTS)]
)
def test_both_take_a_text_alike(postgres: psycopg.Connection[tuple[str, str]], kind: DataType, text: str) -> None:
    assert ours(kind, text) == theirs(postgres, kind, text)


@pytest.mark.parametrize(("kind", "text"), DIFFERENT)
def test_what_is_known_to_differ_is_refused_here(
    postgres: psycopg.Connection[tuple[str, str]], kind: DataType, text: str
) -> None:
    assert theirs(postgres, kind, text)[1], "PostgreSQL takes it"
    assert ours(kind, text)[0].startswith("22") and not ours(kind, text)[1]


@pytest.mark.parametrize(("precision", "scale", "text"), DECLARED)
def test_both_round_alike(postgres: psycopg.Connection[tuple[str, str]], precision: int, scale: int, text: str) -> None:
    try:
        mine = NUMERIC.to_text(Declared(precision, scale).apply(NUMERIC.from_text(text))).decode()
    except ServerError as error:
        mine = f"{error.sqlstate} {error.detail}"
    try:
        found = postgres.execute(f"SELECT (%s::numeric({precision}, {scale}))::text", (text,)).fetchone()  # type: ignore[call-overload]
        assert found is not None
        its = found[0]
    except psycopg.Error as error:
        its = f"{error.sqlstate} {error.diag.message_detail}"
    assert mine == its
