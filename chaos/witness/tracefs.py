"""tracefs: finding it, and one trace instance of our own in it.

Owns the instance's life: its name, its settings, its removal, and the removal of instances whose harness was
killed. It never touches the machine's own trace or another instance. Where tracefs is mounted it is used as
it is; where not, it is mounted detached (fsopen and fsmount, Linux 5.2): reachable through a descriptor of
this process alone, so that no mount is left behind however the process ends. The kernel has one tracefs
whatever the number of mounts, so instances outlive their maker and must be named by it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

PREFIX = "crashbed-"

_MOUNTED = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

# The same numbers on every architecture: these calls are younger than the common table.
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6


class WitnessUnavailable(Exception):
    """There can be no witness here: `reason` says why, `remedy` what would help, each in one sentence."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


REMEDY = "run as root (CAP_SYS_ADMIN) on the machine itself, or in a container started with --privileged"


class Tracefs:
    """A way to the kernel's tracefs; `path` is its directory. Close it after its instances."""

    def __init__(self, path: str, descriptor: int | None = None) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def open(cls) -> Tracefs:
        """Raises WitnessUnavailable."""
        for path in _MOUNTED:
            # Not pathlib's, which raises where one may not look.
            if os.path.isdir(f"{path}/instances"):  # noqa: PTH112
                return cls(path)
        if not sys.platform.startswith("linux"):
            raise WitnessUnavailable("the witness needs Linux's tracefs", "run on Linux")
        descriptor = _mount_detached()
        return cls(f"/proc/self/fd/{descriptor}", descriptor)

    def close(self) -> None:
        """Give up the private mount, if there is one."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def instance_names(self) -> list[str]:
        """The instances of any harness, ours and others', living and dead."""
        return sorted(path.name for path in Path(self.path, "instances").iterdir() if path.name.startswith(PREFIX))

    def sweep(self) -> list[str]:
        """Remove the instances of harnesses that no longer live; the names of those removed."""
        removed = []
        for name in self.instance_names():
            if owner_lives(name):
                continue
            try:
                Path(self.path, "instances", name).rmdir()
            except OSError:
                continue  # being removed by another harness, or held open: it is tried again at the next start
            removed.append(name)
        return removed


class Instance:
    """One trace instance with its own buffers, clock, events and list of followed pids."""

    def __init__(self, tracefs: Tracefs, name: str) -> None:
        self.name = name
        self.path = f"{tracefs.path}/instances/{name}"
        try:
            Path(self.path).mkdir()
        except OSError as error:
            raise WitnessUnavailable(f"no trace instance could be made: {error.strerror}", REMEDY) from error

    def write(self, file: str, text: str, *, append: bool = False) -> None:
        """Write one of the instance's files; `append` adds to set_event_pid instead of replacing it."""
        flags = os.O_WRONLY | os.O_CLOEXEC | (0 if append else os.O_TRUNC)
        descriptor = os.open(f"{self.path}/{file}", flags)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def read(self, file: str) -> str:
        """The whole text of one of the instance's files."""
        descriptor = os.open(f"{self.path}/{file}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            pieces = []
            while piece := os.read(descriptor, 65536):
                pieces.append(piece)
        finally:
            os.close(descriptor)
        return b"".join(pieces).decode()

    def has(self, file: str) -> bool:
        return Path(self.path, file).exists()

    def open_pipe(self) -> int:
        """A descriptor of trace_pipe that never blocks."""
        return os.open(f"{self.path}/trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def processors(self) -> list[str]:
        return sorted(path.name for path in Path(self.path, "per_cpu").iterdir() if path.name.startswith("cpu"))

    def lost(self) -> tuple[int, int, int]:
        """Events lost since the instance was made, over all processors: dropped, overrun, commit overrun."""
        totals = {"dropped events": 0, "overrun": 0, "commit overrun": 0}
        for processor in self.processors():
            for line in self.read(f"per_cpu/{processor}/stats").splitlines():
                name, _, value = line.partition(":")
                if name in totals:
                    totals[name] += int(value)
        return totals["dropped events"], totals["overrun"], totals["commit overrun"]

    def remove(self) -> None:
        """Stop recording and remove the instance; its pipe must be closed before."""
        try:
            self.write("tracing_on", "0")
        finally:
            Path(self.path).rmdir()


def instance_name(pid: int) -> str:
    """The name of the instance of the living process `pid`: its pid and its start time, in clock ticks."""
    return f"{PREFIX}{pid}-{_start_time(pid)}"


def owner_lives(name: str) -> bool:
    """Whether the process that an instance is named by still lives. A name of another form is let alone."""
    pid, _, start = name.removeprefix(PREFIX).partition("-")
    start = start.partition(".")[0]
    if not (pid.isdigit() and start.isdigit()):
        return True
    return _start_time(int(pid)) == int(start)


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may hold spaces and brackets: count fields after the last bracket. Field 22 is the start time.
    return int(stat.rpartition(b")")[2].split()[19])


def _mount_detached() -> int:
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: object) -> int:
        result = int(libc.syscall(number, *arguments))
        if result < 0:
            error = ctypes.get_errno()
            raise WitnessUnavailable(f"tracefs cannot be mounted: {os.strerror(error)}", REMEDY)
        return result

    context = call(_SYS_FSOPEN, b"tracefs", _FSOPEN_CLOEXEC)
    try:
        call(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return call(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)
