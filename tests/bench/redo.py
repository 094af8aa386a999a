"""Redo: how fast each server repeats what its log says, after about 1, 10 and 100 MB of bank transfers.

A checkpoint, then transfers (two rows locked and changed, one inserted, one commit) until there is so much log, then
SIGKILL of a backend. Measured is the time from the first record to the last, by the server's own words: the journal's
`redo_begin` and `redo_end`, and PostgreSQL's log with milliseconds. Full-page writes, checksums and fsync are on; no
other checkpoint comes between. The log was just written and is in the page cache of both.

The two logs differ: PostgreSQL's records are other records. So there are three rates: bytes and records of each
server's own log, and transactions, which are the same work. PostgreSQL's are counted by its `pg_waldump --stats`
before the blow.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench import results
from tests.bench.client import Announcements, Client, connect, kill_and_wait_for_hangup
from tests.bench.servers import Builtin, Postgres

SIZES_MB = {1: 5, 10: 3, 100: 1}
"""How many rounds with how much log."""
SESSIONS = 4
PATIENCE_S = 600.0
BATCH = 250
GUESSED_BYTES_PER_TRANSFER = 500
OPTIONS = {"checkpoint_timeout": "86400", "max_wal_size": "4GB"}

_POSTGRES_SETUP = (
    "CREATE TABLE bank_account (id bigint PRIMARY KEY, balance bigint)",
    "CREATE TABLE bank_transfer (op bigint PRIMARY KEY, worker bigint, source bigint, target bigint, amount bigint)",
    "INSERT INTO bank_account SELECT n, 1000 FROM generate_series(1, 100) n",
    "CREATE SEQUENCE operation CACHE 1000",
)
_POSTGRES_LOAD = f"""
DO $$
DECLARE
  source_id bigint;
  target_id bigint;
BEGIN
  FOR i IN 1..{BATCH} LOOP
    source_id := 1 + floor(random() * 100);
    target_id := 1 + (source_id + floor(random() * 99)::bigint) % 100;
    PERFORM FROM bank_account WHERE id IN (source_id, target_id) ORDER BY id FOR UPDATE;
    UPDATE bank_account SET balance = balance - 1 WHERE id = source_id;
    UPDATE bank_account SET balance = balance + 1 WHERE id = target_id;
    INSERT INTO bank_transfer VALUES (nextval('operation'), 1, source_id, target_id, 1);
    COMMIT;
  END LOOP;
END $$"""
_STARTS = re.compile(rb"^([0-9.]+) .*redo starts at ([0-9A-F]+)/([0-9A-F]+)", re.MULTILINE)
_DONE = re.compile(rb"^([0-9.]+) .*redo done at ([0-9A-F]+)/([0-9A-F]+)", re.MULTILINE)
_TOTAL = re.compile(r"^Total\s+([0-9]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Redo:
    """One redo: what the log held, and how long it took."""

    megabytes: float
    records: int
    transactions: int
    seconds: float

    def rates(self) -> dict[str, float]:
        """Per second."""
        seconds = max(self.seconds, 0.001)  # the resolution of PostgreSQL's log
        return {
            "MB/s": self.megabytes / seconds,
            "records/s": self.records / seconds,
            "transactions/s": self.transactions / seconds,
        }


class BuiltinLoad:
    """The built-in server under transfers."""

    def __init__(self, server: Builtin) -> None:
        self._server = server
        self._first = 1
        self._bytes_per_transfer = float(GUESSED_BYTES_PER_TRANSFER)
        client, _ = connect(server.socket)
        client.ask("CALL bank_setup()")
        client.close()

    def redo(self, megabytes: int) -> Redo:
        """Fill the log, crash, and read from the journal what redo did."""
        server = self._server
        clients = [connect(server.socket)[0] for _ in range(SESSIONS)]
        clients[0].ask("CHECKPOINT")
        each = max(1, int(megabytes * 1e6 / self._bytes_per_transfer) // SESSIONS)
        for worker, client in enumerate(clients):
            client.socket.settimeout(PATIENCE_S)
            client.say(f"CALL bench_load(worker => {worker}, first => {self._first}, transactions => {each})")
            self._first += each
        for client in clients:
            client.hear()
        server.records()
        crash(clients, server.log)
        events = {record["ev"]: record for record in server.records()}
        begin, end = events["redo_begin"], events["redo_end"]
        found = Redo((end["lsn"] - begin["lsn"]) / 1e6, end["records"], SESSIONS * each, (end["t"] - begin["t"]) / 1e9)
        self._bytes_per_transfer = found.megabytes * 1e6 / found.transactions
        return found


class PostgresLoad:
    """PostgreSQL under the same transfers."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        client, _ = connect(server.socket)
        for statement in _POSTGRES_SETUP:
            client.ask(statement)
        client.close()

    def redo(self, megabytes: int) -> Redo:
        """Fill the log, count its records, crash, and read from the log how long redo took."""
        server = self._server
        client, _ = connect(server.socket)
        client.socket.settimeout(PATIENCE_S)
        client.ask("CHECKPOINT")
        start = _text(client, "SELECT redo_lsn FROM pg_control_checkpoint()")
        # What fills the log need not wait for the disk; the last commit does, so all of it is there to be repeated.
        client.ask("SET synchronous_commit = off")
        transactions, written = 0, 0.0
        while written < megabytes * 1e6:
            client.ask(_POSTGRES_LOAD)
            transactions += BATCH
            written = float(_text(client, f"SELECT pg_current_wal_insert_lsn() - '{start}'"))
        client.ask("SET synchronous_commit = on")
        client.ask(server.touch)
        end = _text(client, "SELECT pg_current_wal_flush_lsn()")
        records = int(_found(_TOTAL, server.waldump("--stats", "--start", start, "--end", end)))
        looked = server.log.stat().st_size
        crash([client], server.log)
        said = server.log.read_bytes()[looked:]
        begin, done = _STARTS.search(said), _DONE.search(said)
        if begin is None or done is None:
            raise RuntimeError(f"{server.log} does not tell of a redo:\n{said.decode(errors='replace')}")
        seconds = float(done[1]) - float(begin[1])
        return Redo((_lsn(done[2], done[3]) - _lsn(begin[2], begin[3])) / 1e6, records, transactions, seconds)


def crash(clients: list[Client], log: Path) -> None:
    """SIGKILL a backend and return when the server is ready again."""
    announcements = Announcements(log)
    kill_and_wait_for_hangup(clients, clients[0].pid)
    announcements.wait(PATIENCE_S)
    announcements.close()


def _text(client: Client, statement: str) -> str:
    (value,) = client.ask(statement)
    assert value is not None
    return value.decode()


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    if match is None:
        raise RuntimeError(f"pg_waldump said no total:\n{text}")
    return match[1]


def _lsn(high: bytes, low: bytes) -> int:
    return int(high, 16) << 32 | int(low, 16)


def measure(sizes: dict[int, int]) -> dict[str, Any]:
    """Both servers in turn; per size, each round's figures and the ratio of the median rates."""
    with results.workplace() as directory:
        builtin = Builtin(
            directory, {**OPTIONS, "shared_preload_libraries": "tests.bench.touch,tests.bench.load,workloads.bank"}
        )
        postgres = Postgres(directory, {**OPTIONS, "autovacuum": "off", "log_line_prefix": "%n "})
        try:
            builtin.start()
            postgres.start()
            loads = {builtin.name: BuiltinLoad(builtin), postgres.name: PostgresLoad(postgres)}
            found: dict[int, dict[str, list[Redo]]] = {}
            for megabytes, rounds in sizes.items():
                found[megabytes] = {name: [] for name in loads}
                for _ in range(rounds):
                    for name, load in loads.items():
                        found[megabytes][name].append(load.redo(megabytes))
            versions = {server.name: server.version() for server in (builtin, postgres)}
        finally:
            builtin.stop()
            postgres.stop()
    return {"versions": versions, "sizes": {str(size): _figures(rounds) for size, rounds in found.items()}}


def _figures(rounds: dict[str, list[Redo]]) -> dict[str, Any]:
    rates = {
        name: {what: results.summary([redo.rates()[what] for redo in made]) for what in made[0].rates()}
        for name, made in rounds.items()
    }
    ours, theirs = rates.values()
    return {
        "rounds": {name: [asdict(redo) for redo in made] for name, made in rounds.items()},
        "rates": rates,
        "ratio": {what: ours[what]["median"] / theirs[what]["median"] for what in ours},
    }


def main(sizes: dict[int, int] | None = None) -> None:
    """Measure, print, keep."""
    result = measure(SIZES_MB if sizes is None else sizes)
    print("redo, from the first record to the last; medians")
    rows: list[tuple[object, ...]] = []
    for size, figures in result["sizes"].items():
        for name, rates in figures["rates"].items():
            made = figures["rounds"][name]
            middle = [results.summary([redo[field] for redo in made])["median"] for field in ("megabytes", "seconds")]
            counts = [
                int(results.summary([redo[field] for redo in made])["median"]) for field in ("records", "transactions")
            ]
            rows.append(
                (
                    f"{size} MB, {name}",
                    middle[0],
                    *counts,
                    middle[1] * 1e3,
                    *(_short(rates[what]["median"]) for what in rates),
                )
            )
        rows.append((f"{size} MB, ratio", "", "", "", "", *figures["ratio"].values()))
    results.table(("", "MB", "records", "transactions", "ms", "MB/s", "records/s", "transactions/s"), rows)
    results.write("redo", result)


def _short(rate: float) -> object:
    return rate if rate < 1_000 else round(rate)
