"""The live view of a campaign: one line a cycle, and on a terminal a progress line below them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chaos.campaign import CycleResult
from chaos.command.campaign import CommandResult
from chaos.command.plan import CommandPlan
from chaos.errors import CampaignError
from chaos.order import StopRule
from chaos.plan import CampaignPlan, PointPlacement
from chaos.targets.choice import TargetKind

_LEAST_WIDTH = 16
COMMAND_HEADER = "cycle  fault            victim                      ready ms"


class _Output(Console):
    """A console that ends the campaign when nobody reads it any more (`| head`), instead of the process."""

    def on_broken_pipe(self) -> None:
        """See `Console.on_broken_pipe`."""
        self.quiet = True
        # Python would fail once more when it flushes the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CampaignError("nobody reads the output any more: the run was stopped")


class View:
    """Shows cycles as they end; a context manager, because the progress line must be taken down."""

    def __init__(
        self, plan: CampaignPlan | CommandPlan, stop: StopRule, *, done: int = 0, server: str = TargetKind.BUILTIN.words
    ) -> None:
        self._server = server
        self._console = _Output(highlight=False, soft_wrap=True)
        self._plan = plan
        self._stop = stop
        self._width = max(_LEAST_WIDTH, *map(len, plan.faults))
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn(
                "{task.completed:.0f} of {task.total:.0f} cycles" if stop.cycles else "{task.completed:.0f} cycles"
            ),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("crashing", total=stop.cycles, completed=done)

    def __enter__(self) -> View:
        self._console.print(f"crashbed: {_opening(self._plan, self._server)}, seed {self._plan.seed}")
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text)

    def begin(self) -> None:
        """Before the first cycle."""
        if isinstance(self._plan, CommandPlan):
            header = COMMAND_HEADER
        else:
            header = f"cycle  {'fault':<{self._width}} victim                       acked   ready ms  commit ms"
        self._console.print(header, style="dim")

    def cycle(self, result: CycleResult | CommandResult) -> None:
        """A cycle has ended."""
        line = _of_command(result) if isinstance(result, CommandResult) else _of_server(result, self._width)
        self._console.print(line)
        self._progress.update(self._task, advance=1)


def _opening(plan: CampaignPlan | CommandPlan, server: str) -> str:
    if isinstance(plan, CommandPlan):
        return f"{' '.join(plan.start)}, policy {plan.expect.policy}"
    return f"{server}, workload {','.join(plan.workloads)}, {plan.backends} backends"


def _of_server(result: CycleResult, width: int) -> str:
    plan = result.plan
    fault = "at point" if isinstance(plan.placement, PointPlacement) else str(plan.fault)
    commit = f"{result.first_commit_ms:10.1f}" if result.first_commit_ms is not None else "         -"
    notes = list(result.notes)
    if isinstance(plan.placement, PointPlacement):
        notes = [f"{plan.placement.selector}{'  ' if notes else ''}{'; '.join(notes)}"]
    return (
        f"{plan.cycle:5d}  {fault:<{width}} {_victims(result):<27.27} {result.acknowledged:6d}  {_ready(result)} {commit}"
        + _notes(notes)
    )


def _of_command(result: CommandResult) -> str:
    plan = result.plan
    return f"{plan.cycle:5d}  {plan.fault:<16} {_victims(result):<27.27} {_ready(result)}{_notes(result.notes)}"


def _victims(result: CycleResult | CommandResult) -> str:
    return ", ".join(f"{blow.role} {blow.pid}" for blow in result.blows if blow.landed) or "missed"


def _ready(result: CycleResult | CommandResult) -> str:
    return f"{result.ready_ms:9.1f}" if result.ready_ms is not None else "        -"


def _notes(notes: Sequence[str]) -> str:
    return f"  {'; '.join(notes)}" if notes else ""
