"""What every measurement needs around it: a place for its data, the machine it ran on, a table, a file."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

OUT = Path("out")


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory beside the runs' own, gone afterwards; others may pass through it, for PostgreSQL's user."""
    OUT.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="bench-data-", dir=OUT)).absolute()
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def machine() -> dict[str, Any]:
    """The class of machine, never its name."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    flags = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "filesystem": _filesystem(OUT),
        "python": platform.python_version(),
        "optimised": "--enable-optimizations" in flags,
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def summary(values: Sequence[float]) -> dict[str, float]:
    """Least, quartiles, most."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"min": min(values), "p25": low, "median": middle, "p75": high, "max": max(values), "n": len(values)}


def write(name: str, result: dict[str, Any]) -> None:
    """Keep a result as out/bench-<name>.json."""
    path = OUT / f"bench-{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": machine(), **result})) + b"\n")
    print(f"  -> {path}", flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns."""
    cells = [[_text(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        first, *others = (
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  " + "  ".join([first, *others]).rstrip())
    sys.stdout.flush()


def _text(cell: object) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def _filesystem(path: Path) -> str:
    here, found = str(path.absolute()), ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if (here + "/").startswith(mount.rstrip("/") + "/") and len(mount) > len(found[0]):
            found = (mount, kind)
    return found[1]
