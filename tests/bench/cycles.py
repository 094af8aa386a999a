"""Verified cycles an hour: a campaign as a user runs it, judged, over the time that it took from start to verdict.

A cycle counts if its verdict is conclusive. *Defaults* is `crashbed run` as it comes. *Fastest* keeps every oracle and
the witness and asks for less load: one worker inside the server, and no fault placed at a point, for which the server
must be led to that point first.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from tests.bench import results

KILLS = 100
SEED = "20"
SETTINGS = {"defaults": [], "fastest": ["--backends", "1", "--no-points"]}
PATIENCE_S = 3_600.0


def campaign(directory: Path, kills: int, options: list[str]) -> dict[str, Any]:
    """Run one; what its verdict says, and the seconds from start to exit."""
    command = [sys.executable, "-m", "chaos", "run", "--kills", str(kills), "--seed", SEED, "--out", str(directory)]
    began = time.monotonic()
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=PATIENCE_S)
    took = time.monotonic() - began
    verdicts = list(directory.glob("*/verdict.json"))
    if len(verdicts) != 1:
        raise RuntimeError(f"the campaign left no verdict (exit {done.returncode}):\n{done.stdout}{done.stderr}")
    verdict = msgspec.json.decode(verdicts[0].read_bytes())
    return {
        "options": options,
        "status": verdict["status"],
        "exit": done.returncode,
        "cycles": verdict["cycles"],
        "conclusive": verdict["conclusive_cycles"],
        "seconds": took,
        "running_seconds": verdict["seconds"],
        "per_hour": verdict["conclusive_cycles"] / took * 3_600,
        "not_judged": [row["title"] for row in verdict["oracles"] if row["status"] == "not judged"],
    }


def main(kills: int = KILLS) -> None:
    """Measure, print, keep."""
    found = {}
    for name, options in SETTINGS.items():
        with results.workplace() as directory:
            found[name] = campaign(directory, kills, options)
    print(f"verified cycles an hour, of a campaign of {kills}")
    rows: list[tuple[object, ...]] = [
        (
            f"{name} ({' '.join(one['options']) or 'no options'})",
            one["status"],
            f"{one['conclusive']}/{one['cycles']}",
            one["running_seconds"],
            one["seconds"],
            round(one["per_hour"]),
        )
        for name, one in found.items()
    ]
    results.table(("settings", "verdict", "conclusive", "s running", "s with judging", "an hour"), rows)
    for name, one in found.items():
        if one["not_judged"]:
            print(f"  not judged with {name}: {', '.join(one['not_judged'])}")
    results.write("cycles", {"kills": kills, "settings": found})
