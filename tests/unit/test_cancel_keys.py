"""Cancel requests: whose statement may be given up, and what is said of it.

What could go wrong: a key that is compared with every slot, so that one's own secret cancels everybody; a key that
outlives its backend and hits the next one in the slot; one that is shorter than the secret and counts as right because
it begins like it; a secret in the log. And a request that cannot be meant for anybody must not reach `kill`, where pid
0 and negative ones mean whole groups.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from supervisor.processes import cancel_request
from supervisor.processes.cancel_request import send_cancel_request
from supervisor.shmem.cancel_keys import CancelKeys, Match
from supervisor.shmem.pmsignal import slot_count
from supervisor.wire.messages import CancelRequest
from tests.support.engine_rig import LinesLog
from tests.support.forked import Memory

MINE, OTHER = b"\xff\x01\x02\x03", b"\x00\x00\x00\x00"


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    made.close()


@pytest.fixture
def keys(memory: Memory) -> CancelKeys:
    return CancelKeys(memory.region, memory.settings)


def test_only_the_slots_own_key_is_right(keys: CancelKeys, memory: Memory) -> None:
    last = slot_count(memory.settings)
    keys.register(1, 101, MINE)
    keys.register(last, 4_194_304, OTHER)
    assert keys.match(101, MINE) is Match.RIGHT
    assert keys.match(4_194_304, OTHER) is Match.RIGHT
    assert keys.match(101, OTHER) is Match.WRONG_KEY
    assert keys.match(4_194_304, MINE) is Match.WRONG_KEY
    assert keys.match(102, MINE) is Match.NO_PROCESS


@pytest.mark.parametrize("key", [b"", MINE[:3], MINE + b"\0", MINE * 64, MINE[::-1]])
def test_a_key_of_another_length_or_order_is_wrong(keys: CancelKeys, key: bytes) -> None:
    keys.register(3, 101, MINE)
    assert keys.match(101, key) is Match.WRONG_KEY


def test_a_key_dies_with_its_backend(keys: CancelKeys) -> None:
    keys.register(3, 101, MINE)
    keys.forget(3)
    assert keys.match(101, MINE) is Match.NO_PROCESS
    keys.register(3, 102, OTHER)
    assert keys.match(102, MINE) is Match.WRONG_KEY


def test_an_empty_slot_belongs_to_nobody(keys: CancelKeys) -> None:
    assert keys.match(0, bytes(4)) is Match.NO_PROCESS


def test_a_request_is_obeyed_or_logged_and_the_key_is_not(keys: CancelKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(cancel_request.os, "killpg", lambda pid, number: sent.append((pid, number)))
    log = LinesLog()
    keys.register(2, 101, MINE)
    for pid, key in ((0, MINE), (-1, MINE), (-101, MINE), (102, MINE), (101, OTHER), (101, MINE)):
        send_cancel_request(CancelRequest(pid, key), keys, log)
    assert sent == [(101, signal.SIGINT)]
    assert log.lines == [
        "invalid cancel request with PID 0",
        "PID -1 in cancel request did not match any process",
        "PID -101 in cancel request did not match any process",
        "PID 102 in cancel request did not match any process",
        "wrong key in cancel request for process 101",
    ]


def test_a_backend_that_died_a_moment_ago_is_no_error(keys: CancelKeys) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    keys.register(2, pid, MINE)
    log = LinesLog()
    send_cancel_request(CancelRequest(pid, MINE), keys, log)
    assert log.lines == []
