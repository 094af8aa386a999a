"""What can be taken off a heap page: the plan of a pruning, and doing it (PostgreSQL's `pruneheap.c`).

A row's versions on one page are a chain that begins at the line an index points to. Versions that nobody can see any
more are dropped from the chain's head: the first line becomes a redirect to the first version that is kept, and the
lines between become unused at once, for no index points to them. A chain that is dead altogether keeps its lines
until its index entry is gone: a line that an index points to must not be given to another row. Such roots are only
reported, with a version to read the key from; `heap.Heap.clean_up` removes the entry and then the chain.

The plan is computed under the page's lock and logged as lists of lines; carrying it out is a function of page and
lists, so redo does the same. This module never waits, and touches one page only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from mmap import mmap
from struct import Struct

from supervisor.engine.access.tuple import (
    HEADER,
    HEAP_ONLY,
    HOT_UPDATED,
    LOCK_ONLY,
    XMAX_INVALID,
    XMIN_COMMITTED,
    XMIN_INVALID,
)
from supervisor.engine.access.visibility import DEAD, LIVE, IsRunning, Known, Unknown, state
from supervisor.engine.storage import page as pages
from supervisor.engine.transam.xid import FROZEN_XID, precedes

_header = HEADER.unpack_from
_end = Struct("<4xI6xH").unpack_from  # xmax and flags of a version's header
_STATE_BITS = 3 << 15
_NORMAL = pages.NORMAL << 15
_REDIRECT = pages.REDIRECT << 15
_COUNTS = Struct("<IHH")


@dataclass(slots=True)
class Plan:
    """What to do with a page. `dead_roots` are (line, chain, byte offset of a version) of rows dead altogether."""

    redirects: list[tuple[int, int]] = field(default_factory=list)
    unused: list[int] = field(default_factory=list)
    dead_roots: list[tuple[int, tuple[int, ...], int]] = field(default_factory=list)
    unknown: set[int] = field(default_factory=set)
    """Transactions to ask the commit log about; asked, they might allow more."""
    oldest_kept: int = 0
    """The oldest xid whose end may let more be dropped, 0 if there is none: the page's new hint."""

    @property
    def changes_page(self) -> bool:
        """Whether carrying it out changes anything."""
        return bool(self.redirects or self.unused)


def plan(mm: mmap, page: int, horizon: int, is_running: IsRunning, known: Known) -> Plan:
    """What nobody can see any more on a locked page; everything that ended before `horizon` is past for all."""
    result = Plan()
    lines = pages.lines(mm, page)
    over: dict[int, tuple[int, int, bool]] = {}  # line -> xmax, next line if on this page, whether it is dead
    aborted: list[int] = []
    in_chains: set[int] = set()
    for number, raw in enumerate(lines, 1):
        if raw & _STATE_BITS == _NORMAL:
            xmax, flags = _end(mm, page + (raw & 0x7FFF))
            if flags & XMIN_COMMITTED and (not xmax or flags & (LOCK_ONLY | XMAX_INVALID)):
                continue  # It stands: nearly every version of nearly every page.
            value = _state(mm, page + (raw & 0x7FFF), horizon, is_running, known, result)
            if value == LIVE:
                continue
            _, xmax, _, next_line, flags = _header(mm, page + (raw & 0x7FFF))
            over[number] = (xmax, next_line if flags & HOT_UPDATED else 0, value == DEAD)
            if flags & XMIN_INVALID and flags & HEAP_ONLY:
                aborted.append(number)
    for number, raw in enumerate(lines, 1):
        if raw & _STATE_BITS == _REDIRECT:
            if raw & 0x7FFF in over:
                _plan_chain(mm, page, lines, over, number, raw & 0x7FFF, result, in_chains)
        elif number in over and not _header(mm, page + (raw & 0x7FFF))[4] & HEAP_ONLY:
            _plan_chain(mm, page, lines, over, number, number, result, in_chains)
    # What an aborted update left behind hangs on a version that stands, or on nothing. Not so the versions of a row
    # that was both made and changed by the aborted transaction: they are a chain, and go with it.
    result.unused.extend(number for number in aborted if number not in in_chains)
    return result


def _state(mm: mmap, at: int, horizon: int, is_running: IsRunning, known: Known, result: Plan) -> int:
    try:
        value = state(mm, at, horizon, is_running, known)
    except Unknown as unknown:
        result.unknown.add(unknown.xid)
        value = LIVE
    if value != DEAD:
        xmin, xmax, _, _, flags = _header(mm, at)
        ending = xmax if flags & XMIN_COMMITTED else xmin
        if flags & XMIN_COMMITTED and flags & (LOCK_ONLY | XMAX_INVALID):
            ending = 0
        if ending and (not result.oldest_kept or precedes(ending, result.oldest_kept)):
            result.oldest_kept = ending
    return value


def _plan_chain(
    mm: mmap,
    page: int,
    lines: tuple[int, ...],
    over: dict[int, tuple[int, int, bool]],
    root: int,
    number: int,
    result: Plan,
    in_chains: set[int],
) -> None:
    """Follow a row from its first version on this page, line `number`, which is over, and drop all up to the last
    dead one.

    A version before a dead one may itself be over only recently: transactions number themselves at their first
    write and end in another order, so the later version's end can be the older number. Whoever sees that end as
    past sees all before it as past, for it was waited for (`heap_prune_chain` does the same).
    """
    chain: list[int] = []
    dead = 0  # how many of the chain's versions lie up to the last dead one
    before = 0
    while 0 < number <= len(lines) and lines[number - 1] & _STATE_BITS == _NORMAL:
        if before:
            xmin, _, _, _, flags = _header(mm, page + (lines[number - 1] & 0x7FFF))
            if xmin != before or not flags & HEAP_ONLY:
                break
        chain.append(number)
        in_chains.add(number)
        if number not in over:
            break
        before, number, is_dead = over[number]
        if is_dead:
            dead = len(chain)
    if not dead:
        return
    gone = chain[:dead]
    if dead < len(chain):
        # A root that was a version itself gives its bytes back by becoming a redirect.
        result.redirects.append((root, chain[dead]))
        result.unused.extend(line for line in gone if line != root)
        return
    if not result.oldest_kept:
        result.oldest_kept = FROZEN_XID  # There is more to drop as soon as somebody cleans the index up.
    result.dead_roots.append((root, tuple(dict.fromkeys((root, *gone))), page + (lines[gone[0] - 1] & 0x7FFF)))


def encode(redirects: list[tuple[int, int]], unused: list[int], oldest_kept: int) -> bytes:
    """What a PRUNE record carries."""
    flat = [line for pair in redirects for line in pair]
    counts = _COUNTS.pack(oldest_kept, len(redirects), len(unused))
    return counts + Struct(f"<{len(flat) + len(unused)}H").pack(*flat, *unused)


def decode(data: bytes) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...], int]:
    """(redirects, unused, oldest_kept) of a PRUNE record."""
    oldest_kept, n_redirects, n_unused = _COUNTS.unpack_from(data)
    flat = Struct(f"<{2 * n_redirects + n_unused}H").unpack_from(data, _COUNTS.size)
    pairs = tuple((flat[2 * i], flat[2 * i + 1]) for i in range(n_redirects))
    return pairs, tuple(flat[2 * n_redirects :]), oldest_kept


def carry_out(
    mm: mmap, page: int, redirects: tuple[tuple[int, int], ...], unused: tuple[int, ...], oldest_kept: int
) -> None:
    """Change the lines, move what is kept together, and leave the hint when to look again."""
    pages.prune(mm, page, redirects=redirects, unused=unused)
    set_prunable(mm, page, oldest_kept)


_WORD = Struct("<Q")


def prunable(mm: mmap, page: int) -> int:
    """Some xid that deleted, replaced or made a version here and may now allow a pruning; 0: nothing to prune."""
    return int(_WORD.unpack_from(mm, page + pages.WORD_AT)[0])


def set_prunable(mm: mmap, page: int, xid: int) -> None:
    """Leave the hint."""
    _WORD.pack_into(mm, page + pages.WORD_AT, xid)


def note_prunable(q: memoryview, page: int, xid: int) -> None:
    """Leave the hint that `xid` made something on this page that may be dropped later."""
    word = (page + pages.WORD_AT) // 8
    if not q[word]:
        q[word] = xid
