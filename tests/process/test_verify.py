"""`crashbed verify` on a real server's directory: while it runs, after it stopped, after it was killed, after damage.

What could go wrong: a check beside a live server, which calls pages damaged that are newer in its memory; a check that
a server is started under; a cluster that was killed called damaged, or changed by the check so that its server recovers
something else; damage that ends with a traceback or with status 0.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from chaos.driver import run_call
from supervisor.engine.storage.page import PAGE_BYTES
from tests.support.by_hand import Said, crashbed
from tests.support.server import LiveServer

pytestmark = pytest.mark.live


def verify(server: LiveServer, *options: str) -> Said:
    return crashbed("verify", "-D", server.data, *options, cwd=server.directory)


def files_of(data: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(data)): path.read_bytes()
        for path in sorted(data.rglob("*"))
        if path.is_file() and path.parent != data
    }


def test_a_live_server_is_refused_and_a_stopped_one_is_sound(server: LiveServer) -> None:
    run_call(server.target.conninfo, "bank_setup", {})
    said = verify(server)
    assert (said.status, said.out) == (3, "")
    assert f'a server runs on data directory "{server.data}"' in said.err and "hint: Stop it first" in said.err
    assert server.target.stop() == 0
    said = verify(server)
    assert said.status == 0, said
    assert said.out.startswith("state: shut down; WAL ends at 0/")
    assert "bank_account_pkey" in said.out and said.out.endswith(f"{server.data}: sound\n")


def test_a_killed_servers_files_are_checked_as_its_recovery_will_leave_them(server: LiveServer) -> None:
    run_call(server.target.conninfo, "bank_setup", {})
    before = run_call(server.target.conninfo, "bank_observe", {"after": -1})
    server.target.kill()
    files = files_of(server.data)
    said = verify(server)
    assert said.status == 0, said
    assert said.out.startswith("state: in production; checked is a copy, recovered in memory; WAL ends at 0/")
    assert "bank_account_pkey" in said.out, "the table is in the log alone, or nearly"
    assert files_of(server.data) == files
    server.start()
    assert run_call(server.target.conninfo, "bank_observe", {"after": -1}) == before


def test_a_process_that_outlives_its_postmaster_counts_as_a_server(server: LiveServer) -> None:
    with server.child("checkpointer") as survivor:
        assert survivor.signal(signal.SIGSTOP)
        server.signal_postmaster(signal.SIGKILL)
        server.wait_exit()
        try:
            said = verify(server)
            assert said.status == 3 and "or processes of one that is gone" in said.err, said
        finally:
            survivor.signal(signal.SIGKILL)


def test_damage_is_told_with_file_and_block_and_status_1(server: LiveServer) -> None:
    run_call(server.target.conninfo, "bank_setup", {})
    assert server.target.stop() == 0
    sound = json.loads(verify(server, "--json").out)
    assert sound["corruptions"] == [] and sound["state"] == "shut down"
    file = next(one["file"] for one in sound["relations"] if one["relation"] == "bank_account")
    path = server.data / file
    data = bytearray(path.read_bytes())
    data[PAGE_BYTES - 40] ^= 0x10
    path.write_bytes(data)
    said = verify(server)
    assert said.status == 1, said
    assert f"corruption: {file} block 0: checksum: calculated checksum " in said.out
    assert said.out.endswith(f"{server.data}: 1 corruption\n")
    (told,) = json.loads(verify(server, "--json").out)["corruptions"]
    assert (told["kind"], told["file"], told["block"], told["relation"]) == ("checksum", file, 0, "bank_account")


def test_what_is_no_data_directory_gets_a_hint_and_status_3(tmp_path: Path) -> None:
    said = crashbed("verify", "-D", "nope", cwd=tmp_path)
    assert said.status == 3 and 'data directory "nope" does not exist' in said.err, said
    said = crashbed("verify", "-D", ".", cwd=tmp_path)
    assert said.status == 3 and "hint: Make one with crashbed init" in said.err, said
