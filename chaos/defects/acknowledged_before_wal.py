"""The commit is acknowledged before its WAL record has left the session.

The record is held back and goes in with the session's next transaction, so everything looks right until a crash:
then the last transaction that each session was told of has no commit record and is gone.
"""

from __future__ import annotations

from chaos.defects.defect import Defect, Edit

_INSERT = """\
            _, end = self._wal.insert(
                Rmgr.TRANSACTION,
                TransactionInfo.COMMIT,
                xid,
                _TIME.pack(time),
                (PageRef(CLOG_RELATION, block, at),),
            )
"""

_HOLD_BACK = """\
            held_back = getattr(self, "_held_back", None)
            self._held_back = (xid, time)
            end = self._wal.flushed_lsn()
            if held_back is not None:
                _, end = self._wal.insert(
                    Rmgr.TRANSACTION,
                    TransactionInfo.COMMIT,
                    held_back[0],
                    _TIME.pack(held_back[1]),
                    (PageRef(CLOG_RELATION, block, at),),
                )
"""

ACKNOWLEDGED_BEFORE_WAL = Defect(
    name="acknowledged-before-wal",
    title="a commit is acknowledged before its WAL record has left the session",
    caught_by="durability",
    edits=(Edit("supervisor/engine/transam/clog.py", _INSERT, _HOLD_BACK),),
)
