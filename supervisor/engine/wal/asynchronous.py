"""What asynchronous commit (`synchronous_commit` off) asks of whoever writes pages out.

A transaction that does not wait for its commit record is over for everybody else before the record is on disk. Others
may then leave "it committed" in a row's header, as a hint. The page's own LSN does not cover that: it is the change's,
which may be on disk long before the commit is. Written out, such a page would say for ever of a transaction that a
crash had undone that it committed. With `full_page_writes` redo happens to mend that: a page that was written since
the redo point has an image in the log, older than the hint, and a checkpoint that moves the redo point flushes the log
first. Without it nothing does. PostgreSQL leaves the hint out until the commit record is flushed
(`TransactionIdGetCommitLSN` in `SetHintBits`); here the write waits instead. It costs a flush of what the WAL writer
would flush a moment later, and no record of each transaction's LSN.
"""

from __future__ import annotations

from supervisor.engine.wal.insert import Wal


class FlushEverything:
    """WAL before data, where a page may hold hints about commits that are not on disk yet.

    The page was copied before `flush` is called, and a hint is left only after the commit record was inserted: so the
    record lies before the end of the log as it is now.
    """

    def __init__(self, wal: Wal) -> None:
        self._wal = wal

    def flush(self, lsn: int) -> None:
        """Return when everything before `lsn`, and every commit of which a hint may speak, is on disk."""
        self._wal.flush(max(lsn, self._wal.insert_lsn()))
