"""What a process uses, looked at from outside once a cycle: descriptors, mappings, memory, threads; and files.

Owns the looking, in the harness; `chaos.trends` works out what grew. Each number comes from the kernel (/proc), none
from the server.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Used:
    """What one process used at one moment. `resident_bytes` counts shared pages too, as the kernel does."""

    descriptors: int
    mappings: int
    resident_bytes: int
    threads: int


def used_by(pid: int) -> Used | None:
    """What a process uses now; None when it has ended."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return Used(
                descriptors=process.num_fds(),
                # Not psutil's memory_maps, which walks every page of the process: one line is one mapping.
                mappings=Path(f"/proc/{pid}/maps").read_bytes().count(b"\n"),
                resident_bytes=process.memory_info().rss,
                threads=process.num_threads(),
            )
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def files_below(directory: Path) -> int:
    """How many files a directory holds, at any depth; what vanishes meanwhile is not counted."""
    return sum(len(files) for _, _, files in os.walk(directory))
