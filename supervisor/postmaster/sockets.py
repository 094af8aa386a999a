"""The listening sockets: made at start, taken out of the wait set during a drain, removed at exit.

Removing them touches only what this process made: a socket that lies in a shared directory may have been swept away
and be another server's by now.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from supervisor.errors import StartupError
from supervisor.postmaster import lockfile

# sun_path holds 108 bytes with its NUL.
MAX_PATH_BYTES = 107


def path_of(directory: Path, port: int) -> Path:
    """Where the socket of a port lies: libpq's naming."""
    return directory / f".s.PGSQL.{port}"


class ListeningSocket:
    """One Unix socket and its lock file."""

    def __init__(self, directory: Path, contents: lockfile.Contents, *, backlog: int) -> None:
        self.path = path_of(directory, contents.port)
        if len(os.fsencode(self.path)) > MAX_PATH_BYTES:
            raise StartupError(
                f'Unix-domain socket path "{self.path}" is too long (maximum {MAX_PATH_BYTES} bytes)',
                hint="Set unix_socket_directories to a shorter directory.",
            )
        if not directory.is_dir():
            raise StartupError(
                f'could not create Unix-domain socket in "{directory}": no such directory',
                hint="Create it, or set unix_socket_directories to one that exists.",
            )
        self._lock = lockfile.create(
            self.path.with_name(self.path.name + ".lock"), contents, lockfile.with_socket(self.path)
        )
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self.path.exists() and stat.S_ISSOCK(self.path.stat().st_mode):
                self.path.unlink()  # its lock file's process is gone, so it is a leftover
            self.socket.bind(str(self.path))
            self.path.chmod(0o777)
            self._identity = self._look()
            self.socket.setblocking(False)
            self.socket.listen(backlog)
        except OSError as error:
            self.socket.close()
            self._lock.remove()
            raise StartupError(
                f'could not bind Unix-domain socket "{self.path}": {error.strerror}',
                hint=f"Is another postmaster already running on port {contents.port}? "
                f'If not, remove socket file "{self.path}" and retry.',
            ) from error

    def accept(self) -> socket.socket | None:
        """One waiting connection, or None when there is none after all; OSError when the kernel has no room."""
        try:
            connection, _ = self.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        connection.setblocking(False)
        return connection

    def touch(self) -> None:
        """Keep tidy-up jobs from taking the files for old ones; one that is gone already is left."""
        for path in (self.path, self._lock.path):
            try:
                os.utime(path)
            except OSError:
                pass  # As PostgreSQL: who removes the socket of a running server sees that it is gone.

    def remove(self) -> None:
        """Stop listening and remove socket and lock file, as far as they still are this process's."""
        self.socket.close()
        if self._look() == self._identity:
            self.path.unlink(missing_ok=True)
        self._lock.remove()

    def _look(self) -> tuple[int, int] | None:
        try:
            status = self.path.lstat()
        except OSError:
            return None
        return status.st_dev, status.st_ino
