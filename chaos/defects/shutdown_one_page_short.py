"""The checkpoint of an orderly shutdown writes every dirty page but the last.

Nobody can see it while the server runs, and no crash shows it: every other checkpoint is whole, and after this one redo
has nothing to do. The row that was committed last is in the heap, say, and its index entry is gone with the memory.
"""

from __future__ import annotations

from chaos.defects.defect import Defect, Edit

_SIGNATURE = "def write_dirty(self, progress: Callable[[int, int], None] | None = None) -> int:\n"
_SIGNATURE_WITH_KEEP = _SIGNATURE.replace(") -> int", ", *, keep: int = 0) -> int")

SHUTDOWN_ONE_PAGE_SHORT = Defect(
    name="shutdown-one-page-short",
    title="the checkpoint of a shutdown leaves the last dirty page unwritten",
    caught_by="storage",
    edits=(
        Edit(
            "supervisor/engine/recovery/checkpoint.py",
            "    buffers = engine.pool.write_dirty(progress)\n",
            "    buffers = engine.pool.write_dirty(progress, keep=CheckpointFlags.IS_SHUTDOWN in flags)\n",
        ),
        Edit("supervisor/engine/storage/buffers.py", _SIGNATURE, _SIGNATURE_WITH_KEEP),
        Edit("supervisor/engine/storage/buffers.py", "write_dirty(progress)\n", "write_dirty(progress, keep=keep)\n"),
        Edit("supervisor/engine/storage/writeback.py", _SIGNATURE, _SIGNATURE_WITH_KEEP),
        Edit(
            "supervisor/engine/storage/writeback.py",
            "        for done, buffer in enumerate(dirty, 1):\n",
            "        for done, buffer in enumerate(dirty[: len(dirty) - keep], 1):\n",
        ),
    ),
)
