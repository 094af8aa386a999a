"""Private memory of an idle backend, which is what one more connection costs, on both servers.

From smaps_rollup: the pages that only this process maps. What backends share with the postmaster (the interpreter, the
imported modules, the buffers) is not counted, on either side.
"""

from __future__ import annotations

import select
from pathlib import Path
from typing import Any

from tests.bench import results
from tests.bench.client import Client
from tests.bench.servers import Builtin, Postgres, Server, sessions

BACKENDS = 8
SETTLE_S = 0.5


def private_bytes(pid: int) -> int:
    """Private_Clean and Private_Dirty of a process."""
    found = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            found += int(line.split()[1]) * 1024
    return found


def measure() -> dict[str, Any]:
    """Idle since the connection, and after a transaction."""
    with results.workplace() as directory:
        servers: tuple[Server, ...] = (Builtin(directory), Postgres(directory))
        figures: dict[str, Any] = {}
        try:
            for server in servers:
                server.start()
                clients = sessions(server, BACKENDS)
                fresh = _settled(clients)
                for client in clients:
                    client.ask(server.touch)
                figures[server.name] = {
                    "fresh": results.summary(fresh),
                    "after_transaction": results.summary(_settled(clients)),
                }
                for client in clients:
                    client.close()
        finally:
            for server in servers:
                server.stop()
    ours, theirs = (figures[server.name] for server in servers)
    return {
        "servers": figures,
        "ratio": {what: ours[what]["median"] / theirs[what]["median"] for what in ours},
    }


def _settled(clients: list[Client]) -> list[float]:
    select.select((), (), (), SETTLE_S)
    return [private_bytes(client.pid) / 1e6 for client in clients]


def main() -> None:
    """Measure, print, keep."""
    result = measure()
    print("private memory of an idle backend")
    rows: list[tuple[object, ...]] = [
        (name, figures["fresh"]["median"], figures["after_transaction"]["median"])
        for name, figures in result["servers"].items()
    ]
    rows.append(("ratio", result["ratio"]["fresh"], result["ratio"]["after_transaction"]))
    results.table(("MB, median", "since connecting", "after a transaction"), rows)
    results.write("idle-memory", result)
