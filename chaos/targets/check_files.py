"""`python -m chaos.targets.check_files DIR`: the check of a stopped server's files, in a process of its own.

Owns the process alone: it prints a `Verification` as one JSON object and exits 0, whatever that says. The code is the
harness's and never the copy with a planted defect, and what the check loads and keeps ends with it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from chaos.orphans import die_with
from supervisor.engine.disk.posix import PosixDisk
from supervisor.engine.verify.cluster import verify_cluster
from supervisor.host import SoloHost


def main() -> int:
    """Check the directory of the command line."""
    parser = argparse.ArgumentParser(prog="python -m chaos.targets.check_files", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--die-with", type=int, required=True, metavar="PID", help="end when this parent process dies")
    chosen = parser.parse_args()
    die_with(chosen.die_with)
    sys.stdout.buffer.write(msgspec.json.encode(verify_cluster(PosixDisk(chosen.directory, SoloHost()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
