"""A table as a check of its files needs it: names, relations, and how rows are bytes. No pool, no memory.

Owns reading a catalog row back into that, and saying what is wrong with one that cannot be.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from supervisor.engine.access.btree import Key, encode_key, word_keys
from supervisor.engine.access.catalog import (
    CATALOG_COLUMNS,
    CATALOG_HEAP,
    CATALOG_INDEX,
    check_definition,
    columns_from,
)
from supervisor.engine.access.tuple import Column, Row, RowCodec, base_type
from supervisor.errors import ServerError

NOT_DECODED = (struct.error, ValueError, IndexError, ArithmeticError, ServerError)
"""What decoding raises of bytes that no encoding made."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One table; `heap` and `index` are relation numbers."""

    name: str
    heap: int
    index: int
    columns: tuple[Column, ...]
    key_at: int
    codec: RowCodec

    @classmethod
    def of(cls, name: str, heap: int, index: int, columns: tuple[Column, ...], primary_key: str) -> Definition:
        """Raises ValueError when the key is no column."""
        key_at = [column.name for column in columns].index(primary_key)
        return cls(name, heap, index, columns, key_at, RowCodec(name, columns, key_at))

    @classmethod
    def from_row(cls, row: Row) -> Definition:
        """The table that a row of the catalog describes. Raises ValueError, in words, for one that none can have."""
        name, heap, index, text, primary_key = row
        if not isinstance(name, str) or not isinstance(heap, int) or not isinstance(index, int):
            raise ValueError(f"a null in {row!r}")
        if not isinstance(text, str) or not isinstance(primary_key, str):
            raise ValueError(f"a null in {row!r}")
        try:
            columns = columns_from(text)
            check_definition(name, [(column.name, column.type_name) for column in columns], primary_key)
        except (TypeError, ServerError) as error:
            raise ValueError(f"table {name!r} is defined as {text!r}: {error}") from error
        return cls.of(name, heap, index, columns, primary_key)

    @property
    def index_name(self) -> str:
        """As errors of the server call it."""
        return f"{self.name}_pkey"

    @property
    def has_word_keys(self) -> bool:
        """Which layout its index has."""
        return word_keys(self._key_type)

    @property
    def _key_type(self) -> str:
        return base_type(self.columns[self.key_at].type_name)

    def row_of(self, body: bytes) -> tuple[Row, Key]:
        """A version's values and key. Raises one of `NOT_DECODED` unless these are the very bytes of some row."""
        row = self.codec.decode(body)
        if self.codec.encode(row) != body:
            raise ValueError(f"no row is stored like this; read as {row!r}")
        return row, encode_key(self._key_type, row[self.key_at])


CATALOG = Definition.of("pg_class", CATALOG_HEAP, CATALOG_INDEX, CATALOG_COLUMNS, "name")
