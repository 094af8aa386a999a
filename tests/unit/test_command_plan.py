"""A command's plan follows from its seed alone, and a file that makes no sense is refused with its line.

What could go wrong: two runs of one seed that hit different children; a plan that hits who has no role, or asks
another machine; a typing error in a file that is silently the default.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.command.plan import CommandFault, CommandPlan, Expectation, Policy, Ready
from chaos.command.plan_file import read_plan_file
from chaos.plan import PlanError, RoleChild, SeveralChildren

GOOD = """target = "command"
kills = 3
[command]
start = ["server", "--port", "{port}"]
environment = { PORT = "{port}" }
[roles]
worker = "^server: worker"
helper = "helper$"
[ready]
tcp = "127.0.0.1:{port}"
[expect]
policy = "restart-one"
"""


def plan(text: str = GOOD, seed: int = 5, tmp: Path = Path("/nowhere")) -> CommandPlan:
    path = tmp / "plan.toml"
    path.write_text(text)
    return read_plan_file(path).plan(seed)


def test_the_same_seed_makes_the_same_cycles_and_another_makes_others(tmp_path: Path) -> None:
    text = GOOD.replace("kills = 3", f"faults = {[str(fault) for fault in CommandFault]}")
    first, again, other = (plan(text, seed, tmp_path) for seed in (5, 5, 6))
    cycles = [first.cycle(number) for number in range(100)]
    assert cycles == [again.cycle(number) for number in range(100)]
    assert cycles != [other.cycle(number) for number in range(100)]
    assert {cycle.fault for cycle in cycles} == set(CommandFault)
    for cycle in cycles:
        assert (cycle.victims is None) == (cycle.fault is CommandFault.SIGKILL_MAIN)
        assert isinstance(cycle.victims, SeveralChildren) == (cycle.fault is CommandFault.SIGKILL_SEVERAL)
    assert {c.victims.role for c in cycles if isinstance(c.victims, RoleChild)} == {"worker", "helper"}


def test_a_file_is_read_whole_and_relative_to_itself(tmp_path: Path) -> None:
    read = plan(GOOD.replace("[roles]", 'directory = "app"\n[roles]'), 5, tmp_path)
    assert (read.seed, read.directory, read.file) == (5, str(tmp_path / "app"), str(tmp_path / "plan.toml"))
    assert (read.expect, read.targets) == (Expectation(Policy.RESTART_ONE), ("worker", "helper"))


def test_the_runs_own_values_stand_in_their_places(tmp_path: Path) -> None:
    filled = plan(tmp=tmp_path).filled({"port": "4711"})
    assert filled.start == ("server", "--port", "4711")
    assert (filled.environment, filled.ready.tcp) == ({"PORT": "4711"}, "127.0.0.1:4711")


def test_a_process_has_the_first_role_whose_pattern_is_found(tmp_path: Path) -> None:
    roles = plan(tmp=tmp_path)
    assert roles.role_of("python", "server: worker 1") == "worker"
    assert roles.role_of("helper", "") == "helper"
    assert roles.role_of("python", "server: master") == "other"


@pytest.mark.parametrize(
    ("line", "written", "message"),
    [
        ("kills = 3", "kils = 3", "line 2: there is no kils; there are target, command"),
        ("kills = 3", 'kills = "many"', "line 2: kills: Expected"),
        ("kills = 3", 'faults = ["sigkil"]', "line 2: faults: .*; there are sigkill-random, sigkill-role"),
        ("kills = 3", 'victims = ["boss"]', "line 2: victims: there is no role 'boss'; there are worker, helper"),
        ("kills = 3", "pause_s = -1", "line 2: pause_s is -1, outside the valid range"),
        ("kills = 3", "kills =", "is no TOML: .*line 2"),
        ('target = "command"', 'target = "anything"', "line 1: target: .*; there are command"),
        ('policy = "restart-one"', 'policy = "none"', "line 12: expect.policy: .*; there are restart-one, restart-all"),
        ('policy = "restart-one"', "", "line 11: expect.policy is missing"),
        ('policy = "restart-one"', 'policy = "drain"\nready_s = 0', "line 13: expect.ready_s is 0, outside"),
        ('worker = "^server: worker"', 'worker = "("', "line 7: roles.worker: '\\(' is no regular expression"),
        ('worker = "^server: worker"', 'main = "x"', "line 7: roles.main: 'main' is a role of its own"),
        ('tcp = "127.0.0.1:{port}"', 'tcp = "192.0.2.1:80"', "line 10: ready.tcp: '192.0.2.1' is not this machine's"),
        ('tcp = "127.0.0.1:{port}"', 'http = "ftp://localhost/"', "line 10: ready.http is 'ftp://localhost/'"),
        ('tcp = "127.0.0.1:{port}"', "", "line 9: ready needs one of http, tcp, unix and command, and has none"),
        ('tcp = "127.0.0.1:{port}"', 'tcp = "localhost:1"\nunix = "x"', "line 9: ready needs one .* has tcp and unix"),
        ("[command]", '[command]\nstop_signal = "SIGNAL"', "line 4: stop_signal: there is no signal 'SIGNAL'"),
        ("[command]", "[command]\nshell = true", "line 4: there is no command.shell; there are start, directory"),
    ],
)  # fmt: skip
def test_an_error_is_told_with_its_line_and_what_is_allowed(
    tmp_path: Path, line: str, written: str, message: str
) -> None:
    with pytest.raises(PlanError, match=f"plan.toml.*{message}"):
        plan(GOOD.replace(line, written), 5, tmp_path)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"none\.toml cannot be read"):
        read_plan_file(tmp_path / "none.toml")


@pytest.mark.parametrize("address", ["127.0.0.1:80", "localhost:80", "[::1]:80", "127.8.8.8:{port}"])
def test_only_this_machine_is_asked(address: str) -> None:
    assert Ready(tcp=address).tcp == address
