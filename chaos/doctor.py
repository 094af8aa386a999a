"""What this machine permits, found out by trying it: for each thing that a run rests on, whether it is there, what is
lost without it, and what would help.

Owns the table of probes and the sentence that sums them up. A probe does the thing itself (makes a memory, starts a
process and loses it, syncs a file) and puts everything back; it believes no version number. What a probe does not
expect, an OSError, is its answer: the thing is missing here, and the error says why.
"""

from __future__ import annotations

import mmap
import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec

from chaos.descriptors import readable
from chaos.orphans import adopting_orphans
from chaos.targets.postgres_programs import all_programs
from chaos.witness.tracefs import PREFIX, REMEDY, Instance, Tracefs, WitnessUnavailable, instance_name
from chaos.witness.witness import Unavailable, open_witness
from supervisor.postmaster.data_directory import NETWORK_FILE_SYSTEMS, file_system

LEAST_FREE_BYTES = 64 * 1024**2
"""A run of 20 cycles and its data directory."""
ENOUGH_FREE_BYTES = 1024**3
SLOW_SYNC_MS = 20.0
"""With slower commits a cycle's 20 acknowledgements take longer than most plans wait."""
SYNCS = 20
OTHER_PROCESSES = 16
"""Postmaster, auxiliary processes, judge, and some to spare."""
OTHER_FILES = 64
FILES_PER_BACKEND = 3
"""A connection, a history file and a pidfd."""
ORPHAN_DEADLINE_S = 10.0

# A child that would wait for ever, and a parent that leaves it.
_ORPHAN = """
import ctypes, os, signal
ready, told = os.pipe()
child = os.fork()
if child == 0:
    ctypes.CDLL(None).prctl(1, signal.SIGUSR1, 0, 0, 0)  # PR_SET_PDEATHSIG
    os.write(told, b"x")
    signal.alarm(10)
    signal.pause()
os.read(ready, 1)
print(child, flush=True)
os._exit(0)
"""


class State(StrEnum):
    """How much of it is there."""

    OK = "ok"
    DEGRADED = "degraded"
    MISSING = "missing"


class Answer(msgspec.Struct, frozen=True):
    """What a probe found: in words, what is lost (empty when nothing is), and the remedy."""

    state: State
    found: str
    lost: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """What is asked about: runs below a directory, with so many backends."""

    directory: Path
    backends: int


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that is tried. Whether a run can be trusted rests on it, or it is only good to have.

    `lost` and `remedy` are for when it cannot be done at all.
    """

    name: str
    trust: bool
    look: Callable[[Place], Answer]
    lost: str
    remedy: str

    def answer(self, place: Place) -> Answer:
        """Try it."""
        try:
            return self.look(place)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            return Answer(State.MISSING, f"{where}{error.strerror or error}", self.lost, self.remedy)
        except subprocess.SubprocessError as error:
            return Answer(State.MISSING, str(error), self.lost, self.remedy)


class Line(msgspec.Struct, frozen=True):
    """One probe's answer, as `crashbed doctor --json` prints it."""

    name: str
    trust: bool
    answer: Answer


class Diagnosis(msgspec.Struct, frozen=True):
    """All answers, and what they come to."""

    lines: tuple[Line, ...]

    @property
    def trusted(self) -> bool:
        """Whether runs here can be trusted in full."""
        return all(line.answer.state is State.OK for line in self.lines if line.trust)

    @property
    def summary(self) -> str:
        """One sentence."""
        missing = [line.name for line in self.lines if line.trust and line.answer.state is State.MISSING]
        degraded = [line.name for line in self.lines if line.trust and line.answer.state is State.DEGRADED]
        if missing:
            return f"Runs will not work here as they should: {', '.join(missing)} missing."
        if degraded:
            return f"Runs work here and prove less than they could: {', '.join(degraded)} degraded."
        return "Runs here can be trusted in full."


def diagnose(place: Place, probes: Sequence[Probe] | None = None) -> Diagnosis:
    """Try everything, in the table's order."""
    return Diagnosis(
        tuple(Line(probe.name, probe.trust, probe.answer(place)) for probe in (PROBES if probes is None else probes))
    )


def _python(place: Place) -> Answer:
    found = f"{platform.python_implementation()} {platform.python_version()}, {' '.join(platform.libc_ver())}".rstrip()
    fits = platform.libc_ver()[0] == "glibc" and sys.maxsize > 2**32 and sys.byteorder == "little"
    if fits:
        return Answer(State.OK, found)
    return Answer(State.MISSING, found, "the server's locks are glibc's of a 64-bit little-endian machine", "use one")


def _kernel(place: Place) -> Answer:
    found = f"{platform.system()} {platform.release()}"
    if platform.system() == "Linux":
        return Answer(State.OK, found)
    return Answer(
        State.MISSING, found, "server and harness need Linux", "run on Linux, or in a virtual machine with it"
    )


def _cores(place: Place) -> Answer:
    cores = len(os.sched_getaffinity(0))
    if cores > 1:
        return Answer(State.OK, f"{cores} usable")
    return Answer(
        State.DEGRADED, "1 usable", "server processes never run at the same moment: races between them are rare",
        "give the machine or container two processors",
    )  # fmt: skip


def _tracefs(place: Place) -> Answer:
    try:
        tracefs = Tracefs.open()
    except WitnessUnavailable as why:
        return Answer(State.DEGRADED, why.reason, _SUPERVISION, why.remedy)
    try:
        where = tracefs.path if tracefs.path.startswith("/sys") else "mounted for this process alone"
        found = f"{where}, {len(tracefs.instance_names())} trace instances named {PREFIX}*"
    except OSError as error:
        return Answer(State.DEGRADED, f"tracefs cannot be used: {error.strerror}", _SUPERVISION, REMEDY)
    finally:
        tracefs.close()
    return Answer(State.OK, found)


def _trace_clock(place: Place) -> Answer:
    try:
        tracefs = Tracefs.open()
    except WitnessUnavailable as why:
        return Answer(State.DEGRADED, why.reason, _SUPERVISION, why.remedy)
    with ExitStack() as made:
        made.callback(tracefs.close)
        try:
            instance = Instance(tracefs, f"{instance_name(os.getpid())}.clock")
        except WitnessUnavailable as why:
            return Answer(State.DEGRADED, why.reason, _SUPERVISION, why.remedy)
        made.callback(instance.remove)
        instance.write("trace_clock", "mono")
        if "[mono]" in instance.read("trace_clock"):
            return Answer(State.OK, "mono, as all other times of a run")
    return Answer(State.DEGRADED, "the kernel keeps another clock", _SUPERVISION, "use a kernel from 4.1 on")


def _witness(place: Place) -> Answer:
    witness = open_witness("doctor")
    if isinstance(witness, Unavailable):
        return Answer(State.DEGRADED, witness.reason, _SUPERVISION, witness.remedy)
    witness.close()
    return Answer(State.OK, "its self-test passed: forks, signals, exits and waits are seen")


def _pidfd(place: Place) -> Answer:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        descriptor = os.pidfd_open(child.pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            ended = readable(descriptor, ORPHAN_DEADLINE_S)
            os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT)
        finally:
            os.close(descriptor)
    if ended:
        return Answer(State.OK, "a process was signalled and waited for through one")
    return Answer(
        State.MISSING, "the end of a process does not show", "victims cannot be told apart for certain", _NEWER
    )


def _memfd(place: Place) -> Answer:
    descriptor = os.memfd_create("crashbed:doctor", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        with mmap.mmap(descriptor, mmap.PAGESIZE) as memory:
            memory[0] = 1
            seen = "memfd:crashbed:doctor" in Path("/proc/self/maps").read_text()
    finally:
        os.close(descriptor)
    if seen:
        return Answer(State.OK, "made, mapped, and named in /proc")
    return Answer(
        State.DEGRADED, "its name does not show in /proc/self/maps", "memory generations are not judged", _NEWER
    )


def _orphans(place: Place) -> Answer:
    with adopting_orphans():
        done = subprocess.run([sys.executable, "-S", "-c", _ORPHAN], capture_output=True, text=True, check=True)
        orphan = int(done.stdout)
        try:
            _, status = os.waitpid(orphan, 0)  # its own alarm ends it if nothing else does
        except ChildProcessError:
            return Answer(State.MISSING, "an orphan was not adopted", _OUTLIVES, _NEWER)
    if os.waitstatus_to_exitcode(status) == -signal.SIGUSR1:
        return Answer(State.OK, "an orphan was adopted, and got the signal of its parent's death")
    return Answer(State.MISSING, "an orphan did not get the signal of its parent's death", _OUTLIVES, _NEWER)


def _file_system(place: Place) -> Answer:
    kind = file_system(place.directory)
    if kind in NETWORK_FILE_SYSTEMS:
        return Answer(State.MISSING, f"{kind}, a network file system", "the server refuses it: locks do not hold", _OUT)
    return Answer(State.OK, f"{kind} ({place.directory})")


def _free_space(place: Place) -> Answer:
    free = shutil.disk_usage(place.directory).free
    found = f"{free / 1024**3:.1f} GiB free"
    if free < LEAST_FREE_BYTES:
        return Answer(State.MISSING, found, "a run of 20 cycles does not fit", _OUT)
    if free < ENOUGH_FREE_BYTES:
        return Answer(State.DEGRADED, found, "a long run will end with a full disk", _OUT)
    return Answer(State.OK, found)


def _sync(place: Place) -> Answer:
    times_ms = []
    with tempfile.TemporaryFile(dir=place.directory) as file:
        for _ in range(SYNCS):
            os.write(file.fileno(), bytes(8192))
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times_ms.append((time.perf_counter() - begun) * 1000)
    median = statistics.median(times_ms)
    found = f"{median:.2f} ms, median of {SYNCS} fdatasyncs of 8 KiB"
    if median < SLOW_SYNC_MS:
        return Answer(State.OK, found)
    return Answer(State.DEGRADED, found, "few commits come before a kill, so that cycles prove nothing", _OUT)


def _socket(place: Place) -> Answer:
    with tempfile.TemporaryDirectory(prefix=f"{instance_name(os.getpid())}.") as directory:
        path = f"{directory}/.s.PGSQL.5432"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
    return Answer(State.OK, f"below {tempfile.gettempdir()}")


def _files(place: Place) -> Answer:
    needed = FILES_PER_BACKEND * place.backends + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(needed))
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return Answer(State.OK, f"{needed} opened at once, for {place.backends} backends")


def _processes(place: Place) -> Answer:
    needed = place.backends + OTHER_PROCESSES
    wait, go = os.pipe()
    children: list[int] = []
    try:
        for _ in range(needed):
            child = os.fork()
            if child == 0:
                os.close(go)
                os.read(wait, 1)
                os._exit(0)
            children.append(child)
    finally:
        os.close(go)
        os.close(wait)
        for child in children:
            os.waitpid(child, 0)
    return Answer(State.OK, f"{needed} at once, for {place.backends} backends")


def _encoding(place: Place) -> Answer:
    encoding = (sys.stdout.encoding or "").lower()
    if encoding.replace("-", "") == "utf8":
        return Answer(State.OK, f"{encoding}{', a terminal' if sys.stdout.isatty() else ''}")
    return Answer(State.DEGRADED, encoding or "none", "names in the output may be garbled", "set PYTHONUTF8=1")


def _cgroup(place: Place) -> Answer:
    root = Path("/sys/fs/cgroup")
    if "memory" not in (root / "cgroup.controllers").read_text().split():
        return Answer(
            State.MISSING, "no memory controller", "a server cannot be run out of memory", "boot with cgroup v2"
        )
    made = root / f"{PREFIX}doctor-{os.getpid()}"
    made.mkdir()
    made.rmdir()
    return Answer(State.OK, "version 2 with the memory controller; a group was made")


def _postgresql(place: Place) -> Answer:
    found = [f"{programs.version} in {programs.bindir}" for programs in all_programs()]
    clients = [path for name in ("psql", "pgbench") if (path := shutil.which(name))]
    if not found:
        lost = "nothing but the built-in server can be crashed; benchmarks and other people's clients"
        return Answer(State.MISSING, ", ".join(clients) or "nowhere", lost, "install PostgreSQL")
    return Answer(State.OK, ", ".join([*found, *clients]))


_SUPERVISION = "how the server was supervised is not judged; its data are"
_OUTLIVES = "processes may outlive a run"
_NEWER = "use a kernel from 5.4 on, without a filter of system calls"
_OUT = "choose another place with --out"
_LIMIT = "use fewer --backends, or raise the limit (ulimit -n, ulimit -u, the container's pids limit)"

PROBES: tuple[Probe, ...] = (
    Probe("python", True, _python, "nothing runs", "install Python 3.11 or later"),
    Probe("kernel", True, _kernel, "nothing runs", _NEWER),
    Probe("processors", True, _cores, "", ""),
    Probe("tracefs", True, _tracefs, _SUPERVISION, REMEDY),
    Probe("trace clock", True, _trace_clock, _SUPERVISION, REMEDY),
    Probe("kernel witness", True, _witness, _SUPERVISION, REMEDY),
    Probe("pidfd", True, _pidfd, "no process can be struck or watched", _NEWER),
    Probe("memfd", True, _memfd, "the server has no shared memory", _NEWER),
    Probe("orphans", True, _orphans, _OUTLIVES, _NEWER),
    Probe("file system", True, _file_system, "run directories cannot be made", _OUT),
    Probe("free space", True, _free_space, "run directories cannot be made", _OUT),
    Probe("fdatasync", True, _sync, "nothing can be committed", _OUT),
    Probe("socket", True, _socket, "nobody can connect to the server", "set TMPDIR to a short path that is writable"),
    Probe("open files", True, _files, "so many backends cannot be served", _LIMIT),
    Probe("processes", True, _processes, "so many backends cannot be forked", _LIMIT),
    Probe("output", False, _encoding, "", ""),
    Probe("cgroup", False, _cgroup, "a server cannot be run out of memory", "mount cgroup v2"),
    Probe("PostgreSQL", False, _postgresql, "", ""),
)
