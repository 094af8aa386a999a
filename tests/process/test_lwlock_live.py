"""Lightweight locks between real processes.

A lost wake-up hangs a server without a trace; two holders at once lose an increment, later a page; a waiter that is
passed over for ever starves. None of it shows in one process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from supervisor.shmem.attachment import Attachment
from supervisor.shmem.lwlock import LWLock
from tests.support.forked import Memory
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

LOCK = LWLock.CATALOG
OTHER = LWLock.CLOG
PROCESSES = 8
INCREMENTS = 10_000
COUNTER, ORDER, GO = 0, 1, 40


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    made.close()


def increment(word: int, times: int, lock: int, attachment: Attachment) -> None:
    """Add to a word under a lock, in steps that a second holder would spoil."""
    q, locks = attachment.region.q, attachment.locks
    for _ in range(times):
        locks.acquire(lock)
        value = q[word]
        q[word] = value + 1
        locks.release(lock)


def test_eight_processes_lose_no_increment_and_no_wake_up(memory: Memory) -> None:
    pids = [memory.fork(partial(increment, memory.words + COUNTER, INCREMENTS, LOCK)) for _ in range(PROCESSES)]
    assert [memory.wait(pid) for pid in pids] == [0] * PROCESSES
    assert memory.word(COUNTER) == PROCESSES * INCREMENTS
    assert memory.own.locks.owner(LOCK) == 0
    assert memory.own.locks.try_acquire(LOCK)


def test_a_hand_to_hand_lock_is_never_waited_for_in_vain(memory: Memory) -> None:
    """Two processes that take turns: nearly every acquire waits, and nobody else could repair a lost wake-up."""
    turns = 3_000

    def take_turns(me: int, attachment: Attachment) -> None:
        q, locks, words = attachment.region.q, attachment.locks, memory.words
        for _ in range(turns):
            locks.acquire(LOCK)
            q[words + COUNTER] += 1
            # Hold it until the other one waits, if it still comes.
            procs = attachment.procs
            while q[words + ORDER + 1 - me] == 0 and not any(
                q[procs.wait_lock + procno] == LOCK + 1 for procno in range(procs.count)
            ):
                pass
            locks.release(LOCK)
        q[words + ORDER + me] = 1

    pids = [memory.fork(partial(take_turns, me)) for me in (0, 1)]
    assert [memory.wait(pid) for pid in pids] == [0, 0]
    assert memory.word(COUNTER) == 2 * turns


def test_two_locks_wait_for_themselves_alone(memory: Memory) -> None:
    pids = [memory.fork(partial(increment, memory.words + which, 2_000, (LOCK, OTHER)[which])) for which in (0, 1) * 3]
    assert [memory.wait(pid) for pid in pids] == [0] * 6
    assert (memory.word(0), memory.word(1)) == (6_000, 6_000)


def test_who_has_waited_longest_is_next(memory: Memory) -> None:
    def queue_up(attachment: Attachment) -> None:
        q, words = attachment.region.q, memory.words
        attachment.locks.acquire(LOCK)
        place = q[words + COUNTER]
        q[words + COUNTER] = place + 1
        q[words + ORDER + place] = attachment.pid
        attachment.locks.release(LOCK)

    def hold(attachment: Attachment) -> None:
        attachment.locks.acquire(LOCK)
        while not attachment.region.q[memory.words + GO]:
            attachment.host.wait(None, 1)
        attachment.locks.release(LOCK)

    holder = memory.fork(hold)
    wait_until("the lock to be held", lambda: memory.own.locks.owner(LOCK) == holder)
    queue = []
    for _ in range(5):
        queue.append(memory.fork(queue_up))
        memory.wait_waiting(queue[-1], LOCK)
    memory.region.q[memory.words + GO] = 1
    assert [memory.wait(pid) for pid in [holder, *queue]] == [0] * 6
    assert [memory.word(ORDER + place) for place in range(5)] == queue


def test_a_lock_given_back_while_its_waiter_was_stopped_is_there_when_it_goes_on(memory: Memory) -> None:
    """The wake-up comes at the worst time: to a process that does not run."""

    def hold(attachment: Attachment) -> None:
        attachment.locks.acquire(LOCK)
        while not attachment.region.q[memory.words + GO]:
            attachment.host.wait(None, 1)
        attachment.locks.release(LOCK)

    holder = memory.fork(hold)
    wait_until("the lock to be held", lambda: memory.own.locks.owner(LOCK) == holder)
    waiter = memory.fork(partial(increment, memory.words + COUNTER, 1, LOCK))
    memory.wait_waiting(waiter, LOCK)
    memory.signal(waiter, signal.SIGSTOP)
    os.waitid(os.P_PID, waiter, os.WSTOPPED)
    memory.region.q[memory.words + GO] = 1
    assert memory.wait(holder) == 0
    memory.signal(waiter, signal.SIGCONT)
    assert memory.wait(waiter) == 0
    assert memory.word(COUNTER) == 1


def test_a_lock_that_its_holder_took_to_the_grave_is_waited_for_until_sigkill(memory: Memory) -> None:
    def die_with_it(attachment: Attachment) -> None:
        attachment.locks.acquire(LOCK)
        os.kill(os.getpid(), signal.SIGKILL)

    assert memory.wait(memory.fork(die_with_it)) == -signal.SIGKILL
    waiter = memory.fork(partial(increment, memory.words + COUNTER, 1, LOCK))
    memory.wait_waiting(waiter, LOCK)
    memory.signal(waiter, signal.SIGURG)  # a wake-up without a reason
    memory.signal(waiter, signal.SIGKILL)
    assert memory.wait(waiter) == -signal.SIGKILL
    assert memory.word(COUNTER) == 0
