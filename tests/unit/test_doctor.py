"""The doctor: each probe tries the thing, and a thing that is not there is told with what is lost and what would help.

What could go wrong: a probe that is always content, a missing thing without a remedy, a failure of the probe itself as a
traceback, a nicety that makes a machine look unfit, something left behind by the trying. Each failure here is planted
where the probe meets the system.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos import doctor
from chaos.cli.main import run
from chaos.doctor import PROBES, Answer, Place, Probe, State, diagnose
from chaos.witness.witness import Unavailable

BY_NAME = {probe.name: probe for probe in PROBES}
HARMLESS = (
    "python",
    "kernel",
    "processors",
    "pidfd",
    "memfd",
    "orphans",
    "file system",
    "socket",
    "open files",
    "processes",
)
"""What every machine that runs these tests has."""


def refused(*arguments: Any, **options: Any) -> Any:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def exhausted(*arguments: Any, **options: Any) -> Any:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def full(path: Path) -> Any:
    return namedtuple("usage", "total used free")(1 << 30, 1 << 30, 0)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, 4)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_there_is_found_by_trying(name: str, place: Place) -> None:
    answer = BY_NAME[name].answer(place)
    assert (answer.state in (State.OK, State.DEGRADED)) and answer.found, answer
    assert list(place.directory.iterdir()) == []


PLANTED: list[tuple[str, Any, str, Any, State]] = [
    ("processors", os, "sched_getaffinity", lambda pid: {0}, State.DEGRADED),
    ("kernel witness", doctor, "open_witness", lambda name: Unavailable("not permitted", "be root"), State.DEGRADED),
    ("pidfd", os, "pidfd_open", refused, State.MISSING),
    ("pidfd", signal, "pidfd_send_signal", refused, State.MISSING),
    ("memfd", os, "memfd_create", refused, State.MISSING),
    ("orphans", doctor, "adopting_orphans", refused, State.MISSING),
    ("orphans", doctor, "_ORPHAN", doctor._ORPHAN.replace("prctl(1, signal.SIGUSR1", "prctl(1, signal.SIGTERM"), State.MISSING),
    ("orphans", doctor, "_ORPHAN", "raise SystemExit(1)", State.MISSING),
    ("file system", doctor, "file_system", lambda path: "nfs4", State.MISSING),
    ("free space", shutil, "disk_usage", full, State.MISSING),
    ("fdatasync", doctor, "SLOW_SYNC_MS", 0.0, State.DEGRADED),
    ("fdatasync", os, "fdatasync", refused, State.MISSING),
    ("socket", doctor, "instance_name", lambda pid: "x" * 108, State.MISSING),
    ("processes", os, "fork", exhausted, State.MISSING),
    ("PostgreSQL", doctor, "all_programs", list, State.MISSING),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "owner", "attribute", "planted", "state"), PLANTED, ids=[f"{row[0]}-{row[2]}" for row in PLANTED]
)
def test_what_is_planted_shows(
    name: str, owner: Any, attribute: str, planted: Any, state: State, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, attribute, planted)
    answer = BY_NAME[name].answer(place)
    monkeypatch.undo()
    assert answer.state is state, answer
    assert state is State.OK or (answer.lost and answer.remedy), answer
    assert list(place.directory.iterdir()) == []


def test_too_few_files_are_met_by_opening_them(place: Place) -> None:
    opened = len(os.listdir("/proc/self/fd"))
    answer = BY_NAME["open files"].answer(Place(place.directory, 1 << 20))
    assert answer.state is State.MISSING and "Too many open files" in answer.found and answer.remedy
    assert len(os.listdir("/proc/self/fd")) == opened


def test_the_table_is_whole() -> None:
    assert len(BY_NAME) == len(PROBES)
    silent = [probe.name for probe in PROBES if not (probe.lost and probe.remedy)]
    assert silent == ["processors", "output", "PostgreSQL"], "the others may fail in ways of their own"


def made_of(*states: tuple[str, bool, State]) -> Callable[[Place], doctor.Diagnosis]:
    def probe(name: str, trust: bool, state: State) -> Probe:
        return Probe(name, trust, lambda place: Answer(state, "it", "something", "a remedy"), "all", "try again")

    return lambda place: diagnose(place, [probe(*row) for row in states])


@pytest.mark.parametrize(
    ("states", "trusted", "words"),
    [
        ([("a", True, State.OK), ("b", False, State.MISSING)], True, "can be trusted in full"),
        ([("a", True, State.DEGRADED), ("b", True, State.OK)], False, "prove less than they could: a degraded"),
        (
            [("a", True, State.DEGRADED), ("b", True, State.MISSING)],
            False,
            "will not work here as they should: b missing",
        ),
    ],
)
def test_the_answers_come_to_one_sentence_and_a_status(
    states: list[tuple[str, bool, State]],
    trusted: bool,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("chaos.cli.doctor.diagnose", made_of(*states))
    assert run(["doctor", "--out", str(tmp_path)]) == (0 if trusted else 1)
    shown = capsys.readouterr().out
    assert words in shown.splitlines()[-1]
    assert shown.count("remedy: a remedy") == sum(state is not State.OK for _, _, state in states)
    assert run(["doctor", "--out", str(tmp_path / "not" / "yet"), "--json"]) == (0 if trusted else 1)
    told = json.loads(capsys.readouterr().out)
    assert (told["trusted"], len(told["lines"])) == (trusted, len(states)) and words in told["summary"]
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_backends_that_no_run_can_have_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--backends", "0"]) == 4
    assert "backends is 0" in capsys.readouterr().err
