"""Statement text to parse trees, by PostgreSQL's own grammar.

The only module that calls the parser (postgast, which carries libpg_query 18). It splits a text into statements,
turns the parser's complaints into 42601 with the position that psql draws its caret at, and keeps from the parser
what would crash it. It never looks into a tree: that is `analyse`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Final

from supervisor.errors import PROGRAM_LIMIT_EXCEEDED, STATEMENT_TOO_COMPLEX, SYNTAX_ERROR, ServerError

# Imported by name because postgast's type stub for the protobuf module does not parse (0.2.0), and protobuf's are not
# installed: a type checker that follows these imports gives up on everything else.
_postgast: Final[Any] = importlib.import_module("postgast")
_node_types: Final[Any] = importlib.import_module("postgast.pg_query_pb2")
_DecodeError: Final[type[Exception]] = importlib.import_module("google.protobuf.message").DecodeError
_ParseError: Final[type[Exception]] = _postgast.PgQueryError

MAX_TEXT_BYTES: Final = 16 << 10
"""Longest query text that is parsed.

The C parser writes its tree out by recursion without a bound, and overflows an 8 MB stack at about 40,000 bytes of
`1+1+1...` (measured): a SIGSEGV that any client could cause. Values longer than this come as parameters.
"""


@dataclass(frozen=True, slots=True)
class RawStatement:
    """One statement: which text it is part of and its tree, read by `analyse` alone.

    `node` is postgast's Node, of which the field named `kind`, such as "call_stmt", is the statement.
    """

    text: str
    node: Any
    kind: str

    @property
    def name(self) -> str:
        """What people call the statement: BEGIN, INSERT, CREATE TABLE."""
        if self.kind == "transaction_stmt":
            kind: str = _node_types.TransactionStmtKind.Name(self.node.transaction_stmt.kind)
            return kind.removeprefix("TRANS_STMT_").replace("_", " ")
        info = _postgast.classify_statement(self.node)
        if info is None:
            return self.kind.removesuffix("_stmt").replace("_", " ").upper()
        return " ".join(filter(None, (info.action, info.object_type)))

    def position(self, location: int) -> int | None:
        """The 1-based character of the whole text at the byte that a tree node names; None for -1 (unknown)."""
        if location < 0:
            return None
        return len(self.text.encode("utf-8")[:location].decode("utf-8", "ignore")) + 1


def parse(text: str) -> tuple[RawStatement, ...]:
    """The statements of a text; none for one that is empty or only comments.

    Raises ServerError 42601 with position, 54000 for a text that is too long, 54001 for one nested too deeply.
    """
    length = len(text.encode("utf-8"))
    if length > MAX_TEXT_BYTES:
        raise ServerError(
            f"statement is too long: {length} bytes, the limit is {MAX_TEXT_BYTES} bytes",
            sqlstate=PROGRAM_LIMIT_EXCEEDED,
            hint="Pass long values as parameters.",
        )
    try:
        tree = _postgast.parse(text)
    except _ParseError as error:
        # The parser counts the position in characters, from 1; 0 is unknown.
        position = getattr(error, "cursorpos", 0) or None
        raise ServerError(str(error), sqlstate=SYNTAX_ERROR, position=position) from error
    except _DecodeError as error:
        raise ServerError("statement is nested too deeply", sqlstate=STATEMENT_TOO_COMPLEX) from error
    return tuple(RawStatement(text, raw.stmt, raw.stmt.WhichOneof("node")) for raw in tree.stmts)
