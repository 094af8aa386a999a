"""Starting by hand: every refusal is a sentence, says what to do, and leaves nothing behind.

A server that dies with a traceback, or starts with half of what was asked for, costs its reader an afternoon. So each
refusal is provoked for real, and its message, its hint and its exit status are looked at: 2 for a data directory that
is none, 1 for everything else, as PostgreSQL does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from chaos.targets.builtin import CODE_ROOT
from chaos.targets.process import children_of
from supervisor.points import Point
from supervisor.postmaster.initdb import initialise
from tests.conftest import MakeServer
from tests.support.by_hand import Said, command, crashbed, end, ended, postmaster
from tests.support.server import LiveServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

NOBODY = 65534


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that nobody has started yet."""
    directory = tmp_path_factory.mktemp("start") / "data"
    initialise(directory, segment_size=1024**2)
    return directory


@pytest.fixture
def data(template: Path, tmp_path: Path) -> Path:
    """A data directory of this test."""
    return Path(shutil.copytree(template, tmp_path / "data"))


def refused(said: Said, message: str, hint: str, *, status: int = 1) -> None:
    """A refusal has one FATAL sentence, a HINT, a status, and no word that it ran."""
    assert said.status == status, said.err
    (fatal,) = [line for line in said.err.splitlines() if "FATAL:  " in line]
    assert message in fatal
    assert any("HINT:  " in line and hint in line for line in said.err.splitlines()), said.err
    assert "database system is" not in said.err


def nothing_left(data: Path) -> bool:
    return not (data / "postmaster.pid").exists() and not list(data.glob(".s.PGSQL*"))


# Data directories that are none.


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    nope = tmp_path / "nope"
    refused(
        postmaster(nope), f'data directory "{nope}" does not exist', f"Make one with: crashbed init -D {nope}", status=2
    )
    assert not nope.exists()


def test_a_directory_that_is_something_else(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    (other / "letter.txt").touch()
    refused(postmaster(other), "is not a crashbed data directory", "crashbed init", status=2)
    assert [path.name for path in other.iterdir()] == ["letter.txt"]


def test_a_directory_that_others_can_read(data: Path) -> None:
    data.chmod(0o755)
    refused(postmaster(data), "has invalid permissions", f"chmod 0700 {data}", status=2)


def test_a_directory_of_another_user(data: Path) -> None:
    if os.geteuid() == 0:
        os.chown(data, NOBODY, NOBODY)
    else:
        data = Path("/usr")
    refused(postmaster(data), f'data directory "{data}" has wrong ownership', "user that owns", status=2)


# Data directories that this server cannot use.


def test_a_data_directory_of_another_version(data: Path) -> None:
    (data / "CRASHBED_VERSION").write_text("7\n")
    refused(postmaster(data), "database files are incompatible with server", "made by version '7'")
    assert nothing_left(data)


def test_a_data_directory_without_a_version(data: Path) -> None:
    (data / "CRASHBED_VERSION").unlink()
    refused(postmaster(data), 'file "CRASHBED_VERSION" is missing', "crashbed init")


@pytest.mark.parametrize(
    ("at", "byte", "message"),
    [
        (0, 0xFF, "is not a control file"),
        (100, 0xFF, "incorrect checksum in control file"),
        (8191, 0xFF, "incorrect checksum in control file"),
    ],
)
def test_a_damaged_control_file(data: Path, at: int, byte: int, message: str) -> None:
    path = data / "global" / "pg_control"
    content = bytearray(path.read_bytes())
    content[at] ^= byte
    path.write_bytes(content)
    refused(postmaster(data), message, "Restore the data directory from a copy")
    assert path.read_bytes() == content
    assert nothing_left(data)


def test_a_control_file_that_is_cut_short(data: Path) -> None:
    os.truncate(data / "global" / "pg_control", 512)
    refused(postmaster(data), "read 512 of 8192", "Restore the data directory from a copy")


# Settings.


@dataclass(frozen=True)
class Bad:
    """One wrong setting: how it is written, and what the refusal says of it."""

    line: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return self.line


BAD = (
    Bad(
        "max_conections = 5", 'unrecognized configuration parameter "max_conections"', 'Did you mean "max_connections"?'
    ),
    Bad("checkpoint_timeout = 5m", 'invalid value for parameter "checkpoint_timeout": "5m"', '"min"'),
    Bad("port = 70000", '70000 is outside the valid range for parameter "port" (1 .. 65535)'),
    Bad("fsync = maybe", 'parameter "fsync" requires a Boolean value', "on or off"),
)


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_wrong_line_is_named(data: Path, bad: Bad) -> None:
    conf = data / "postgresql.conf"
    number = len(conf.read_text().splitlines()) + 1
    with conf.open("a") as file:
        file.write(bad.line + "\n")
    said = postmaster(data)
    assert said.status == 1
    assert f"{bad.message}" in said.err
    assert f'in file "{conf}" line {number}' in said.err
    assert bad.hint is None or bad.hint in said.err
    assert nothing_left(data)


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_wrong_option_is_named(data: Path, bad: Bad) -> None:
    option = bad.line.replace(" ", "")
    said = postmaster(data, "-c", option)
    assert said.status == 1
    assert f"FATAL:  {bad.message}" in said.err
    assert f"in option -c {option}" in said.err
    assert bad.hint is None or bad.hint in said.err


def test_an_option_without_a_value(data: Path) -> None:
    refused(postmaster(data, "-c", "fsync"), "-c fsync requires a value", "Write -c name=value.")


def test_a_settings_file_that_is_no_text(data: Path) -> None:
    (data / "postgresql.conf").write_bytes(b"\xff\xfe\x00 = 1\n")
    refused(postmaster(data), f'syntax error in file "{data}/postgresql.conf" line 1', "Write name = value")
    (data / "postgresql.conf").unlink()
    (data / "postgresql.conf").mkdir()
    refused(postmaster(data), f'could not read "{data}/postgresql.conf": Is a directory', "a file", status=2)


# What the settings name.


def test_a_socket_path_that_is_too_long(data: Path, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    said = postmaster(data, "-k", long)
    refused(
        said, f'Unix-domain socket path "{long}/.s.PGSQL.5432" is too long (maximum 107 bytes)', "shorter directory"
    )
    assert nothing_left(data)


def test_a_socket_directory_that_does_not_exist(data: Path, tmp_path: Path) -> None:
    said = postmaster(data, "-k", "/nowhere-at-all")
    refused(said, 'could not create Unix-domain socket in "/nowhere-at-all": no such directory', "Create it")
    assert nothing_left(data)


def test_a_socket_whose_place_is_taken_by_something_else(data: Path, make_server: MakeServer) -> None:
    sockets = make_server().target.socket_directory
    (sockets / ".s.PGSQL.5432").mkdir()
    said = postmaster(data, "-k", sockets)
    refused(
        said, f'could not bind Unix-domain socket "{sockets}/.s.PGSQL.5432": Address already in use', "remove socket"
    )
    assert nothing_left(data)
    assert [path.name for path in sockets.iterdir()] == [".s.PGSQL.5432"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, "No module named 'preloaded'"),
        ("PROCEDURES = 1 +", "invalid syntax"),
        ("1 / 0", "division by zero"),
        ("", "offers no procedures"),
        (
            "import threading; PROCEDURES = ()\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
            "has started a thread",
        ),
    ],
)
def test_a_module_that_cannot_be_preloaded(data: Path, tmp_path: Path, code: str | None, reason: str) -> None:
    if code is not None:
        (tmp_path / "preloaded.py").write_text(code)
    said = postmaster(data, "-c", "shared_preload_libraries=preloaded")
    assert said.status == 1
    assert "FATAL:  " in said.err and reason in said.err and "HINT:  " in said.err
    assert nothing_left(data)


def test_a_journal_and_a_points_map_that_cannot_be_used(data: Path) -> None:
    refused(postmaster(data, "-c", "crashbed.journal=/nowhere/x"), '"/nowhere/x" of "crashbed.journal"', "that exists")
    refused(
        postmaster(data, "-c", "crashbed.points_map=/dev/null"), '"/dev/null" of "crashbed.points_map"', "points map"
    )
    assert nothing_left(data)


def test_a_parent_that_is_not_the_parent(data: Path) -> None:
    refused(postmaster(data, "--die-with", "1" if os.getpid() != 1 else "2"), "--die-with", "the process that starts")


HELD_AT_IMPORT = """
import os, select
parent = os.getppid()
open("begun", "w").close()
while os.getppid() == parent:
    select.select((), (), (), 0.001)
PROCEDURES = {}
"""
STARTER = """
import os, signal, subprocess, sys
signal.signal(signal.SIGQUIT, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen([*sys.argv[1:], "--die-with", str(os.getpid())]).wait()
"""


def test_it_dies_with_its_parent_also_while_it_starts_and_from_a_shells_background(data: Path, tmp_path: Path) -> None:
    """A shell that starts a command with `&` has SIGINT and SIGQUIT ignored in it, and in all that it starts."""
    (tmp_path / "held.py").write_text(HELD_AT_IMPORT)
    options = ["-D", str(data), "-k", str(data), "-c", "shared_preload_libraries=held"]
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, sys.executable, "-m", "supervisor", *options],
        env={**os.environ, "PYTHONPATH": f"{CODE_ROOT}:{tmp_path}"},
        stderr=subprocess.DEVNULL,
    )
    wait_until("the server to begin", (data / "begun").exists)
    (server,) = children_of(starter.pid)
    try:
        starter.kill()
        starter.wait()
        wait_until("its end", lambda: ended(server))
        assert not list(data.glob(".s.PGSQL*")), "it never listened"
    finally:
        end(server)
        server.close()


# What is said when it does start.


def test_a_server_says_what_it_is_and_that_it_runs_as_root(server: LiveServer) -> None:
    log = server.log()
    assert "LOG:  starting 18.0 (crashbed" in log
    assert f'LOG:  listening on Unix socket "{server.target.socket_directory}/.s.PGSQL.5432"' in log
    assert ("running as root, which PostgreSQL refuses" in log) == (os.geteuid() == 0)
    assert log.index("starting 18.0") < log.index("listening on") < log.index("ready to accept connections")


def test_options_win_over_the_file(make_server: MakeServer) -> None:
    server = make_server({"lock_timeout": "7s"})
    (server.data / "postgresql.conf").write_text("lock_timeout = 3s\nbgwriter_delay = 1s  # and this one stands\n")
    server.start()
    with server.connect() as connection:
        assert connection.execute("SHOW lock_timeout").fetchone() == ("7s",)
        assert connection.execute("SHOW bgwriter_delay").fetchone() == ("1s",)


# The command line.


def test_serve_offers_init_and_the_offer_works(tmp_path: Path) -> None:
    said = crashbed("serve", "-D", "data", cwd=tmp_path)
    assert said.status == 3
    assert said.err.splitlines() == [
        'crashbed: "data" is not a crashbed data directory', "hint: Make one with: crashbed init -D data",
    ]  # fmt: skip
    made = crashbed("init", "-D", "data", cwd=tmp_path)
    assert made.status == 0
    assert "start it with: crashbed serve -D data" in made.out
    # It becomes the postmaster itself, whose refusal this is.
    said = crashbed("serve", "-D", "data", "-c", "port=0", cwd=tmp_path)
    refused_by_range = '0 is outside the valid range for parameter "port" (1 .. 65535) in option -c port=0'
    assert (said.status, refused_by_range in said.err) == (1, True)


def test_serve_is_not_led_astray_by_a_directory_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "supervisor").mkdir()
    (tmp_path / "supervisor" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    crashbed_here = ("-P", "-m", "chaos")
    assert command(*crashbed_here, "init", "-D", "data", cwd=tmp_path).status == 0
    said = command(*crashbed_here, "serve", "-D", "data", "-c", "port=0", cwd=tmp_path)
    assert "the wrong one" not in said.err
    assert "outside the valid range" in said.err


def test_init_refuses_a_directory_that_holds_anything(data: Path, tmp_path: Path) -> None:
    before = sorted(str(path) for path in data.rglob("*"))
    said = crashbed("init", "-D", data, cwd=tmp_path)
    assert said.status == 3
    assert said.err.splitlines() == [
        f'crashbed: directory "{data}" exists but is not empty',
        "hint: Remove or empty it, or choose another; nothing was changed.",
    ]
    assert sorted(str(path) for path in data.rglob("*")) == before


@pytest.mark.parametrize("existed", [False, True])
def test_init_that_runs_out_of_space_leaves_nothing(tmp_path: Path, existed: bool) -> None:
    if existed:
        (tmp_path / "data").mkdir()
    full = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"  # a WAL segment does not fit
        "sys.argv = ['crashbed', 'init', '-D', 'data']\n"
        "runpy.run_module('chaos', run_name='__main__')\n"
    )
    said = command("-c", full, cwd=tmp_path)
    assert said.status == 3
    assert 'crashbed: could not make data directory "data": File too large' in said.err
    assert [path.name for path in tmp_path.rglob("*")] == (["data"] if existed else [])


def test_init_makes_what_nobody_else_can_read(tmp_path: Path) -> None:
    assert crashbed("init", "-D", "data", "--wal-segsize", "1", cwd=tmp_path).status == 0
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "data").rglob("*")}
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert modes == {0o600, 0o700}
    said = crashbed("init", "-D", "other", "--wal-segsize", "3", cwd=tmp_path)
    assert said.status == 3
    assert "Choose 1, 2, 4, 8 or 16 MiB." in said.err
    assert not (tmp_path / "other").exists()


def test_controldata_and_waldump_read_a_data_directory(data: Path, tmp_path: Path) -> None:
    said = crashbed("controldata", "-D", data, cwd=tmp_path)
    assert "Database cluster state:               shut down\n" in said.out
    assert "Bytes per WAL segment:                1048576\n" in said.out
    dumped = crashbed("waldump", "-D", data, cwd=tmp_path).out.splitlines()
    assert dumped[0].startswith("rmgr: XLOG") and "CHECKPOINT_SHUTDOWN" in dumped[0]
    assert dumped[-1].startswith("end of log: invalid record length at 0/")
    everything = crashbed("waldump", "-D", data, "--start", "0/100020", cwd=tmp_path).out.splitlines()
    assert len(everything) > len(dumped)
    assert crashbed("waldump", "-D", data, "--start", "0/100020", "-n", "1", cwd=tmp_path).out == everything[0] + "\n"
    wrong = crashbed("waldump", "-D", data, "--start", "100020", cwd=tmp_path)
    assert (wrong.status, "'100020' is not an LSN" in wrong.err) == (4, True)
    missing = crashbed("waldump", "-D", "nope", cwd=tmp_path)
    assert (missing.status, "hint: Make one with: crashbed init -D nope" in missing.err) == (3, True)


def test_points_lists_every_point_with_its_meaning(tmp_path: Path) -> None:
    lines = crashbed("points", cwd=tmp_path).out.splitlines()
    assert [tuple(line.split(maxsplit=1)) for line in lines] == [(point.name, point.meaning) for point in Point]


@pytest.mark.parametrize(
    "verb",
    [
        "init",
        "serve",
        "reload",
        "verify",
        "waldump",
        "controldata",
        "points",
        "run",
        "replay",
        "judge",
        "report",
        "demo",
    ],
)
def test_every_help_text_has_an_example(tmp_path: Path, verb: str) -> None:
    said = crashbed(verb, "--help", cwd=tmp_path)
    assert said.status == 0
    assert f"\n  crashbed {verb}" in said.out


def test_the_servers_own_help_has_examples_and_the_signals(tmp_path: Path) -> None:
    said = command("-m", "supervisor", "--help", cwd=tmp_path)
    assert said.status == 0
    assert "python -m supervisor -D data" in said.out
    assert all(f"SIG{name}" in said.out for name in ("TERM", "INT", "QUIT", "HUP"))


def test_no_data_directory_at_all(tmp_path: Path) -> None:
    said = command("-m", "supervisor", cwd=tmp_path, env={"PGDATA": ""})
    assert (said.status, "no data directory: give -D DIR or set PGDATA" in said.err) == (2, True)


@pytest.mark.parametrize("entry", [("-P", "-m", "chaos"), ("-P", "-c", "from chaos.__main__ import main; main()")])
def test_another_distribution_named_supervisor_is_told_in_one_sentence(tmp_path: Path, entry: tuple[str, ...]) -> None:
    (tmp_path / "supervisor").mkdir()
    (tmp_path / "supervisor" / "__init__.py").touch()
    root = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2]), root])
    said = command(*entry, "points", cwd=tmp_path, env={"PYTHONPATH": path})
    assert said.status == 1
    assert said.err == (
        'crashbed: another distribution named "supervisor" is installed in this environment; '
        "install crashbed into a virtual environment of its own\n"
    )


def test_a_server_started_in_the_background_with_sigint_ignored_still_shuts_down(make_server: MakeServer) -> None:
    """A shell gives background jobs SIGINT ignored; PostgreSQL's fast shutdown must work all the same."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = make_server().start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert server.target.stop(signal.SIGINT) == 0
    assert "received fast shutdown request" in server.log()
