"""A tiny supervisor of three children that keeps one policy, or breaks one rule of it: a program, run by exec.

    python toy_supervisor.py POLICY DEFECT READY

POLICY is one that a plan can name, DEFECT a name below or `none`; the file READY is made when the children stand.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

CHILDREN = 3
DEFECTS = (
    "never-reaps",
    "does-not-replace",
    "ends-all",
    "leaves-one-alone",
    "begins-too-early",
    "replaces",
    "lives-on",
    "leaves-an-orphan",
    "ignores-the-stop",
    "never-asks",
    "goes-deaf",
)
ROUND_S = 0.1
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
OURS = {signal.SIGCHLD, signal.SIGTERM}
libc = ctypes.CDLL(None)


def child(*, outlives: bool = False) -> int:
    """Fork one; it dies with its parent unless it is meant to outlive it."""
    pid = os.fork()
    if pid == 0:
        libc.prctl(PR_SET_NAME, b"toy-child", 0, 0, 0)
        if not outlives:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)
        while True:
            signal.pause()
    return pid


def dead(team: set[int], *, reap: bool) -> set[int]:
    """Those who have ended since the last look."""
    how = os.WEXITED | os.WNOHANG | (0 if reap else os.WNOWAIT)
    found = {pid for pid in team if os.waitid(os.P_PID, pid, how | os.WNOWAIT) is not None}
    for pid in found if reap else ():
        os.waitpid(pid, 0)
    return found


def end(team: set[int], *, reap: bool = True) -> None:
    """SIGTERM them and wait for their end."""
    for pid in team:
        os.kill(pid, signal.SIGTERM)
    left = set(team)
    while left:
        left -= dead(left, reap=reap)
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)


def end_hung(team: set[int]) -> None:
    """SIGKILL whoever is stopped."""
    for pid in team:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            os.kill(pid, signal.SIGKILL)


def main(policy: str, defect: str, ready: Path) -> int:
    """Supervise until SIGTERM, or until the policy says that it is over."""
    signal.pthread_sigmask(signal.SIG_BLOCK, OURS)
    # The orphan ends with the test, whatever becomes of it.
    team = {child(outlives=defect == "leaves-an-orphan") for _ in range(CHILDREN)}
    reap = defect != "never-reaps"
    ready.touch()
    while True:
        got = signal.sigtimedwait(OURS, ROUND_S)
        if got is not None and got.si_signo == signal.SIGTERM and defect != "ignores-the-stop":
            end(set() if defect == "leaves-an-orphan" else team, reap=reap)
            return 0
        if defect != "never-asks":
            end_hung(team)
        gone = dead(team, reap=reap)
        if not gone:
            continue
        team -= gone
        if defect == "goes-deaf":
            ready.unlink()
        if policy == "drain" and defect != "replaces":
            if defect == "lives-on":
                continue
            end(team)
            return 1
        team = renewed(policy, defect, team, reap=reap)


def renewed(policy: str, defect: str, team: set[int], *, reap: bool) -> set[int]:
    """The children after those who died have been dealt with."""
    if defect == "does-not-replace":
        return team
    if policy == "restart-all" or defect == "ends-all":
        kept = {team.pop()} if defect == "leaves-one-alone" else set()
        early = {child()} if defect == "begins-too-early" else set()
        end(team, reap=reap)
        team = kept | early
    return team | {child() for _ in range(CHILDREN - len(team))}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
