"""From the text of a trace_pipe to records: the only place that knows how the kernel writes its events.

Pure: bytes in, records out; no file, no clock. It keeps only what one line cannot tell by itself: which
thread ids belong to which process, and for each process the exit code it asked for and the signals that may
be ending it. A line that it does not understand is counted, never skipped in silence.

How a process ended is not in sched_process_exit. An orderly end is the exit code of sys_enter_exit_group. An
end by signal is a signal taken with its default action; but the kernel shows 9 for each thread of a process
that any fatal signal is ending (`get_signal` in kernel/signal.c), so a 9 is traced back to the last signal
that was queued and not taken: once a process is being ended, later signals are dropped (result 1), so that
last one is what did it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from signal import SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH
from typing import TypeAlias

from chaos.witness.records import (
    Deliver,
    Exit,
    Exiting,
    Fork,
    KernelRecord,
    Name,
    Session,
    Signal,
    Thread,
    Wait,
    WaitId,
)

HARMLESS = frozenset({SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH})
"""Signals whose default action does not end a process (signal(7))."""

_HEAD = re.compile(r"^.*?-(\d+) +\[(\d+)\] \S+ +(\d+)\.(\d{6}): (\w+)(.*)$")
"""`comm-PID [cpu] flags seconds.microseconds: event...`; the comm here is from a cache and not to be trusted."""
_FORK = re.compile(r": comm=(.*) pid=(\d+) child_comm=.* child_pid=(\d+)$")
_EXIT = re.compile(r": comm=.* pid=(\d+) prio=-?\d+(?: group_dead=(\w+))?$")
_SIGNAL = re.compile(r": sig=(\d+) errno=-?\d+ code=(-?\d+) comm=.* pid=(\d+) grp=\d+ res=(\d+)$")
_DELIVER = re.compile(r": sig=(\d+) errno=-?\d+ code=-?\d+ sa_handler=([0-9a-fx]+) ")
_RENAME = re.compile(r": pid=(\d+) oldcomm=.* newcomm=(.*) oom_score_adj=-?\d+$")
_NEW_TASK = re.compile(r": pid=(\d+) comm=.* clone_flags=([0-9a-f]+) oom_score_adj=-?\d+$")
_RETURN = re.compile(r" -> (?:0x)?(-?[0-9a-f]+)$")
_EXIT_GROUP = re.compile(r"\(error_code: (?:0x)?([0-9a-f]+)\)$")
_LOST = re.compile(r"^CPU:\d+ \[LOST (\d+) EVENTS\]")

CLONE_THREAD = 0x10000

Handler: TypeAlias = Callable[[int, int, int, str], None]


class _Ending:
    """What is known about the end of one process so far."""

    __slots__ = ("code", "queued", "signal")

    def __init__(self) -> None:
        self.code: int | None = None
        self.signal: int | None = None
        self.queued: list[int] = []  # signals that were queued for it and not yet taken, oldest first


class TraceParser:
    """Feed it pieces of a trace_pipe in order; each call gives the records of the lines that became whole.

    `markers` holds the texts written to trace_marker that came by, with the pid that the kernel knows the
    writer by, until `take_markers`. `lost` counts events that the pipe itself said were lost, `unparsed` the
    lines that were not understood.
    """

    def __init__(self) -> None:
        self.lost = 0
        self.unparsed = 0
        self.unparsed_sample = ""
        self._rest = b""
        self._markers: list[tuple[int, int, str]] = []
        self._threads: dict[int, int] = {}
        self._endings: dict[int, _Ending] = {}
        self._out: list[KernelRecord] = []
        self._handlers: dict[str, Handler] = {
            "sched_process_fork": self._fork,
            "sched_process_exit": self._exit,
            "signal_generate": self._signal,
            "signal_deliver": self._deliver,
            "sys_exit_group": self._exit_group,
            "task_rename": self._rename,
            "task_newtask": self._new_task,
            "sys_wait4": self._wait4,
            "sys_waitid": self._waitid,
            "sys_setsid": self._setsid,
            "tracing_mark_write": self._marker,
        }

    def know_thread(self, thread: int, process: int) -> None:
        """Tell of a thread that was made before the account began."""
        if thread != process:
            self._threads[thread] = process

    def take_markers(self) -> list[tuple[int, int, str]]:
        """The markers since the last call: (time in ns, pid in the kernel's eyes, text)."""
        taken, self._markers = self._markers, []
        return taken

    def feed(self, data: bytes) -> list[KernelRecord]:
        """The records of all lines that this piece completes."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        handlers = self._handlers
        for raw in lines:
            line = raw.decode("utf-8", "replace")
            head = _HEAD.match(line)
            handler = handlers.get(head[5]) if head else None
            if head is None or handler is None:
                self._odd(line)
                continue
            task, cpu, seconds, micros, _, body = head.groups()
            try:
                handler(int(seconds) * 1_000_000_000 + int(micros) * 1_000, int(cpu), int(task), body)
            except (TypeError, ValueError):  # no match of the event's own form, or a number that is none
                self._odd(line)
        out, self._out = self._out, []
        return out

    def _odd(self, line: str) -> None:
        if not line:
            return
        lost = _LOST.match(line)
        if lost:
            self.lost += int(lost[1])
            return
        self.unparsed += 1
        self.unparsed_sample = self.unparsed_sample or line[:200]

    def _process(self, task: int) -> int:
        return self._threads.get(task, task)

    def _ending(self, pid: int) -> _Ending:
        ending = self._endings.get(pid)
        if ending is None:
            ending = self._endings[pid] = _Ending()
        return ending

    # One method per event. `task` is the thread that the event was recorded in.

    def _new_task(self, t: int, cpu: int, task: int, body: str) -> None:
        child, flags = _groups(_NEW_TASK, body)
        if int(flags, 16) & CLONE_THREAD:
            # Its sched_process_fork comes next, in the same context, and then finds it known.
            self._threads[int(child)] = self._process(task)

    def _fork(self, t: int, cpu: int, task: int, body: str) -> None:
        comm, parent, child_text = _groups(_FORK, body)
        child = int(child_text)
        process = self._threads.get(child)
        if process is not None:
            self._out.append(Thread(t, cpu, process, child))
            return
        self._endings.pop(child, None)
        self._out.append(Fork(t, cpu, self._process(int(parent)), child, comm))

    def _exit_group(self, t: int, cpu: int, task: int, body: str) -> None:
        (code_text,) = _groups(_EXIT_GROUP, body)
        pid, code = self._process(task), int(code_text, 16) & 0xFF
        ending = self._ending(pid)
        if ending.code is None:
            ending.code = code
            self._out.append(Exiting(t, cpu, pid, code))

    def _exit(self, t: int, cpu: int, task: int, body: str) -> None:
        pid_text, dead = _groups(_EXIT, body)
        thread = int(pid_text)
        # Kernels before 6.15 do not say group_dead: there the end of the leader is taken for it.
        group_dead = dead == "true" if dead is not None else thread not in self._threads
        if not group_dead:
            self._out.append(Exit(t, cpu, thread, None, None, False))
            self._forget_thread(thread)
            return
        pid = self._process(thread)
        ending = self._endings.pop(pid, None)
        code = ending.code if ending else None
        signal = ending.signal if ending and code is None else None
        self._out.append(Exit(t, cpu, pid, code, signal, True))
        self._forget_thread(thread)

    def _forget_thread(self, thread: int) -> None:
        # The id may be given to a process next.
        self._threads.pop(thread, None)

    def _signal(self, t: int, cpu: int, task: int, body: str) -> None:
        sig_text, code, pid_text, result = _groups(_SIGNAL, body)
        sig, pid = int(sig_text), self._process(int(pid_text))
        if result == "0" and sig not in HARMLESS:
            self._ending(pid).queued.append(sig)
        self._out.append(Signal(t, cpu, sig, pid, self._process(task), int(code), int(result)))

    def _deliver(self, t: int, cpu: int, task: int, body: str) -> None:
        sig_text, handler = _groups(_DELIVER, body)
        sig, pid, default = int(sig_text), self._process(task), int(handler, 16) == 0
        self._out.append(Deliver(t, cpu, pid, sig, default))
        if sig in HARMLESS:
            return
        ending = self._ending(pid)
        if default and ending.signal is None:
            ending.signal = ending.queued[-1] if sig == SIGKILL and _last_is_not_kill(ending) else sig
        if sig in ending.queued:
            ending.queued.remove(sig)

    def _rename(self, t: int, cpu: int, task: int, body: str) -> None:
        pid_text, name = _groups(_RENAME, body)
        thread = int(pid_text)
        if thread not in self._threads:
            self._out.append(Name(t, cpu, thread, name))

    def _wait4(self, t: int, cpu: int, task: int, body: str) -> None:
        child = _returned(body)
        if child > 0:
            self._out.append(Wait(t, cpu, self._process(task), child))

    def _waitid(self, t: int, cpu: int, task: int, body: str) -> None:
        if _returned(body) == 0:
            self._out.append(WaitId(t, cpu, self._process(task)))

    def _setsid(self, t: int, cpu: int, task: int, body: str) -> None:
        if _returned(body) > 0:
            self._out.append(Session(t, cpu, self._process(task)))

    def _marker(self, t: int, cpu: int, task: int, body: str) -> None:
        self._markers.append((t, task, body.removeprefix(": ")))


def _last_is_not_kill(ending: _Ending) -> bool:
    """Whether the process is being ended by another signal than the 9 that the kernel shows."""
    return bool(ending.queued) and SIGKILL not in ending.queued


def _groups(pattern: re.Pattern[str], body: str) -> tuple[str, ...]:
    """Raises ValueError when the body has another form: the line then counts as not understood."""
    match = pattern.search(body)
    if match is None:
        raise ValueError(body)
    return match.groups()


def _returned(body: str) -> int:
    """A system call's result, which the kernel prints as an unsigned 64-bit number in hexadecimal."""
    (text,) = _groups(_RETURN, body)
    value = int(text, 16)
    return value - (1 << 64) if value >= 1 << 63 else value
