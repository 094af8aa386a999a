"""The kernel's witness: records what the kernel did to the processes under test, and what it could not record.

Owns one trace instance from before the server is exec'd until the run ends, the thread that reads it, and the
records that it makes of it. It judges nothing and it never calls a gap whole: lost events, lines that could
not be read and a trace that no longer records are written down as `Loss` with the span they concern.

    with KernelWitness.open("20250101T000000Z-7") as witness:   # raises WitnessUnavailable
        witness.start(write)           # bytes of events/kernel.jsonl, in order
        server = subprocess.Popen(...) # followed from its fork on, with all its descendants
        witness.follow(server.pid, "postmaster")
        ...
        witness.drain_until(time.monotonic_ns())

It follows the harness itself too: a signal is recorded in its sender's context, so a kill by a process that is
not followed would leave no signal_generate. Latch signals (SIGURG) are left out by the kernel's own filters:
they would be 99.9 % of the events.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from chaos.witness.parse import TraceParser
from chaos.witness.records import Closed, Drained, Followed, KernelRecord, Loss, Opened, Unwitnessed, encode
from chaos.witness.selftest import run_selftest
from chaos.witness.tracefs import REMEDY, Instance, Tracefs, WitnessUnavailable, instance_name

READ_EVERY_S = 0.02
"""How long events lie in the buffer before they are read; a few hundred of them at most in a crash cycle."""
MARKER_TIMEOUT_S = 5.0
SELFTEST_TRIES = 3
BUFFER_KB = 1024
"""Per processor: some 20,000 events, which is ten crash cycles of 100 processes without any reading."""

LATCH_SIGNAL_FILTER = "sig != 23"
_EVENTS = (
    ("sched/sched_process_fork", None),
    ("sched/sched_process_exit", None),
    ("signal/signal_generate", LATCH_SIGNAL_FILTER),
    ("signal/signal_deliver", LATCH_SIGNAL_FILTER),
    ("syscalls/sys_enter_exit_group", None),
    ("task/task_rename", None),
    # Of these, only what says something: a child reaped, a waitid that worked, a new session, a thread made.
    ("syscalls/sys_exit_wait4", "ret > 0"),
    ("syscalls/sys_exit_waitid", "ret == 0"),
    ("syscalls/sys_exit_setsid", "ret > 0"),
    ("task/task_newtask", "clone_flags & 65536"),
)
_REPORT = "please report it with the kernel's version: its trace is not understood"
_OPTIONAL = frozenset({"syscalls/sys_exit_setsid", "task/task_newtask"})


class Lost(NamedTuple):
    """What is missing since the witness was opened: events lost over all processors, lines not understood."""

    dropped: int
    overrun: int
    commit_overrun: int
    unparsed: int

    @property
    def nothing(self) -> bool:
        return not any(self)


class WitnessStopped(Exception):
    """The trace no longer records, or not in time; the account says so and ends there."""


class Unavailable(NamedTuple):
    """There is no witness here: why, and what would help. Written into the run as its only kernel record."""

    reason: str
    remedy: str

    def record(self) -> bytes:
        """What events/kernel.jsonl holds when there is no witness."""
        return encode([Unwitnessed(t=time.monotonic_ns(), reason=self.reason, remedy=self.remedy)])


def open_witness(run_name: str) -> KernelWitness | Unavailable:
    """The kernel's witness, its self-test passed; or why there can be none here."""
    try:
        return KernelWitness.open(run_name)
    except WitnessUnavailable as why:
        return Unavailable(why.reason, why.remedy)


class KernelWitness:
    """An open trace instance. Made by `open`; use it as a context manager, or `close` it."""

    def __init__(self, tracefs: Tracefs, instance: Instance, run_name: str, buffer_kb: int) -> None:
        self._tracefs = tracefs
        self._instance = instance
        self._run_name = run_name
        self._buffer_kb = buffer_kb
        self._parser = TraceParser()
        self._pipe = -1
        self._lock = threading.RLock()
        self._sink: Callable[[bytes], object] | None = None
        self._pending: list[KernelRecord] = []
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._markers = 0
        self._reported = Lost(0, 0, 0, 0)
        self._stopped = False
        self._refused = False  # the sink would not take records: a full disk
        self._checked_ns = 0  # nothing was lost before this time that has not been noted
        self.drained_ns = 0
        """Everything that happened before this time has gone to the sink."""

    @classmethod
    def open(cls, run_name: str, *, buffer_kb: int = BUFFER_KB) -> KernelWitness:
        """Open the instance, follow this process and what it forks from now on, and pass the self-test.

        Removes the instances that killed harnesses left behind. Raises WitnessUnavailable.
        """
        tracefs = Tracefs.open()
        try:
            tracefs.sweep()
            instance = Instance(tracefs, _unused_name(tracefs))
        except OSError as error:
            tracefs.close()
            raise WitnessUnavailable(f"tracefs cannot be used: {error.strerror}", REMEDY) from error
        except WitnessUnavailable:
            tracefs.close()
            raise
        witness = cls(tracefs, instance, run_name, buffer_kb)
        try:
            witness._set_up()
            # A loaded machine was seen to begin following a moment after it was told to: what happens then is before
            # the run. A witness that fails every time is none.
            for _ in range(SELFTEST_TRIES):
                problem = run_selftest(witness.collect)
                if problem is None:
                    break
            else:
                raise WitnessUnavailable(f"the witness' self-test failed: {problem}", _REPORT)
        except OSError as error:
            witness.close()
            raise WitnessUnavailable(f"the trace instance cannot be used: {error}", REMEDY) from error
        except BaseException:
            witness.close()
            raise
        return witness

    def _set_up(self) -> None:
        instance = self._instance
        instance.write("trace_clock", "mono")
        instance.write("options/overwrite", "0")
        instance.write("options/event-fork", "1")
        instance.write("buffer_size_kb", str(self._buffer_kb))
        self._pipe = instance.open_pipe()
        self._check_namespace()
        threads = _threads_of(os.getpid())
        for thread in threads:
            self._parser.know_thread(thread, os.getpid())
        instance.write("set_event_pid", " ".join(map(str, threads)))
        for event, event_filter in _EVENTS:
            if event in _OPTIONAL and not instance.has(f"events/{event}"):
                continue
            if event_filter is not None:
                instance.write(f"events/{event}/filter", event_filter)
            instance.write(f"events/{event}/enable", "1")

    def _check_namespace(self) -> None:
        """Pids in the trace are those of the initial namespace: a marker shows what the kernel calls us."""
        self._mark("whoami")
        self._parser.feed(self._read_all())
        seen = [pid for _, pid, text in self._parser.take_markers() if text == "whoami"]
        if not seen:
            raise WitnessUnavailable("the trace instance does not record", REMEDY)
        if seen[0] != threading.get_native_id():
            raise WitnessUnavailable(
                f"this is not the initial pid namespace: the kernel calls this process {seen[0]}, not {os.getpid()}",
                "run on the machine itself, or in a container that shares its pid namespace (--pid=host)",
            )

    # Recording.

    def start(self, sink: Callable[[bytes], object]) -> None:
        """Give what is recorded from now on to `sink`, from a thread of this process.

        `sink` gets whole records, each beginning with its newline, several in one piece; it is called by one
        thread at a time. What it raises is raised again by `drain` and `close`.
        """
        with self._lock:
            if self._sink is not None:
                raise RuntimeError("the witness was started already")
            self._collect_until_marked(MARKER_TIMEOUT_S)  # the self-test's own events are not the run's
            self._pending = []
            self._checked_ns, self._reported = self.drained_ns, self.loss()
            self._sink = sink
            self._emit(
                [
                    Opened(
                        t=self.drained_ns,
                        kind="tracefs",
                        selftest="passed",
                        pid=os.getpid(),
                        run=self._run_name,
                        instance=self._instance.name,
                        buffer_kb=self._buffer_kb,
                        sessions=self._instance.has("events/syscalls/sys_exit_setsid"),
                    )
                ]
            )
        self._thread = threading.Thread(target=self._read_on, name="kernel-witness", daemon=True)
        self._thread.start()

    def follow(self, pid: int, role: str) -> None:
        """Follow the process `pid`, its threads and all that it forks from now on; say what it is.

        Descendants of this process are followed anyway: for them it only records the role. A process that
        has ended is no error.
        """
        threads = _threads_of(pid)
        if threads:
            self._instance.write("set_event_pid", " ".join(map(str, threads)), append=True)
        with self._lock:
            for thread in threads:
                self._parser.know_thread(thread, pid)
            self._emit([Followed(t=time.monotonic_ns(), pid=pid, role=role)])

    def poll(self) -> None:
        """Pass on what lies in the buffer now. The thread does this by itself; calling it costs nothing else."""
        with self._lock:
            self._emit(self._parser.feed(self._read_all()))

    def drain(self) -> int:
        """Pass on everything that happened before now, note what was lost, and return the time reached in ns.

        Raises WitnessStopped when the trace no longer records.
        """
        with self._lock:
            self._raise_failure()
            if self._stopped:
                raise WitnessStopped("the kernel's trace has stopped")
            try:
                records = self._collect_until_marked(MARKER_TIMEOUT_S)
            except WitnessStopped:
                self._stopped = True
                self._note_loss()
                raise
            self._emit(records)
            self._note_loss()
            self._emit([Drained(t=self.drained_ns)])
            return self.drained_ns

    def drain_until(self, t_ns: int) -> None:
        """Return when everything that happened before `t_ns` has been passed on.

        Raises ValueError when `t_ns` has not come yet, WitnessStopped as `drain` does.
        """
        if t_ns > time.monotonic_ns():
            raise ValueError("the future cannot be drained")
        while self.drained_ns < t_ns:
            self.drain()

    def loss(self) -> Lost:
        """What is missing so far. Reads one small file per processor."""
        with self._lock:
            dropped, overrun, commit_overrun = self._instance.lost()
            # The pipe reports what the buffers dropped as well; whichever is more is nearer the truth.
            return Lost(max(dropped, self._parser.lost), overrun, commit_overrun, self._parser.unparsed)

    def close(self) -> None:
        """Record what is left, end the account and remove the instance. Calling it again does nothing."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
        try:
            if self._sink is not None and not self._stopped and self._failure is None:
                self.drain()
                self._emit([Closed(t=self.drained_ns)])
                self._sink = None
        except WitnessStopped:
            pass  # the account has it as a Loss that never ends: the judge says what that costs
        finally:
            self._remove()
        self._raise_failure()

    def __enter__(self) -> KernelWitness:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def collect(self) -> Sequence[KernelRecord]:
        """Everything recorded since the last call and before now, instead of giving it to a sink.

        For the self-test and for tests. Raises WitnessStopped; RuntimeError once it was started.
        """
        with self._lock:
            if self._sink is not None:
                raise RuntimeError("the witness was started: its records go to the sink")
            records, self._pending = self._pending + self._collect_until_marked(MARKER_TIMEOUT_S), []
            return records

    # The inside.

    def _read_on(self) -> None:
        while not self._stop.wait(READ_EVERY_S):
            try:
                self.poll()
            except BaseException as error:  # noqa: BLE001  handed to whoever drains or closes
                self._failure = error
                return

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            self._stopped = True
            raise failure

    def _read_all(self) -> bytes:
        pieces = []
        while True:
            try:
                piece = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                break
            if not piece:
                break
            pieces.append(piece)
        return b"".join(pieces)

    def _mark(self, text: str) -> None:
        try:
            self._instance.write("trace_marker", text)
        except OSError as error:
            if error.errno != errno.EBADF:  # which is how the kernel says that the marker was dropped
                raise

    def _collect_until_marked(self, timeout_s: float) -> list[KernelRecord]:
        """Read until a marker written now comes by: the pipe is merged by time, so all before it is read.

        A full buffer drops the marker too: after each reading that did not bring it, another is written.
        """
        deadline = time.monotonic() + timeout_s
        records: list[KernelRecord] = []
        first = self._markers + 1
        while True:
            self._markers += 1
            self._mark(f"drain {self._markers}")
            records += self._parser.feed(self._read_all())
            for t, _, text in self._parser.take_markers():
                word, _, number = text.partition(" ")
                if word == "drain" and number.isdigit() and int(number) >= first:
                    self.drained_ns = t
                    return records
            if time.monotonic() > deadline:
                self._pending += records
                raise WitnessStopped(f"no marker came back from the kernel's trace within {timeout_s} s")
            # An event is being written on another processor and holds back those after it.
            time.sleep(0.001)

    def _emit(self, records: Sequence[KernelRecord]) -> None:
        if self._sink is None:
            self._pending += records
            return
        if self._pending:
            records, self._pending = [*self._pending, *records], []
        if not records or self._refused:
            return
        try:
            self._sink(encode(records))
        except BaseException:
            # What was refused is lost, so nothing later may make the account look whole: it stops here.
            self._refused = True
            raise

    def _note_loss(self) -> None:
        now, before = self.loss(), self._reported
        if now == before and not self._stopped:
            self._checked_ns = self.drained_ns
            return
        self._emit(
            [
                Loss(
                    t=time.monotonic_ns() if self._stopped else self.drained_ns,
                    since=self._checked_ns,
                    dropped=now.dropped - before.dropped,
                    overrun=now.overrun - before.overrun,
                    commit_overrun=now.commit_overrun - before.commit_overrun,
                    unparsed=now.unparsed - before.unparsed,
                    stopped=self._stopped,
                )
            ]
        )
        self._reported, self._checked_ns = now, self.drained_ns

    def _remove(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            try:
                self._instance.remove()
            finally:
                self._tracefs.close()


def _threads_of(pid: int) -> list[int]:
    try:
        return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _unused_name(tracefs: Tracefs) -> str:
    """The name of this process' instance; a second one at the same time gets a number."""
    name = instance_name(os.getpid())
    taken = set(tracefs.instance_names())
    return next(n for n in (name, *(f"{name}.{i}" for i in range(2, 100))) if n not in taken)


__all__ = ["KernelWitness", "Lost", "Unavailable", "WitnessStopped", "WitnessUnavailable", "open_witness"]
