"""What a run's figures were measured on: kernel, interpreter and how it was built, processor, file system."""

from __future__ import annotations

import os
import platform
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import psutil

from reports.verdict import Environment
from supervisor.postmaster.data_directory import file_system


def describe(directory: Path, versions: Mapping[str, str]) -> Environment:
    """This machine, as far as it matters to times and to what a SIGKILL can lose."""
    return Environment(
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        python_build=_build(),
        cpu=_processor(),
        cpu_count=len(os.sched_getaffinity(0)),
        disk=_device(directory),
        filesystem=file_system(directory),
        versions=dict(versions),
    )


def _device(directory: Path) -> str:
    """What the run directory lies on: the device behind the longest mount point above it."""
    path = directory.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).device if mounts else ""


def _build() -> str:
    """Whether the interpreter was built with profile-guided and link-time optimisation: 15-20 % of speed."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    made_with = [
        name for name, option in (("PGO", "--enable-optimizations"), ("LTO", "--with-lto")) if option in arguments
    ]
    return f"{platform.python_implementation()} {'with ' + ' and '.join(made_with) if made_with else 'plain build'}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.machine()
    return platform.machine()
