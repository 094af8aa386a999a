"""Running a server as somebody who may do little: who that is, what that user can reach, and how the server becomes it.

PostgreSQL refuses to run as root, so a harness of root starts it as an unprivileged user. That, and that the server
dies with the harness, is done by this module run as a program between fork and exec, and not in a function of the
harness between the two: the harness has threads, and what runs there may take no lock.

    python -P unprivileged.py --die-with PID [--user UID:GID] [--lock DIRECTORY] -- PROGRAM ARGUMENT...

The death signal is set after the change of user, which would clear it, and then the parent is looked at: it may have
died before. The lock is a shared flock on the directory, held by every process of the server through a descriptor that
nobody closes: who wants it for himself learns when the last of them has ended. It keeps no server from starting, for
that is the server's own interlock to do, and to be tested.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import pwd
import signal
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
CANDIDATES = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class User:
    """An account of this machine."""

    name: str
    uid: int
    gid: int

    def reaches(self, directory: Path) -> bool:
        """Whether this user may pass through every directory on the way to one that need not exist yet."""
        return all(self._may_pass(parent) for parent in directory.absolute().resolve().parents)

    def _may_pass(self, directory: Path) -> bool:
        try:
            status = directory.stat()
        except FileNotFoundError:
            return True  # it will be made on the way
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return bool(stat.S_IMODE(status.st_mode) >> shift & 1)


def server_user() -> User | None:
    """Whom a server runs as that must not run as root; None when this process is not root's: then as itself.

    `postgres` where there is such an account, else `nobody`. Raises LookupError when there is neither.
    """
    if os.geteuid() != 0:
        return None
    for name in CANDIDATES:
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(name, account.pw_uid, account.pw_gid)
    raise LookupError(f"root has no account to run PostgreSQL as: there is neither {' nor '.join(CANDIDATES)}")


def command_line(user: User | None, command: Sequence[str], *, lock: Path | None = None) -> list[str]:
    """The command that becomes another command, as that user, dying with this process."""
    words = [sys.executable, "-P", __file__, "--die-with", str(os.getpid())]
    if user is not None:
        words += ["--user", f"{user.uid}:{user.gid}"]
    if lock is not None:
        words += ["--lock", str(lock)]
    return [*words, "--", *command]


def give(directory: Path, user: User | None) -> None:
    """Make a directory and all that is in it the user's own, if it is not yet."""
    if user is None or directory.stat().st_uid == user.uid:
        return
    for path in directory.rglob("*"):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
    os.chown(directory, user.uid, user.gid)


def main(arguments: list[str] | None = None) -> int:
    """Become the command; returns only when that fails."""
    parser = argparse.ArgumentParser(prog="unprivileged", description=__doc__)
    parser.add_argument("--die-with", type=int, required=True, metavar="PID")
    parser.add_argument("--user", metavar="UID:GID")
    parser.add_argument("--lock", metavar="DIRECTORY")
    parser.add_argument("command", nargs="+")
    chosen = parser.parse_args(arguments)
    if chosen.lock is not None:
        descriptor = os.open(chosen.lock, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.set_inheritable(descriptor, True)
    if chosen.user is not None:
        uid, gid = (int(part) for part in chosen.user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # Python ignores some signals, a shell's background job others: what is ignored stays so over exec, and an order to
    # die that comes before the server has its handlers would be lost.
    for number in (signal.SIGQUIT, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != chosen.die_with:
        return 1  # the harness has died: nobody would end the server
    try:
        os.execv(chosen.command[0], chosen.command)
    except OSError as error:
        print(f"cannot run {chosen.command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
