"""Where in a TOML text a key stands, so that an error can name its line.

Owns the looking, over the text's lines; tomllib keeps none of them. It knows keys and tables as a person writes them
in a plan, one a line, and no more: a key inside an inline table is found at that table's line.
"""

from __future__ import annotations

import re

_TABLE = re.compile(r"\s*\[(?P<name>[^\[\]]+)\]")
_KEY = re.compile(r"\s*(?P<name>[\w.-]+)\s*=")


def line_of(text: str, key: str) -> int:
    """The line (from 1) of a key, its tables in front of it with dots, or of its table; 0 when neither is there."""
    found = 0
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            table = header["name"].strip()
            if table == key or (key.startswith(f"{table}.") and not found):
                found = number
        elif (assigned := _KEY.match(line)) and ".".join(filter(None, (table, assigned["name"]))) == key:
            return number
        elif assigned and not table and key.startswith(f"{assigned['name']}."):
            found = number
    return found


def place_of(path: object, text: str, key: str) -> str:
    """A file and the line of a key in it, for an error to begin with; the file alone when the key is nowhere."""
    line = line_of(text, key)
    return f"{path}, line {line}" if line else str(path)
