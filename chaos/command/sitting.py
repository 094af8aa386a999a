"""Judging one sitting of a command's run: the rules of its plan, and which of its cycles prove something.

A command has no data that anybody knows of: everything is judged from the kernel's account and from what the harness
saw in /proc. Without a witness nothing is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec

from chaos.command.plan import CommandFault, CommandPlan, Policy
from chaos.oracles.command.registry import oracles_of
from chaos.oracles.command.service import Service, Strike, services
from chaos.oracles.evidence import Evidence
from chaos.phases import Cycle, cycles_of, fell_ns, recoveries
from chaos.sitting import JudgedSitting
from chaos.verdict import Reason
from reports.rundir import Sitting
from reports.verdict import Ledger, Recovery


def judge_command(run: Sitting, plan: CommandPlan, *, cut_short: bool) -> JudgedSitting:
    """Every rule of the plan over one sitting; `cut_short` leaves the cycle out that was under way."""
    evidence = Evidence.of(run)
    starts = services(evidence)
    cycles = [_with_answer(cycle) for cycle in cycles_of(run.harness_records())]
    if cut_short:
        cycles = [cycle for cycle in cycles if cycle.end_ns is not None]
    strikes = {strike.cycle: (service, strike) for service in starts for strike in service.strikes}
    return JudgedSitting(
        evidence=evidence,
        data=[],
        supervision=[oracle.judge(evidence) for oracle in oracles_of(plan)],
        ledger=Ledger(),
        loads=(),
        cycles=cycles,
        reasons=[tuple(_reasons(cycle, evidence)) for cycle in cycles],
        recoveries=[_with_replacement(one, plan, strikes) for one in recoveries(cycles, evidence, run)],
    )


def _with_answer(cycle: Cycle) -> Cycle:
    """The cycle whose sign of life is the answer to the probe."""
    return replace(cycle, first_commit_ns=cycle.ready_ns, ready_ns=None)


def _reasons(cycle: Cycle, evidence: Evidence) -> Iterator[Reason]:
    """Why a cycle proves nothing. A server that did not recover proves something: a rule of its was broken."""
    landed = [blow for blow in cycle.blows if blow.landed]
    if not landed:
        yield Reason.FAULT_MISSED
    elif any(fell_ns(cycle, blow, evidence.account) is None for blow in landed):
        yield Reason.NOT_WITNESSED


def _with_replacement(recovery: Recovery, plan: CommandPlan, strikes: dict[int, tuple[Service, Strike]]) -> Recovery:
    """The recovery with the fork of the last process that took the place of another."""
    found = strikes.get(recovery.cycle)
    if found is None or plan.expect.policy is Policy.DRAIN:
        return recovery
    service, strike = found
    ended = strike.ended_t
    if ended is None or strike.fault == CommandFault.SIGKILL_MAIN:
        return recovery
    number = len(strike.victims) + (len(strike.others) if plan.expect.policy is Policy.RESTART_ALL else 0)
    fresh: Sequence[int] = sorted(child.process.born for child in service.forked_between(ended, strike.until))
    if len(fresh) < number:
        return recovery
    return msgspec.structs.replace(recovery, replaced=(fresh[number - 1] - strike.t) / 1e6)
