"""The crash cycle: SIGKILL of one of many idle backends, until a client can work again.

Both servers stand side by side on one machine and one file system and are struck in turn, so that whatever else the
machine does meets both. After the SIGKILL all sessions lose their connections; then the client waits until the server's
log says that it is ready, connects, and runs the smallest durable transaction. Measured are the moment that the new
session is ready and the moment that the transaction is acknowledged.

`crash-cycle` is that with eight backends, `crash-cycle-backends` with 8, 100 and 1,000, in which ending the others is
what grows.

Two variants beside that. *Knocking*: the client does not look into the log but tries to connect, a millisecond after
each refusal, so that the server refuses it by a process of its own while it recovers. *syncfs*: PostgreSQL with
`recovery_init_sync_method = syncfs`, because its default syncs every file of the data directory one by one.

Nothing is switched off on either side: fsync, full-page writes, checksums, the checkpoint that ends recovery.
PostgreSQL runs with its defaults but for shared_buffers, which is the built-in server's, and max_connections where
there are many. Each acknowledged value is one
more than the last: whoever forgot a commit would be found out.
"""

from __future__ import annotations

import resource
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench import results
from tests.bench.client import Announcements, connect, kill_and_wait_for_hangup
from tests.bench.servers import Builtin, Postgres, Server, sessions

BACKENDS = 8
PAIRS = 20
PAIRS_OF_BACKENDS = {8: 10, 100: 6, 1_000: 3}
"""How many rounds with how many backends: a thousand take seconds to connect."""
SPARE_CONNECTIONS = 10
SETTLE_S = 0.25
"""Between the last connection and the blow: idle means that nobody is still starting."""
SETTLE_PER_BACKEND_S = 0.001


@dataclass(slots=True)
class Crash:
    """One crash, in ms since the SIGKILL."""

    hung_up: float
    ready: float
    commit: float
    refused: int
    phases: dict[str, float] = field(default_factory=dict)


def crash(server: Server, backends: int, victim: int, *, knock: bool = False) -> tuple[Crash, int]:
    """Crash a server that has so many idle backends; (the times, the value that the commit acknowledged)."""
    clients = sessions(server, backends)
    select.select((), (), (), SETTLE_S + SETTLE_PER_BACKEND_S * backends)
    server.records()
    announcements = Announcements(server.log)
    struck, lost = kill_and_wait_for_hangup(clients, clients[victim].pid)
    if not knock:
        announcements.wait()
    announcements.close()
    client, refused = connect(server.socket)
    ready = time.monotonic_ns()
    (value,) = client.ask(server.touch)
    commit = time.monotonic_ns()
    client.close()
    assert value is not None
    made = Crash((lost - struck) / 1e6, (ready - struck) / 1e6, (commit - struck) / 1e6, refused)
    made.phases = phases(server.records(), struck)
    return made, int(value)


def phases(records: Sequence[dict[str, Any]], struck: int) -> dict[str, float]:
    """When the built-in server's journal says that it got to each step, in ms since the blow."""
    times: dict[str, int] = {}

    def note(name: str, record: dict[str, Any], *, last: bool = False) -> None:
        if last or name not in times:
            times[name] = record["t"]

    for record in records:
        if record["t"] < struck:
            continue
        match record["ev"]:
            case "reap" if record.get("role") == "startup":
                note("startup reaped", record)
            case "reap" if "startup forked" not in times:
                note("noticed", record)
                note("last child reaped", record, last=True)
            case "signal" if "startup forked" not in times:
                note("all told to quit", record, last=True)
            case "memory_closed":
                note("old memory unmapped", record)
            case "memory":
                note("new memory", record)
            case "fork" if record["role"] in ("startup", "checkpointer", "bgwriter"):
                note(f"{record['role']} forked", record)
            case "redo_begin" | "redo_end" | "checkpoint_begin" | "checkpoint_end" | "ready":
                note(record["ev"].replace("_", " "), record)
            case "fork" if record["role"] == "backend":
                note("backend forked", record)
    return {name: (t - struck) / 1e6 for name, t in times.items()}


def compare(
    pairs: int = PAIRS,
    backends: int = BACKENDS,
    *,
    knock: bool = False,
    postgres_options: dict[str, str] | None = None,
    both_options: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Strike both in turn; the figures of both and their ratios."""
    with results.workplace() as directory:
        builtin = Builtin(directory, both_options)
        postgres = Postgres(directory, {**(both_options or {}), **(postgres_options or {})})
        servers: tuple[Server, ...] = (builtin, postgres)
        made: dict[str, list[Crash]] = {server.name: [] for server in servers}
        values = dict.fromkeys(made, 0)
        try:
            for server in servers:
                server.start()
            for pair in range(-1, pairs):
                for server in servers:
                    one, value = crash(server, backends, pair % backends, knock=knock)
                    if value != values[server.name] + 1:
                        raise AssertionError(f"{server.name} answered {value} after {values[server.name]}")
                    values[server.name] = value
                    if pair >= 0:  # the first is a warm-up
                        made[server.name].append(one)
            versions = {server.name: server.version() for server in servers}
        finally:
            for server in servers:
                server.stop()
    return {
        "backends": backends,
        "pairs": pairs,
        "knock": knock,
        "options": both_options or {},
        "postgres_options": postgres_options or {},
        "versions": versions,
        "servers": {name: _figures(crashes) for name, crashes in made.items()},
        "ratio": {
            what: _median(made[builtin.name], what) / _median(made[postgres.name], what)
            for what in ("hung_up", "ready", "commit")
        },
    }


def _figures(crashes: Sequence[Crash]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for one in crashes for name in one.phases))
    return {
        **{what: results.summary([getattr(one, what) for one in crashes]) for what in ("hung_up", "ready", "commit")},
        "refused": results.summary([one.refused for one in crashes]),
        "phases": {
            name: results.summary([one.phases[name] for one in crashes if name in one.phases]) for name in names
        },
    }


def _median(crashes: Sequence[Crash], what: str) -> float:
    return float(results.summary([getattr(one, what) for one in crashes])["median"])


def show(name: str, result: dict[str, Any]) -> None:
    """Print what `compare` found."""
    print(f"{name}: {result['backends']} idle backends, {result['pairs']} pairs")
    rows = []
    for what, label in (("hung_up", "all hung up"), ("ready", "ready"), ("commit", "first commit")):
        for name, figures in result["servers"].items():
            one = figures[what]
            rows.append((f"{label}, {name}", one["min"], one["p25"], one["median"], one["p75"], one["max"]))
        rows.append((f"{label}, ratio", "", "", result["ratio"][what], "", ""))
    results.table(("ms since SIGKILL", "min", "p25", "median", "p75", "max"), rows)
    found = result["servers"]["crashbed"]["phases"]
    ordered = sorted(found.items(), key=lambda item: float(item[1]["median"]))
    results.table(
        ("phase (ms since SIGKILL)", "min", "median", "p75"),
        [(name, one["min"], one["median"], one["p75"]) for name, one in ordered],
    )


def main(pairs: int = PAIRS) -> None:
    """Measure, print, keep."""
    variants: tuple[tuple[str, bool, dict[str, str]], ...] = (
        ("crash-cycle", False, {}),
        ("crash-cycle-knocking", True, {}),
        ("crash-cycle-syncfs", False, {"recovery_init_sync_method": "syncfs"}),
    )
    for name, knock, options in variants:
        result = compare(pairs, knock=knock, postgres_options=options)
        show(name, result)
        results.write(name, result)


def backends_main(pairs_of: dict[int, int] | None = None) -> None:
    """The same with more and more backends: measure, print, keep."""
    chosen = PAIRS_OF_BACKENDS if pairs_of is None else pairs_of
    _allow_descriptors(2 * max(chosen) + 256)
    found = {}
    for backends, pairs in chosen.items():
        connections = {"max_connections": str(max(100, backends + SPARE_CONNECTIONS))}
        found[backends] = compare(pairs, backends, both_options=connections)
    print("crash-cycle-backends: ms since SIGKILL, medians")
    rows: list[tuple[object, ...]] = []
    for backends, result in found.items():
        ours, theirs = result["servers"].values()
        reaped = ours["phases"].get("last child reaped", {}).get("median", "")
        rows.append((f"{backends} backends, last child reaped", reaped, "", ""))
        for what, label in (("hung_up", "all hung up"), ("ready", "ready"), ("commit", "first commit")):
            medians = ours[what]["median"], theirs[what]["median"]
            rows.append((f"{backends} backends, {label}", *medians, result["ratio"][what]))
    results.table(("", *(next(iter(found.values()))["servers"]), "ratio"), rows)
    results.write("crash-cycle-backends", {"backends": {str(backends): result for backends, result in found.items()}})


def _allow_descriptors(count: int) -> None:
    """Raise this process's limit of open files, which the servers inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise RuntimeError(f"{count} open files are needed and the hard limit is {hard}: raise it (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
