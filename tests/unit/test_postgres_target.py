"""What is known of a real PostgreSQL without starting one: where it is, what its log and its processes say, who runs it.

What could go wrong: a log line of a backend that is taken for the postmaster's, and with it a generation that nobody
made; half a line; a process whose role is read off the postmaster's command line; a server that is found in a place
where its user cannot go; options that only the built-in server has, taken without a word and dropped.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from chaos.client import Draw, Job, requests_of
from chaos.errors import PlanError
from chaos.load import outside_draws, outside_requests
from chaos.oracles.server_kind import BUILTIN, kind_of
from chaos.plan import CampaignPlan
from chaos.targets.choice import TargetChoice, TargetKind
from chaos.targets.postgres import STARTING, role_of
from chaos.targets.postgres_log import PostgresLog
from chaos.targets.postgres_programs import find_programs
from chaos.targets.target import TargetError
from chaos.targets.unprivileged import User
from workloads.registry import WORKLOADS

POSTMASTER, STARTUP, BACKEND = 700, 701, 702


class Log:
    """A server's log that grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = PostgresLog(path)
        self.seen.follow(POSTMASTER)

    def write(self, pid: int, kind: str, message: str, *, end: str = "\n") -> None:
        with self.path.open("a") as file:
            file.write(f"2026-11-25 16:46:02.883 UTC [{pid}] {kind} LOG:  {message}{end}")
        self.seen.read()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "server.log")


READY = "database system is ready to accept connections"


def test_a_generation_is_ready_when_the_postmaster_says_so_and_nobody_else(log: Log) -> None:
    log.write(BACKEND, "client backend", READY)
    log.write(STARTUP, "startup", "redo starts at 0/891F80")
    assert log.seen.ready_generation == 0
    log.write(POSTMASTER, "postmaster", READY)
    log.write(POSTMASTER, "postmaster", "all server processes terminated; reinitializing")
    assert log.seen.ready_generation == 1
    log.write(POSTMASTER, "postmaster", READY)
    assert log.seen.ready_generation == 2
    assert log.seen.ready_ns > 0


def test_half_a_line_is_no_line_yet(log: Log) -> None:
    log.write(POSTMASTER, "postmaster", READY, end="")
    assert log.seen.ready_generation == 0
    with log.path.open("a") as file:
        file.write("\n")
    log.seen.read()
    assert log.seen.ready_generation == 1


def test_what_an_earlier_postmaster_said_is_forgotten(log: Log) -> None:
    log.write(POSTMASTER, "postmaster", READY)
    log.seen.forget()
    assert log.seen.ready_generation == 0
    log.seen.follow(POSTMASTER + 100)
    log.write(POSTMASTER, "postmaster", READY)
    assert log.seen.ready_generation == 0


def test_processes_are_named_by_their_lines(log: Log) -> None:
    log.write(STARTUP, "startup", "database system was interrupted; last known up at 2026-11-25 16:46:02 UTC")
    log.write(BACKEND, "client backend", "whatever it says [800] startup LOG:  no")
    log.write(703, "not initialized", "connection received: host=[local]")
    log.write(704, "not initialized", "could not fork")
    assert log.seen.roles() == {STARTUP: "startup", BACKEND: "backend", 703: "backend"}
    assert log.seen.roles() == {}


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (b"postgres: checkpointer \0", "checkpointer"),
        (b"postgres: background writer \0\0", "bgwriter"),
        (b"postgres: walwriter ", "walwriter"),
        (b"postgres: startup recovering 000000010000000000000001", "startup"),
        (b"postgres: autovacuum worker postgres", "autovacuum_worker"),
        (b"postgres: io worker 2", "io_worker"),
        (b"postgres: crashbed postgres [local] idle in transaction", "backend"),
        (b"/usr/lib/postgresql/15/bin/postgres\0-D\0/tmp/x\0", STARTING),
        (b"", STARTING),
    ],
)
def test_roles_by_command_line(command: bytes, role: str) -> None:
    assert role_of(command) == role


def test_the_directory_that_was_asked_for_is_the_only_one_that_is_looked_into(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="holds no program postgres and no initdb; install PostgreSQL"):
        find_programs(tmp_path)
    for name, text in (("postgres", "echo 'postgres (PostgreSQL) 12.3'"), ("initdb", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(TargetError, match=r"PostgreSQL 12\.3: 13 or later is needed"):
        find_programs(tmp_path)
    (tmp_path / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 18.1 (Ours 18.1-1)'\n")
    found = find_programs(tmp_path)
    assert (found.version, found.major, found.program("initdb")) == ("18.1", 18, tmp_path / "initdb")


def test_a_user_reaches_what_lies_behind_open_doors_alone(tmp_path: Path) -> None:
    stranger = User("stranger", os.geteuid() + 4242, os.getegid() + 4242)
    owner = User("owner", os.geteuid(), os.getegid())
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    inner.parent.chmod(stat.S_IRWXU)
    assert owner.reaches(inner / "to be made")
    assert not stranger.reaches(inner / "to be made")
    assert stranger.reaches(Path("/usr/bin/env"))


PLAN = CampaignPlan(seed=1, point_one_in=0)


@pytest.mark.parametrize(
    ("choice", "plan", "defect", "words"),
    [
        (TargetChoice(settings={"fsync": "off"}), PLAN, None, "are of --target postgres"),
        (TargetChoice(pg_bindir="/x"), PLAN, None, "are of --target postgres"),
        (TargetChoice(TargetKind.POSTGRES), CampaignPlan(seed=1), None, "PostgreSQL has none of them"),
        (TargetChoice(TargetKind.POSTGRES), PLAN, "acknowledged-before-wal", "leave out one"),
        (TargetChoice(TargetKind.POSTGRES, settings={"Port": "1"}), PLAN, None, "--pg-set port: the harness sets it"),
    ],
)
def test_what_a_target_has_not_is_refused(
    choice: TargetChoice, plan: CampaignPlan, defect: str | None, words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        choice.check(plan, defect)


def test_a_choice_is_recorded_whole_and_repeated_by_its_words() -> None:
    choice = TargetChoice(TargetKind.POSTGRES, "/opt/pg/bin", {"fsync": "off"})
    choice.check(PLAN, None)
    assert TargetChoice.read(choice.recorded()) == choice
    assert choice.words() == ["--target", "postgres", "--pg-bindir", "/opt/pg/bin", "--pg-set", "fsync=off"]
    assert TargetChoice.read(None) == TargetChoice()
    assert TargetChoice().words() == []


def test_clients_outside_perform_the_requests_that_a_backend_would() -> None:
    plan = PLAN.cycle(3)
    bank = WORKLOADS["bank"]
    outside = len(plan.worker_seeds)
    draws = tuple(Draw(first, 1, seed) for first, seed in outside_draws(plan))
    assert list(requests_of(bank, Job(outside, draws))) == [request for request, _ in outside_requests(bank, plan)]


def test_what_a_server_is_held_to_follows_from_its_version() -> None:
    assert kind_of("builtin", {"server": "0.1"}) is BUILTIN
    old, new = (kind_of("postgres", {"server": f"PostgreSQL {version}"}) for version in ("17.4", "18.1"))
    assert (old.journal, old.newest_first) == (False, False)
    assert (new.journal, new.newest_first) == (False, True)
    assert set(old.not_judged) == {"wal_replay", "slots", "transitions", "background_workers", "storage"}
