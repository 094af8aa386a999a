"""One SIGKILL, told by the kernel: who was signalled, who was reaped, in what order.

A postmaster that forgets a survivor, reaps late or forks the new startup process while an old child still maps the
old memory would pass any test that only asks whether the server is back. So the assertions are on the kernel's
account: signals generated, exits, wait4.
"""

from __future__ import annotations

import signal

import pytest

from tests.conftest import Kernel, MakeServer


@pytest.mark.live
@pytest.mark.parametrize("victim", ["walwriter", "bgwriter", "checkpointer"])
def test_a_killed_auxiliary_process_takes_everybody_along(make_server: MakeServer, kernel: Kernel, victim: str) -> None:
    server = make_server().start()
    kernel.follow(server.pid)
    before = {process.pid: process.role for process in server.target.processes()}
    killed = server.kill(victim)
    server.wait_generation(1)

    account = kernel.account()
    postmaster = account.at(server.pid, account.end)
    assert postmaster is not None
    for pid, role in before.items():
        life = account.lives(pid)[-1]
        assert life.reaped_by == server.pid, f"{role} was not reaped by the postmaster"
        if pid == killed:
            assert life.signal == signal.SIGKILL
        else:
            quits = [s for s in life.received if s.sig == signal.SIGQUIT and s.by == server.pid]
            assert quits, f"{role} got no SIGQUIT"
            assert life.code == 2, f"{role} {life.ended_by()}"
    startups = [child for child in account.children(postmaster) if child.role == "startup"]
    reborn = startups[-1].born
    assert all(account.lives(pid)[-1].reaped_t < reborn for pid in before), "an old child outlived the reset"
    assert startups[-1].code == 0
