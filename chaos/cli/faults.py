"""`crashbed faults`: what can be done to a server, and what of it here."""

from __future__ import annotations

import click

from chaos.faults import DEFAULT, FAULTS
from chaos.faults.availability import unavailable
from chaos.targets.builtin import BuiltinTarget


@click.command()
def faults() -> int:
    """List the faults: what each does, and whether it can be done on this machine.

    \b
    crashbed faults
    crashbed run --kills 50 --fault sigkill-postmaster,shutdown-fast
    crashbed run --kills 200 --fault all

    Those marked with * are what a run does that names none.
    """
    width = max(len(name) for name in FAULTS)
    for fault in FAULTS.values():
        mark = "*" if fault.name in DEFAULT else " "
        why = unavailable(fault, BuiltinTarget.name)
        click.echo(f"{mark} {fault.name:<{width}}  {fault.does}{f' (not here: {why})' if why else ''}")
    return 0
