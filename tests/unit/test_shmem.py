"""Shared memory: one region, and the words that processes tell each other things with.

A view that somebody kept would keep a whole generation mapped; a lock that heals when its holder is SIGKILLed would hide
that a page was left half changed; a latch that loses a wake-up hangs a process for ever; and what the dead wrote must
never lead the postmaster anywhere.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.config import Settings
from supervisor.errors import TOO_MANY_CONNECTIONS, SessionFatal, StartupError
from supervisor.host import ProcessHost, SoloHost, Waitable, Wake
from supervisor.postmaster.children import pool_sizes
from supervisor.roles import CHILD_ROLES, Role
from supervisor.shmem import lwlock
from supervisor.shmem.activity import Activity
from supervisor.shmem.attachment import Attachment, attach
from supervisor.shmem.lwlock import FIRST_BUFFER_LOCK, LWLock
from supervisor.shmem.pmsignal import Message, PMSignal, QuitReason, SlotFlag, slot_count
from supervisor.shmem.procarray import AUXILIARY_ROLES
from supervisor.shmem.region import Area, Region
from tests.support.forked import Memory, make_region

LOCK = LWLock.CATALOG


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    made.close()


def mapped(inode: int) -> bool:
    """Whether this process maps a memfd."""
    return any(line.split()[4] == str(inode) for line in Path("/proc/self/maps").read_text().splitlines())


# The region.


def test_areas_lie_aligned_apart_and_zeroed() -> None:
    region = Region.create([Area("a", 3), Area("b", 100), Area("page", 8192, alignment=4096), Area("c", 8)])
    assert [region.offset(name) for name in ("a", "b", "page", "c")] == [0, 64, 4096, 12288]
    assert region.word("b") == 8
    assert region.has("page") and not region.has("d")
    assert region.mm[: len(region.mm)] == bytes(len(region.mm))
    region.close()


def test_two_areas_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match='two areas of shared memory are named "a"'):
        Region.create([Area("a", 8), Area("a", 8)])


def test_a_region_shows_its_name_to_a_witness_and_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    region = Region.create([Area("a", 8)], name="crashbed:test:gen7", generation=7)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:crashbed:test:gen7" in line]
    assert [line.split()[4] for line in maps] == [str(region.inode)]
    region.close()
    assert not mapped(region.inode)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_forgotten_view_is_an_error_at_close_and_not_a_leak() -> None:
    region = Region.create([Area("a", 64)])
    for view in (memoryview(region.mm)[:8], memoryview(region.mm).cast("q")):
        with pytest.raises(BufferError):
            region.close()
        assert mapped(region.inode)
        view.release()
    region.close()
    assert not mapped(region.inode)
    region.close()


def test_a_slice_of_the_words_is_a_forgotten_view_too() -> None:
    region = Region.create([Area("a", 64)])
    slice_of_words = region.q[0:4]
    with pytest.raises(BufferError):
        region.close()
    slice_of_words.release()
    region.close()
    assert not mapped(region.inode)


def test_everything_that_attaches_lets_go_of_the_region() -> None:
    settings = Settings(max_connections=2, shared_buffers=16 * 8192)
    region = make_region(settings)
    attachment = attach(region, SoloHost(), settings, Role.BACKEND, 1)
    attachment.locks.acquire(LOCK)
    attachment.detach()
    PMSignal(region), Activity(region, settings)
    region.close()
    assert not mapped(region.inode)


# PGPROC entries.


def test_entries_run_out_with_a_sentence_and_come_back(memory: Memory) -> None:
    procs, limit = memory.own.procs, memory.settings.max_connections
    taken = [procs.claim(Role.BACKEND, 1000 + number, number) for number in range(1, limit)]
    assert len({memory.own.procno, *taken}) == limit
    with pytest.raises(SessionFatal, match="sorry, too many clients already") as caught:
        procs.claim(Role.BACKEND, 999, 1)
    assert caught.value.sqlstate == TOO_MANY_CONNECTIONS
    # An auxiliary process has an entry of its own, whatever the clients do.
    assert {procs.claim(role, 2000, 1) for role in AUXILIARY_ROLES} == set(range(limit, limit + len(AUXILIARY_ROLES)))
    # And so have background workers.
    first = limit + len(AUXILIARY_ROLES)
    workers = range(first, first + memory.settings.max_worker_processes)
    assert [procs.claim(Role.BGWORKER, 3000, 1) for _ in workers] == list(workers)
    with pytest.raises(SessionFatal):
        procs.claim(Role.BGWORKER, 3000, 1)
    procs.release(taken[3])
    assert procs.claim(Role.BACKEND, 998, 1) == taken[3]


def test_a_new_owner_of_an_entry_inherits_nothing(memory: Memory) -> None:
    procs, q = memory.own.procs, memory.region.q
    procno = procs.claim(Role.BACKEND, 1000, 1)
    for base in (
        procs.latch,
        procs.xid,
        procs.xmin,
        procs.wait_xid,
        procs.wait_lock,
        procs.flush_lsn,
        procs.flush_state,
    ):
        q[base + procno] = 77
    procs.release(procno)
    assert procs.claim(Role.BACKEND, 1001, 2) == procno
    for base in (
        procs.latch,
        procs.xid,
        procs.xmin,
        procs.wait_xid,
        procs.wait_lock,
        procs.flush_lsn,
        procs.flush_state,
    ):
        assert q[base + procno] == 0


def test_an_auxiliary_process_is_found_while_it_lives(memory: Memory) -> None:
    procs = memory.own.procs
    assert procs.find(Role.CHECKPOINTER) is None
    procno = procs.claim(Role.CHECKPOINTER, 1000, 1)
    assert procs.find(Role.CHECKPOINTER) == procno
    procs.release(procno)
    assert procs.find(Role.CHECKPOINTER) is None


# Slot flags, quit reason, messages.


def test_there_are_as_many_flags_as_the_postmaster_has_slots() -> None:
    for connections, workers in ((1, 0), (3, 8), (100, 1)):
        settings = Settings(max_connections=connections, max_worker_processes=workers)
        assert slot_count(settings) == sum(pool_sizes(settings).values())
    assert set(AUXILIARY_ROLES) == set(CHILD_ROLES) - {Role.BACKEND, Role.DEAD_END, Role.BGWORKER}


def test_the_dead_mans_switch(memory: Memory) -> None:
    flags = PMSignal(memory.region)
    assert flags.assign(3)
    assert flags.release(3), "a child that never became active has nothing to clean up"
    assert flags.assign(3)
    flags.mark_active(3)
    assert not flags.release(3), "a child that died active counts as clean"
    assert flags.assign(3)
    flags.mark_active(3)
    flags.mark_inactive(3)
    assert flags.release(3)
    assert flags.assign(3)
    assert not flags.assign(3), "a slot in use was assigned again and nobody was told"
    last = slot_count(memory.settings)
    assert flags.assign(last) and flags.release(last)


def test_a_flag_that_cannot_be_is_not_clean(memory: Memory) -> None:
    flags = PMSignal(memory.region)
    memory.region.q[memory.region.word("pm_child_flags")] = 4711
    assert not flags.assign(1)
    memory.region.q[memory.region.word("pm_child_flags")] = -1
    assert not flags.release(1)
    assert memory.region.q[memory.region.word("pm_child_flags")] == SlotFlag.UNUSED


def test_a_quit_reason_that_cannot_be_counts_as_none(memory: Memory) -> None:
    flags = PMSignal(memory.region)
    assert flags.quit_reason() is QuitReason.NOT_SENT
    for reason in QuitReason:
        flags.set_quit_reason(reason)
        assert flags.quit_reason() is reason
    memory.region.q[memory.region.word("pm_quit_reason")] = 99
    assert flags.quit_reason() is QuitReason.NOT_SENT


def test_a_message_is_taken_once_and_comes_with_a_signal(memory: Memory) -> None:
    flags = PMSignal(memory.region)
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    try:
        flags.send(Message.RECOVERY_STARTED, os.getpid())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert came == [signal.SIGUSR1]
    assert not flags.take(Message.XLOG_IS_SHUTDOWN)
    assert flags.take(Message.RECOVERY_STARTED)
    assert not flags.take(Message.RECOVERY_STARTED)


# Activity.


def test_activity_is_read_as_plain_text_of_bounded_length(memory: Memory) -> None:
    activity = Activity(memory.region, memory.settings)
    activity.report(1, "SELECT 'ü'\n")
    assert activity.read(1) == "SELECT '??'?"
    activity.report(1, "x" * 5000)
    assert activity.read(1) == "x" * 1024
    assert activity.read(2) == ""
    activity.clear(1)
    assert activity.read(1) == ""


@pytest.mark.parametrize("length", [-1, 0, 10**9, 2**63 - 1, -(2**63)])
def test_an_activity_whose_length_was_scribbled_on_is_nothing(memory: Memory, length: int) -> None:
    activity = Activity(memory.region, memory.settings)
    activity.report(1, "SELECT 1")
    memory.region.q[memory.region.word("activity")] = length
    assert activity.read(1) == ""


def test_the_last_slots_activity_does_not_reach_beyond_the_area(memory: Memory) -> None:
    activity = Activity(memory.region, memory.settings)
    last = slot_count(memory.settings)
    activity.report(last, "y" * 5000)
    activity.report(1, "first")
    assert activity.read(last) == "y" * 1024
    assert activity.read(1) == "first"


# Latches.


def test_a_latch_is_set_until_its_owner_clears_it(memory: Memory) -> None:
    own = memory.own
    assert not own.latch.is_set()
    own.latches.set(own.procno)
    own.latches.set(own.procno)
    assert own.latch.is_set()
    assert own.host.wait(own.latch, None) is Wake.LATCH, "a latch that is set does not wait"
    assert own.latch.is_set(), "waiting cleared the latch"
    own.latch.clear()
    assert not own.latch.is_set()
    own.latch.set_own()
    assert own.latch.is_set()


def test_a_latch_of_an_entry_that_nobody_holds_wakes_nobody(memory: Memory) -> None:
    class Recorder(SoloHost):
        woken: list[int] = []

        def wake(self, process: int) -> None:
            self.woken.append(process)

    other = attach(memory.region, Recorder(), memory.settings, Role.BACKEND, 2)
    procno = other.procno
    other.latches.set(memory.own.procno)
    assert Recorder.woken == [os.getpid()]
    other.detach()
    other.latches.set(procno)
    assert Recorder.woken == [os.getpid()]


def test_setting_a_latch_ends_the_wait_of_another_process(memory: Memory) -> None:
    def wait_for_it(attachment: Attachment) -> None:
        q, words = attachment.region.q, memory.words
        while not q[words]:
            attachment.latch.clear()
            if not q[words]:
                attachment.host.wait(attachment.latch, None)

    pid = memory.fork(wait_for_it)
    procno = memory.procno(pid)
    memory.region.q[memory.words] = 1
    waker = ProcessHost()
    try:
        memory.own.latches._host = waker
        memory.own.latches.set(procno)
        assert memory.wait(pid) == 0
    finally:
        waker.close()


# Lightweight locks, in one process; several are in tests/process/test_lwlock_live.py.


def test_the_platform_is_one_that_we_know() -> None:
    lwlock.check_platform()


def test_a_strange_semaphore_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lwlock, "_SEM_FREE", bytes(32))
    with pytest.raises(StartupError, match="lays out semaphores") as caught:
        lwlock.check_platform()
    assert caught.value.hint


def test_a_lock_is_exclusive_and_says_who_holds_it(memory: Memory) -> None:
    locks = memory.own.locks
    locks.acquire(LOCK)
    assert (locks.held, locks.owner(LOCK)) == ([LOCK], os.getpid())
    other = attach(memory.region, SoloHost(), memory.settings, Role.BACKEND, 2)
    assert not other.locks.try_acquire(LOCK)
    assert other.locks.try_acquire(LWLock.CLOG), "one lock is not another"
    locks.release(LOCK)
    assert (locks.held, locks.owner(LOCK)) == ([], 0)
    assert other.locks.try_acquire(LOCK)
    assert other.locks.held == [LWLock.CLOG, LOCK]
    other.detach()
    assert locks.try_acquire(LOCK) and locks.try_acquire(LWLock.CLOG), "detach left a lock taken"
    locks.release_all()


def test_every_lock_is_its_own(memory: Memory) -> None:
    locks = memory.own.locks
    every = range(FIRST_BUFFER_LOCK + memory.settings.n_buffers)
    assert lwlock.lock_count(memory.settings) == len(every)
    assert all(locks.try_acquire(lock) for lock in every)
    assert not any(locks.try_acquire(lock) for lock in every)
    locks.release_all()
    assert locks.held == []
    assert all(locks.try_acquire(lock) for lock in every)


def test_a_release_of_what_is_not_held_is_an_error_and_frees_nothing(memory: Memory) -> None:
    other = attach(memory.region, SoloHost(), memory.settings, Role.BACKEND, 2)
    other.locks.acquire(LOCK)
    with pytest.raises(ValueError):
        memory.own.locks.release(LOCK)
    assert not memory.own.locks.try_acquire(LOCK)


def test_waiting_alone_is_an_error_and_not_a_hang(memory: Memory) -> None:
    memory.own.locks.acquire(LOCK)
    with pytest.raises(RuntimeError, match="would never end"):
        memory.own.locks.acquire(LOCK)


def test_a_killed_holder_leaves_its_lock_taken_and_its_entry_in_use(memory: Memory) -> None:
    def hold(attachment: Attachment) -> None:
        attachment.locks.acquire(LOCK)
        attachment.region.q[memory.words] = 1
        attachment.host.wait(None, None)

    pid = memory.fork(hold)
    procno = memory.procno(pid)
    while not memory.word(0):
        assert memory.own.locks.owner(LOCK) in (0, pid)
    memory.signal(pid, signal.SIGKILL)
    assert memory.wait(pid) == -signal.SIGKILL
    assert not memory.own.locks.try_acquire(LOCK), "the lock healed: half a page would have been taken for a whole one"
    assert memory.own.locks.owner(LOCK) == pid
    assert memory.region.q[memory.own.procs.pid + procno] == pid


def test_a_latch_that_was_set_for_something_else_stays_set_behind_a_wait_for_a_lock(memory: Memory) -> None:
    other = attach(memory.region, SoloHost(), memory.settings, Role.BACKEND, 2)

    class GivingHost(SoloHost):
        """The world while this process waits: the lock is given back."""

        def wait(self, latch: Waitable | None, timeout_ms: int | None, *rest: object, **more: object) -> Wake:
            other.locks.release(LOCK)
            return Wake.SIGNAL

    own = attach(memory.region, GivingHost(), memory.settings, Role.BACKEND, 3)
    other.locks.acquire(LOCK)
    own.latch.set_own()
    own.locks.acquire(LOCK)
    assert own.latch.is_set(), "whoever set the latch will not set it again"
    assert memory.region.q[own.procs.wait_lock + own.procno] == 0
