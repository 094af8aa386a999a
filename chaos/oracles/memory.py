"""The oracles of the shared-memory reset: everybody is gone before it, and nobody keeps the old memory after it.

`Drained` judges from the kernel alone: between a crash and the fork of the next startup process there was a
moment at which no child of the postmaster lived, so that none of the old generation can write to the new
memory. `Memory` sets the server's journal of its memories against the kernel's account and against what /proc
showed of living processes, the postmaster included (specification 5.4). Of a server without a journal, what /proc
showed must be enough: one memory in each generation, and in each another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from chaos.oracles.evidence import Evidence, HarnessRecord, ServerRecord
from chaos.oracles.oracle import OracleResult, Source, Tally, unfed
from chaos.oracles.supervision import AHEAD_OF_STARTUP, Child, Reign, lived, outlived, reigns, when

BEFORE_STARTUP = AHEAD_OF_STARTUP | {"unknown"}
"""Roles that may belong to a new generation although they were forked before its startup process."""


class Drained:
    name = "drained"
    title = "all old processes are gone before the new startup process is forked"
    needs: tuple[Source, ...] = ("kernel",)

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for reign in reigns(evidence):
            for old, new in pairwise(reign.startups):
                _judge_restart(reign, old, new, tally)
        return tally.result(self, slack="from the exit of the last old process to the fork of the new startup process")


def _judge_restart(reign: Reign, old: Child, new: Child, tally: Tally) -> None:
    begin = reign.generation_begin(old.process.born)
    fork = new.process.born
    if not tally.whole(begin, fork):
        return
    before = [child for child in reign.children if child is not new and child.process.born < fork]
    alive = [child for child in before if outlived(child, fork)]
    tally.trial(slack_ns=None if alive else fork - max(child.process.exit_t or 0 for child in before))
    for child in _of_the_old_generation(reign, before, alive, begin, fork):
        tally.fail(fork, f"{child} still lived when the new startup process was forked", lived(child), lived(new))


def _of_the_old_generation(
    reign: Reign, before: Sequence[Child], alive: Sequence[Child], begin: int, fork: int
) -> Sequence[Child]:
    """Those of the living who certainly belong to the memory before.

    A child of a known role does: the startup process is the first of a new generation, but for the I/O workers of
    a real PostgreSQL (`maybe_adjust_io_workers`, postmaster.c). Of those, and of the unnamed, only the whole can be
    judged: walking back from the fork, was there a moment after the crash at which nobody lived?
    """
    moment = fork
    unsettled: list[Child] = []
    for child in reversed(before):
        if outlived(child, moment):
            unsettled.append(child)
            moment = min(moment, child.process.born)
    if moment <= _last_crash(reign, begin, fork):
        return unsettled
    return [child for child in alive if child.role not in BEFORE_STARTUP]


def _last_crash(reign: Reign, begin: int, fork: int) -> int:
    """When the postmaster learned of the crash that ended this generation; its begin if none was seen."""
    return max((crash.t for crash in reign.crashes if begin <= crash.t <= fork), default=begin)


class Memory:
    name = "memory"
    title = "every restart makes a new memory, and nobody maps an old one"
    needs: tuple[Source, ...] = ("kernel", "server")

    def judge(self, evidence: Evidence) -> OracleResult:
        missing = unfed(self, evidence)
        if missing is not None:
            return missing
        tally = Tally(evidence)
        for reign in reigns(evidence):
            if not evidence.kind.journal:
                _judge_by_maps(reign, tally)
                continue
            memories = [record for record in reign.journal if record.ev == "memory"]
            if not memories:
                continue
            for restart in reign.startups[1:]:
                _judge_reset(reign, restart, memories, tally)
            for record in evidence.harness_between(reign.begin, reign.end):
                if record.ev == "memory_maps":
                    _judge_maps(reign, record, memories, tally)
        return tally.result(self, slack="from the exit of the last old process to the closing of the old memory")


def _judge_reset(reign: Reign, restart: Child, memories: Sequence[ServerRecord], tally: Tally) -> None:
    fork = restart.process.born
    begin = reign.startups[reign.startups.index(restart) - 1].process.born
    if not tally.whole(reign.generation_begin(begin), fork):
        return
    earlier = [record for record in memories if record.t <= begin]
    made = [record for record in memories if begin < record.t <= fork]
    story = lived(restart)
    if not made or not earlier:
        tally.trial()
        tally.fail(fork, f"{restart} was forked on the memory of the generation before it", story)
        return
    old, new = earlier[-1], made[-1]
    closed = next(
        (r for r in reign.journal if r.ev == "memory_closed" and r.gen == old.gen and begin < r.t <= new.t),
        None,
    )
    made_line = f"server: memory generation {new.gen}, inode {new.ino}, {when(new.t)}"
    exits = [
        child.process.exit_t
        for child in reign.children
        if child.process.born < new.t and child.process.exit_t is not None
    ]
    last_exit = max(exits, default=None)
    in_time = closed is not None and last_exit is not None and last_exit <= closed.t
    tally.trial(slack_ns=closed.t - last_exit if in_time and closed is not None and last_exit is not None else None)
    if new.gen <= old.gen or new.ino in {record.ino for record in earlier}:
        tally.fail(new.t, f"generation {new.gen} is not a new memory", made_line, story)
    if closed is None:
        tally.fail(new.t, f"generation {new.gen} was made before generation {old.gen} was closed", made_line, story)
        return
    for child in reign.children:
        process = child.process
        if process.born < closed.t and outlived(child, closed.t):
            tally.fail(
                closed.t,
                f"generation {old.gen} was closed while {child} still lived",
                f"server: memory_closed {when(closed.t)}",
                lived(child),
            )


def _judge_maps(reign: Reign, maps: HarnessRecord, memories: Sequence[ServerRecord], tally: Tally) -> None:
    """What one process was seen to map must be the current memory. One that was made while the harness was
    looking is no fault."""
    process = reign.account.at(maps.pid, maps.t)
    mine = process is reign.postmaster or (process is not None and process.parent == reign.postmaster.pid)
    if process is None or not mine:
        return
    current = [record for record in memories if record.t <= maps.t]
    if not current or not maps.inos:
        tally.leave("a process was seen to map no memory of the server")
        return
    who = "the postmaster" if process is reign.postmaster else f"PID {maps.pid}"
    generations = {record.ino: record.gen for record in memories}
    tally.trial()
    for ino in maps.inos:
        gen = generations.get(ino)
        if gen is None or gen < current[-1].gen:
            name = f"generation {gen}" if gen is not None else "a generation that the journal does not know"
            tally.fail(
                maps.t,
                f"{who} maps {name} (inode {ino}) while generation {current[-1].gen} is in use",
                f"harness: /proc/{maps.pid}/maps {when(maps.t)} shows inodes {list(maps.inos)}",
            )


def _judge_by_maps(reign: Reign, tally: Tally) -> None:
    """Every process that was looked at in a generation mapped the memory that was first seen in it, and no older one.

    A generation is told by the fork of its startup process. Nobody looks while one ends: the harness does when the
    server has become ready and been used.
    """
    first_seen: dict[int, int] = {}
    of_generation: dict[int, int] = {}
    for record in reign.evidence.harness_between(reign.begin, reign.end):
        process = reign.account.at(record.pid, record.t) if record.ev == "memory_maps" else None
        if process is None or (process is not reign.postmaster and process.parent != reign.postmaster.pid):
            continue
        if not record.inos:
            tally.leave("a process was seen to map no memory of the server")
            continue
        generation = reign.generation_begin(record.t)
        if not tally.whole(generation, record.t):
            continue
        tally.trial()
        who = "the postmaster" if process is reign.postmaster else f"PID {record.pid}"
        line = f"harness: /proc/{record.pid}/maps {when(record.t)} shows inodes {list(record.inos)}"
        for ino in record.inos:
            if first_seen.setdefault(ino, generation) != generation:
                tally.fail(record.t, f"{who} maps a memory (inode {ino}) that an earlier generation had", line)
            elif of_generation.setdefault(generation, ino) != ino:
                tally.fail(record.t, f"{who} maps another memory (inode {ino}) than others of its generation", line)
