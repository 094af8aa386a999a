"""SIGHUP: a running server reads its settings again, all of its processes do, and a bad file changes nothing.

What could go wrong: the postmaster has the new settings and its children the old ones for as long as they live; a
session that was just beginning misses the signal; half of a bad file in force, or the server ended by it; a setting
that needs a restart shown as changed; a crash in the middle of it all because a child met the signal before its
handler. And `crashbed reload` must never signal a process that only has the pid of a server that was.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.oracles.reaping import Reaping
from chaos.oracles.transitions import Transitions
from supervisor.points import Point
from tests.conftest import MakeScene, MakeServer
from tests.support import wire_client as client
from tests.support.bank_client import set_up
from tests.support.by_hand import crashbed
from tests.support.held_up import held_up, transfer, with_bank
from tests.support.kernel_rules import received
from tests.support.scene import Points, Scene, planted
from tests.support.server import LiveServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.live

POSTMASTER = "supervisor/postmaster/postmaster.py"
RELOADING = "received SIGHUP, reloading configuration files"
NO_CHANGES = "contains errors; no changes were applied"
LOUD = {"log_min_messages": "debug2"}
"""At which a child says what it found at a reload."""


def write(server: LiveServer, text: str) -> None:
    (server.data / "postgresql.conf").write_text(text)


def reload(server: LiveServer, text: str) -> None:
    """Put this into the file, tell the postmaster, and wait until it has told its children."""
    times = server.log().count(RELOADING)
    write(server, text)
    server.signal_postmaster(signal.SIGHUP)
    wait_until("the postmaster to reload", lambda: server.log().count(RELOADING) > times)
    # It says so before it reads the file. Whoever is served from now on was accepted after all children were told.
    server.connect().close()


def show(server: LiveServer, name: str) -> str:
    with server.connect() as session:
        row = session.execute(f"SHOW {name}").fetchone()  # type: ignore[call-overload]
    return str(row[0])


def test_old_and_new_sessions_see_the_change(server: LiveServer) -> None:
    with server.connect() as old, server.knock() as beginning:
        wait_until("two backends", lambda: list(server.roles().values()).count("backend") == 2)
        reload(server, "lock_timeout = 7s\n")
        assert show(server, "lock_timeout") == "7s"
        assert old.execute("SHOW lock_timeout").fetchone() == ("7s",)
        beginning.log_in()
        assert client.rows(beginning.ask("SHOW lock_timeout")) == [[b"7s"]], "it was told before it could listen"
    assert 'LOG:  parameter "lock_timeout" changed to "7s"\n' in server.log()


def test_a_session_goes_by_the_new_value_and_does_not_only_show_it(make_server: MakeServer, points: Points) -> None:
    server = with_bank(make_server, points)
    with server.knock() as waiter:
        waiter.log_in()
        reload(server, "lock_timeout = 50ms\n")
        with held_up(server, points, Point.COMMIT_BEFORE_RECORD):
            waiter.say(transfer(2))
            (error,) = client.errors(waiter.hear("Z"))
            assert (error["C"], error["M"]) == ("55P03", "canceling statement due to lock timeout")


def said_in_children(server: LiveServer, words: str) -> set[int]:
    """The pids of those who logged this at DEBUG."""
    return {int(pid) for pid in re.findall(rf"\[(\d+)\] DEBUG:  {re.escape(words)}", server.log())}


def test_every_child_reads_the_file_again(make_server: MakeServer) -> None:
    server = make_server(LOUD).start()
    with server.connect() as session:
        server.child("walwriter").close()
        children = set(server.roles())
        reload(server, "bgwriter_delay = 50ms\n")
        session.execute("SHOW port")
        wait_until(
            "all children to have read it",
            lambda: said_in_children(server, 'parameter "bgwriter_delay" changed to "50ms"') >= children,
        )
        assert set(server.roles()) >= children, "nobody died of it"


def not_told(scene: Scene) -> list[str]:
    """The living children whom the postmaster sent no SIGHUP, by the kernel's account."""
    reign = scene.reign()
    living = [child for child in reign.children if child.process.exit_t is None]
    return [child.role for child in living if not received(child, signal.SIGHUP, reign.postmaster.pid)]


def test_all_children_are_told_and_by_the_postmaster(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.server.child("walwriter").close()
    with scene.server.knock() as session:
        session.log_in()
        reload(scene.server, "")
        wait_until("all children to be told", lambda: not_told(scene) == [])


def test_the_rule_sees_children_that_are_not_told(make_scene: MakeScene, tmp_path: Path) -> None:
    edit = (POSTMASTER, "frozenset(CHILD_ROLES) - {Role.DEAD_END}", "frozenset({Role.BACKEND})")
    scene = make_scene(code=planted(tmp_path, "the postmaster reloads alone", edit))
    scene.server.child("walwriter").close()
    with scene.server.knock() as session:
        session.log_in()
        reload(scene.server, "")
        deaf = ["bgwriter", "checkpointer", "walwriter"]
        wait_until("none but these to be untold", lambda: sorted(not_told(scene)) == deaf)


def test_the_checkpointer_goes_by_the_new_interval(server: LiveServer) -> None:
    set_up(server)
    assert "checkpoint starting: time" not in server.log()
    reload(server, "checkpoint_timeout = 1s\n")
    server.wait_log("checkpoint starting: time")


def test_a_bad_file_changes_nothing_and_is_complained_about_line_by_line(server: LiveServer) -> None:
    reload(server, "lock_timeout = 7s\n")
    reload(server, "lock_timeout = 9s\nlock_timout = 1s\nbgwriter_delay = 5parsecs\n")
    server.wait_log(NO_CHANGES)
    log, path = server.log(), server.data / "postgresql.conf"
    assert f'LOG:  unrecognized configuration parameter "lock_timout" in file "{path}" line 2\n' in log
    assert 'HINT:  Did you mean "lock_timeout"?\n' in log
    assert f'LOG:  invalid value for parameter "bgwriter_delay": "5parsecs" in file "{path}" line 3\n' in log
    assert f'LOG:  configuration file "{path}" {NO_CHANGES}\n' in log
    assert show(server, "lock_timeout") == "7s"
    reload(server, "lock_timeout = 9s\n")
    assert show(server, "lock_timeout") == "9s"


def test_the_rule_sees_half_of_a_bad_file_in_force(make_server: MakeServer, tmp_path: Path) -> None:
    edit = ("supervisor/config_file.py", "    if errors:\n        findings", "    if False:\n        findings")
    server = make_server(code=planted(tmp_path, "a reload takes what it can from a bad file", edit)).start()
    reload(server, "lock_timeout = 9s\nlock_timout = 1s\n")
    assert show(server, "lock_timeout") == "9s"
    assert NO_CHANGES not in server.log()


def test_what_needs_a_restart_is_refused_and_the_rest_applied(server: LiveServer) -> None:
    reload(server, "shared_buffers = 32MB\nlock_timeout = 7s\n")
    server.wait_log("contains errors; unaffected changes were applied")
    assert 'LOG:  parameter "shared_buffers" cannot be changed without restarting the server\n' in server.log()
    assert (show(server, "shared_buffers"), show(server, "lock_timeout")) == ("16MB", "7s")


def test_options_win_at_a_reload_too(make_server: MakeServer) -> None:
    server = make_server({"lock_timeout": "3s"}).start()
    reload(server, "lock_timeout = 7s\nbgwriter_delay = 1s\n")
    assert (show(server, "lock_timeout"), show(server, "bgwriter_delay")) == ("3s", "1s")


def test_a_server_that_is_told_so_does_not_restart_after_the_next_crash(server: LiveServer) -> None:
    reload(server, "restart_after_crash = off\n")
    server.kill("walwriter")
    assert server.wait_exit() == 1
    assert 'shutting down because "restart_after_crash" is off' in server.log()


def test_a_reload_survives_a_crash_and_no_oracle_takes_it_for_anything_else(make_scene: MakeScene) -> None:
    scene = make_scene()
    server = scene.server
    reload(server, "lock_timeout = 7s\nrestart_after_crash = off\n")
    reload(server, "lock_timeout = 7s\n")
    server.kill("walwriter")
    server.wait_generation(1)
    assert show(server, "lock_timeout") == "7s"
    assert scene.failures(Reaping(), Transitions()) == []


def test_in_a_fast_shutdown_it_is_ignored_without_a_word(server: LiveServer) -> None:
    stopped = server.child("bgwriter")
    stopped.signal(signal.SIGSTOP)
    server.signal_postmaster(signal.SIGINT)
    server.wait_log("received fast shutdown request")
    server.signal_postmaster(signal.SIGHUP)
    stopped.signal(signal.SIGCONT)
    stopped.close()
    assert server.wait_exit() == 0
    assert RELOADING not in server.log()


# The command.


def test_crashbed_reload_tells_the_server(server: LiveServer) -> None:
    write(server, "lock_timeout = 7s\n")
    said = crashbed("reload", "-D", server.data, cwd=server.directory)
    assert (said.status, said.out) == (0, "server signaled\n")
    server.wait_log('parameter "lock_timeout" changed to "7s"')


def test_crashbed_reload_without_a_server(tmp_path: Path) -> None:
    said = crashbed("reload", "-D", "data", cwd=tmp_path)
    assert said.status == 3
    assert said.err == 'crashbed: PID file "data/postmaster.pid" does not exist. Is server running?\n'


def test_crashbed_reload_signals_nobody_who_only_has_the_pid(server: LiveServer, tmp_path: Path) -> None:
    """A process without a handler for SIGHUP, which would end it; and a server of another directory."""
    data = tmp_path / "data"
    data.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        for pid in (stranger.pid, server.pid, 2**22 - 1):
            (data / "postmaster.pid").write_text(f"{pid}\n{data}\n")
            said = crashbed("reload", "-D", "data", cwd=tmp_path)
            assert said.status == 3
            assert f"names process {pid}, which is not the server of this directory" in said.err
        stranger.communicate(b"\n")
        assert stranger.returncode == 0
    assert RELOADING not in server.log()
