"""Fixtures that every folder may use: a live server, and the kernel's witness over it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from chaos.witness.account import Account
from chaos.witness.records import decode_lines
from chaos.witness.witness import KernelWitness, Unavailable, open_witness
from tests.support.scene import Points, Scene
from tests.support.server import LiveServer

settings.register_profile("gate", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("nightly", parent=settings.get_profile("gate"), max_examples=1000)
settings.load_profile(os.environ.get("CRASHBED_PROFILE", "gate"))

# A suite that a script starts with `&` inherits SIGINT ignored, and so would every command that a test interrupts. A
# handler of this process is none of theirs: after exec they begin with the default.
signal.signal(signal.SIGINT, signal.default_int_handler)

MakeServer = Callable[..., LiveServer]
MakeScene = Callable[..., Scene]


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    """Make servers, not yet started, each in a directory of its own; all are ended with the test."""
    made: list[LiveServer] = []

    def make(options: Mapping[str, str] | None = None, *, code: Path | None = None) -> LiveServer:
        server = LiveServer(tmp_path / f"server{len(made)}", options, code=code)
        made.append(server)
        return server

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server(make_server: MakeServer) -> LiveServer:
    """A server that serves."""
    return make_server().start()


class Kernel:
    """The kernel's account of a test, taken when it is asked for."""

    def __init__(self, witness: KernelWitness) -> None:
        self._witness = witness
        self._pieces: list[bytes] = []
        witness.start(self._pieces.append)

    def follow(self, pid: int, role: str = "postmaster") -> None:
        """Say what a process is."""
        self._witness.follow(pid, role)

    def account(self) -> Account:
        """Everything up to now."""
        self._witness.drain()
        return Account(decode_lines(b"".join(self._pieces).split(b"\n")))


@contextmanager
def kernel_witness() -> Iterator[Kernel]:
    """The kernel's witness; without permission for it the test is skipped, but in CI it fails."""
    witness = open_witness("test")
    if isinstance(witness, Unavailable):
        if os.environ.get("CI"):
            pytest.fail(f"no kernel witness: {witness.reason}; {witness.remedy}")
        pytest.skip(f"no kernel witness: {witness.reason}")
    with witness:
        yield Kernel(witness)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """The kernel's witness over one test."""
    with kernel_witness() as witness:
        yield witness


@pytest.fixture
def make_scene(make_server: MakeServer, kernel: Kernel) -> Iterator[MakeScene]:
    """Make servers that serve, each with the kernel's account of it.

    Whatever a test did to a sound one, no oracle of supervision may accuse it.
    """
    sound: list[Scene] = []

    def make(options: Mapping[str, str] | None = None, *, code: Path | None = None) -> Scene:
        scene = Scene(make_server(options, code=code).start(), kernel)
        if code is None:
            sound.append(scene)
        return scene

    yield make
    for scene in sound:
        assert scene.accusations() == []


@pytest.fixture
def scene(make_scene: MakeScene) -> Scene:
    """A server that serves, with the kernel's account of it."""
    return make_scene()


@pytest.fixture
def points(tmp_path: Path) -> Iterator[Points]:
    """A points map; its `options` make a server read it."""
    points = Points(tmp_path)
    yield points
    points.map.close()
