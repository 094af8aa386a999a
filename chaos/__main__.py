"""`crashbed` and `python -m chaos`: the way in.

Looks first whether the `supervisor` that Python found is this project's: another distribution on the package
index has the same name, and would otherwise fail somewhere later with a riddle.
"""

from __future__ import annotations

import sys

import supervisor


def main() -> None:
    """Run the command line and exit with its status."""
    if getattr(supervisor, "PROJECT", None) != "crashbed":
        sys.exit(
            'crashbed: another distribution named "supervisor" is installed in this environment; '
            "install crashbed into a virtual environment of its own"
        )
    from chaos.cli.main import run

    sys.exit(run())


if __name__ == "__main__":
    main()
