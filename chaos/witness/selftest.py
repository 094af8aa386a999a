"""The witness' self-test: a few processes with known fates, and whether the account tells each of them.

Run before every run: a witness that misses a fork, an exit code, a signal or a reaping must not be believed
about a server. It makes only processes that it reaps itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence

from chaos.witness.account import Account, Process
from chaos.witness.records import KernelRecord, Signal

_SHELL = "/bin/sh"


def run_selftest(collect: Callable[[], Sequence[KernelRecord]]) -> str | None:
    """What the account got wrong, in a few words; None when all of it was right.

    `collect` gives all that was recorded since its last call.
    """
    collect()
    family = _run("(exit 77); exit 7")
    killed = _victim()
    killed.send_signal(signal.SIGURG)  # a latch signal: must not be recorded
    killed.send_signal(signal.SIGCONT)
    _end(killed, signal.SIGKILL)
    ended = _victim()
    _end(ended, signal.SIGTERM)
    records = collect()
    account = Account(records)
    return (
        _wrong_end(account, family.pid, "exit 7", code=7)
        or _wrong_grandchild(account, family.pid)
        or _wrong_end(account, killed.pid, "SIGKILL", signal_number=signal.SIGKILL)
        or _wrong_end(account, ended.pid, "SIGTERM", signal_number=signal.SIGTERM)
        or _wrong_signals(records, killed.pid)
    )


def _run(script: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([_SHELL, "-c", script], stdin=subprocess.DEVNULL)
    child.wait()
    return child


def _victim() -> subprocess.Popen[bytes]:
    """A shell that waits for a line of input that never comes."""
    return subprocess.Popen([_SHELL, "-c", "read line"], stdin=subprocess.PIPE)


def _end(child: subprocess.Popen[bytes], number: int) -> None:
    child.send_signal(number)
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _wrong_end(
    account: Account, pid: int, what: str, *, code: int | None = None, signal_number: int | None = None
) -> str | None:
    found = account.lives(pid)
    if not found:
        return f"the fork of the process ended by {what} was not seen"
    process = found[-1]
    if process.parent != os.getpid():
        return f"the fork of the process ended by {what} was seen with parent {process.parent}"
    if not any(name == "sh" for _, name in process.names):
        return "the name of a process was not seen"
    return _wrong_status(process, what, code, signal_number, os.getpid())


def _wrong_status(process: Process, what: str, code: int | None, signal_number: int | None, reaper: int) -> str | None:
    if process.exit_t is None:
        return f"the end by {what} was not seen"
    if (process.code, process.signal) != (code, signal_number):
        return f"the end by {what} was seen as exit code {process.code}, signal {process.signal}"
    if process.reaped_by != reaper:
        return f"the reaping of the process ended by {what} was not seen"
    return None


def _wrong_grandchild(account: Account, pid: int) -> str | None:
    children = [process for process in account.processes if process.parent == pid]
    if len(children) != 1:
        return f"one grandchild was made and {len(children)} were seen"
    return _wrong_status(children[0], "exit 77 in a grandchild", 77, None, pid)


def _wrong_signals(records: Sequence[KernelRecord], pid: int) -> str | None:
    sent = [record.sig for record in records if isinstance(record, Signal) and record.pid == pid and record.code == 0]
    if sent != [signal.SIGCONT, signal.SIGKILL]:
        return f"SIGCONT and SIGKILL were sent to a process, and of its signals {sent} were seen"
    if any(record.by != os.getpid() for record in records if isinstance(record, Signal) and record.pid == pid):
        return "a signal was seen with another sender"
    return None
