"""The checkpoint of an orderly shutdown writes every other dirty page.

Nobody can see it while the server runs, and no crash shows it: every other checkpoint is whole, and after this one redo
has nothing to do. The row that was committed last is in the heap, say, and its index entry is gone with the memory.
"""

from __future__ import annotations

from chaos.defects.defect import Defect, Edit

_SIGNATURE = "def write_dirty(self, progress: Callable[[int, int], None] | None = None) -> int:\n"
_SIGNATURE_WITH_HALF = _SIGNATURE.replace(") -> int", ", *, half: bool = False) -> int")

SHUTDOWN_HALF_WRITTEN = Defect(
    name="shutdown-half-written",
    title="the checkpoint of a shutdown leaves every other dirty page unwritten",
    caught_by="storage",
    edits=(
        # It would have written most of them by then.
        Edit(
            "supervisor/processes/bgwriter.py",
            "lambda engine: engine.pool.background_write(child.settings.bgwriter_lru_maxpages)",
            "lambda engine: None",
        ),
        Edit(
            "supervisor/engine/recovery/checkpoint.py",
            "    buffers = engine.pool.write_dirty(progress)\n",
            "    buffers = engine.pool.write_dirty(progress, half=CheckpointFlags.IS_SHUTDOWN in flags)\n",
        ),
        Edit("supervisor/engine/storage/buffers.py", _SIGNATURE, _SIGNATURE_WITH_HALF),
        Edit("supervisor/engine/storage/buffers.py", "write_dirty(progress)\n", "write_dirty(progress, half=half)\n"),
        Edit("supervisor/engine/storage/writeback.py", _SIGNATURE, _SIGNATURE_WITH_HALF),
        Edit(
            "supervisor/engine/storage/writeback.py",
            "        for done, buffer in enumerate(dirty, 1):\n",
            "        for done, buffer in enumerate(dirty[::2] if half else dirty, 1):\n",
        ),
    ),
)
