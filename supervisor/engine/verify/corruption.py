"""What a check of a cluster's files found, as data: corruptions, and what was looked at.

Owns the names of the kinds of damage and where one lies. It decides nothing: each structure's check says what is wrong
with it. A place is as PostgreSQL's `verify_heapam` gives it, block and offset number, so that a page can be looked up.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """What is wrong, by the rule that is broken."""

    CONTROL_FILE = "control file"
    WAL = "write-ahead log"
    FILE = "file"
    CHECKSUM = "checksum"
    PAGE_HEADER = "page header"
    PAGE_LSN = "page LSN"
    LINE_POINTER = "line pointer"
    TUPLE_HEADER = "tuple header"
    TUPLE_DATA = "tuple data"
    TRANSACTION_ID = "transaction id"
    HINT_BITS = "hint bits"
    UPDATE_CHAIN = "update chain"
    COMMIT_LOG = "commit log"
    BTREE_PAGE = "B-tree page"
    BTREE_ORDER = "B-tree order"
    BTREE_LINK = "B-tree link"
    INDEX_ENTRY = "index entry"
    MISSING_ENTRY = "missing index entry"
    UNIQUE_KEY = "unique key"
    CATALOG = "catalog"


class Corruption(msgspec.Struct, frozen=True):
    """One rule broken in one place.

    `file` is relative to the data directory; `relation` the table or index by name, empty where there is none.
    `block` and `offset` are None where the damage is not in a page, or in the page as a whole. `offset` is the number
    of an item on its page, from 1: a line pointer's on a heap page, an entry's on a B-tree page (OffsetNumber); on a
    page of the commit log it is the transaction.
    """

    kind: Kind
    file: str
    relation: str
    block: int | None
    offset: int | None
    message: str

    @property
    def place(self) -> str:
        """Where it is, as a report writes it."""
        where = self.file
        if self.block is not None:
            where += f" block {self.block}"
        if self.offset is not None:
            where += f" offset {self.offset}"
        return where


class RelationChecked(msgspec.Struct, frozen=True):
    """How much of one relation was looked at. `items` are row versions, index entries or transactions."""

    file: str
    relation: str
    role: str
    pages: int
    items: int
    corruptions: int


class Verification(msgspec.Struct, frozen=True):
    """What a walk over a cluster came to.

    `state` is the cluster's by its control file ("" if that cannot be read). `recovered` tells that the cluster was not
    shut down, and a copy of it was looked at, recovered in memory. `end_lsn` is where valid WAL ends, in bytes.
    """

    state: str
    recovered: bool
    end_lsn: int
    relations: tuple[RelationChecked, ...]
    corruptions: tuple[Corruption, ...]

    @property
    def sound(self) -> bool:
        """Whether no rule is broken."""
        return not self.corruptions


class Findings:
    """What is found in one file while it is walked."""

    def __init__(self, file: str, relation: str = "", role: str = "") -> None:
        self.file = file
        self.relation = relation
        self.role = role
        self.pages = 0
        self.items = 0
        self.corruptions: list[Corruption] = []

    def add(self, kind: Kind, message: str, *, block: int | None = None, offset: int | None = None) -> None:
        """One rule broken; the walk goes on."""
        self.corruptions.append(Corruption(kind, self.file, self.relation, block, offset, message))

    def checked(self) -> RelationChecked:
        """How much was looked at."""
        return RelationChecked(self.file, self.relation, self.role, self.pages, self.items, len(self.corruptions))
