"""A client of the bank that keeps what it was told: operations by id, acknowledged or not."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

from tests.support.server import LiveServer

OPERATION = "CALL bank(worker => 0, first => {0}, transactions => 1, seed => {0}, history => false)"


def set_up(server: LiveServer, *, checkpoint: bool = False) -> None:
    """Make a bank; with a checkpoint, so that only what comes after it depends on WAL."""
    with server.connect() as session:
        session.execute("CALL bank_setup(accounts => 10)")
        if checkpoint:
            session.execute("CHECKPOINT")


def acknowledge(server: LiveServer, operations: Iterable[int]) -> set[int]:
    """Do these operations; those that the server acknowledged as committed. Some ask to be rolled back and are not."""
    done = set()
    with server.connect() as session:
        for operation in operations:
            try:
                row = session.execute(OPERATION.format(operation)).fetchone()
            except psycopg.errors.TransactionRollback:
                continue
            if row is not None and row[0] == 1:
                done.add(operation)
    return done


def transfers(server: LiveServer) -> set[int]:
    """The ids of the operations that the server holds."""
    with server.connect() as session:
        rows = session.execute("CALL bank_observe(after => 0)").fetchall()
    return {row[1] for row in rows if row[0] == "transfer" and isinstance(row[1], int)}


def bank_after_next_start(server: LiveServer) -> bool:
    """Start a server that has ended once more on its data, and say whether the bank is there."""
    server.target.close()
    again = LiveServer(server.directory)
    try:
        again.start()
        with again.connect() as session:
            return session.execute("CALL bank_observe(after => 0)").fetchone() is not None
    finally:
        again.close()
