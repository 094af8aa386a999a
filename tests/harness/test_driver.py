"""The outside client's history, where a connection is lost right after a refusal.

What a client was told decides whether a loss is the database's fault. A harness that keeps the SQLSTATE of an earlier
refusal and reads it into a lost connection would record "failed" where no answer came, and then accuse a healthy
server of resurrection. So: one request that is refused, one whose backend is SIGKILLed before it can answer.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.driver import OutsideClient, connect
from tests.support.server import LiveServer
from tests.support.waiting import wait_until
from workloads.bank import Bank
from workloads.history import HistoryWriter, parse_records
from workloads.workload import ROLLBACK_KIND, Request


def request_of(operation: int, *, rollback: bool) -> tuple[Request, int]:
    """A request of either kind, with the seed that makes the server draw the same."""
    for seed in range(1000):
        request = next(Bank().requests(1, operation, 1, seed))
        if (request.kind == ROLLBACK_KIND) is rollback:
            return request, seed
    raise AssertionError("a thousand seeds, and none gives such a request")


@pytest.mark.live
def test_a_lost_connection_is_no_answer(server: LiveServer, tmp_path: Path) -> None:
    with server.connect() as connection:
        connection.execute("CALL bank_setup()")
    history = HistoryWriter(str(tmp_path), 1, time.monotonic_ns)
    requests = [request_of(1, rollback=True), request_of(2, rollback=False)]
    backend: list[int] = []

    def stop_before_the_second() -> Iterator[tuple[Request, int]]:
        yield requests[0]
        # The first was answered; the backend is stopped before the second is sent, and can never answer it.
        process = next(p for p in server.target.processes() if p.pid == client.worker.backend_pid)
        backend.append(process.pid)
        process.signal(signal.SIGSTOP)
        yield requests[1]

    client = OutsideClient(connect(server.target.conninfo), "bank", stop_before_the_second(), history)

    def second_is_sent() -> bool:
        client.read()
        return bool(backend)

    wait_until("the refusal of the first request", second_is_sent)
    victim = next(p for p in server.target.processes() if p.pid == backend[0])
    victim.signal(signal.SIGKILL)

    def over() -> bool:
        client.read()
        return client.done

    wait_until("the loss of the connection", over)
    client.close()
    records, _ = parse_records(Path(history.path).read_bytes())
    told = {(record["op"], record["ev"]): record.get("sqlstate") for record in records}
    assert told[1, "fail"] == "40000"
    assert told.keys() == {(1, "invoke"), (1, "fail"), (2, "invoke"), (2, "unknown")}
    assert told[2, "unknown"] is None
