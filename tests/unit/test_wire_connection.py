"""The socket of a backend: what is sent arrives whole and in order, and nobody is waited for who must not be.

What could go wrong: a client that never reads keeps a dying backend alive; last words land in the middle of a row and
are taken for the rest of it; a client that has gone brings the process down by SIGPIPE; a client that says nothing
keeps its process for ever; an answer stays in the buffer while both sides wait for each other.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from supervisor.errors import ServerError, SessionFatal
from supervisor.wire import codec
from supervisor.wire.connection import Connection, DeadlineExpired
from tests.support import wire_client as client
from tests.support.conversation import Client, ScriptedHost

ROW = codec.data_row([b"x" * 8000])


class Pair:
    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.host = ScriptedHost()
        self.connection = Connection(self.ours, self.host)
        self.client = Client(self.theirs)

    def fill(self) -> None:
        """Send rows until the socket takes no more and one of them is torn."""
        with pytest.raises(AssertionError, match="this wait would never end"):
            for _ in range(10_000):
                self.connection.send(ROW)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.ours.close()
    made.theirs.close()


# -- sending


def test_what_is_collected_is_sent_before_anything_is_waited_for(pair: Pair) -> None:
    pair.connection.send(codec.ready_for_query(b"I"))
    assert pair.client.heard() == b""
    heard: list[bytes] = []
    pair.host.meanwhile = [lambda: heard.append(pair.client.heard()), pair.client.hang_up]
    assert pair.connection.receive_message() is None
    assert client.kinds(heard[0]) == "Z"


def test_a_slow_client_gets_everything_in_order(pair: Pair) -> None:
    sent = b"".join(codec.data_row([b"%d" % number, b"x" * 5000]) for number in range(500))
    heard: list[bytes] = []
    pair.host.meanwhile = [lambda: heard.append(pair.client.heard())] * 5000
    pair.connection.send(sent)
    pair.connection.flush()
    heard.append(pair.client.heard())
    assert b"".join(heard) == sent
    assert len(heard) > 1


def test_a_request_to_die_ends_the_wait_for_a_client_that_does_not_read(pair: Pair) -> None:
    def die() -> None:
        raise SessionFatal("terminating connection due to administrator command", sqlstate="57P01")

    pair.fill()
    pair.host.interrupts = die
    pair.host.meanwhile = [lambda: None]
    with pytest.raises(SessionFatal):
        pair.connection.flush()
    # The word stands behind rows that the client does not take, and nobody waits for it to be heard.
    assert not pair.connection.send_last(codec.error_response("FATAL", ServerError("bye", sqlstate="57P01")))


def test_a_client_that_has_gone_is_noticed_and_no_signal_is_raised(pair: Pair) -> None:
    pair.theirs.close()
    pair.connection.send(ROW)
    with pytest.raises(SessionFatal, match="connection to client lost") as caught:
        pair.connection.flush()
    assert caught.value.sqlstate == "08006"
    assert pair.connection.lost is not None
    assert not pair.connection.send_last(ROW)
    assert not pair.connection.say_goodbye(ROW)


def test_the_postmasters_death_ends_the_wait_for_a_slow_client(pair: Pair) -> None:
    pair.fill()
    pair.host.postmaster_dead = True
    with pytest.raises(SessionFatal, match="unexpected postmaster exit"):
        pair.connection.flush()


# -- last words


GOODBYE = codec.notice_response("WARNING", ServerError("crash", sqlstate="57P02"))


def test_last_words_go_out_at_once(pair: Pair) -> None:
    assert pair.connection.say_goodbye(GOODBYE)
    assert pair.client.heard() == GOODBYE


def test_last_words_pass_answers_that_were_not_begun(pair: Pair) -> None:
    pair.connection.send(ROW)
    assert pair.connection.say_goodbye(GOODBYE)
    assert pair.client.heard() == GOODBYE


def test_last_words_are_dropped_while_a_send_is_under_way(pair: Pair) -> None:
    pair.fill()
    assert not pair.connection.say_goodbye(GOODBYE)
    assert GOODBYE not in pair.client.heard()


def test_a_handler_that_finds_a_send_under_way_acts_once_its_result_is_known(pair: Pair) -> None:
    said: list[bool] = []

    class InterruptedSocket:
        """A socket whose send is followed at once by a signal handler, before its caller sees the result."""

        def send(self, data: bytes, flags: int) -> int:
            sent = pair.ours.send(data, flags)
            if data != GOODBYE:
                assert pair.connection.when_send_returns(lambda: said.append(pair.connection.say_goodbye(GOODBYE)))
                assert said == []
            return sent

    pair.connection._client = InterruptedSocket()  # type: ignore[assignment]
    pair.connection.send(ROW)
    pair.connection.flush()
    assert said == [True]
    assert client.kinds(pair.client.heard()) == "DN"


def test_a_handler_that_finds_no_send_under_way_acts_itself(pair: Pair) -> None:
    assert not pair.connection.when_send_returns(lambda: pytest.fail("nobody is sending"))
    pair.connection.send(ROW)
    pair.connection.flush()


def test_last_words_may_be_said_again_once_a_send_is_over(pair: Pair) -> None:
    pair.fill()
    pair.host.meanwhile = [lambda: pair.client.heard() and None] * 10_000
    pair.connection.flush()
    pair.client.heard()
    assert pair.connection.say_goodbye(GOODBYE)
    assert pair.client.heard() == GOODBYE


def test_a_client_that_never_reads_does_not_delay_last_words(pair: Pair) -> None:
    pair.ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        for _ in range(10_000):
            pair.ours.send(ROW)
    assert not pair.connection.say_goodbye(GOODBYE)


# -- receiving


def test_a_deadline_ends_the_wait_for_a_silent_client(pair: Pair) -> None:
    pair.connection.deadline_ns = 3_000_000_000
    pair.client.say(b"\0\0")
    with pytest.raises(DeadlineExpired):
        pair.connection.receive_startup_packet()
    assert pair.host.now == 3_000_000_000


def test_a_deadline_is_not_moved_by_bytes_that_trickle_in(pair: Pair) -> None:
    pair.connection.deadline_ns = 10_000_000

    def trickle() -> None:
        pair.host.now += 4_000_000
        pair.client.say(b"\0")

    pair.host.meanwhile = [trickle] * 20
    with pytest.raises(DeadlineExpired):
        pair.connection.receive_startup_packet()


def test_a_hang_up_within_a_message_leaves_it_unread(pair: Pair) -> None:
    pair.client.say(client.query("SHOW port")[:-1])
    pair.client.hang_up()
    assert pair.connection.receive_message() is None
    assert pair.connection.unread > 0


def test_an_aborted_connection_counts_as_a_hang_up(pair: Pair) -> None:
    pair.ours.sendall(b"unread by the client")
    pair.theirs.close()  # with unread data the kernel answers with a reset
    assert pair.connection.receive_message() is None


def test_interrupts_are_looked_at_before_and_while_waiting(pair: Pair) -> None:
    looks = []
    pair.host.interrupts = lambda: looks.append(1)
    pair.host.meanwhile = [lambda: None, pair.client.hang_up]
    assert pair.connection.receive_message() is None
    assert len(looks) >= 3


def test_a_large_message_is_collected_in_linear_time(pair: Pair) -> None:
    text = "x" * (2 << 20)
    data = memoryview(client.query(text))
    pieces = [data[at : at + 8192] for at in range(0, len(data), 8192)]
    pair.host.meanwhile = [lambda piece=piece: pair.client.say(bytes(piece)) for piece in pieces]  # type: ignore[misc]
    message = pair.connection.receive_message()
    assert message is not None
    assert len(message[1]) == len(text) + 1
