"""Parse tree to plan: names looked up, types settled, everything else refused by name.

The only module that reads parse trees. A plan says what will be done and what its result looks like before anything
is done, because a client may ask for the second without the first (Describe). Analysis changes nothing and needs no
engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from supervisor.errors import (
    FEATURE_NOT_SUPPORTED,
    NULL_VALUE_NOT_ALLOWED,
    SYNTAX_ERROR,
    UNDEFINED_FUNCTION,
    UNDEFINED_PARAMETER,
    ServerError,
)
from supervisor.sql.grammar import Node
from supervisor.sql.parse import RawStatement
from supervisor.sql.procedures import Parameter, Procedure, parameters_of
from supervisor.sql.types import (
    BIGINT,
    BOOL,
    INTEGER,
    NUMERIC,
    TEXT,
    DataType,
    Value,
    assign,
    type_named,
)

ACCEPTED: Final = "This server accepts CALL, SHOW, CHECKPOINT and SELECT pg_backend_pid()."


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a result."""

    name: str
    type: DataType


@dataclass(frozen=True, slots=True)
class Constant:
    """An argument whose value the statement gives, already of the parameter's type."""

    value: Value | None


@dataclass(frozen=True, slots=True)
class Placeholder:
    """An argument whose value comes later, as parameter `$number`; `target` is the procedure's parameter."""

    number: int
    target: Parameter


@dataclass(frozen=True, slots=True)
class CallPlan:
    """Run a procedure with these arguments; `defaults` are the parameters that were left out."""

    procedure: Procedure
    arguments: tuple[tuple[str, Constant | Placeholder], ...]
    defaults: tuple[Parameter, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class ShowPlan:
    """Show one setting."""

    name: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class ShowAllPlan:
    """Show all settings."""

    columns: tuple[Column, ...] = (Column("name", TEXT), Column("setting", TEXT))


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """Have a checkpoint made and wait for it."""

    columns: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendPidPlan:
    """Tell the process id."""

    columns: tuple[Column, ...]


Plan = CallPlan | ShowPlan | ShowAllPlan | CheckpointPlan | BackendPidPlan


def analyse(statement: RawStatement, procedures: Mapping[str, Procedure]) -> Plan:
    """The plan of one statement.

    Raises ServerError: 0A000 for a statement of another kind, 42883 for a call that fits no procedure, 42804, 22003
    or 22P02 for an argument of the wrong type, 22004 for a null where none may be.
    """
    match statement.kind:
        case "call_stmt":
            return _analyse_call(statement, procedures)
        case "variable_show_stmt":
            return _analyse_show(statement)
        case "check_point_stmt":
            return CheckpointPlan()
        case "select_stmt":
            return _analyse_select(statement)
        case "transaction_stmt":
            raise ServerError(
                f"{statement.name} is not supported",
                sqlstate=FEATURE_NOT_SUPPORTED,
                hint="Connect with autocommit: every statement is a transaction of its own, or brings its own.",
            )
        case _:
            raise ServerError(f"{statement.name} is not supported", sqlstate=FEATURE_NOT_SUPPORTED, hint=ACCEPTED)


def placeholders(plan: Plan) -> list[DataType]:
    """The types of `$1`, `$2`, ... of a plan; a number that is skipped is text. Raises nothing."""
    if not isinstance(plan, CallPlan):
        return []
    types: dict[int, DataType] = {}
    for _, argument in plan.arguments:
        if isinstance(argument, Placeholder):
            types.setdefault(argument.number, argument.target.type)
    return [types.get(number, TEXT) for number in range(1, max(types, default=0) + 1)]


def _unsupported(message: str, position: int | None) -> ServerError:
    return ServerError(message, sqlstate=FEATURE_NOT_SUPPORTED, hint=ACCEPTED, position=position)


# -- SHOW and SELECT


def _analyse_show(statement: RawStatement) -> ShowPlan | ShowAllPlan:
    name: str = statement.node["name"]
    if name == "all":
        return ShowAllPlan()
    return ShowPlan(name, (Column(name, TEXT),))


def _analyse_select(statement: RawStatement) -> BackendPidPlan:
    """Exactly `SELECT pg_backend_pid()`, with or without a name for the column and the schema written out."""
    targets = statement.node.get("targetList", [])
    if statement.node.keys() <= {"targetList", "limitOption", "op"} and len(targets) == 1:
        target = targets[0]["ResTarget"]
        call = target["val"].get("FuncCall", {})
        plain = target.keys() <= {"name", "val", "location"} and call.keys() == {"funcname", "funcformat", "location"}
        if plain and _name_parts(call) in (["pg_backend_pid"], ["pg_catalog", "pg_backend_pid"]):
            return BackendPidPlan((Column(target.get("name", "pg_backend_pid"), INTEGER),))
    raise _unsupported("SELECT is not supported, except SELECT pg_backend_pid()", None)


def _name_parts(call: Node) -> list[str]:
    return [part["String"]["sval"] for part in call["funcname"]]


# -- CALL


def _analyse_call(statement: RawStatement, procedures: Mapping[str, Procedure]) -> CallPlan:
    call = statement.node["funccall"]
    position = statement.position(call.get("location", 0))
    if call.keys() & {"agg_star", "agg_distinct", "agg_order", "func_variadic"}:
        raise _unsupported("CALL accepts only arguments", position)
    parts = _name_parts(call)
    procedure = procedures.get(parts[-1]) if len(parts) == 1 or parts[:-1] == ["public"] else None
    given = [_argument(statement, node) for node in call.get("args", [])]
    shown = f"procedure {'.'.join(parts)}({', '.join(argument.shown for argument in given)}) does not exist"
    if procedure is None:
        offered = ", ".join(sorted(procedures)) or "none"
        raise ServerError(shown, sqlstate=UNDEFINED_FUNCTION, hint=f"Procedures offered: {offered}.", position=position)
    parameters = parameters_of(procedure)
    matched = _match(given, parameters)
    if matched is None:
        usage = ", ".join(_declaration(parameter) for parameter in parameters)
        raise ServerError(
            shown,
            sqlstate=UNDEFINED_FUNCTION,
            hint=f"Its arguments are {procedure.name}({usage}).",
            position=position,
        )
    arguments = tuple((parameter.name, _typed(argument, parameter)) for parameter, argument in matched)
    named = {name for name, _ in arguments}
    defaults = tuple(parameter for parameter in parameters if parameter.name not in named)
    columns = tuple(Column(name, type_named(kind)) for name, kind in procedure.columns)
    return CallPlan(procedure, arguments, defaults, columns)


def _declaration(parameter: Parameter) -> str:
    if parameter.required:
        return f"{parameter.name} {parameter.type.name}"
    default = "NULL" if parameter.default is None else parameter.type.to_text(parameter.default).decode()
    return f"{parameter.name} {parameter.type.name} DEFAULT {default}"


@dataclass(frozen=True, slots=True)
class _Argument:
    """One argument as written. `type` None is a string literal or NULL: it takes the parameter's type."""

    name: str | None
    value: Value | None
    type: DataType | None
    type_name: str
    placeholder: int | None
    position: int | None

    @property
    def shown(self) -> str:
        return self.type_name if self.name is None else f"{self.name} => {self.type_name}"


def _argument(statement: RawStatement, node: Node) -> _Argument:
    name = None
    if "NamedArgExpr" in node:
        name = node["NamedArgExpr"]["name"]
        node = node["NamedArgExpr"]["arg"]
    ((kind, fields),) = node.items()
    position = statement.position(fields.get("location", 0))
    match kind:
        case "ParamRef":
            number = fields.get("number", 0)
            if not 1 <= number <= 65535:
                raise ServerError(f"there is no parameter ${number}", sqlstate=UNDEFINED_PARAMETER, position=position)
            return _Argument(name, None, None, "unknown", number, position)
        case "A_Const":
            value, type_, type_name = _constant(fields)
            return _Argument(name, value, type_, type_name, None, position)
        case _:
            raise _unsupported(
                "an argument of CALL must be a literal or a parameter",
                statement.position(statement.node["funccall"].get("location", 0)),
            )


def _constant(constant: Node) -> tuple[Value | None, DataType | None, str]:
    """A literal's value, its type (None: whatever it is used as) and what to call that. Zero, false and the empty
    string are fields left out."""
    if "isnull" in constant:
        return None, None, "unknown"
    if "ival" in constant:
        return constant["ival"].get("ival", 0), INTEGER, INTEGER.name
    if "boolval" in constant:
        return constant["boolval"].get("boolval", False), BOOL, BOOL.name
    if "sval" in constant:
        return constant["sval"].get("sval", ""), None, "unknown"
    if "fval" in constant:
        value, type_ = _number(constant["fval"]["fval"])
        return value, type_, type_.name
    raise _unsupported("bit string literals are not supported", None)


def _number(text: str) -> tuple[Value, DataType]:
    """A number that the parser left as text: too long for an integer, or with a fraction or exponent."""
    digits = text.replace("_", "")
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits.lstrip("+-")[:2].lower(), 10)
    try:
        whole = int(digits, base)
    except ValueError:  # no whole number, or one with more digits than Python reads
        return NUMERIC.from_text(digits), NUMERIC
    return (whole, BIGINT) if -(1 << 63) <= whole < 1 << 63 else (Decimal(whole), NUMERIC)


def _match(given: Sequence[_Argument], parameters: Sequence[Parameter]) -> list[tuple[Parameter, _Argument]] | None:
    """Which argument goes to which parameter, or None if they do not fit; positional ones come first."""
    by_name = {parameter.name: parameter for parameter in parameters}
    matched: dict[str, _Argument] = {}
    for index, argument in enumerate(given):
        if argument.name is None:
            if index >= len(parameters):
                return None
            name = parameters[index].name
        else:
            name = argument.name
        if name not in by_name:
            return None
        if name in matched:
            raise ServerError(
                f'argument name "{name}" used more than once',
                sqlstate=SYNTAX_ERROR,
                position=argument.position,
            )
        matched[name] = argument
    if any(parameter.required and parameter.name not in matched for parameter in parameters):
        return None
    return [(by_name[name], argument) for name, argument in matched.items()]


def _typed(argument: _Argument, parameter: Parameter) -> Constant | Placeholder:
    if argument.placeholder is not None:
        return Placeholder(argument.placeholder, parameter)
    try:
        if argument.value is None:
            return Constant(not_null(None, parameter))
        if argument.type is None:
            return Constant(parameter.type.from_text(str(argument.value)))
        return Constant(assign(argument.value, argument.type, parameter.type))
    except ServerError as error:
        error.position = argument.position
        raise


def not_null(value: Value | None, parameter: Parameter) -> Value | None:
    """`value`; refuses a null (22004) where the parameter's own default is not null."""
    if value is None and parameter.default is not None:
        raise ServerError(f'argument "{parameter.name}" must not be null', sqlstate=NULL_VALUE_NOT_ALLOWED)
    return value
