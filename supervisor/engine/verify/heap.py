"""A heap page's own rules: line pointers, headers, rows, update chains (PostgreSQL's `verify_heapam`).

Owns what must hold of one page of a cluster that was shut down. That is more than holds while it runs: every
transaction is over, so a version lives, or is dead for everybody, and the commit log says which.

What aborted transactions leave behind is legal: an update that did not commit may lead to a line that was freed and
given away since, and its version may hang on nothing. An update that did commit leads, within its page, to the
version that it made; on another page that version may have been removed, and its line given away, before the old
version is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from supervisor.engine.access import prune
from supervisor.engine.access.btree import Key
from supervisor.engine.access.tuple import (
    HEADER,
    HEADER_BYTES,
    HEAP_ONLY,
    HOT_UPDATED,
    LOCK_ONLY,
    XMAX_BITS,
    XMAX_COMMITTED,
    XMAX_INVALID,
    XMIN_COMMITTED,
    XMIN_INVALID,
    Row,
)
from supervisor.engine.storage import page as pages
from supervisor.engine.transam.xid import FROZEN_XID, XID_MASK
from supervisor.engine.verify.corruption import Findings, Kind
from supervisor.engine.verify.definition import NOT_DECODED, Definition
from supervisor.engine.verify.pages import PageFile
from supervisor.engine.verify.transactions import Transactions

_KNOWN_FLAGS = HEAP_ONLY | XMAX_BITS | XMIN_COMMITTED | XMIN_INVALID
_HINTS = (
    (XMIN_COMMITTED, XMIN_INVALID, "xmin"),
    (XMAX_COMMITTED, XMAX_INVALID, "xmax"),
)


@dataclass(slots=True)
class Version:
    """One row version with a readable header. `lives` is None where the commit log cannot be read.

    `row` and `key` are None when its values are not those of a row.
    """

    xmin: int
    xmax: int
    next_block: int
    next_line: int
    flags: int
    lives: bool | None = None
    row: Row | None = None
    key: Key | None = None

    @property
    def ended_by(self) -> int:
        """Who deleted or replaced it, committed or not; 0 if nobody did."""
        return 0 if self.flags & LOCK_ONLY else self.xmax


@dataclass(frozen=True, slots=True)
class RowRoot:
    """What an index entry may lead to: where a row begins on a page, its key, and whether a version of it lives.

    `certain` is False when damage on the page, which is told already, leaves open what the row is.
    """

    key: Key | None
    lives: bool
    certain: bool


class HeapPageCheck:
    """The check of one page, which the file has read; what is wrong goes to `findings`."""

    def __init__(
        self, file: PageFile, block: int, table: Definition, transactions: Transactions, findings: Findings
    ) -> None:
        self._mm = file.mm
        self._blocks = file.blocks
        self._block = block
        self._table = table
        self._transactions = transactions
        self._findings = findings
        self._versions: dict[int, Version] = {}
        self._redirects: dict[int, int] = {}
        self._led_to: dict[int, int] = {}
        self.live_rows: dict[int, Row] = {}
        """The values of the rows that live, by the line where the row begins."""

    def run(self) -> dict[int, RowRoot]:
        """Check everything; the rows that begin on this page, by line."""
        hint = prune.prunable(self._mm, 0)
        if hint > FROZEN_XID and not (hint <= XID_MASK and self._transactions.was_given_out(hint)):
            self._add(Kind.PAGE_HEADER, None, f"there is something to prune from transaction {hint}, never given out")
        self._read_lines()
        for line, version in self._versions.items():
            self._check_header(line, version)
        self._check_links()
        roots = {line: self._row_from(line, line) for line, one in self._versions.items() if not one.flags & HEAP_ONLY}
        roots |= {line: self._row_from(line, target) for line, target in self._redirects.items()}
        self._find_orphans()
        self._findings.items += len(self._versions)
        return roots

    # Lines.

    def _read_lines(self) -> None:
        lower, upper, special = pages.bounds(self._mm, 0)
        if (lower - pages.HEADER_BYTES) % pages.LINE_BYTES:
            self._add(Kind.PAGE_HEADER, None, f"lower {lower} is within a line pointer")
        used: list[tuple[int, int, int]] = []
        raws = pages.lines(self._mm, 0)
        for line, raw in enumerate(raws, 1):
            state, at, length = pages.line_fields(raw)
            if state == pages.NORMAL:
                if at & 7 or at < upper or at + length > special:
                    self._add(
                        Kind.LINE_POINTER, line, f"item at {at} of {length} bytes, items lie at {upper} to {special}"
                    )
                elif length < HEADER_BYTES:
                    self._add(Kind.LINE_POINTER, line, f"item of {length} bytes, a version's header has {HEADER_BYTES}")
                else:
                    used.append((at, length, line))
                    self._read_version(line, at, length)
            elif state == pages.REDIRECT and not length:
                self._redirects[line] = at
            elif raw:
                self._add(
                    Kind.LINE_POINTER, line, f"state {state}, offset {at}, length {length}: nothing makes such a line"
                )
        used.sort()
        for (at, length, line), (next_at, _, next_line) in pairwise(used):
            if at + length > next_at:
                self._add(Kind.LINE_POINTER, next_line, f"its item at {next_at} overlaps the one of line {line}")

    def _read_version(self, line: int, at: int, length: int) -> None:
        version = Version(*HEADER.unpack_from(self._mm, at))
        self._versions[line] = version
        try:
            version.row, version.key = self._table.row_of(self._mm[at + HEADER_BYTES : at + length])
        except NOT_DECODED as error:
            self._add(Kind.TUPLE_DATA, line, f"the values cannot be read as a row of {self._table.name}: {error}")

    # Headers.

    def _check_header(self, line: int, version: Version) -> None:
        flags, ends = version.flags, version.ended_by
        if flags & ~_KNOWN_FLAGS:
            self._add(Kind.TUPLE_HEADER, line, f"unknown flags {flags & ~_KNOWN_FLAGS:04X}")
        if not ends and (flags & (XMAX_BITS & ~LOCK_ONLY) or version.next_line or version.next_block):
            self._add(
                Kind.TUPLE_HEADER,
                line,
                f"flags {flags:04X}, a next version ({version.next_block},{version.next_line}), and nobody ended it",
            )
        if not version.xmax and flags & LOCK_ONLY:
            self._add(Kind.TUPLE_HEADER, line, "locked by no transaction")
        # Who only locked may be a transaction that the log never names: see `access.heap`.
        for name, xid in (("xmin", version.xmin), *((("xmax", ends),) if ends else ())):
            if not self._transactions.was_given_out(xid):
                self._add(Kind.TRANSACTION_ID, line, f"{name} {xid} was never given out")
        born = self._fate(version.xmin)
        ended = self._fate(ends) if ends else None
        for (is_committed, is_invalid, name), fate in zip(_HINTS, (born, ended), strict=True):
            hint = flags & (is_committed | is_invalid)
            if hint and fate is not None and hint != (is_committed if fate else is_invalid):
                word = "committed" if fate else "not committed"
                self._add(Kind.HINT_BITS, line, f"flags {flags:04X} of {name}, and the commit log says {word}")
        if not born:
            version.lives = born
        elif ended is not None or not ends:
            version.lives = not ended

    def _fate(self, xid: int) -> bool | None:
        return self._transactions.committed(xid)

    # Chains.

    def _check_links(self) -> None:
        for line, version in self._versions.items():
            if version.flags & HOT_UPDATED:
                self._check_hot_link(line, version)
            elif (
                version.ended_by
                and version.next_line
                and (version.next_block >= self._blocks or version.next_block == self._block)
            ):
                where = f"({version.next_block},{version.next_line})"
                self._add(
                    Kind.UPDATE_CHAIN, line, f"the next version is at {where}, which no update to another page made"
                )
        for line, target in self._redirects.items():
            version_there = self._versions.get(target)
            if version_there is None or not version_there.flags & HEAP_ONLY:
                self._add(Kind.LINE_POINTER, line, f"redirects to line {target}, where no later version is")
            else:
                self._lead(line, target)

    def _check_hot_link(self, line: int, version: Version) -> None:
        if version.next_block != self._block:
            self._add(
                Kind.UPDATE_CHAIN,
                line,
                f"the next version is said to be on this page, and at block {version.next_block}",
            )
            return
        following = self._versions.get(version.next_line)
        if following is not None and following.flags & HEAP_ONLY and following.xmin == version.xmax:
            self._lead(line, version.next_line)
        elif self._fate(version.xmax):
            found = "none is there" if following is None else f"the version there was made by {following.xmin}"
            self._add(Kind.UPDATE_CHAIN, line, f"{version.xmax} replaced it by line {version.next_line}, and {found}")

    def _lead(self, line: int, target: int) -> None:
        if target in self._led_to:
            self._add(Kind.UPDATE_CHAIN, line, f"leads to line {target}, and so does line {self._led_to[target]}")
        else:
            self._led_to[target] = line

    def _row_from(self, root: int, line: int) -> RowRoot:
        """Follow a row's versions on this page. It ends: a line is led to from one other alone, a root from none."""
        certain = True
        key: Key | None = None
        lives = False
        before = root
        while (version := self._versions.get(line)) is not None and (line == root or self._led_to.get(line) == before):
            if version.lives is None or version.key is None:
                certain = False
            elif key is None:
                key = version.key
            elif version.key != key:
                self._add(Kind.UPDATE_CHAIN, line, f"its key is {version.key!r}, that of the version before it {key!r}")
            if version.lives:
                if lives:
                    self._add(Kind.UPDATE_CHAIN, line, "it lives, and so does a version before it")
                lives = True
                if version.row is not None:
                    self.live_rows[root] = version.row
            if not version.flags & HOT_UPDATED:
                break
            before, line = line, version.next_line
        return RowRoot(key, lives, certain and key is not None)

    def _find_orphans(self) -> None:
        for line, version in self._versions.items():
            if version.flags & HEAP_ONLY and line not in self._led_to and self._fate(version.xmin):
                self._add(Kind.UPDATE_CHAIN, line, f"a later version, which {version.xmin} committed, follows no other")

    def _add(self, kind: Kind, line: int | None, message: str) -> None:
        self._findings.add(kind, message, block=self._block, offset=line)
