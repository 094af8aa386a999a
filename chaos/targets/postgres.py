"""A real PostgreSQL as a target: a private cluster and a postmaster of an unprivileged user, reached by a Unix socket.

Owns how it is made, started and named. The server is not instrumented: it is told by settings where its socket is and
how to write its log, and no more. It listens on no TCP port. A generation is ready when the log says so
(`chaos.targets.postgres_log`), never because a connection succeeded: one can succeed before the postmaster has
noticed the kill.

Roles are seen from outside. PostgreSQL renames no process for the kernel (every comm is `postgres`); it writes what
each is into its command line (`init_ps_display`, `ps_status.c`), which /proc shows; until then a child shows the
postmaster's own and is `starting`. What was learned of each child is handed out by `roles`, to be kept as evidence.

The cluster lies in the run directory. Where the server's user cannot reach that (a directory of root's alone), it
lies in a temporary directory while it runs, and `close` brings it home.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from chaos.targets.postgres_log import SETTINGS, PostgresLog
from chaos.targets.postgres_programs import Programs
from chaos.targets.postmaster import PostmasterTarget
from chaos.targets.process import ServerProcess, child_pids
from chaos.targets.target import RoleSeen, TargetError
from chaos.targets.unprivileged import command_line, give, server_user
from chaos.witness.proc_maps import anonymous_memories

STARTING: Final = "starting"
"""The role of a child that still has the postmaster's command line."""
SUPERUSER: Final = "crashbed"
DEFAULTS: Final = {"shared_buffers": "16MB", "max_wal_size": "64MB", "authentication_timeout": "15s"}
"""Small enough that buffers are evicted and WAL is recycled within a campaign, and that what waits for a silent client
ends within the harness's patience; `--pg-set` overrides them."""
_AUXILIARY: Final = {
    "startup": "startup",
    "checkpointer": "checkpointer",
    "background writer": "bgwriter",
    "walwriter": "walwriter",
    "autovacuum launcher": "autovacuum_launcher",
    "autovacuum worker": "autovacuum_worker",
    "logical replication launcher": "logical_replication_launcher",
    "io worker": "io_worker",
    "archiver": "archiver",
    "walsender": "walsender",
    "walreceiver": "walreceiver",
    "walsummarizer": "walsummarizer",
    "slotsync worker": "slotsync_worker",
}
"""The roles by what a command line begins with, after "postgres: "; whatever is none of them is a backend."""
_SHARED = re.compile(r" (?P<inode>\d+) +(?:/dev/shm/(?P<posix>PostgreSQL\.\d+)|/SYSV[0-9a-f]+ \(deleted\))$", re.M)
_IPC_RMID = 0


def role_of(command: bytes) -> str:
    """The role of a child of a postmaster by its command line."""
    text = command.partition(b"\0")[0].decode(errors="replace")
    title = text.removeprefix("postgres: ").strip()
    if title == text.strip():
        return STARTING
    return next((role for name, role in _AUXILIARY.items() if title.startswith(name)), "backend")


class PostgresTarget(PostmasterTarget):
    """One PostgreSQL over one data directory. Raises TargetError when there is no user to run it as."""

    name = "postgres"

    def __init__(self, data_directory: Path, *, programs: Programs, options: Mapping[str, str], log: Path) -> None:
        try:
            self._user = server_user()
        except LookupError as error:
            raise TargetError(f"{error}: make one, or run crashbed as an ordinary user") from error
        super().__init__(data_directory, log=log)
        self._programs = programs
        self._home = data_directory
        self._socket_directory = self._sockets / "socket"
        self._socket_directory.mkdir(mode=0o700)
        self._sockets.chmod(0o755)
        give(self._socket_directory, self._user)
        if not self._reaches(programs.program("postgres")):
            raise self._unreachable(f"{programs.bindir}, where its programs are", "choose others with --pg-bindir")
        if not self._reaches(self._socket_directory):
            raise self._unreachable(
                f"{self._sockets.parent}, where its socket goes", "set TMPDIR to a directory for all"
            )
        if not self._reaches(data_directory):
            self.data_directory = self._sockets / "data"
        self._options = {**DEFAULTS, **options, **SETTINGS}
        self._report = PostgresLog(log)
        self._seen: list[RoleSeen] = []
        self._known: dict[int, str] = {}

    @property
    def socket_directory(self) -> Path:
        """Where the socket lies."""
        return self._socket_directory

    @property
    def conninfo(self) -> str:
        """How libpq reaches the server."""
        return f"host={self._socket_directory} port=5432 user={SUPERUSER} dbname=postgres connect_timeout=5"

    @property
    def ready_generation(self) -> int:
        """The last generation of this postmaster whose log said that it was ready."""
        return self._report.ready_generation

    @property
    def ready_ns(self) -> int:
        """When the log was seen to say so."""
        return self._report.ready_ns

    def versions(self) -> dict[str, str]:
        """What is tested."""
        return {"server": f"PostgreSQL {self._programs.version}"}

    def make_data_directory(self, directory: Path) -> None:
        """A new, empty cluster. Raises TargetError when initdb fails."""
        # Made where its user can write, and brought to where it is wanted.
        made = self._socket_directory / "initdb"
        command = [str(self._programs.program("initdb")), "-D", str(made), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8"]
        command += ["--no-locale", "--no-sync", "--data-checksums", "--wal-segsize=1"]
        done = subprocess.run(
            command_line(self._user, command), capture_output=True, text=True, cwd=self._socket_directory, check=False
        )
        if done.returncode != 0:
            raise TargetError(f"initdb failed with status {done.returncode}:\n{done.stdout}{done.stderr}".rstrip())
        shutil.move(made, directory)

    def start(self) -> int:
        """Exec a postmaster and return its pid; `wait_ready` waits for it. Only from the main thread,
        because the death signal follows the thread that started it."""
        self._report.forget()
        self._known.clear()
        give(self.data_directory, self._user)
        self.data_directory.chmod(0o700)
        command = [str(self._programs.program("postgres")), "-D", str(self.data_directory)]
        command += ["-k", str(self._socket_directory), "-h", "", "-p", "5432"]
        for name, value in self._options.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command_line(self._user, command, lock=self.data_directory),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._socket_directory,
                start_new_session=True,
            )
        self._report.follow(self._process.pid)
        return self._process.pid

    def processes(self) -> list[ServerProcess]:
        """The postmaster's children in fork order, by the roles that /proc shows; the caller closes them."""
        self._look()
        return [replace(process, role=self._known.get(process.pid, STARTING)) for process in super().processes()]

    def memories(self, pid: int) -> frozenset[int] | None:
        """The main shared memory, which every child inherits."""
        return anonymous_memories(pid)

    def roles(self) -> list[RoleSeen]:
        """What was learned of children since the last call."""
        seen, self._seen = self._seen, []
        return seen

    def kill(self) -> None:
        """See `PostmasterTarget.kill`; the shared memory that a killed server leaves outside its directory goes too."""
        leftovers = list(_shared_memory(self._process.pid)) if self._process is not None else []
        super().kill()
        for segment in leftovers:
            _remove(segment)

    def close(self) -> None:
        """Kill what still runs, bring the cluster home, remove the socket's directory."""
        self.kill()
        if self.data_directory != self._home and self.data_directory.exists():
            shutil.rmtree(self._home, ignore_errors=True)
            shutil.move(self.data_directory, self._home)
        super().close()

    def _reaches(self, path: Path) -> bool:
        return self._user is None or self._user.reaches(path)

    def _unreachable(self, what: str, remedy: str) -> TargetError:
        assert self._user is not None
        shutil.rmtree(self._sockets, ignore_errors=True)
        return TargetError(
            f"PostgreSQL does not run as root, and the user {self._user.name} cannot reach {what}: {remedy}"
        )

    def check_files(self) -> None:
        """None: only the built-in server's files are known here."""

    def _look(self) -> None:
        self._report.read()
        for pid, role in self._report.roles().items():
            self._name(pid, role, "log")
        if self._process is None:
            return
        living = child_pids(self._process.pid)
        for gone in self._known.keys() - set(living):
            del self._known[gone]
        for pid in living:
            if pid not in self._known and (role := _role_in_proc(pid)) != STARTING:
                self._name(pid, role, "command line")
                self._known[pid] = role

    def _name(self, pid: int, role: str, source: str) -> None:
        self._seen.append(RoleSeen(time.monotonic_ns(), pid, role, source))


def _role_in_proc(pid: int) -> str:
    try:
        return role_of(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return STARTING


def _shared_memory(pid: int) -> Iterator[str | int]:
    """What a postmaster shares outside its data directory: names in /dev/shm, and System V segments by id."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return
    for match in {match.groups(): match for match in _SHARED.finditer(maps)}.values():
        # The kernel shows a System V segment's id as its inode (proc_pid_maps(5)).
        yield match["posix"] or int(match["inode"])


def _remove(segment: str | int) -> None:
    if isinstance(segment, str):
        Path("/dev/shm", segment).unlink(missing_ok=True)
    else:
        ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)  # one that has gone already is no harm
