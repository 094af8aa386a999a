"""Whether a server of any kind serves: an HTTP answer, a connection, or a command's exit status.

Owns one question with one answer, asked of this machine alone and bounded in time. That it was answered at some time
is what the harness saw; it never says which process answered.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
from urllib.parse import urlsplit

from chaos.command.plan import Ready

PROBE_TIMEOUT_S = 2.0
BAD_REQUEST = 400


def answers(ready: Ready) -> bool:
    """Ask once. False for anything but the answer that the plan wants."""
    try:
        if ready.http is not None:
            return _http_status(ready.http) < BAD_REQUEST
        if ready.tcp is not None:
            host, _, port = ready.tcp.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S).close()
        elif ready.unix is not None:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(PROBE_TIMEOUT_S)
                probe.connect(ready.unix)
        elif ready.command is not None:
            done = subprocess.run(
                ready.command,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=PROBE_TIMEOUT_S,
            )
            return done.returncode == 0
        return True
    except (OSError, http.client.HTTPException, subprocess.TimeoutExpired):
        return False


def _http_status(url: str) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        return connection.getresponse().status
    finally:
        connection.close()
