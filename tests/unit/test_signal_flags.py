"""A signal that comes between any two bytecodes of the code that looks for it.

What could go wrong: a handler sets a flag while the main code is between reading it and clearing it, and the request is
gone: a fast shutdown that nobody carries out, a reload that never happens. The window is two bytecodes wide, so no run
against a live server would meet it; here the signal comes at each bytecode in turn.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import pytest

from supervisor.postmaster.events import ShutdownRequested
from supervisor.postmaster.postmaster import Postmaster
from supervisor.postmaster.values import Shutdown
from supervisor.processes.auxiliary import Requests
from supervisor.processes.interrupts import Interrupts

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@contextmanager
def at_bytecode(nth: int, function: Callable[..., object], handler: Callable[[], object]) -> Iterator[list[int]]:
    """Run a handler before the nth bytecode of a function, once; the list counts the bytecodes that were run."""
    code = cast(Any, function).__code__
    passed = [0]

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code is not code:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if passed[0] == nth:
                handler()
            passed[0] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield passed
    finally:
        sys.settrace(before)


class Look:
    """Main code that looks for a signal: `look` acts on what came and tells what that was."""

    def __init__(self, look: Callable[[], object], handler: Callable[[], object]) -> None:
        self.look = look
        self.handler = handler


def lost_at(make: Callable[[], Look], function: Callable[..., object], wanted: object) -> list[int]:
    """The bytecodes of `function` at which a signal is not acted upon, now or at the next look."""
    lost = []
    nth = 0
    while True:
        scene = make()
        with at_bytecode(nth, function, scene.handler) as passed:
            told = [scene.look()]
        if passed[0] <= nth:
            assert nth, "the function was not traced"
            return lost
        told.append(scene.look())
        if wanted not in told:
            lost.append(nth)
        nth += 1


def postmaster_after(*earlier: int) -> Look:
    """A postmaster that has been asked for `earlier`, and then for a fast shutdown."""
    told: list[Shutdown] = []
    postmaster = Postmaster.__new__(Postmaster)
    postmaster._shutdowns = set()
    postmaster._tell = lambda event: told.append(cast(ShutdownRequested, event).mode)  # type: ignore[method-assign]
    for number in earlier:
        postmaster._note_shutdown(number, None)

    def look() -> object:
        postmaster._tell_shutdown_request()
        return told[-1] if told else None

    return Look(look, lambda: postmaster._note_shutdown(INT, None))


@pytest.mark.parametrize("earlier", [(), (TERM,), (INT,)], ids=str)
def test_a_fast_shutdown_is_never_lost(earlier: tuple[int, ...]) -> None:
    assert lost_at(lambda: postmaster_after(*earlier), Postmaster._tell_shutdown_request, Shutdown.FAST) == []


def test_of_several_requests_the_strongest_is_told_and_no_other() -> None:
    scene = postmaster_after(TERM, INT)
    assert scene.look() is Shutdown.FAST
    assert scene.look() is Shutdown.FAST, "the weaker one came after it"


def session() -> Look:
    interrupts = Interrupts()
    return Look(interrupts.take_reload, lambda: interrupts.on_reload(HUP, None))


def auxiliary_process() -> Look:
    requests = Requests.__new__(Requests)
    requests.latch, requests._came = None, set()
    return Look(lambda: requests.take(HUP), lambda: requests._note(HUP, None))


def test_a_reload_is_never_lost() -> None:
    assert lost_at(session, Interrupts.take_reload, True) == []
    assert lost_at(auxiliary_process, Requests.take, True) == []


class Careless:
    """What the rule is about: it reads, and then clears what it has not read."""

    def __init__(self) -> None:
        self.came = False

    def take(self) -> bool:
        came, self.came = self.came, False
        return came

    def note(self) -> None:
        self.came = True


def careless() -> Look:
    flags = Careless()
    return Look(flags.take, flags.note)


def test_the_rule_sees_a_flag_that_is_cleared_unread() -> None:
    assert lost_at(careless, Careless.take, True)
