"""The guardian: a process between the harness and a command, so that nothing of the command outlives either.

Owns the start of the command by exec (a session of its own, no input), the adoption of what it leaves behind, and the
end of everything. It is a subreaper: a child whose parent died becomes its own. When the lifeline, a pipe whose other
end the harness alone holds, is closed, by the harness or by its death, it kills whatever is left and exits. If it is
killed itself, the command's main process gets SIGKILL (PDEATHSIG), and the harness adopts the rest.

It reports in lines of JSON: first `{"pid": N}` or `{"error": "..."}`, then `{"status": N}` with the raw wait status of
the main process. It decides nothing else, and signals nobody before the end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from chaos.command.tree import kill_descendants
from chaos.orphans import adopt_orphans, die_with

_CODE_ROOT = Path(__file__).parents[2]

AGAIN_MS = 20
"""Between two rounds of killing: who was forked during one is found by the next."""


def main(lifeline: int, reports: int, command: Sequence[str]) -> int:
    """Guard one command until the lifeline is closed and nobody is left."""
    adopt_orphans()
    # A terminal's Ctrl-C and a job's SIGTERM are the harness's to take: this process ends after it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _noted)
    woken, wakeup = os.pipe()
    for descriptor in (woken, wakeup):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _noted)
    dying = partial(die_with, os.getpid())
    try:
        # One thread, so that what runs between fork and exec is safe.
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=dying)  # noqa: PLW1509
    except OSError as error:
        _report(reports, error=f"{error.filename or command[0]}: {error.strerror}")
        return 1
    _report(reports, pid=server.pid)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN | select.POLLHUP)
    poll.register(woken, select.POLLIN)
    guarding = True
    while guarding:
        guarding = lifeline not in {descriptor for descriptor, _ in poll.poll()}
        _empty(woken)
        _reap(server.pid, reports)
    while _reap(server.pid, reports):
        kill_descendants(os.getpid())
        select.select((woken,), (), (), AGAIN_MS / 1000)
        _empty(woken)
    return 0


def _noted(number: int, frame: object) -> None:
    """The wakeup descriptor has it."""


def _reap(server: int, reports: int) -> bool:
    """Collect who has ended, and tell of the server's end; whether there are children still."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        if pid == server:
            _report(reports, status=status)


def _empty(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        return


def _report(descriptor: int, **said: object) -> None:
    try:
        os.write(descriptor, json.dumps(said).encode() + b"\n")
    except BrokenPipeError:
        return  # the harness is gone; the lifeline says so too


def run() -> None:
    """The guardian's process, from its command line to its end."""
    _, lifeline, reports, *command = sys.argv
    # The interpreter's own end would warn of a Popen that nobody waited for: this loop did, by pid.
    os._exit(main(int(lifeline), int(reports), command))


def command_line(lifeline: int, reports: int, command: Sequence[str]) -> list[str]:
    """How the harness starts it: without a PYTHONPATH of its own, which the command would inherit."""
    program = f"import sys; sys.path.insert(0, {str(_CODE_ROOT)!r}); from chaos.command.guardian import run; run()"
    return [sys.executable, "-P", "-c", program, str(lifeline), str(reports), *command]
