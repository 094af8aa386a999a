"""PostgreSQL's grammar: text to parse tree, by the libpg_query that postgast carries.

Owns the one call into C. The tree is libpg_query's JSON form, decoded: an object with one key is a node and the key
names its type, fields that have their default are left out. postgast itself gives the same trees as protobuf messages;
its modules and protobuf's would be 7 MB of the postmaster's heap, and double the cost of every fork and exit. So they
are loaded only for `statement_name`, by a process that has to refuse a statement by name.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from pathlib import Path
from typing import Any, Final

import msgspec

Node = dict[str, Any]


class GrammarError(Exception):
    """The text is not SQL: `position` is the 1-based character of the complaint, 0 when it is unknown."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class _Error(ctypes.Structure):
    _fields_ = (
        ("message", ctypes.c_char_p),
        ("funcname", ctypes.c_char_p),
        ("filename", ctypes.c_char_p),
        ("lineno", ctypes.c_int),
        ("cursorpos", ctypes.c_int),
        ("context", ctypes.c_char_p),
    )


class _Result(ctypes.Structure):
    """`PgQueryParseResult` of pg_query.h."""

    _fields_ = (
        ("parse_tree", ctypes.c_char_p),
        ("stderr_buffer", ctypes.c_char_p),
        ("error", ctypes.POINTER(_Error)),
    )


def _load() -> ctypes.CDLL:
    spec = importlib.util.find_spec("postgast")
    if spec is None or spec.origin is None:
        raise ImportError("postgast is not installed")
    library = ctypes.CDLL(str(Path(spec.origin).with_name("libpg_query.so")))
    library.pg_query_parse.argtypes = (ctypes.c_char_p,)
    library.pg_query_parse.restype = _Result
    library.pg_query_free_parse_result.argtypes = (_Result,)
    library.pg_query_free_parse_result.restype = None
    return library


_LIBRARY: Final = _load()
_DECODER: Final = msgspec.json.Decoder(dict[str, Any])


def statements(text: str) -> list[Node]:
    """The nodes of a text's statements. Raises GrammarError, and RecursionError for one nested too deeply."""
    result = _LIBRARY.pg_query_parse(text.encode("utf-8"))
    try:
        if result.error:
            error = result.error.contents
            raise GrammarError(error.message.decode("utf-8", "replace"), error.cursorpos)
        tree = _DECODER.decode(result.parse_tree)
    finally:
        _LIBRARY.pg_query_free_parse_result(result)
    return [statement["stmt"] for statement in tree["stmts"]]


def statement_name(text: str, index: int) -> str | None:
    """What people call a text's statement: INSERT, CREATE TABLE. None for one that has no such name, or is nested
    deeper than protobuf's messages may be."""
    postgast: Any = importlib.import_module("postgast")
    too_deep: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
    try:
        info = postgast.classify_statement(postgast.parse(text).stmts[index].stmt)
    except too_deep:
        return None
    return None if info is None else " ".join(filter(None, (info.action, info.object_type)))
