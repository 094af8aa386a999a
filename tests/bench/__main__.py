"""`python -m tests.bench [NAME ...]`: measure, print tables, write out/bench-*.json. Asserts nothing about time.

`--list` names the measurements.
"""

from __future__ import annotations

import sys

from tests.bench import commits, crash_cycle, cycles, idle_memory, isolation, redo, results

MEASUREMENTS = {
    "crash-cycle": crash_cycle.main,
    "crash-cycle-backends": crash_cycle.backends_main,
    "idle-memory": idle_memory.main,
    "commits": commits.main,
    "redo": redo.main,
    "cycles": cycles.main,
    "isolation": isolation.main,
}


def main(names: list[str]) -> int:
    """Run the named measurements, by default all."""
    if names == ["--list"]:
        print("\n".join(MEASUREMENTS))
        return 0
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
