"""Eight sessions that transfer between the same few accounts, without any crash.

A row that is updated by many has a chain of versions on its page, and the transactions that made them end in another
order than they were numbered. Pruning once took a version out of the middle of such a chain, and the account was
gone: no error, no crash. One session never shows it, for its transactions end in order.
"""

from __future__ import annotations

import threading

import pytest

from tests.support.server import LiveServer

SESSIONS = 8
TRANSFERS = 250


@pytest.mark.live
def test_no_row_is_lost_between_sessions(server: LiveServer) -> None:
    with server.connect() as connection:
        connection.execute("CALL bank_setup()")
    complaints: list[str] = []

    def work(worker: int) -> None:
        try:
            with server.connect() as session:
                session.execute(
                    f"CALL bank(worker => {worker}, first => {worker << 32}, transactions => {TRANSFERS}, "
                    f"seed => {worker + 77})"
                )
        except Exception as error:
            complaints.append(str(error))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(SESSIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert complaints == []
    with server.connect() as connection:
        rows = connection.execute("CALL bank_observe()").fetchall()
    balances = {row[1]: row[5] for row in rows if row[0] == "account"}
    assert set(balances) == set(range(1, 101))
    assert sum(balances.values()) == 100 * 1000
