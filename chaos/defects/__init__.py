"""Planted defects: bugs put into a copy of the server on purpose, so that the oracles are seen to see.

One module each. A defect is one realistic change of the code that maintains a promise, never of the code that
checks it; it says which oracle must find it. It is applied to a copy: the checkout is never touched.
"""

from chaos.defects.acknowledged_before_wal import ACKNOWLEDGED_BEFORE_WAL
from chaos.defects.defect import Defect
from chaos.defects.shutdown_half_written import SHUTDOWN_HALF_WRITTEN
from chaos.defects.supervision import GROUP_NOT_TOLD, OLDEST_FIRST

DEFECTS: dict[str, Defect] = {
    defect.name: defect
    for defect in (
        ACKNOWLEDGED_BEFORE_WAL,
        GROUP_NOT_TOLD,
        OLDEST_FIRST,
        SHUTDOWN_HALF_WRITTEN,
    )
}

__all__ = ["DEFECTS", "Defect"]
