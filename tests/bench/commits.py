"""Durable bank transfers per second, against what the disk can do for one writer.

The yardstick is 8 KiB overwritten and fdatasync'd in a file that was written before, over and over, by one process: the
least that a commit must do if nobody shares its sync. A transfer is two rows locked and changed and one inserted, with
its invocation and its answer written to a history file: the load that campaigns run. Yardstick and load alternate.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tests.bench import results
from tests.bench.client import connect
from tests.bench.servers import Builtin, sessions

SESSIONS = (1, 2, 8, 32)
TRANSACTIONS = 2_000
ROUNDS = 5
SYNCS = 2_000


def fdatasync_rate(directory: Path) -> float:
    """Overwrites of 8 KiB, each made durable, per second."""
    path = directory / "yardstick"
    size = 16 << 20
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, bytes(size), 0)
        os.fsync(descriptor)
        block = bytes(range(256)) * 32
        began = time.monotonic()
        for number in range(SYNCS):
            os.pwrite(descriptor, block, number * len(block) % size)
            os.fdatasync(descriptor)
        return SYNCS / (time.monotonic() - began)
    finally:
        os.close(descriptor)
        path.unlink()


def transfers_rate(server: Builtin, count: int, first: int) -> tuple[float, int]:
    """(committed transfers per second of so many sessions at once, the next operation number)."""
    clients = sessions(server, count)
    each = TRANSACTIONS // count
    began = time.monotonic()
    for worker, client in enumerate(clients):
        client.say(f"CALL bank(worker => {worker}, first => {first}, transactions => {each}, seed => {first})")
        first += each
    committed = 0
    for client in clients:
        (tally,) = client.hear()
        committed += int(tally or 0)
    took = time.monotonic() - began
    for client in clients:
        client.close()
    return committed / took, first


def measure() -> dict[str, Any]:
    """Yardstick and load in turn."""
    yardstick: list[float] = []
    rates: dict[int, list[float]] = {count: [] for count in SESSIONS}
    with results.workplace() as directory:
        server = Builtin(directory)
        try:
            server.start()
            client, _ = connect(server.socket)
            client.ask("CALL bank_setup()")
            client.close()
            first = 1
            for attempt in range(-1, ROUNDS):
                rate = fdatasync_rate(directory)
                if attempt >= 0:
                    yardstick.append(rate)
                for count in SESSIONS:
                    rate, first = transfers_rate(server, count, first)
                    if attempt >= 0:
                        rates[count].append(rate)
        finally:
            server.stop()
    return {
        "fdatasync": results.summary(yardstick),
        "transfers": {str(count): results.summary(found) for count, found in rates.items()},
        "ratio": {
            str(count): results.summary(found)["median"] / results.summary(yardstick)["median"]
            for count, found in rates.items()
        },
    }


def main() -> None:
    """Measure, print, keep."""
    result = measure()
    print("durable bank transfers per second")
    one = result["fdatasync"]
    rows: list[tuple[object, ...]] = [("fdatasync, one writer", one["min"], one["median"], one["max"], "1.00")]
    for count, found in result["transfers"].items():
        rows.append(
            (
                f"bank, {count} session{'s' if int(count) > 1 else ''}",
                found["min"],
                found["median"],
                found["max"],
                result["ratio"][count],
            )
        )
    results.table(("per second", "min", "median", "max", "of fdatasync"), rows)
    results.write("commits", result)
