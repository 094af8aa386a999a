"""Two servers must never write one data directory, and a server whose postmaster is gone must go too.

What goes wrong in practice: somebody starts a second server beside the first; a postmaster is SIGKILLed and its
backends work on while the next one recovers over their heads; an operator removes postmaster.pid because "the server
does not start"; a leftover pid file names a process that has nothing to do with it; a child keeps the death pipe open
and nobody sees the postmaster die.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from chaos.targets.builtin import CODE_ROOT
from chaos.witness.proc_maps import mapped_memories
from supervisor.postmaster import lockfile
from tests.conftest import MakeScene, MakeServer
from tests.support.by_hand import end, ended, orphans_of, postmaster
from tests.support.scene import Scene, stopped_postmaster
from tests.support.server import LiveServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

IN_USE = "FATAL:  pre-existing shared memory block is still in use"
CHECK_OFTEN = {"crashbed.lock_file_check_interval": "50ms"}


def pid_file(server: LiveServer) -> Path:
    return server.data / lockfile.NAME


def identity(path: Path) -> tuple[bytes, int, int]:
    """What a file says, which file it is, and when it was last written."""
    return path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns


def says_ready(path: Path) -> bool:
    """Whether a lock file is there and its last line says that clients are welcome, as pg_ctl reads it."""
    try:
        return path.read_text().endswith("\nready   \n")
    except FileNotFoundError:
        return False


def answers(server: LiveServer) -> bool:
    with server.connect() as connection:
        return connection.execute("SHOW max_connections").fetchone() == ("20",)


# The lock file.


def test_the_lock_file_of_a_live_server_has_postgresqls_eight_lines(server: LiveServer) -> None:
    lines = pid_file(server).read_text().split("\n")
    (memory,) = mapped_memories(server.pid) or ()
    assert lines[0] == str(server.pid)
    assert lines[1] == str(server.data)
    assert lines[3:6] == ["5432", str(server.target.socket_directory), ""]
    assert lines[6].split() == [str(memory.inode), "1"]
    assert lines[7:] == ["ready   ", ""]
    server.kill("walwriter")
    server.wait_generation(1)
    (memory,) = mapped_memories(server.pid) or ()
    assert pid_file(server).read_text().split("\n")[6].split() == [str(memory.inode), "2"]


def test_an_orderly_end_removes_everything_that_the_server_put_there(server: LiveServer) -> None:
    sockets = server.target.socket_directory
    assert {path.name for path in sockets.iterdir()} == {".s.PGSQL.5432", ".s.PGSQL.5432.lock"}
    assert server.target.stop() == 0
    assert not pid_file(server).exists()
    assert list(sockets.iterdir()) == []


def test_a_second_postmaster_on_a_live_one_is_refused_and_touches_nothing(server: LiveServer, tmp_path: Path) -> None:
    before = identity(pid_file(server))
    second = postmaster(server.data, "-k", tmp_path)
    assert second.status == 1
    assert 'FATAL:  lock file "postmaster.pid" already exists' in second.err
    assert f'HINT:  Is another postmaster (PID {server.pid}) running in data directory "{server.data}"?' in second.err
    assert identity(pid_file(server)) == before
    assert answers(server)


def test_a_second_postmaster_on_the_same_socket_is_refused_and_touches_nothing(
    server: LiveServer, make_server: MakeServer
) -> None:
    other = make_server()
    second = postmaster(other.data, "-k", server.target.socket_directory)
    assert second.status == 1
    socket_path = server.target.socket_directory / ".s.PGSQL.5432"
    assert 'FATAL:  lock file ".s.PGSQL.5432.lock" already exists' in second.err
    assert f'HINT:  Is another postmaster (PID {server.pid}) using socket file "{socket_path}"?' in second.err
    assert not pid_file(other).exists(), "the refused server left its own lock file"
    assert answers(server)


@pytest.mark.parametrize("whose", ["dead", "parent"])
def test_a_stale_lock_file_is_replaced_in_silence(make_server: MakeServer, whose: str) -> None:
    server = make_server()
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    pid = {"dead": dead.pid, "parent": os.getpid()}[whose]
    pid_file(server).write_text(f"{pid}\n{server.data}\n1700000000\n5432\n/tmp\n\n        1         1\nready   \n")
    server.start()
    assert pid_file(server).read_text().startswith(f"{server.pid}\n")
    assert "lock file" not in server.log()


def test_a_lock_file_with_the_servers_own_number_is_replaced(make_server: MakeServer) -> None:
    """In a container every postmaster is process 1, and so was the last one."""
    server = make_server()
    script = f'echo $$ > "{pid_file(server)}"; exec "$@"'
    arguments = [sys.executable, "-m", "supervisor", "-D", str(server.data), "-k", str(server.target.socket_directory)]
    with (server.directory / "own.log").open("wb") as log:
        process = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", *arguments, "--die-with", str(os.getpid())],
            env={**os.environ, "PYTHONPATH": str(CODE_ROOT)},
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until("the server to be ready", lambda: says_ready(pid_file(server)), deadline_s=20)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", 'FATAL:  lock file "postmaster.pid" is empty'),
        (b"hello\n", 'FATAL:  bogus data in lock file "postmaster.pid": "hello"'),
        (b"\xff\x00\xfe", 'FATAL:  bogus data in lock file "postmaster.pid"'),
    ],
)
def test_a_lock_file_that_names_nobody_is_for_a_person_to_look_at(
    make_server: MakeServer, data: bytes, message: str
) -> None:
    server = make_server()
    pid_file(server).write_bytes(data)
    before = identity(pid_file(server))
    refused = postmaster(server.data, "-k", server.target.socket_directory)
    assert refused.status == 1
    assert message in refused.err
    assert "HINT:  " in refused.err
    assert identity(pid_file(server)) == before
    pid_file(server).unlink()
    assert answers(server.start())


# A running server whose lock file is taken away.


@pytest.mark.parametrize("what", ["removed", "anothers"])
def test_a_server_without_its_lock_file_shuts_itself_down_at_once(make_scene: MakeScene, what: str) -> None:
    scene = make_scene(CHECK_OFTEN)
    server = scene.server
    children = server.roles()
    pid_file(server).unlink()
    if what == "anothers":
        pid_file(server).write_text("1\nanother server's\n")
    # Nobody's fault and no crash, but nobody may be left either: exit 0 after SIGQUIT to all.
    assert server.wait_exit() == 0
    server.wait_log("performing immediate shutdown because data directory lock file is invalid")
    account = scene.evidence().account
    for pid, role in children.items():
        life = account.lives(pid)[-1]
        assert any(s.sig == signal.SIGQUIT and s.by == server.pid for s in life.received), f"{role} got no SIGQUIT"
        assert life.reaped_by == server.pid, f"{role} was left behind"
    assert pid_file(server).exists() == (what == "anothers"), "it removed what another process had put there"
    pid_file(server).unlink(missing_ok=True)
    server.start()
    server.wait_log("database system was not properly shut down; automatic recovery in progress")
    assert answers(server)


def test_a_lock_file_that_cannot_be_read_is_no_reason_to_go(make_server: MakeServer) -> None:
    server = make_server(CHECK_OFTEN).start()
    with stopped_postmaster(server):  # a look between the two would find no file at all, which is a reason
        pid_file(server).unlink()
        pid_file(server).mkdir()
    continuing = 'could not open file "postmaster.pid": Is a directory; continuing anyway'
    wait_until("the third look", lambda: server.log().count(continuing) >= 3)
    assert answers(server)


def test_a_server_survives_a_crash_and_a_shutdown_without_its_lock_file(make_server: MakeServer) -> None:
    """Between two looks the file is gone and nobody knows: rewriting it must neither fail nor make it again."""
    server = make_server().start()
    pid_file(server).unlink()
    server.kill("walwriter")
    server.wait_generation(1)
    assert answers(server)
    assert not pid_file(server).exists()
    assert server.target.stop() == 0
    assert 'could not write file "postmaster.pid": No such file or directory' in server.log()
    assert "database system is shut down" in server.log()


# The postmaster is gone.


def test_idle_children_leave_soon_after_their_postmaster_and_tell_their_clients(server: LiveServer) -> None:
    with server.connect() as connection:
        # It is forked a moment after the first clients were let in, and has the postmaster's name until it takes its own.
        wait_until("the WAL writer's name", lambda: any(p.role == "walwriter" for p in server.target.processes()))
        with orphans_of(server) as children:
            assert sorted(process.role for process in children.values()) == [
                "backend", "bgwriter", "checkpointer", "walwriter",
            ]  # fmt: skip
            for process in children.values():
                wait_until(f"{process.role} to leave", lambda process=process: ended(process), deadline_s=5)  # type: ignore[misc]
        with pytest.raises(psycopg.OperationalError) as caught:
            connection.execute("SHOW port")
    assert caught.value.sqlstate == "57P01"
    assert "terminating connection due to unexpected postmaster exit" in str(caught.value)


def test_after_a_killed_postmaster_the_next_one_starts_over_its_leftovers(server: LiveServer) -> None:
    with orphans_of(server) as children:
        wait_until("all children to leave", lambda: all(map(ended, children.values())), deadline_s=5)
        assert pid_file(server).exists()
        assert len(list(server.target.socket_directory.iterdir())) == 2
        server.start()
    assert answers(server)


@pytest.mark.parametrize("lock_file", ["kept", "deleted"])
@pytest.mark.parametrize("role", ["backend", "checkpointer"])
def test_a_child_that_lives_on_keeps_the_next_postmaster_out(server: LiveServer, role: str, lock_file: str) -> None:
    with server.connect():
        orphan = server.child(role)
        orphan.close()
        with orphans_of(server, stopped=[orphan.pid]) as children:
            for process in children.values():
                if process.pid != orphan.pid:
                    wait_until(f"{process.role} to leave", lambda process=process: ended(process))  # type: ignore[misc]
            if lock_file == "deleted":
                pid_file(server).unlink()
            before = sorted(path.name for path in server.data.iterdir())
            refused = postmaster(server.data, "-k", server.target.socket_directory)
            assert refused.status == 1
            assert IN_USE in refused.err
            assert (
                f'HINT:  Terminate any old server processes associated with data directory "{server.data}".'
                in refused.err
            )
            assert sorted(path.name for path in server.data.iterdir()) == before
            assert not ended(children[orphan.pid]), "the refused postmaster did something to the orphan"
            end(children[orphan.pid])
            server.start()
    assert answers(server)


def test_a_child_that_never_waits_keeps_the_next_postmaster_out(server: LiveServer) -> None:
    """It does not notice, and goes on committing: exactly what no second server may see."""
    with server.connect() as setup:
        setup.execute("CALL bank_setup()")
    busy = psycopg.pq.PGconn.connect(server.target.conninfo.encode())
    pid = busy.backend_pid
    busy.send_query(b"CALL bank(worker => 0, first => 0, transactions => 1000000, seed => 1)")
    wait_until("the backend to be busy", lambda: any(server.history.iterdir()))
    with orphans_of(server) as children:
        pid_file(server).unlink()
        for process in children.values():
            if process.pid != pid:
                wait_until(f"{process.role} to leave", lambda process=process: ended(process))  # type: ignore[misc]
        refused = postmaster(server.data, "-k", server.target.socket_directory)
        assert (refused.status, ended(children[pid])) == (1, False)
        assert IN_USE in refused.err
        end(children[pid])
        server.start()
    busy.finish()
    with server.connect() as connection:
        transfers = connection.execute("CALL bank_observe(after => -1)").fetchall()
    assert transfers


# The death pipe.


def test_no_child_holds_the_write_end_of_a_pipe_of_the_postmaster(scene: Scene) -> None:
    server = scene.server
    with server.connect(), server.connect():
        _, written = pipes(server.pid)
        assert len(written) == 2, "the death pipe and the wakeup pipe"
        for pid, role in server.roles().items():
            read, writes = pipes(pid)
            assert not writes & written, f"{role} holds the write end of a pipe of the postmaster"
            assert len(read & written) == 1, f"{role} does not watch the death pipe"


def pipes(pid: int) -> tuple[set[str], set[str]]:
    """The pipes that a process can read from, and that it can write to."""
    read, write = set(), set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
            about = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text()
        except FileNotFoundError:
            continue
        if target.startswith("pipe:"):
            flags = int(next(line.split()[1] for line in about.splitlines() if line.startswith("flags:")), 8)
            (write if flags & os.O_ACCMODE == os.O_WRONLY else read).add(target)
    return read, write
