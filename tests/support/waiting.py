"""Waiting in tests: for a condition, with a message and a deadline. Nothing in the tests sleeps and hopes."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(what: str, condition: Callable[[], T | None], *, deadline_s: float = 10.0) -> T:
    """The first true value of `condition`; fails with `what` when it does not come in time."""
    deadline = time.monotonic() + deadline_s
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: did not come within {deadline_s:g} s")
        select.select((), (), (), 0.002)
    return value
