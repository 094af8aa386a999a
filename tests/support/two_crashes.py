"""One cycle whose recovery crashed itself, as its harness, the kernel and the server's journal recorded it.

A backend is killed at 99 ms; the checkpointer of the recovery at 120 ms; the second recovery ends at 150.
"""

from __future__ import annotations

from signal import SIGCHLD, SIGKILL, SIGQUIT
from typing import Any

from chaos.witness.records import Closed, Exit, Followed, Fork, KernelRecord, Name, Opened, Signal, Wait

MS = 1_000_000
POSTMASTER, VICTIM, CHECKPOINTER, FIRST_STARTUP, STARTUP, SURVIVOR = 100, 201, 202, 203, 204, 205
HARNESS: list[dict[str, Any]] = [
    {"t": 10 * MS, "ev": "cycle_begin", "cycle": 0, "epoch": 0, "plan": {}},
    {"t": 100 * MS, "ev": "fault", "cycle": 0, "fault": "trigger", "child": VICTIM, "role": "backend", "sig": 9,
     "outcome": "landed"},
    {"t": 104 * MS, "ev": "fault", "cycle": 0, "fault": "sigkill-role", "child": CHECKPOINTER, "role": "checkpointer",
     "sig": 9, "outcome": "landed"},
    {"t": 151 * MS, "ev": "ready", "cycle": 0, "gen": 3},
    {"t": 160 * MS, "ev": "first_commit", "cycle": 0},
    {"t": 170 * MS, "ev": "cycle_end", "cycle": 0, "acknowledged": 30, "notes": []},
]  # fmt: skip


def life(ms: float, pid: int, role: str, ended: float, *, code: int | None = None) -> list[KernelRecord]:
    """A child of the postmaster: forked, named, ended by itself or by SIGKILL, reaped a millisecond later."""
    born, t = int(ms * MS), int(ended * MS)
    end = [] if code is not None else [Signal(t - 10_000, 0, SIGKILL, pid, pid, 0, 0)]
    return [
        Fork(born, 0, POSTMASTER, pid, "cb:postmaster"),
        Name(born + 10_000, 0, pid, f"cb:{role}"),
        *end,
        Exit(t, 0, pid, code, SIGKILL if code is None else None, True),
        Signal(t + 10_000, 0, SIGCHLD, POSTMASTER, pid, 1 if code is not None else 2, 0),
        Wait(t + MS, 0, POSTMASTER, pid),
    ]


def two_crashes() -> list[KernelRecord]:
    """The kernel's account."""
    return [
        Opened(MS, "tracefs", "passed", 50),
        Followed(2 * MS, POSTMASTER, "postmaster"),
        *life(20, VICTIM, "backend", 99),
        *life(21, SURVIVOR, "backend", 102.5, code=2),
        Signal(102 * MS, 0, SIGQUIT, SURVIVOR, POSTMASTER, 0, 0),
        *life(105, CHECKPOINTER, "checkpointer", 120),
        *life(106, FIRST_STARTUP, "startup", 125, code=2),
        *life(130, STARTUP, "startup", 150, code=0),
        Closed(1000 * MS),
    ]


JOURNAL: list[dict[str, Any]] = [
    {"t": 104 * MS, "pid": POSTMASTER, "ev": "memory", "gen": 2, "ino": 2},
    {"t": 107 * MS, "pid": FIRST_STARTUP, "ev": "redo_begin", "lsn": 1},
    {"t": 110 * MS, "pid": FIRST_STARTUP, "ev": "redo_end", "lsn": 2, "records": 1, "pages_changed": 1},
    {"t": 131 * MS, "pid": STARTUP, "ev": "redo_begin", "lsn": 1},
    {"t": 140 * MS, "pid": STARTUP, "ev": "redo_end", "lsn": 2, "records": 1, "pages_changed": 1},
    {"t": 900 * MS, "pid": STARTUP, "ev": "redo_end", "lsn": 2, "records": 1, "pages_changed": 1},
]
