"""A report of a million events: how large, how long to judge and to make, how long until it is open.

The events are those of one real epoch of 50 cycles, repeated with later times and other pids until there are a
million: processes, signals, states and samples in the proportions of a real run. Histories are not repeated, so the
verdict is inconclusive; the page of it is as large. Judge and report each run in a process of their own, as after a run,
imports included; the page is opened in headless Chromium on a fresh profile, up to the load event and until all charts
are drawn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reports.records import RecordWriter
from reports.rundir import RunDirectory
from tests.bench import results
from tests.chromium import Chromium, find_chromium

EVENTS = 1_000_000
CYCLES = 50
OPENINGS = 5
PID_STEP = 1_000_000
"""What pids of one repetition are apart from those of the one before; real ones are smaller."""

OF_PROCESSES = ("pid", "child", "by", "target")
OF_TIME = ("t", "since")


def main() -> None:
    """Make the run, measure, print and keep."""
    with results.workplace() as place:
        run, events = _long_run(_short_run(place), place)
        judging = _timed("judge", run)
        making = _timed("report", run)
        page = run.report_html
        found: dict[str, Any] = {
            "events": events,
            "judge_s": judging,
            "report_s": making,
            "page_bytes": page.stat().st_size,
            "details_bytes": run.details_json.stat().st_size,
        }
        if find_chromium() is not None:
            loads, draws = zip(*(_opening(page, place / f"profile-{nth}") for nth in range(OPENINGS)), strict=True)
            found |= {"load_s": results.summary(loads), "drawn_s": results.summary(draws)}
    results.table(
        ("", ""), [(name, value["median"] if isinstance(value, dict) else value) for name, value in found.items()]
    )
    results.write("report", found)


def _short_run(place: Path) -> RunDirectory:
    """A real epoch, with everything that a run records."""
    base = place / "short"
    command = [sys.executable, "-m", "chaos", "run", "--kills", str(CYCLES), "--seed", "1", "--out", str(base)]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, timeout=300)
    (path,) = base.iterdir()
    return RunDirectory.open(path)


def _long_run(short: RunDirectory, place: Path) -> tuple[RunDirectory, int]:
    """The short run's events over and over, in a run directory of its own; how many they are."""
    long = RunDirectory.create(place / "long", 1)
    long.write_info(short.read_info())
    files = [
        (list(short.kernel_records()), long.kernel_events),
        (list(short.server_records()), long.server_events),
        (list(short.harness_records()), long.harness_events),
    ]
    times = [record["t"] for records, _ in files for record in records]
    length = max(times) - min(times) + 1_000_000
    copies = -(-EVENTS // sum(len(records) for records, _ in files))
    harness = next(record["pid"] for record in files[0][0] if record["ev"] in ("witness", "unwitnessed"))
    for records, path in files:
        with RecordWriter(path) as writer:
            for nth in range(copies):
                writer.extend(_later(records, nth, length, harness, last=nth == copies - 1))
    return long, copies * sum(len(records) for records, _ in files)


def _later(
    records: list[dict[str, Any]], nth: int, length: int, harness: int, *, last: bool
) -> Iterator[dict[str, Any]]:
    for record in records:
        # The account is opened once and closed once.
        if (record["ev"] == "witness" and nth) or (record["ev"] == "closed" and not last):
            record = {"ev": "drained", "t": record["t"]}
        moved = dict(record)
        for name in OF_TIME:
            if name in moved:
                moved[name] += nth * length
        for name in OF_PROCESSES:
            if moved.get(name) not in (None, 0, harness):
                moved[name] += nth * PID_STEP
        if moved.get("cycle") is not None:
            moved["cycle"] += nth * CYCLES
        if "epoch" in moved:
            moved["epoch"] += nth
        yield moved


def _timed(command: str, run: RunDirectory) -> float:
    begin = time.monotonic()
    program = {
        "judge": "from chaos.judge import judge_in_full; judge_in_full(run).write(run)",
        "report": "from reports.render import write_reports; write_reports(run)",
    }[command]
    opened = "import sys; from pathlib import Path; from reports.rundir import RunDirectory; run = RunDirectory.open(Path(sys.argv[1])); "
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    subprocess.run([sys.executable, "-c", opened + program, str(run.path)], check=True, env=environment, timeout=600)
    return time.monotonic() - begin


def _opening(page: Path, profile: Path) -> tuple[float, float]:
    """Seconds to the load event, and until all charts are drawn."""
    with Chromium(profile) as browser:
        browser.device()
        begin = time.monotonic()
        browser.open(page)
        loaded = time.monotonic() - begin
        browser.wait_for("document.documentElement.dataset.charts !== undefined")
        return loaded, time.monotonic() - begin


if __name__ == "__main__":
    main()
