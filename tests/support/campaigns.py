"""Campaigns as a person runs them: the command in a process of its own, and what it leaves behind.

Each run gets a directory for temporary files of its own, so that socket directories of other runs on the machine are
not taken for its.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos.witness.tracefs import PREFIX, Tracefs, WitnessUnavailable
from reports.rundir import RunDirectory

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0


class Bed:
    """A place to run campaigns in: where run directories go, and a directory for temporary files."""

    def __init__(self, out: Path, temporary: Path) -> None:
        self.out = out
        self.temporary = temporary
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
        self._running: list[Running] = []

    def start(self, *arguments: str, prelude: str = "") -> Running:
        """Start a command line; `prelude` is Python that runs before it, in its process."""
        running = Running(self, arguments, prelude)
        self._running.append(running)
        return running

    def run(self, *arguments: str, prelude: str = "") -> Ended:
        """Run a command line to its end."""
        return self.start(*arguments, prelude=prelude).end()

    def campaign(self, *arguments: str, prelude: str = "") -> Ended:
        """`crashbed run` with these arguments."""
        return self.run("run", "--out", str(self.out), *arguments, prelude=prelude)

    def paste(self, line: str) -> Ended:
        """Run a line in a shell in which `crashbed` is this checkout's."""
        commands = self.temporary / "bin"
        commands.mkdir(exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        script = commands / "crashbed"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m chaos "$@"\n')
        script.chmod(0o755)
        environment = {**self.environment, "PATH": f"{commands}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "-c", line], env=environment, cwd=self.out, capture_output=True, text=True, timeout=DEADLINE_S
        )
        return Ended(0, done.returncode, done.stdout, done.stderr, self.out)

    def left_behind(self, pid: int) -> list[str]:
        """What a harness left on the machine beside its run directories: nothing, if all is well."""
        left = [f"socket directory {path}" for path in self.temporary.glob(f"{PREFIX}*")]
        left += [f"trace instance {name}" for name in trace_instances() if name.startswith(f"{PREFIX}{pid}-")]
        runs = [path.parent for path in self.out.glob("*/run.json")]
        return left + [f"process {process}" for process in processes_of(runs)]

    def close(self) -> None:
        """End what still runs."""
        for running in self._running:
            running.close()


class Ended:
    """A command that has ended."""

    def __init__(self, pid: int, status: int, output: str, errors: str, cwd: Path) -> None:
        self.pid = pid
        self.cwd = cwd
        self.status = status
        self.output = output
        self.errors = errors

    @property
    def last_line(self) -> str:
        return self.output.strip().rpartition("\n")[2]

    @property
    def directory(self) -> RunDirectory:
        """The run directory that it told of."""
        return run_directory_in(self.output, self.cwd)

    def __repr__(self) -> str:
        return f"exit status {self.status}\n{self.output}{self.errors}"


class Running:
    """A command that runs."""

    def __init__(self, bed: Bed, arguments: tuple[str, ...], prelude: str) -> None:
        code = f"{prelude}\nimport sys\nfrom chaos.cli.main import run\nsys.exit(run())\n"
        self._cwd = bed.temporary
        self._output = bed.temporary / f"output{len(bed._running)}"
        with self._output.open("wb") as output, self._output.with_suffix(".err").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments] if prelude else [sys.executable, "-m", "chaos", *arguments],
                env=bed.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=self._cwd,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self._output.read_text()

    @property
    def directory(self) -> RunDirectory:
        """The run directory that it has told of."""
        return run_directory_in(self.output, self._cwd)

    def signal(self, number: signal.Signals) -> None:
        """Signal the command's own process, which nobody has reaped yet."""
        self.process.send_signal(number)

    def end(self, *, deadline_s: float = DEADLINE_S) -> Ended:
        """Wait for its end."""
        try:
            status = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the command did not end within {deadline_s:g} s:\n{self.output}") from None
        errors = self._output.with_suffix(".err").read_text()
        return Ended(self.process.pid, status, self.output, errors, self._cwd)

    def close(self) -> None:
        """End it, whatever it is at; its server dies with it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def bed(out: Path) -> Iterator[Bed]:
    """A place to run campaigns in, and nothing of it left running."""
    # A socket's path holds 107 bytes: pytest's own directories are too long.
    temporary = Path(tempfile.mkdtemp(prefix="cb-test-"))
    made = Bed(out, temporary)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(temporary, ignore_errors=True)


def run_directory_in(output: str, cwd: Path) -> RunDirectory:
    """The run directory that a command given in `cwd` told of."""
    match = re.search(r"^run directory: (.+)$", output, re.MULTILINE)
    assert match is not None, f"no run directory is told of in:\n{output}"
    return RunDirectory.open(cwd / match[1])


def processes_of(runs: Iterable[Path]) -> list[int]:
    """The living processes that work for one of these run directories, by their command line: the server's processes
    have the postmaster's, with its data directory. Not by the run's name, which is a second and a seed: another
    worker's run may have the same."""
    marks = [f"{run.resolve()}{end}".encode() for run in runs for end in ("\0", "/")]
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit() or int(path.name) == os.getpid():
            continue
        try:
            text = (path / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if any(mark in text for mark in marks):
            found.append(int(path.name))
    return found


def trace_instances() -> list[str]:
    """The trace instances of all harnesses; none where there can be none."""
    try:
        tracefs = Tracefs.open()
    except WitnessUnavailable:
        return []
    try:
        return tracefs.instance_names()
    finally:
        tracefs.close()


def plans_of(run: RunDirectory) -> dict[int, Any]:
    """Each cycle's plan as the harness recorded it."""
    return {record["cycle"]: record["plan"] for record in run.harness_records() if record["ev"] == "cycle_begin"}
