"""The process of the workers outside a server, when there is no server or no such process.

What could go wrong: a campaign that waits for ever for workers that never connected, or for a process that has ended;
one whose end takes as long as its workers' patience.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.client import Job, Order
from chaos.drivers.clients import Clients
from chaos.errors import CampaignError
from chaos.plan import CampaignPlan
from chaos.targets.builtin import CODE_ROOT
from tests.support.waiting import wait_until
from workloads.history import HistoryWriter
from workloads.registry import WORKLOADS

pytestmark = pytest.mark.live

BANK = WORKLOADS["bank"]
PLAN = CampaignPlan(seed=1, backends=2, point_one_in=0).cycle(0)


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[Clients]:
    history = HistoryWriter(str(tmp_path), os.getpid(), time.monotonic_ns)
    driver = Clients(f"host={tmp_path} port=5432 connect_timeout=30", tmp_path, history, CODE_ROOT)
    yield driver
    driver.close()
    history.close()


def test_a_server_that_is_not_there_is_told(clients: Clients) -> None:
    load = clients.load(BANK, PLAN)
    assert "No such file or directory" in load.refusal
    wait_until("the end of the load", load.over)
    assert load.acknowledged() == 0
    assert (load.backends(), load.refusals(), load.complaints()) == ([], [], [])
    load.close()


def test_a_process_that_has_ended_is_an_error_of_the_harness(clients: Clients) -> None:
    clients._process.kill()
    with pytest.raises(CampaignError, match="the process of the workers ended with status -9"):
        clients.load(BANK, PLAN)


def test_workers_that_wait_for_a_server_do_not_hold_up_the_end(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody listens and never answers."""
    monkeypatch.chdir(tmp_path)  # a socket's path holds 107 bytes
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(".s.PGSQL.5432")
        listening.listen()
        conninfo = f"host={tmp_path} port=5432 connect_timeout=30"
        clients.order(Order(conninfo, BANK.name, str(tmp_path), clients.pid, (Job(0, ()),)))
        before = time.monotonic()
        clients.close()
        assert time.monotonic() - before < 10
        assert clients._process.returncode == -9
