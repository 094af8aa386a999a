"""A judge beside the campaign: tells of a finding while the run goes on, so that it can end with it.

Owns a process of its own at the lowest priority, told after each cycle that there is something new to look at. It
judges the newest observation alone, by the oracles of data: what was lost, not how the server was supervised. It
never replaces the judging of the whole run, which looks at everything again, and it is started only when somebody
asks for it, because what it computes is taken from the processors that the server runs on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from chaos.oracles.data import judge_latest
from chaos.orphans import die_with
from chaos.plan import loss_window_ns
from chaos.targets.builtin import environment_of
from reports.rundir import RunDirectory
from workloads.registry import WORKLOADS

COMMAND = [sys.executable, "-m", "chaos.watch"]
LEAST_PRIORITY = 19
CLOSE_DEADLINE_S = 10.0


class Seen(msgspec.Struct, frozen=True):
    """One failure, seen while the run goes on."""

    oracle: str
    message: str
    cycle: int | None


class Watch:
    """The harness's end: `tell` after each cycle, ask `seen` before the next."""

    def __init__(self, run: RunDirectory, code_root: Path) -> None:
        self._process = subprocess.Popen(
            [*COMMAND, str(run.path.absolute()), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment_of(code_root),
            # Ctrl-C is the harness's: this process ends with its input.
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        for descriptor in (self._to, self._from):
            os.set_blocking(descriptor, False)
        self._rest = b""

    def tell(self) -> None:
        """There is a new observation. A judge that has ended, or is behind by a pipe full of words, is not told."""
        try:
            os.write(self._to, b"\n")
        except (BrokenPipeError, BlockingIOError):
            return

    def seen(self) -> list[Seen]:
        """What was found since the last look."""
        try:
            while piece := os.read(self._from, 1 << 16):
                self._rest += piece
        except BlockingIOError:
            pass  # nothing more for now
        *lines, self._rest = self._rest.split(b"\n")
        return [seen for line in lines for seen in msgspec.json.decode(line, type=list[Seen])]

    def close(self) -> None:
        """End it; what it was about to say is said by the judge of the whole run."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(CLOSE_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def main(directory: Path, harness: int) -> None:
    """Judge the newest observation whenever told, until the input ends; one line of JSON for each judgement."""
    die_with(harness)
    os.nice(LEAST_PRIORITY)
    run = RunDirectory.open(directory)
    campaign = run.read_info().plan["campaign"]
    window_ns = loss_window_ns(synchronous_commit=campaign.get("synchronous_commit", True))
    # Words that came meanwhile are taken together: the newest observation is what counts.
    while os.read(sys.stdin.fileno(), 1 << 16):
        results = judge_latest(run.sittings()[-1], WORKLOADS, loss_window_ns=window_ns).results
        found = [Seen(result.name, failure.message, failure.cycle) for result in results for failure in result.failures]
        try:
            os.write(sys.stdout.fileno(), msgspec.json.encode(found) + b"\n")
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
