"""The grammar's trees are postgast's: the same parser, called without protobuf between.

What could go wrong: a result is read by another layout than the C library's, so that a field is lost or a tree is another
statement's; what is freed is read; a complaint or its place gets lost; a deep tree ends the process.
"""

from __future__ import annotations

import postgast
import pytest
from google.protobuf.json_format import MessageToDict

from supervisor.sql.grammar import GrammarError, statement_name, statements

TEXTS = (
    "CALL bank(worker => 0, first => $1, share => 2.5e-1, big => 5000000000, b => true, c => false, n => NULL, s => '')",
    "CALL public.f(VARIADIC a); CALL f(*); CALL f(DISTINCT 1 ORDER BY 2)",
    "SHOW all; SHOW server_version; CHECKPOINT",
    'SELECT pg_catalog.pg_backend_pid() AS "Größe"',
    "SELECT a.b, count(*) FILTER (WHERE x > 1) OVER w FROM t a LEFT JOIN u USING (k) WHERE y IN (1, -2, 0x1F) WINDOW w AS ()",
    "INSERT INTO t VALUES (1, 'x'), (DEFAULT, NULL) ON CONFLICT DO NOTHING RETURNING *",
    "BEGIN ISOLATION LEVEL READ COMMITTED; SAVEPOINT a; ROLLBACK TO a; COMMIT",
    "CREATE TABLE t (id bigint PRIMARY KEY, v text NOT NULL DEFAULT 'x'); DROP TABLE IF EXISTS t CASCADE",
    "-- nothing",
    "",
)


def without_empty_strings(node: object) -> object:
    """protobuf leaves out an empty string as it does zero and false; libpg_query's JSON has it."""
    if isinstance(node, dict):
        return {name: without_empty_strings(value) for name, value in node.items() if value != ""}
    if isinstance(node, list):
        return [without_empty_strings(value) for value in node]
    return node


@pytest.mark.parametrize("text", TEXTS)
def test_the_trees_are_postgasts(text: str) -> None:
    theirs = [MessageToDict(statement.stmt) for statement in postgast.parse(text).stmts]
    assert [without_empty_strings(statement) for statement in statements(text)] == theirs


@pytest.mark.parametrize("text", ["SELEC", "SELECT FROM WHERE", "CALL f(é é)", "'"])
def test_the_complaints_are_postgasts(text: str) -> None:
    with pytest.raises(postgast.PgQueryError) as theirs:
        postgast.parse(text)
    with pytest.raises(GrammarError) as ours:
        statements(text)
    assert (str(ours.value), ours.value.position) == (str(theirs.value), theirs.value.cursorpos)


@pytest.mark.parametrize(
    "text",
    ["SELECT " + "1+" * 8000 + "1", "SELECT " + "ARRAY[" * 2000 + "1" + "]" * 2000, "SELECT " + "NOT " * 4000 + "true"],
)
def test_a_tree_too_deep_to_decode_is_an_error(text: str) -> None:
    with pytest.raises(RecursionError):
        statements(text)


def test_names_of_statements() -> None:
    text = "INSERT INTO t VALUES (1); CREATE TABLE t (a int); VACUUM"
    assert [statement_name(text, index) for index in range(3)] == ["INSERT", "CREATE TABLE", "VACUUM"]
    assert statement_name("SELECT " + "1+" * 150 + "1", 0) is None
