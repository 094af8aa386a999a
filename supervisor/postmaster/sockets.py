"""The listening sockets: made at start, taken out of the wait set during a drain, removed at exit."""

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
            self.path.with_name(self.path.name + ".lock"), contents, directory=Path(contents.data_directory)
        )
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self.path.exists() and stat.S_ISSOCK(self.path.stat().st_mode):
                self.path.unlink()  # its lock file's process is gone, so it is a leftover
            self.socket.bind(str(self.path))
            self.path.chmod(0o777)
            self.socket.setblocking(False)
            self.socket.listen(backlog)
        except OSError as error:
            self.socket.close()
            self._lock.remove()
            raise StartupError(f'could not bind Unix-domain socket "{self.path}": {error.strerror}') from error

    def accept(self) -> socket.socket | None:
        """One waiting connection, or None when there is none after all."""
        try:
            connection, _ = self.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        connection.setblocking(False)
        return connection

    def touch(self) -> None:
        """Keep tidy-up jobs from taking the files for old ones."""
        for path in (self.path, self._lock.path):
            os.utime(path)

    def remove(self) -> None:
        """Stop listening and remove socket and lock file."""
        self.socket.close()
        self.path.unlink(missing_ok=True)
        self._lock.remove()
