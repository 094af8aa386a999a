"""`python -m tests.bench [NAME ...]`: measure, print tables, write out/bench-*.json. Asserts nothing about time."""

from __future__ import annotations

import sys

from tests.bench import commits, crash_cycle, idle_memory, report, results

MEASUREMENTS = {
    "crash-cycle": crash_cycle.main,
    "idle-memory": idle_memory.main,
    "commits": commits.main,
    "report": report.main,
}


def main(names: list[str]) -> int:
    """Run the named measurements, by default all."""
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        print(f"no measurement named {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}", file=sys.stderr)
        return 2
    print("machine: " + ", ".join(f"{name} {value}" for name, value in results.machine().items()), flush=True)
    for name in names or MEASUREMENTS:
        MEASUREMENTS[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
