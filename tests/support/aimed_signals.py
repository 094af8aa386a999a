"""Aim SIGQUIT at processes that are about to wait; a program of its own, because it forks thousands of times.

    python aimed_signals.py TRIALS SPAN_US DEADLINE_S STOP_AT

Each trial forks a process that sets a timer of the kernel on itself and goes straight into `ProcessHost.wait`, without a
timeout. The timer's SIGQUIT falls somewhere before, into, or just after the system call, by a delay drawn from the
span; the moment between the interpreter's last look for signals and the call lies within it. Whoever has not left with
status 2 in time is killed and counted. Ends early after STOP_AT of those. Prints "sent missed".
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import select
import signal
import sys
from typing import NoReturn

from supervisor.host import ProcessHost
from supervisor.processes.child import EXIT_QUICKDIE, quick_exit

CLOCK_MONOTONIC = 1
_libc = ctypes.CDLL(None, use_errno=True)


class _SignalEvent(ctypes.Structure):
    """struct sigevent, as far as a plain signal needs it."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    )


class _TimerSetting(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "in_s", "in_ns"))


def wait_for_ever(delay_ns: int) -> NoReturn:
    """Be the process: quit handler, timer, wait."""
    host = ProcessHost()
    signal.signal(signal.SIGQUIT, quick_exit)
    event = _SignalEvent(None, signal.SIGQUIT, 0)
    timer = ctypes.c_void_p()
    if _libc.timer_create(CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)) != 0:
        os._exit(3)
    setting = ctypes.byref(_TimerSetting(0, 0, 0, delay_ns))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _libc.timer_settime(timer, 0, setting, None)
    while True:
        host.wait(None, None)


def missed(delay_ns: int, deadline_s: float) -> bool:
    """One trial: whether the process had to be killed. Raises SystemExit when it ended in any other way."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid == 0:
        try:
            wait_for_ever(delay_ns)
        finally:
            os._exit(4)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    late = not poll.poll(deadline_s * 1000)
    if late:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(pidfd)
    if not late and os.waitstatus_to_exitcode(status) != EXIT_QUICKDIE:
        sys.exit(f"a process ended with wait status {status}")
    return late


def main() -> None:
    trials, span_us, deadline_s, stop_at = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    gc.collect()
    gc.freeze()
    delays = random.Random(1)
    sent = found = 0
    while sent < trials and found < stop_at:
        sent += 1
        found += missed(1 + delays.randrange(span_us * 1000), deadline_s)
    print(sent, found)


if __name__ == "__main__":
    main()
