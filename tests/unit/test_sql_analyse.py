"""Statements to plans: what is accepted is understood exactly, what is not is refused by name and place.

What could go wrong: an argument reaches the wrong parameter, a value of the wrong type reaches a procedure and brings
the process down, a statement that looks like an accepted one is run as that one, a text crashes the C parser.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from supervisor.errors import ServerError, StartupError
from supervisor.sql import parse as parse_module
from supervisor.sql.analyse import (
    BackendPidPlan,
    CallPlan,
    CheckpointPlan,
    Constant,
    Placeholder,
    Plan,
    ShowAllPlan,
    ShowPlan,
    analyse,
    placeholders,
)
from supervisor.sql.parse import parse
from supervisor.sql.procedures import preload


@dataclass(frozen=True)
class FakeProcedure:
    name: str
    parameters: tuple[tuple[str, str, Any], ...]
    columns: tuple[tuple[str, str], ...] = ()

    def run(self, context: object, **values: object) -> Iterable[tuple[Any, ...]] | None:
        return None


WORK = FakeProcedure(
    "work",
    (
        ("worker", "integer", ...),
        ("first", "bigint", 0),
        ("share", "double precision", 0.5),
        ("label", "text", None),
        ("history", "bool", True),
        ("data", "bytea", b""),
    ),
    (("committed", "bigint"),),
)
PROCEDURES = {"work": WORK}


def plan_of(text: str) -> Plan:
    (statement,) = parse(text)
    return analyse(statement, PROCEDURES)


def arguments_of(text: str) -> dict[str, object]:
    plan = plan_of(text)
    assert isinstance(plan, CallPlan)
    values = {parameter.name: parameter.default for parameter in plan.defaults}
    for name, argument in plan.arguments:
        assert isinstance(argument, Constant)
        values[name] = argument.value
    return values


def refused(text: str) -> ServerError:
    with pytest.raises(ServerError) as caught:
        for statement in parse(text):
            analyse(statement, PROCEDURES)
    return caught.value


DEFAULTS = {"first": 0, "share": 0.5, "label": None, "history": True, "data": b""}


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("CALL work(worker => 3)", {"worker": 3}),
        ("CALL work(3)", {"worker": 3}),
        ("CALL public.work(-3, 4)", {"worker": -3, "first": 4}),
        ("call WORK(worker => 0, first => -9223372036854775808)", {"worker": 0, "first": -(2**63)}),
        ("CALL work(1, first => 0x1FFFFFFFFF)", {"worker": 1, "first": 0x1FFFFFFFFF}),
        ("CALL work(1, share => 2)", {"worker": 1, "share": 2.0}),
        ("CALL work(1, share => 2.5e-1)", {"worker": 1, "share": 0.25}),
        ("CALL work(1, share => 1000000000000000000000)", {"worker": 1, "share": 1e21}),
        ("CALL work(1, label => 'it''s', history => false)", {"worker": 1, "label": "it's", "history": False}),
        ("CALL work(1, 2, 0.25)", {"worker": 1, "first": 2, "share": 0.25}),
        ("CALL work(1, label => NULL)", {"worker": 1, "label": None}),
        ("CALL work('17', history => 'off', data => '\\x01')", {"worker": 17, "history": False, "data": b"\1"}),
    ],
)
def test_arguments_reach_their_parameters(text: str, given: dict[str, object]) -> None:
    assert arguments_of(text) == {**DEFAULTS, **given}


def test_a_call_says_what_it_returns() -> None:
    assert [(column.name, column.type.name) for column in plan_of("CALL work(1)").columns] == [("committed", "bigint")]


@pytest.mark.parametrize(
    ("text", "sqlstate", "position"),
    [
        ("CALL other(1)", "42883", 6),
        ("CALL elsewhere.work(1)", "42883", 6),
        ("CALL work()", "42883", 6),
        ("CALL work(first => 1)", "42883", 6),
        ("CALL work(worker => 1, nosuch => 2)", "42883", 6),
        ("CALL work(1, 2, 0.5, 'a', true, '', 7)", "42883", 6),
        ("CALL work(worker => 1, worker => 2)", "42601", None),
        ("CALL work(1, worker => 2)", "42601", 24),
        ("CALL work(worker => 1.5)", "42804", 21),
        ("CALL work(worker => true)", "42804", 21),
        ("CALL work(1, label => 5)", "42804", 23),
        ("CALL work(worker => 'x')", "22P02", 21),
        ("CALL work(/* ü */ worker => 'x')", "22P02", 29),
        ("CALL work(worker => 3000000000)", "22003", 21),
        ("CALL work(worker => NULL)", "22004", 21),
        ("CALL work(1, share => 1e999)", "22003", None),
        ("CALL work(worker => 1 + 1)", "0A000", 6),
        ("CALL work(worker => B'1')", "0A000", None),
        ("CALL work(*)", "0A000", 6),
        ("CALL work(VARIADIC 1)", "0A000", 6),
        ("CALL work(worker => (SELECT 1))", "0A000", 6),
    ],
)
def test_a_call_that_does_not_fit_is_refused_where_it_does_not(text: str, sqlstate: str, position: int | None) -> None:
    error = refused(text)
    assert (error.sqlstate, error.position) == (sqlstate, position) or (position is None and error.sqlstate == sqlstate)


def test_the_refusal_of_a_call_shows_what_was_asked_and_what_there_is() -> None:
    error = refused("CALL work(worker => 1, nosuch => 'x')")
    assert error.message == "procedure work(worker => integer, nosuch => unknown) does not exist"
    assert error.hint is not None
    assert error.hint.startswith("Its arguments are work(worker integer, first bigint DEFAULT 0,")
    assert refused("CALL other()").hint == "Procedures offered: work."


def test_parameters_take_the_type_of_what_they_are_given_to() -> None:
    plan = plan_of("CALL work(worker => $3, label => $1)")
    assert isinstance(plan, CallPlan)
    assert all(isinstance(argument, Placeholder) for _, argument in plan.arguments)
    assert [kind.name for kind in placeholders(plan)] == ["text", "text", "integer"]
    assert placeholders(plan_of("CHECKPOINT")) == []


def test_a_parameter_number_that_cannot_be_is_refused() -> None:
    assert refused("CALL work(worker => $0)").sqlstate == "42P02"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SHOW max_connections", "max_connections"),
        ("SHOW crashbed.run_name", "crashbed.run_name"),
        ("SHOW TIME ZONE", "timezone"),
        ("SHOW TRANSACTION ISOLATION LEVEL", "transaction_isolation"),
    ],
)
def test_show_names_a_setting(text: str, name: str) -> None:
    plan = plan_of(text)
    assert isinstance(plan, ShowPlan)
    assert plan.name == name
    assert [column.name for column in plan.columns] == [name]


def test_the_other_statements_have_plans() -> None:
    assert isinstance(plan_of("CHECKPOINT"), CheckpointPlan)
    assert isinstance(plan_of("SHOW ALL"), ShowAllPlan)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("SELECT pg_backend_pid()", "pg_backend_pid"),
        ("select pg_catalog.pg_backend_pid() as pid;", "pid"),
    ],
)
def test_the_one_select(text: str, column: str) -> None:
    plan = plan_of(text)
    assert isinstance(plan, BackendPidPlan)
    assert plan.columns[0].name == column


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "SELECT pg_backend_pid(), 1",
        "SELECT pg_backend_pid() FROM t",
        "SELECT pg_backend_pid() WHERE false",
        "SELECT pg_backend_pid() LIMIT 0",
        "SELECT DISTINCT pg_backend_pid()",
        "SELECT pg_backend_pid(1)",
        "SELECT pg_backend_pid() FILTER (WHERE false)",
        "SELECT pg_backend_pid() OVER ()",
        "SELECT other.pg_backend_pid()",
        "SELECT -pg_backend_pid()",
        "SELECT pg_backend_pid() UNION SELECT pg_backend_pid()",
        "SELECT pg_backend_pid() FOR UPDATE",
        "SELECT pg_backend_pid() INTO t",
        "SELECT",
        "VALUES (1)",
        "WITH a AS (SELECT 1) SELECT pg_backend_pid()",
    ],
)
def test_a_select_that_only_looks_like_it_is_refused(text: str) -> None:
    error = refused(text)
    assert error.sqlstate == "0A000"
    assert "SELECT" in error.message


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("INSERT INTO t VALUES (1)", "INSERT"),
        ("CREATE TABLE t (a int)", "CREATE TABLE"),
        ("CREATE INDEX ON t (a)", "CREATE INDEX"),
        ("DROP TABLE t", "DROP TABLE"),
        ("VACUUM", "VACUUM"),
        ("SET a = 1", "SET"),
        ("COPY t FROM STDIN", "COPY"),
        ("LISTEN a", "LISTEN"),
    ],
)
def test_any_other_statement_is_refused_by_its_name(text: str, name: str) -> None:
    error = refused(text)
    assert error.sqlstate == "0A000"
    assert error.message == f"{name} is not supported"
    assert error.hint == "This server accepts CALL, SHOW, CHECKPOINT and SELECT pg_backend_pid()."


@pytest.mark.parametrize("name", ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "RELEASE a"])
def test_a_transaction_block_is_refused_with_the_way_out(name: str) -> None:
    error = refused(name)
    assert error.sqlstate == "0A000"
    assert error.message == f"{name.removesuffix(' a')} is not supported"
    assert error.hint is not None
    assert "autocommit" in error.hint


# -- parsing alone


def test_a_text_may_hold_any_number_of_statements() -> None:
    assert [statement.kind for statement in parse("CHECKPOINT; SHOW a;; CALL p()")] == [
        "check_point_stmt",
        "variable_show_stmt",
        "call_stmt",
    ]
    for empty in ("", " ; ; ", "-- nothing"):
        assert parse(empty) == ()


@pytest.mark.parametrize(
    ("text", "position"),
    [("CALL", 5), ("SELECT 'ü' frm 1", 16), ("CALL p(;", 8), ("CALL p('open", 8)],
)
def test_a_syntax_error_says_where_in_characters(text: str, position: int) -> None:
    error = refused(text)
    assert (error.sqlstate, error.position) == ("42601", position)


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("SELECT " + "+".join(["1"] * 100_000), "54000"),
        ("SELECT " + "+".join(["1"] * (parse_module.MAX_TEXT_BYTES // 2 - 8)), "54001"),
        ("SELECT " + "- " * 4_000 + "a", "54001"),
        ("SELECT " + "(" * 8_000 + "1" + ")" * 8_000, "0A000"),
        ("SELECT " + "(" * 16_000, "42601"),
    ],
)
def test_what_would_overflow_the_parsers_stack_is_refused(text: str, sqlstate: str) -> None:
    assert refused(text).sqlstate == sqlstate


# -- preloading


def test_the_procedures_of_a_workload_are_found() -> None:
    assert "bank" in preload(["workloads.bank"])


def test_a_library_that_cannot_serve_is_refused_before_anything_starts(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StartupError, match="could not load library"):
        preload(["no.such.module"])
    with pytest.raises(StartupError, match="offers no procedures"):
        preload(["json"])
    with pytest.raises(StartupError, match="already offered by another library"):
        preload(["workloads.bank", "workloads.bank"])
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd_library.py").write_text(
        "class P:\n"
        "    name = 'p'\n"
        "    parameters = (('a', 'money', ...),)\n"
        "    columns = ()\n"
        "    def run(self, context, **values): ...\n"
        "PROCEDURES = (P(),)\n"
    )
    with pytest.raises(StartupError, match='names the unknown type "money"'):
        preload(["odd_library"])
