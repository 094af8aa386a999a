"""`crashbed` and `python -m chaos`: the way in.

Looks first whether the `supervisor` that Python found is this project's: another distribution on the package
index has the same name, and would otherwise fail somewhere later with a riddle.
"""

from __future__ import annotations

import sys
import traceback

import supervisor

# As in `chaos.verdict.ExitCode`, which may be what could not be loaded.
INTERRUPTED, HARNESS_ERROR = 2, 3


def main() -> None:
    """Run the command line and exit with its status."""
    if getattr(supervisor, "PROJECT", None) != "crashbed":
        sys.exit(
            'crashbed: another distribution named "supervisor" is installed in this environment; '
            "install crashbed into a virtual environment of its own"
        )
    try:
        from chaos.cli.main import run

        status = run()
    except KeyboardInterrupt:
        # Before the command line could say so itself: loading takes a moment.
        print("interrupted", file=sys.stderr)  # noqa: T201
        status = INTERRUPTED
    except Exception:  # noqa: BLE001 - whatever it is, Python's own status 1 would read as a finding
        traceback.print_exc()
        print("crashbed: this is an error of the harness; please report it", file=sys.stderr)  # noqa: T201
        status = HARNESS_ERROR
    sys.exit(status)


if __name__ == "__main__":
    main()
