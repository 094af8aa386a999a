"""Which oracles judge a command, by its plan; in the order in which a report shows them."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.command.plan import CommandFault, CommandPlan, Policy
from chaos.oracles.command.bystanders import Bystanders
from chaos.oracles.command.child_reaping import ChildReaping
from chaos.oracles.command.drain import Drain
from chaos.oracles.command.hang import Hang
from chaos.oracles.command.orphans import Orphans
from chaos.oracles.command.ready_again import ReadyAgain
from chaos.oracles.command.restart_all import RestartAll
from chaos.oracles.command.restart_one import RestartOne
from chaos.oracles.command.stop import Stop
from chaos.oracles.oracle import Oracle


def oracles_of(plan: CommandPlan) -> Iterator[Oracle]:
    """The rules that a campaign of this plan gives something to judge."""
    expect = plan.expect
    if any(fault is not CommandFault.SIGKILL_MAIN for fault in plan.faults):
        match expect.policy:
            case Policy.RESTART_ONE:
                yield RestartOne(expect.replaced_s)
            case Policy.RESTART_ALL:
                yield RestartAll(expect.replaced_s)
            case Policy.DRAIN:
                yield Drain(expect.drained_s)
        yield Bystanders(expect.policy)
        yield ChildReaping(expect.reaped_s)
        if expect.policy is not Policy.DRAIN:
            yield ReadyAgain(expect.ready_s)
            yield Stop(expect.stopped_s)
    if CommandFault.SIGSTOP in plan.faults:
        yield Hang(expect.hung_s)
    yield Orphans(expect.orphaned_s)
