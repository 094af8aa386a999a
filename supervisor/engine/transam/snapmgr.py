"""Which snapshot a statement uses, and how long it holds back pruning (PostgreSQL's `snapmgr.c`).

Owns the isolation level of this process's transaction, the snapshot that a REPEATABLE READ transaction keeps, and the
snapshots of open scans. What the oldest of them may still see as running stands in this process's PGPROC as `xmin`,
so that nobody prunes what one of them sees. It never computes a snapshot: `snapshot` does.
"""

from __future__ import annotations

from enum import StrEnum

from supervisor.engine.transam.snapshot import RunningTransactions, Snapshot


class Isolation(StrEnum):
    """The isolation levels there are, as SQL writes them."""

    READ_COMMITTED = "read committed"
    """Each statement sees what had committed when it began."""
    REPEATABLE_READ = "repeatable read"
    """All statements see what had committed when the first one began: snapshot isolation."""


class SnapshotManager:
    """The snapshots of this process's transaction; one object serves one transaction after the other."""

    def __init__(self, running: RunningTransactions) -> None:
        self._running = running
        self._kept: Snapshot | None = None
        # The xmin of each open scan, in the order in which they began: the first is the oldest.
        self._scans: dict[int, int] = {}
        self._next_scan = 0
        self.repeatable = False
        """Whether all statements of this transaction share one snapshot (`IsolationUsesXactSnapshot`)."""

    def begin(self, isolation: Isolation) -> None:
        """A transaction block begins. Its snapshot, if it keeps one, is taken by its first statement."""
        self.repeatable = isolation is Isolation.REPEATABLE_READ

    def end(self) -> None:
        """The transaction is over, and its `xmin` with it (`RunningTransactions.finish` or `release_snapshot`)."""
        self.repeatable = False
        self._kept = None
        self._scans.clear()

    def statement(self) -> Snapshot:
        """What the statement that begins now may see; `end_statement` must follow (`GetTransactionSnapshot`)."""
        if not self.repeatable:
            return self._running.snapshot()
        if self._kept is None:
            self._kept = self._running.snapshot()
        return self._kept

    def catalog(self) -> Snapshot:
        """What is true now, whatever the isolation level: tables are looked up by it (`GetCatalogSnapshot`)."""
        return self._running.snapshot()

    def end_statement(self) -> None:
        """The statement is over: what only its snapshot needed may be pruned."""
        kept = self._kept.xmin if self._kept is not None else 0
        self._running.release_snapshot(next(iter(self._scans.values()), kept))

    def open_scan(self) -> tuple[int, Snapshot]:
        """(number, snapshot) of a scan, which lasts until `close_scan` or the transaction's end."""
        number = self._next_scan
        self._next_scan += 1
        snapshot = self.statement()
        self._scans[number] = snapshot.xmin
        return number, snapshot

    def is_open(self, scan: int) -> bool:
        """Whether neither the scan nor its transaction has ended."""
        return scan in self._scans

    def close_scan(self, scan: int) -> None:
        """A scan has ended; does nothing if its transaction ended before."""
        if self._scans.pop(scan, None) is not None:
            self.end_statement()
