"""How a process ended, when the kernel's events about it speak of others too.

A dying parent first sends its new parent a SIGCHLD for each child that it had not reaped, and the trace has the dying
one as the sender. Taken for its own, a postmaster killed by SIGKILL seems to have exited, and is accused of leaving the
zombie that it had no time to reap.
"""

from __future__ import annotations

import pytest

from chaos.witness.account import Account
from chaos.witness.records import Exit, KernelRecord, Signal

SIGCHLD, CLD_EXITED, CLD_KILLED = 17, 1, 2
HARNESS, POSTMASTER = 10, 20


def told(code: int) -> KernelRecord:
    return Signal(6_000, 0, SIGCHLD, HARNESS, POSTMASTER, code, 1)


@pytest.mark.parametrize("zombies", [[], [CLD_EXITED], [CLD_KILLED], [CLD_KILLED, CLD_EXITED, CLD_KILLED]])
@pytest.mark.parametrize(
    ("code", "signal", "own", "end"),
    [(None, 9, CLD_KILLED, 9), (3, None, CLD_EXITED, 3 << 8), (3, 9, CLD_KILLED, 9), (3, 9, CLD_EXITED, 3 << 8)],
    ids=["killed", "exited", "killed-while-exiting", "exited-before-a-kill"],
)
def test_the_last_sigchld_is_the_process_s_own(
    zombies: list[int], code: int | None, signal: int | None, own: int, end: int
) -> None:
    killed = [Signal(4_000, 0, 9, POSTMASTER, HARNESS, 0, 0)] if signal else []
    records = [*killed, Exit(5_000, 0, POSTMASTER, code, signal, True), *map(told, [*zombies, own])]
    (process,) = [found for found in Account(records).processes if found.pid == POSTMASTER]
    assert process.status == end
