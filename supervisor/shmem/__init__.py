"""Shared memory: one region per generation, and what PostgreSQL keeps in `src/backend/storage/lmgr` and `ipc`.

All that processes share is bytes in a `Region`. Nothing here heals when its holder dies: a SIGKILLed
holder leaves its lock taken, which is why the postmaster throws the whole region away.
"""
