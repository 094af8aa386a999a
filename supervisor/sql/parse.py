"""Statement text to parse trees, by PostgreSQL's own grammar.

The only module that calls the parser (`grammar`). It splits a text into statements,
turns the parser's complaints into 42601 with the position that psql draws its caret at, and keeps from the parser
what would crash it. It never looks into a tree: that is `analyse`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from supervisor.errors import PROGRAM_LIMIT_EXCEEDED, STATEMENT_TOO_COMPLEX, SYNTAX_ERROR, ServerError
from supervisor.sql.grammar import GrammarError, Node, statement_name, statements

_WORD_BEGINS: Final = re.compile("(?<=[a-z])(?=[A-Z])")

MAX_TEXT_BYTES: Final = 16 << 10
"""Longest query text that is parsed.

The C parser writes its tree out by recursion without a bound, and overflows an 8 MB stack at about 40,000 bytes of
`1+1+1...` (measured): a SIGSEGV that any client could cause. Values longer than this come as parameters.
"""


@dataclass(frozen=True, slots=True)
class RawStatement:
    """One statement: which text it is part of, the how-manieth of it from 0, and its tree, read by `analyse` alone.

    `kind` is the type of its node in lower case, such as "call_stmt", and `node` that node's fields.
    """

    text: str
    index: int
    kind: str
    node: Node

    @property
    def name(self) -> str:
        """What people call the statement: BEGIN, INSERT, CREATE TABLE."""
        if self.kind == "transaction_stmt":
            kind: str = self.node["kind"]
            return kind.removeprefix("TRANS_STMT_").replace("_", " ")
        name = statement_name(self.text, self.index)
        return self.kind.removesuffix("_stmt").replace("_", " ").upper() if name is None else name

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
        found = statements(text)
    except GrammarError as error:
        raise ServerError(str(error), sqlstate=SYNTAX_ERROR, position=error.position or None) from error
    except RecursionError as error:
        raise ServerError("statement is nested too deeply", sqlstate=STATEMENT_TOO_COMPLEX) from error
    return tuple(
        RawStatement(text, index, _WORD_BEGINS.sub("_", kind).lower(), fields)
        for index, statement in enumerate(found)
        for kind, fields in statement.items()
    )
