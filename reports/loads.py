"""The load that a workload reached, in words: the line of the terminal and of summary.md, and the parts of a table."""

from __future__ import annotations

from reports.verdict import LoadRate, ReachedLoad


def line(load: ReachedLoad) -> str:
    """All that is known of a workload's load, in one line."""
    failed = f"{load.failed:,} failed"
    if load.failures:
        failed += f" ({'; '.join(failures(load))})"
    told = f"{load.acknowledged:,} acknowledged, {failed}, {load.unknown:,} unknown"
    rates = "; ".join(f"{per_second(rate)} acknowledged a second with {_workers(rate)}" for rate in load.rates)
    return f"{load.workload}: {load.operations:,} asked ({', '.join(kinds(load))}), {told}; {rates or 'no load time'}"


def kinds(load: ReachedLoad) -> list[str]:
    """How many operations were asked of each kind, the commonest first."""
    return [f"{kind} {count:,}" for kind, count in sorted(load.asked.items(), key=lambda item: (-item[1], item[0]))]


def failures(load: ReachedLoad) -> list[str]:
    """How many operations failed with each SQLSTATE, and what that says."""
    return [
        f"{failure.operations:,} {failure.kind.value}: {failure.sqlstate or 'no SQLSTATE'}" for failure in load.failures
    ]


def per_second(rate: LoadRate) -> str:
    """Acknowledged operations a second: whole, unless there are so few that a digit matters."""
    return f"{rate.per_second:,.0f}" if rate.per_second >= 10 else f"{rate.per_second:.1f}"


def basis(rate: LoadRate) -> str:
    """What a rate was measured on."""
    cycles = f"{rate.cycles:,} cycle{'s' if rate.cycles != 1 else ''}"
    return f"{_workers(rate)}, {rate.seconds:,.1f} s of {cycles}"


def _workers(rate: LoadRate) -> str:
    return f"{rate.workers:,} worker{'s' if rate.workers != 1 else ''}"
