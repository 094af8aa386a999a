"""A session that stands still in the middle of a transfer, so that another one waits for its row or its flush."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.points import Point, PointAction
from supervisor.roles import Role
from tests.support import wire_client as client
from tests.support.bank_client import set_up
from tests.support.scene import Points, state
from tests.support.server import LiveServer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import MakeServer

SEED, ELSEWHERE = 7, 8
"""The seed alone says between which accounts; these two transfers have none in common."""
_TRANSFER = "CALL bank(worker => 0, first => {operation}, transactions => 1, seed => {seed}, history => false)"


def with_bank(make_server: MakeServer, points: Points, code: Path | None = None) -> LiveServer:
    """A server whose sessions' points can be armed, with a bank."""
    # A WAL writer that flushes for others would take the turn of the session that is to be held up.
    server = make_server(points.options | {"wal_writer_delay": "10s"}, code=code).start()
    set_up(server)
    return server


def transfer(operation: int, seed: int = SEED) -> bytes:
    """The message that asks for a transfer."""
    return client.query(_TRANSFER.format(operation=operation, seed=seed))


@contextmanager
def held_up(server: LiveServer, points: Points, point: Point) -> Iterator[int]:
    """A session whose transfer, operation 1, stands still at a point; the pid. It goes on when the block ends."""
    arm = points.arm(Role.BACKEND, point, PointAction.SIGSTOP)
    with server.knock() as session:
        pid = session.log_in()
        session.say(transfer(1))
        assert points.wait_fired(arm) == pid
        wait_until(f"process {pid} to stop", lambda: state(pid) == "T")
        try:
            yield pid
        finally:
            server.signal_child(pid, signal.SIGCONT)
        assert client.errors(session.hear("Z")) == []


def passed(points: Points, point: Point) -> int:
    """How often backends have passed a point."""
    return points.map.counts().get((Role.BACKEND, point), 0)
