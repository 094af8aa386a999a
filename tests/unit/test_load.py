"""The load's count of acknowledgements, and the requests that only the harness sends.

A kill is placed by that count, so a file that is missed delays it for ever, and one of an earlier process of the same
pid brings it too early. Files are looked for among a process's own descriptors; what was written by a process that
was never seen with its file open must be counted all the same when the load is over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.load import Acknowledgements, outside_requests, probe_request
from chaos.plan import CampaignPlan
from workloads.append import Append
from workloads.bank import Bank
from workloads.history import HistoryWriter
from workloads.workload import READ_KIND, ROLLBACK_KIND, Request, Workload, cycle_of, operation_id

REQUEST = Request(1, 0, "transfer", {"source": 1, "target": 2, "amount": 3})
GONE = 1 << 22  # above pid_max's largest value: nobody has it
PLAN = CampaignPlan(seed=7).cycle(3)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[HistoryWriter]:
    """A history of this process, which is alive and has it open."""
    history = HistoryWriter(str(tmp_path), os.getpid(), time.monotonic_ns)
    yield history
    history.close()


@pytest.fixture
def count(tmp_path: Path) -> Iterator[Acknowledgements]:
    acknowledgements = Acknowledgements(tmp_path, [os.getpid(), GONE])
    yield acknowledgements
    acknowledgements.close()


def test_acknowledgements_are_counted_as_they_are_written(count: Acknowledgements, writer: HistoryWriter) -> None:
    assert count.read() == 0
    for told in (1, 2, 3):
        writer.invoke(REQUEST)
        assert count.read() == told - 1, "asked is not told"
        writer.ok(REQUEST)
        assert count.read() == told
    writer.fail(REQUEST, "40001")
    writer.unknown(REQUEST, None)
    assert count.read() == 3


def test_a_file_is_found_when_it_is_made_and_however_many_there_are(tmp_path: Path, count: Acknowledgements) -> None:
    assert count.read() == 0
    for number in range(200):
        (tmp_path / f"{os.getpid()}-{number}.jsonl").write_bytes(b'\n{"ev":"ok"}')
    history = HistoryWriter(str(tmp_path), os.getpid(), time.monotonic_ns)
    history.ok(REQUEST)
    assert count.read() == 1, "files of the same pid that it has not open are of others"
    history.close()


def test_the_dead_are_counted_when_the_load_is_over(tmp_path: Path, count: Acknowledgements) -> None:
    now = time.monotonic_ns()
    (tmp_path / f"{GONE}-{now}.jsonl").write_bytes(b'\n{"ev":"invoke"}\n{"ev":"ok"}\n{"ev":"ok"')
    (tmp_path / f"{GONE}-{now - 3600 * 10**9}.jsonl").write_bytes(b'\n{"ev":"ok"}')
    (tmp_path / "observed.jsonl").write_bytes(b'\n{"ev":"ok"}')
    assert count.read() == 0, "a process that is gone has nothing open"
    count.find_all()
    assert count.read() == 2, "its own file alone, and not that of an hour ago"
    count.find_all()
    assert count.read() == 2, "no file is counted twice"


def test_other_files_of_the_process_are_let_alone(tmp_path: Path, count: Acknowledgements) -> None:
    beside = tmp_path.parent / f"{tmp_path.name}-too.jsonl"
    with beside.open("wb") as other:
        other.write(b'\n{"ev":"ok"}')
        other.flush()
        assert count.read() == 0


def test_outside_requests_are_those_that_the_server_draws() -> None:
    requests = list(outside_requests(Bank(), PLAN))
    assert len(requests) == PLAN.outside_operations
    ids = [request.operation for request, _ in requests]
    assert len(set(ids)) == len(ids) and {cycle_of(id_) for id_ in ids} == {3}
    worker = len(PLAN.worker_seeds)
    for request, seed in requests:
        assert request.worker == worker
        assert next(Bank().requests(worker, request.operation, 1, seed)) == request


@pytest.mark.parametrize("workload", [Bank(), Append()], ids=lambda workload: workload.name)
def test_the_first_sign_of_life_commits_a_change_under_an_id_of_its_own(workload: Workload) -> None:
    workers = len(PLAN.worker_seeds)
    for cycle in range(50):
        plan = CampaignPlan(seed=7).cycle(cycle)
        request, seed = probe_request(workload, plan)
        assert request.kind not in (ROLLBACK_KIND, READ_KIND)
        assert request.operation == operation_id(cycle, workers + 1, 0)
        assert next(workload.requests(workers + 1, request.operation, 1, seed)) == request
