"""What became of every transaction, by the commit log's pages, and whether those pages can be believed.

Owns the rules of the commit log: two bits each that say "committed" or nothing (a rollback writes nothing, see
`transam.clog`), none for a number that was never given out. Nobody runs in a cluster that was shut down, so what is not
marked committed did not commit.
"""

from __future__ import annotations

from struct import Struct

from supervisor.engine.storage.page import HEADER_BYTES, KIND_CLOG, LOWER_AT, PAGE_BYTES
from supervisor.engine.transam.clog import XIDS_PER_PAGE, Status, place
from supervisor.engine.transam.xid import FIRST_NORMAL_XID, precedes
from supervisor.engine.verify.corruption import Findings, Kind
from supervisor.engine.verify.pages import PageFile

_LOWER = Struct("<H")
_LEGAL = bytes(byte for byte in range(256) if not byte & 0b1010_1010)
"""The bytes whose four pairs of bits are each `IN_PROGRESS` or `COMMITTED`."""


class Transactions:
    """The fates of a cluster's transactions; numbers from `oldest` up to and without `next_xid` were given out."""

    def __init__(self, oldest: int, next_xid: int) -> None:
        self._oldest = oldest
        self._next = next_xid
        self._pages: dict[int, bytes] = {}
        self._unreadable: set[int] = set()

    def read(self, file: PageFile, findings: Findings) -> None:
        """Take the commit log's pages; a page that is not whole leaves its transactions' fates unknown."""
        for block in range(file.blocks):
            before = len(findings.corruptions)
            if file.read(block, KIND_CLOG):
                self._pages[block] = file.mm[:]
                self._check(block, findings)
            elif len(findings.corruptions) > before:
                self._unreadable.add(block)

    def was_given_out(self, xid: int) -> bool:
        """Whether a row can bear this number."""
        return xid >= FIRST_NORMAL_XID and not precedes(xid, self._oldest) and precedes(xid, self._next)

    def committed(self, xid: int) -> bool | None:
        """Whether it committed; None if the page that says so cannot be read."""
        block, byte, shift = place(xid)
        data = self._pages.get(block)
        if data is None:
            return None if block in self._unreadable else False
        return data[byte] >> shift & 3 == Status.COMMITTED

    def _check(self, block: int, findings: Findings) -> None:
        data = self._pages[block]
        (lower,) = _LOWER.unpack_from(data, LOWER_AT)
        used = data[HEADER_BYTES:lower]
        findings.items += 4 * len(used)
        if used.translate(None, _LEGAL):
            byte = next(at for at, value in enumerate(used) if value not in _LEGAL)
            xid = block * XIDS_PER_PAGE + 4 * byte
            findings.add(
                Kind.COMMIT_LOG,
                f"of transactions {xid} to {xid + 3} one is marked neither committed nor not",
                block=block,
                offset=xid,
            )
        if data[lower:PAGE_BYTES].strip(b"\0"):
            findings.add(Kind.COMMIT_LOG, f"there is something behind the last bits in use, at {lower}", block=block)
        first = max(self._next, block * XIDS_PER_PAGE)
        for xid in range(first, min(first + 4 * len(used), (block + 1) * XIDS_PER_PAGE)):
            if self.committed(xid):
                findings.add(
                    Kind.COMMIT_LOG,
                    f"transaction {xid} is marked committed, and the next to be given out is {self._next}",
                    block=block,
                    offset=xid,
                )
