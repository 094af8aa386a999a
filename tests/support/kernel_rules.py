"""Rules of supervision as functions of the kernel's account: each returns the violations that it found.

A test asks the same function of a sound server, where it must find nothing, and of one with a planted defect, where it
must find it; so no rule can be held by a check that sees nothing. The oracles of `chaos.oracles` judge whole runs and
count what is uncertain for the server; a test knows who was killed and why, and these rules use that.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping

from chaos.oracles.supervision import Child, Reign, lived
from chaos.witness.proc_maps import MappedMemory

SOONEST_KILL_NS = 5_000_000_000
LATEST_KILL_NS = 6_500_000_000
"""5 s after the stopwatch was armed, which is just after the first SIGQUIT; the rest is for a loaded machine."""
DISMISSAL_NS = 2_000_000_000
_REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def ended(reign: Reign, pid: int) -> Child:
    """The child of this pid, which must have been reaped by the postmaster."""
    found = [child for child in reign.children if child.process.pid == pid]
    assert found, f"the postmaster never forked PID {pid}"
    assert found[-1].process.reaped_by == reign.postmaster.pid, f"not reaped by the postmaster: {lived(found[-1])}"
    return found[-1]


def alive_at(reign: Reign, t_ns: int) -> list[Child]:
    """The children that had been forked and not yet begun to end at a time."""
    return [
        child
        for child in reign.children
        if child.process.born <= t_ns and (child.process.end_begun_t is None or child.process.end_begun_t > t_ns)
    ]


def received(child: Child, number: int, by: int) -> list[int]:
    """When a child got a signal from a process."""
    return [signal.t for signal in child.process.received if signal.sig == number and signal.by == by]


def not_told_to_quit(reign: Reign, crashed_pid: int) -> list[str]:
    """After this child's end everybody else gets SIGQUIT, process and group, newest first, and exits 2."""
    crashed = ended(reign, crashed_pid)
    at = crashed.process.reaped_t or 0
    found = []
    told: list[tuple[int, Child]] = []
    for child in alive_at(reign, at):
        quits = [t for t in received(child, signal.SIGQUIT, reign.postmaster.pid) if t >= at]
        if not quits:
            found.append(f"{child} got no SIGQUIT after {lived(crashed)}")
            continue
        told.append((quits[0], child))
        # A dead-end child is told once more when all others have gone; before its session a child is in no group.
        whole = (2, 4) if child.role == "dead_end" else (2,)
        if (session := child.process.session_t) is not None and session < quits[0] and len(quits) not in whole:
            found.append(f"{child} got SIGQUIT {len(quits)} times, not once as a process and once as a group")
        if child.process.exit_t is not None and child.process.signal != signal.SIGKILL and child.process.code != 2:
            found.append(f"{child} was told to quit and {child.process.ended_by()}")
    in_order = [child for _, child in sorted(told, key=lambda one: one[0])]
    newest_first = sorted(in_order, key=lambda child: -child.process.order)
    if in_order != newest_first:
        found.append(f"SIGQUIT went to {in_order}, and newest first is {newest_first}")
    return found


def outlived_the_reset(reign: Reign) -> list[str]:
    """Before each startup process but the first, everybody forked earlier had been reaped by the postmaster."""
    found = []
    for startup in reign.startups[1:]:
        for child in reign.children:
            process = child.process
            if process.order >= startup.process.order:
                continue
            if process.reaped_t is None or process.reaped_t > startup.process.born:
                found.append(f"{lived(child)}, after {startup} had been forked")
            elif process.reaped_by != reign.postmaster.pid:
                found.append(f"{child} was reaped by {process.reaped_by}")
    return found


def old_memory(maps: Mapping[int, Iterable[MappedMemory]], earlier: Iterable[int]) -> list[str]:
    """Every process maps exactly one memory of the server, all of them the same, and none that was there before."""
    old = set(earlier)
    found = []
    for pid, memories in maps.items():
        inodes = {memory.inode for memory in memories}
        if inodes & old:
            found.append(f"process {pid} maps an old memory: {sorted(memory.name for memory in memories)}")
        if len(inodes) != 1:
            found.append(f"process {pid} maps {len(inodes)} memories")
    current = {memory.inode for memories in maps.values() for memory in memories} - old
    if len(current) > 1:
        found.append(f"the processes map different memories: {sorted(current)}")
    return found


def consequence(reign: Reign, pid: int) -> str:
    """What the postmaster made of a child's end: "nothing", "crash" or "exit N"."""
    postmaster = reign.postmaster
    if postmaster.exit_t is not None:
        return f"exit {postmaster.code}" if postmaster.signal is None else f"signal {postmaster.signal}"
    child = ended(reign, pid)
    at = child.process.reaped_t or 0
    restarted = any(startup.process.born > at for startup in reign.startups)
    quits = reign.quits_between(at, reign.end)
    if restarted and quits:
        return "crash"
    return "nothing" if not restarted and not quits else f"a mixture: {len(quits)} SIGQUIT, restarted {restarted}"


def late_or_early_kills(reign: Reign, since_ns: int = 0) -> list[str]:
    """SIGKILL comes 5 s after the first SIGQUIT of a round, once, to everybody who is then there, and to nobody else."""
    quits = [sent.t for sent in reign.quits if sent.t >= since_ns]
    if not quits:
        return [f"{kill.child} got SIGKILL and nobody had got SIGQUIT" for kill in reign.kills]
    begin = quits[0]
    soonest, latest = begin + SOONEST_KILL_NS, begin + LATEST_KILL_NS
    found = [
        f"{kill.child} got SIGKILL {(kill.t - begin) / 1e9:.2f} s after the first SIGQUIT"
        for kill in reign.kills
        if not soonest <= kill.t <= latest
    ]
    for child in reign.children:
        process = child.process
        if process.born >= soonest:
            continue
        kills = received(child, signal.SIGKILL, reign.postmaster.pid)
        if len(kills) > 2:
            found.append(f"{child} got SIGKILL {len(kills)} times: one volley is twice, process and group")
        if not kills and (process.exit_t or reign.account.end) > latest:
            found.append(f"{child} outlived SIGQUIT and got no SIGKILL: {lived(child)}")
    return found


def undismissed_dead_ends(reign: Reign, crashed_pid: int) -> list[str]:
    """A dead-end child that is there when everybody else has gone gets SIGQUIT then, and not SIGKILL 5 s later."""
    at = ended(reign, crashed_pid).process.reaped_t or 0
    until = reign.generation_end(at)
    generation = [child for child in reign.children if child.process.born < until]
    others = [child.process.reaped_t or until for child in generation if child.role != "dead_end"]
    gone = max([t for t in others if t <= until], default=at)
    found = []
    for child in generation:
        if child.role != "dead_end" or (child.process.exit_t or until) < gone:
            continue
        quits = [t for t in received(child, signal.SIGQUIT, reign.postmaster.pid) if t >= at]
        if not quits or quits[0] > gone + DISMISSAL_NS:
            found.append(f"{child} was there when everybody else had gone, and got no SIGQUIT: {lived(child)}")
    return found


def disorderly_shutdown(reign: Reign) -> list[str]:
    """The shutdown checkpoint is asked for when all who could write are gone, and the checkpointer goes last."""
    checkpointer = [child for child in reign.children if child.role == "checkpointer"][-1]
    asked = received(checkpointer, signal.SIGINT, reign.postmaster.pid)
    if not asked:
        return ["nobody asked for the shutdown checkpoint"]
    found = []
    for child in reign.children:
        reaped = child.process.reaped_t or reign.end
        if child.role in ("backend", "bgwriter", "walwriter", "startup") and reaped > asked[0]:
            found.append(f"the shutdown checkpoint was asked for while {child} lived")
        if child.role != "dead_end" and reaped > (checkpointer.process.reaped_t or 0):
            found.append(f"{child} outlived the checkpointer")
    if reign.kills:
        found.append("somebody got SIGKILL in an orderly shutdown")
    return found


def recovery_after_request(reign: Reign) -> list[str]:
    """Once a shutdown has been asked for, no startup process is forked any more."""
    requests = [r.t for r in reign.postmaster.received if r.sig in _REQUESTS]
    if not requests:
        return ["no shutdown was asked for"]
    return [
        f"{startup} was forked after a shutdown had been asked for"
        for startup in reign.startups
        if startup.process.born > requests[0]
    ]
