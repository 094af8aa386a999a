"""The kernel's witness against real processes whose fate the test knows.

A toy supervisor, started by exec, forks a small family and does what a postmaster does after a crash: SIGQUIT to
all, newest first, reap everybody, begin again. The witness must tell that story as it was, and the oracles must
hold on it; then the toy breaks one rule at a time and the oracle of that rule must fail, on the kernel's word
alone. What could go wrong otherwise: events lost without anyone noticing, an instance left behind by a killed
harness, a witness that believes itself able where it is not.

These tests need root and tracefs. In CI they fail without; elsewhere they are skipped with the reason.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.oracles.evidence import Evidence
from chaos.oracles.fan_out import FanOut
from chaos.oracles.memory import Drained
from chaos.oracles.oracle import Oracle
from chaos.oracles.reaping import Reaping
from chaos.witness.account import Account
from chaos.witness.records import Closed, Loss, Opened, decode_lines
from chaos.witness.tracefs import Tracefs
from chaos.witness.witness import KernelWitness, Unavailable, WitnessStopped, open_witness
from reports.verdict import OracleStatus

ROOT = Path(__file__).parents[2]

TOY = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None)
fault = sys.argv[1]
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})

def name(role):
    libc.prctl(15, b"cb:" + role.encode(), 0, 0, 0)

def child(role, work):
    pid = os.fork()
    if pid == 0:
        name(role)
        os.setsid()
        signal.signal(signal.SIGQUIT, lambda *_: os._exit(2))
        signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
        work()
    return pid

def wait_for_the_end():
    os.write(ready, b"x")
    while True:
        signal.pause()

def reap(pid):
    while True:
        gone, status = os.waitpid(-1, 0)
        children.remove(gone)
        if gone == pid:
            return

def start():
    startup = child("startup", lambda: os._exit(0))
    children.append(startup)
    if fault != "early" or not early:
        reap(startup)
    children.extend(child("backend", wait_for_the_end) for _ in range(4))
    for _ in range(4):
        os.read(told, 1)

told, ready = os.pipe()
children, early = [], []
name("postmaster")
start()
print(*children, flush=True)
crashed, status = os.waitpid(-1, 0)
children.remove(crashed)
order = sorted(children) if fault == "order" else sorted(children, reverse=True)
for pid in order[1:] if fault == "skip" else order:
    os.kill(pid, signal.SIGQUIT)
    if fault != "group":
        os.killpg(pid, signal.SIGQUIT)
if fault == "skip":
    os.kill(order[0], signal.SIGTERM)
if fault == "early":
    os.kill(order[0], signal.SIGSTOP)
    early.append(1)
    signal.signal(signal.SIGALRM, lambda *_: None)
    start()
    os.kill(order[0], signal.SIGCONT)
while len(children) > (5 if fault == "early" else 0):
    children.remove(os.waitpid(-1, 0)[0])
if fault != "early":
    start()
print(*children, flush=True)
sys.stdin.readline()
for pid in children:
    os.kill(pid, signal.SIGTERM)
for pid in children:
    os.waitpid(pid, 0)
sys.exit(5)
"""


@pytest.fixture
def witness() -> Iterator[KernelWitness]:
    opened = open_witness("test")
    if isinstance(opened, Unavailable):
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have a witness: {opened.reason}; {opened.remedy}")
        pytest.skip(f"{opened.reason}; {opened.remedy}")
    try:
        yield opened
    finally:
        opened.close()


class Recorder:
    """A sink; `account` is what has come so far."""

    def __init__(self) -> None:
        self.data = b""

    def __call__(self, data: bytes) -> None:
        self.data += data

    def account(self) -> Account:
        return Account(decode_lines(self.data.split(b"\n")))


def run_toy(witness: KernelWitness, fault: str) -> tuple[Recorder, list[int], list[int], int]:
    """One crash of the toy: what was recorded, the children before it, those after it, and the toy's pid."""
    recorder = Recorder()
    witness.start(recorder)
    with subprocess.Popen(
        [sys.executable, "-S", "-c", TOY, fault], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as toy:
        assert toy.stdout is not None
        witness.follow(toy.pid, "postmaster")
        before = [int(pid) for pid in toy.stdout.readline().split()]
        os.kill(before[1], signal.SIGKILL)
        after = [int(pid) for pid in toy.stdout.readline().split()]
        toy.communicate("go\n", timeout=30)
        assert toy.returncode == 5
    witness.drain_until(time.monotonic_ns())
    witness.close()
    return recorder, before, after, toy.pid


def test_the_account_is_what_happened(witness: KernelWitness) -> None:
    recorder, before, after, toy = run_toy(witness, "none")
    account = recorder.account()
    postmaster = account.lives(toy)[-1]
    assert (postmaster.parent, postmaster.role, postmaster.code) == (os.getpid(), "postmaster", 5)
    assert postmaster.reaped_by == os.getpid()
    children = account.children(postmaster)
    assert [c.role for c in children] == ["startup", *["backend"] * 4] * 2
    assert [c.pid for c in children if c.role == "backend"] == before + after
    ends = {c.pid: (c.code, c.signal) for c in children}
    assert ends[before[1]] == (None, signal.SIGKILL)
    assert all(ends[pid] == (2, None) for pid in before if pid != before[1])
    assert all(ends[pid] == (1, None) for pid in after)
    assert all(c.reaped_by == toy and c.session_t is not None for c in children)
    victim = account.lives(before[1])[-1]
    assert [(r.sig, r.by) for r in victim.received] == [(signal.SIGKILL, os.getpid())]
    assert account.gap(account.begin, account.end) is None
    assert (postmaster.reaped_t or 0) <= account.end


@pytest.mark.parametrize("oracle", [FanOut(), Reaping(), Drained()], ids=lambda oracle: oracle.name)
def test_the_oracles_hold_on_a_sound_supervisor(witness: KernelWitness, oracle: Oracle) -> None:
    recorder, *_ = run_toy(witness, "none")
    result = oracle.judge(Evidence(recorder.account()))
    assert result.status is OracleStatus.HELD, result.failures


@pytest.mark.parametrize(
    ("fault", "oracle", "words"),
    [
        ("skip", FanOut(), "got no SIGQUIT after the crash"),
        ("order", FanOut(), "which is newer"),
        ("group", FanOut(), "but not to its process group"),
        ("early", Drained(), "still lived when the new startup process was forked"),
    ],
    ids=["skip", "order", "group", "early"],
)
def test_the_oracles_fail_when_the_rule_is_broken(
    witness: KernelWitness, fault: str, oracle: Oracle, words: str
) -> None:
    recorder, *_ = run_toy(witness, fault)
    result = oracle.judge(Evidence(recorder.account()))
    assert result.status is OracleStatus.FAILED, result
    assert words in result.failures[0].message


def test_the_account_begins_and_ends_and_leaves_nothing_behind(witness: KernelWitness) -> None:
    recorder = Recorder()
    witness.start(recorder)
    witness.close()
    witness.close()
    records = list(decode_lines(recorder.data.split(b"\n")))
    assert isinstance(records[0], Opened)
    assert records[0].selftest == "passed"
    assert any(isinstance(record, Closed) for record in records)
    assert all(line.startswith(b"{") for line in recorder.data.split(b"\n")[1:])
    tracefs = Tracefs.open()
    try:
        assert records[0].instance not in tracefs.instance_names()
    finally:
        tracefs.close()
    assert "kernel-witness" not in [thread.name for thread in threading.enumerate()]


def test_lost_events_are_noticed_and_located() -> None:
    """A buffer of a few pages, a reader that is held up, and a burst that does not fit."""
    try:
        witness = KernelWitness.open("test", buffer_kb=8)
    except Exception as why:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(why))
    going, recorder = threading.Event(), Recorder()

    def slow(data: bytes) -> None:
        going.wait(30)
        recorder(data)

    with witness, subprocess.Popen(["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE) as target:
        going.set()
        witness.start(slow)
        before = witness.drain()
        going.clear()
        for _ in range(3000):
            os.kill(target.pid, signal.SIGCONT)
        going.set()
        witness.drain()
        assert witness.loss().dropped > 0
        after = witness.drain()
        target.kill()
    losses = [r for r in decode_lines(recorder.data.split(b"\n")) if isinstance(r, Loss)]
    account = recorder.account()
    assert losses[0].dropped > 0
    assert not account.whole(before, after)
    assert account.whole(after + 1, account.end)


def test_a_trace_that_stops_is_noticed(witness: KernelWitness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.witness.witness.MARKER_TIMEOUT_S", 0.2)
    recorder = Recorder()
    witness.start(recorder)
    last = witness.drain()
    witness._instance.write("tracing_on", "0")
    with pytest.raises(WitnessStopped):
        witness.drain()
    witness.close()
    account = recorder.account()
    gap = account.gap(last + 1, last + 2)
    assert gap is not None
    assert gap.reason == "the kernel's trace stopped"


def test_an_account_that_was_refused_once_never_looks_whole(witness: KernelWitness) -> None:
    """A full disk that has room again a moment later."""
    recorder = Recorder()
    full = threading.Event()

    def refusing(data: bytes) -> None:
        if full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        recorder(data)

    witness.start(refusing)
    last = witness.drain()
    full.set()
    with pytest.raises(OSError, match="No space left"):
        witness.drain()
    full.clear()
    witness.close()
    account = recorder.account()
    assert not account.whole(last + 1, last + 2)
    assert not any(isinstance(record, Closed) for record in decode_lines(recorder.data.split(b"\n")))


def test_a_drain_brings_everything_before_it(witness: KernelWitness) -> None:
    recorder = Recorder()
    witness.start(recorder)
    for number in range(20):
        with subprocess.Popen(["/bin/sh", "-c", f"exit {number}"]) as child:
            child.wait(30)
        witness.drain_until(time.monotonic_ns())
        life = recorder.account().lives(child.pid)[-1]
        assert (life.code, life.reaped_by) == (number, os.getpid())
    with pytest.raises(ValueError, match="future"):
        witness.drain_until(time.monotonic_ns() + 10**9)


def test_a_killed_harness_leaves_nothing_that_the_next_start_does_not_remove(witness: KernelWitness) -> None:
    script = (
        "import os, signal; from chaos.witness.witness import KernelWitness; w = KernelWitness.open('x');"
        "print(w._instance.name, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    name = killed.stdout.strip()
    assert killed.returncode == -signal.SIGKILL
    tracefs = Tracefs.open()
    try:
        assert name in tracefs.instance_names()
        second = open_witness("next")
        assert isinstance(second, KernelWitness), second
        second.close()
        assert name not in tracefs.instance_names()
        assert witness._instance.name in tracefs.instance_names(), "the living one was let alone"
    finally:
        tracefs.close()


@pytest.mark.parametrize("mounted", [False, True], ids=["nowhere-mounted", "mounted-for-root-alone"])
def test_without_permission_the_witness_says_why_and_what_helps(witness: KernelWitness, mounted: bool) -> None:
    script = (
        "import os; from chaos.witness.witness import open_witness; os.setgroups([]); os.setuid(65534);"
        "w = open_witness('x'); print(type(w).__name__, '|', w.reason, '|', w.remedy)"
    )
    # In a mount namespace of its own, whatever this machine has mounted.
    mount = "mount -t tracefs nodev /sys/kernel/tracing" if mounted else "! mountpoint -q /sys/kernel/tracing"
    command = ["unshare", "--mount", "sh", "-ec", f'umount -lq /sys/kernel/tracing || true; {mount}; exec "$@"', "sh"]
    told = subprocess.run(
        [*command, sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    kind, reason, remedy = told.stdout.split("|")
    assert kind.strip() == "Unavailable"
    assert "tracefs" in reason or "trace instance" in reason
    assert "run as root" in remedy


def test_in_another_pid_namespace_the_witness_declines(witness: KernelWitness) -> None:
    unshare = shutil.which("unshare")
    assert unshare is not None, "util-linux is part of every distribution"
    script = "from chaos.witness.witness import open_witness; print(open_witness('x'))"
    command = [unshare, "--pid", "--fork", sys.executable, "-c", script]
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert "not the initial pid namespace" in told.stdout
