"""A backend's conversation with its client, message by message, without a second process.

What could go wrong: an acknowledgement before the statement has returned, or none after an error; a statement that
still runs after the one before it failed; a client and a server that no longer agree on whose turn it is; a
transaction left open by one statement that the next one commits; a cancel that hits the wrong statement.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from supervisor.errors import Panic, ServerError, SessionFatal
from supervisor.points import Point
from tests.support import wire_client as client
from tests.support.conversation import Conversation, converse


@dataclass
class FakeProcedure:
    name: str
    run: Callable[..., Iterable[tuple[Any, ...]] | None]
    parameters: tuple[tuple[str, str, Any], ...] = ()
    columns: tuple[tuple[str, str], ...] = ()


@dataclass
class Calls:
    """What the procedures were called with, in order."""

    seen: list[Any] = field(default_factory=list)

    def note(self, context: Any, **values: Any) -> None:
        self.seen.append(values)


class WorkloadError(Exception):
    """An error of a module that knows nothing of the server's types."""

    sqlstate = "40001"


def rows_of_three(context: Any, **values: Any) -> Iterator[tuple[Any, ...]]:
    yield (1, "one", True)
    yield (2, None, False)
    yield (3, "drei", None)


def leave_open(context: Any) -> None:
    context.session.in_transaction = True


def fail(error: BaseException) -> Callable[..., None]:
    def run(context: Any) -> None:
        context.session.in_transaction = True
        raise error

    return run


def fail_after_one_row(context: Any) -> Iterator[tuple[Any, ...]]:
    yield (1,)
    raise ServerError("no second row", sqlstate="XX001")


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def talk(calls: Calls) -> Iterator[Conversation]:
    offered = [
        FakeProcedure("note", calls.note, (("a", "bigint", 0), ("b", "text", None), ("c", "bool", True))),
        FakeProcedure("rows", rows_of_three, (), (("n", "integer"), ("name", "text"), ("flag", "bool"))),
        FakeProcedure("leave_open", leave_open),
        FakeProcedure("fails", fail(ServerError("refused", sqlstate="23505", detail="why"))),
        FakeProcedure("fails_elsewhere", fail(WorkloadError("try again"))),
        FakeProcedure("bug", fail(ZeroDivisionError("a bug"))),
        FakeProcedure("panics", fail(Panic("fsync failed"))),
        FakeProcedure("fatal", fail(SessionFatal("the end", sqlstate="57P01"))),
        FakeProcedure("fails_late", fail_after_one_row, (), (("n", "integer"),)),
    ]
    conversation = converse({procedure.name: procedure for procedure in offered})
    yield conversation
    conversation.close()


# -- simple queries


def test_a_call_is_acknowledged_once_it_has_returned(talk: Conversation, calls: Calls) -> None:
    heard = talk.run(client.query("CALL note(a => 5)"))
    assert client.kinds(heard) == "ZCZ"
    assert client.tags(heard) == ["CALL"]
    assert calls.seen == [{"a": 5, "b": None, "c": True}]
    assert talk.activity == ["CALL note(a => 5)"]
    assert talk.host.points == [Point.BACKEND_READY, Point.STATEMENT_BEGIN, Point.BACKEND_READY]


def test_a_result_has_one_description_and_its_rows(talk: Conversation) -> None:
    heard = talk.run(client.query("CALL rows()"))
    assert client.kinds(heard) == "ZTDDDCZ"
    assert [(found.name, found.type_oid) for found in client.fields(client.answers(heard)[1])] == [
        ("n", 23),
        ("name", 25),
        ("flag", 16),
    ]
    assert client.rows(heard) == [[b"1", b"one", b"t"], [b"2", None, b"f"], [b"3", b"drei", None]]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("SHOW max_connections", b"100"),
        ("SHOW server_version", b"18.0 (test)"),
        ("SHOW TIME ZONE", b"UTC"),
        ("SELECT pg_backend_pid()", b"4711"),
    ],
)
def test_one_value_is_shown(talk: Conversation, text: str, answer: bytes) -> None:
    heard = talk.run(client.query(text))
    assert client.kinds(heard) == "ZTDCZ"
    assert client.rows(heard) == [[answer]]


def test_all_settings_are_shown_in_order(talk: Conversation) -> None:
    heard = talk.run(client.query("SHOW ALL"))
    names = [row[0] for row in client.rows(heard)]
    assert names == [b"max_connections", b"port", b"server_version", b"TimeZone"]


def test_an_unknown_setting_is_an_error(talk: Conversation) -> None:
    (error,) = client.errors(talk.run(client.query("SHOW nosuch")))
    assert error["C"] == "42704"
    assert error["M"] == 'unrecognized configuration parameter "nosuch"'


def test_a_checkpoint_is_asked_for(talk: Conversation) -> None:
    assert client.tags(talk.run(client.query("CHECKPOINT"))) == ["CHECKPOINT"]
    assert talk.checkpoints == [1]


@pytest.mark.parametrize("text", ["", ";", " -- nothing"])
def test_an_empty_query_has_an_answer_of_its_own(talk: Conversation, text: str) -> None:
    assert client.kinds(talk.run(client.query(text))) == "ZIZ"


def test_statements_of_one_query_are_answered_one_by_one(talk: Conversation, calls: Calls) -> None:
    heard = talk.run(client.query("CALL note(1); SHOW port; CALL note(2)"))
    assert client.kinds(heard) == "ZCTDCCZ"
    assert client.tags(heard) == ["CALL", "SHOW", "CALL"]


def test_what_follows_an_error_in_the_same_query_is_not_run(talk: Conversation, calls: Calls) -> None:
    heard = talk.run(client.query("CALL note(1); CALL fails(); CALL note(2)"), client.query("CALL note(3)"))
    assert client.kinds(heard) == "ZCEZCZ"
    assert [seen["a"] for seen in calls.seen] == [1, 3]


def test_a_syntax_error_anywhere_keeps_the_whole_query_from_running(talk: Conversation, calls: Calls) -> None:
    heard = talk.run(client.query("CALL note(1); CALL"))
    assert client.kinds(heard) == "ZEZ"
    assert client.errors(heard)[0]["P"] == "19"
    assert calls.seen == []


def test_an_error_is_reported_with_all_it_knows_and_rolled_back(talk: Conversation) -> None:
    (error,) = client.errors(talk.run(client.query("CALL fails()")))
    assert error == {"S": "ERROR", "V": "ERROR", "C": "23505", "M": "refused", "D": "why"}
    assert (talk.session.in_transaction, talk.session.failures, talk.session.rollbacks) == (False, 1, 1)


def test_an_error_of_a_workload_is_known_by_its_sqlstate_alone(talk: Conversation) -> None:
    (error,) = client.errors(talk.run(client.query("CALL fails_elsewhere()")))
    assert (error["C"], error["M"]) == ("40001", "try again")
    assert not talk.session.in_transaction


def test_an_error_after_a_row_keeps_the_row_and_ends_the_result(talk: Conversation) -> None:
    assert client.kinds(talk.run(client.query("CALL fails_late()"))) == "ZTDEZ"


def test_a_transaction_that_a_procedure_leaves_open_is_rolled_back_and_called_an_error(
    talk: Conversation,
) -> None:
    heard = talk.run(client.query("CALL leave_open()"))
    assert client.errors(heard)[0]["C"] == "2D000"
    assert client.tags(heard) == []
    assert not talk.session.in_transaction


@pytest.mark.parametrize(("call", "error"), [("bug", ZeroDivisionError), ("panics", Panic), ("fatal", SessionFatal)])
def test_what_is_not_an_error_of_the_statement_passes_through_and_heals_nothing(
    talk: Conversation, call: str, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        talk.run(client.query(f"CALL {call}()"))
    assert (talk.session.in_transaction, talk.session.failures, talk.session.rollbacks) == (True, 0, 0)


# -- the end of a conversation


def test_terminate_ends_it(talk: Conversation, calls: Calls) -> None:
    heard = talk.run(client.TERMINATE, client.query("CALL note(1)"))
    assert client.kinds(heard) == "Z"
    assert calls.seen == []


@pytest.mark.parametrize("length", [1, 4, 10])
def test_a_message_that_breaks_off_is_not_acted_on(talk: Conversation, calls: Calls, length: int) -> None:
    assert client.kinds(talk.run(client.query("CALL note(1)")[:length])) == "Z"
    assert calls.seen == []


def test_bytes_that_are_not_the_protocol_end_the_session(talk: Conversation) -> None:
    with pytest.raises(SessionFatal, match="invalid frontend message type 71") as caught:
        talk.run(b"GET / HTTP/1.1\r\n")
    assert caught.value.sqlstate == "08P01"


def test_a_message_that_makes_no_sense_is_an_error_and_the_next_one_is_heard(talk: Conversation, calls: Calls) -> None:
    heard = talk.run(client.framed(b"Q", b"no end"), client.framed(b"Q", b"\xff\0"), client.query("CALL note(1)"))
    assert client.kinds(heard) == "ZEZEZCZ"
    assert [error["C"] for error in client.errors(heard)] == ["08P01", "22021"]
    assert len(calls.seen) == 1


def test_messages_of_a_copy_that_is_over_are_ignored(talk: Conversation) -> None:
    heard = talk.run(client.framed(b"d", b"1\n"), client.framed(b"c"), client.query("SHOW port"))
    assert client.kinds(heard) == "ZTDCZ"


def test_a_function_call_is_refused(talk: Conversation) -> None:
    heard = talk.run(client.framed(b"F", b"\0\0"))
    assert client.kinds(heard) == "ZEZ"
    assert client.errors(heard)[0]["C"] == "0A000"


# -- interrupts


def test_a_cancel_ends_the_statement_that_runs(talk: Conversation, calls: Calls) -> None:
    def cancelled(context: Any) -> Iterator[tuple[int]]:
        talk.interrupts.on_cancel(2, None)
        context.host.check_interrupts()
        yield (1,)

    talk.loop._procedures = {"rows": FakeProcedure("rows", cancelled, (), (("n", "integer"),))}
    heard = talk.run(client.query("CALL rows()"), client.query("SHOW port"))
    assert client.kinds(heard) == "ZTEZTDCZ"
    assert client.errors(heard)[0]["C"] == "57014"
    assert client.errors(heard)[0]["M"] == "canceling statement due to user request"


def test_a_cancel_between_statements_hits_nothing(talk: Conversation) -> None:
    talk.interrupts.on_cancel(2, None)
    assert client.kinds(talk.run(client.query("CALL rows()"))) == "ZTDDDCZ"


def test_terminating_an_idle_session_ends_it(talk: Conversation) -> None:
    talk.host.meanwhile = [lambda: talk.interrupts.on_terminate(15, None)]
    with pytest.raises(SessionFatal, match="terminating connection due to administrator command") as caught:
        talk.loop.run()
    assert caught.value.sqlstate == "57P01"
    assert client.kinds(talk.client.heard()) == "Z"


def test_settings_are_read_again_before_the_next_command_and_once(talk: Conversation) -> None:
    talk.interrupts.on_reload(1, None)
    talk.interrupts.on_reload(1, None)
    heard = talk.run(client.query("SHOW port"), client.query("SHOW port"))
    assert talk.reloads == [1]
    assert client.errors(heard) == []


def test_settings_are_not_read_again_in_the_midst_of_a_statement(talk: Conversation) -> None:
    def reloaded(context: Any) -> Iterator[tuple[int]]:
        talk.interrupts.on_reload(1, None)
        yield (1,)
        assert talk.reloads == []

    talk.loop._procedures = {"rows": FakeProcedure("rows", reloaded, (), (("n", "integer"),))}
    assert client.errors(talk.run(client.query("CALL rows()"), client.query("SHOW port"))) == []
    assert talk.reloads == [1]


def test_to_die_beats_to_cancel(talk: Conversation) -> None:
    talk.interrupts.begin_statement()
    talk.interrupts.on_cancel(2, None)
    talk.interrupts.on_terminate(15, None)
    with pytest.raises(SessionFatal):
        talk.interrupts.check()
    talk.interrupts.hold()
    talk.interrupts.check()


def test_an_idle_session_notices_that_the_postmaster_is_gone(talk: Conversation) -> None:
    talk.host.postmaster_dead = True
    with pytest.raises(SessionFatal, match="terminating connection due to unexpected postmaster exit"):
        talk.loop.run()


# -- the extended protocol


def test_an_unnamed_statement_runs_with_its_parameters(talk: Conversation, calls: Calls) -> None:
    heard = talk.run(
        client.parse("CALL note(a => $1, b => $2, c => $3)", types=[21]),
        client.bind([struct.pack("!h", -7), None, b"off"], formats=[1, 0, 0]),
        client.describe(b"P"),
        client.execute(),
        client.SYNC,
    )
    assert client.kinds(heard) == "Z12nCZ"
    assert calls.seen == [{"a": -7, "b": None, "c": False}]


def test_describe_tells_types_before_anything_is_run(talk: Conversation, calls: Calls) -> None:
    heard = talk.run(
        client.parse("CALL note(a => $2, b => $1)", "s"),
        client.describe(b"S", "s"),
        client.parse("CALL rows()", "r"),
        client.describe(b"S", "r"),
        client.SYNC,
    )
    assert client.kinds(heard) == "Z1tn1tTZ"
    assert client.answers(heard)[2].body == struct.pack("!HII", 2, 25, 20)
    assert calls.seen == []


def test_results_come_in_the_format_asked_for(talk: Conversation) -> None:
    heard = talk.run(
        client.parse("CALL rows()"),
        client.bind(result_formats=[1]),
        client.describe(b"P"),
        client.execute(),
        client.SYNC,
    )
    assert client.kinds(heard) == "Z12TDDDCZ"
    assert {found.form for found in client.fields(client.answers(heard)[3])} == {1}
    assert client.rows(heard)[0] == [b"\0\0\0\1", b"one", b"\1"]


def test_rows_may_be_fetched_in_portions_and_the_statement_runs_once(talk: Conversation) -> None:
    runs = []

    def counted(context: Any) -> Iterator[tuple[int]]:
        runs.append(1)
        yield from ((1,), (2,), (3,))

    talk.loop._procedures = {"rows": FakeProcedure("rows", counted, (), (("n", "integer"),))}
    heard = talk.run(
        client.parse("CALL rows()"),
        client.bind(portal="p"),
        *[client.execute("p", 2), client.execute("p", 1), client.execute("p", 2), client.execute("p", 2)],
        client.SYNC,
    )
    assert client.kinds(heard) == "Z12DDsDsCEZ"
    assert client.errors(heard)[0]["C"] == "55000"
    assert runs == [1]


def test_after_an_error_everything_is_skipped_until_sync(talk: Conversation, calls: Calls) -> None:
    heard = talk.run(
        client.parse("CALL nosuch()"),
        client.bind(),
        client.execute(),
        client.query("CALL note(1)"),
        client.FLUSH,
        client.SYNC,
        client.query("CALL note(2)"),
    )
    assert client.kinds(heard) == "ZEZCZ"
    assert [seen["a"] for seen in calls.seen] == [2]


def test_a_prepared_statement_outlives_sync_and_its_portal_does_not(talk: Conversation) -> None:
    heard = talk.run(
        client.parse("SHOW port", "s"),
        client.SYNC,
        client.bind(statement="s", portal="p"),
        client.execute("p"),
        client.SYNC,
        client.execute("p"),
        client.SYNC,
        client.close(b"S", "s"),
        client.close(b"P", "p"),
        client.bind(statement="s"),
        client.SYNC,
    )
    assert client.kinds(heard) == "Z1Z2DCZEZ33EZ"
    assert [error["C"] for error in client.errors(heard)] == ["34000", "26000"]


@pytest.mark.parametrize(
    ("messages", "sqlstate"),
    [
        ([client.parse("SHOW a", "s"), client.parse("SHOW a", "s")], "42P05"),
        ([client.parse("SHOW a; SHOW b")], "42601"),
        ([client.parse("BEGIN")], "0A000"),
        ([client.parse("CALL note($1)", types=[1082])], "0A000"),
        ([client.bind()], "26000"),
        ([client.parse("CALL note($1)"), client.bind()], "08P01"),
        ([client.parse("CALL note($1)"), client.bind([b"1"], formats=[0, 0])], "08P01"),
        ([client.parse("SHOW port"), client.bind(result_formats=[0, 0])], "08P01"),
        ([client.parse("SHOW port"), client.bind(portal="p"), client.bind(portal="p")], "42P03"),
        ([client.parse("CALL note($1)"), client.bind([b"x"])], "22P02"),
        ([client.parse("CALL note($1)"), client.bind([b"x"], formats=[1])], "22P03"),
        ([client.parse("CALL note($1)"), client.bind([None]), client.execute()], "22004"),
        ([client.parse("CALL note($1)", types=[25]), client.bind([b"1"]), client.execute()], "42804"),
        ([client.describe(b"S", "x")], "26000"),
        ([client.execute("x")], "34000"),
    ],
)
def test_an_extended_message_that_cannot_be_is_refused(
    talk: Conversation, messages: list[bytes], sqlstate: str
) -> None:
    heard = talk.run(*messages, client.SYNC, client.query("SHOW port"))
    assert [error["C"] for error in client.errors(heard)] == [sqlstate]
    assert client.kinds(heard).endswith("EZTDCZ")


def test_an_empty_statement_can_be_prepared_and_run(talk: Conversation) -> None:
    heard = talk.run(client.parse(""), client.bind(), client.describe(b"P"), client.execute(), client.SYNC)
    assert client.kinds(heard) == "Z12nIZ"


def test_a_flush_sends_what_there_is(talk: Conversation) -> None:
    talk.client.say(client.parse("SHOW port", "s"), client.describe(b"S", "s"), client.FLUSH)
    seen: list[bytes] = []
    talk.host.meanwhile = [lambda: seen.append(talk.client.heard()), talk.client.hang_up]
    talk.loop.run()
    assert client.kinds(seen[0]) == "Z1tT"


def test_a_simple_query_forgets_the_unnamed_statement(talk: Conversation) -> None:
    heard = talk.run(client.parse("SHOW port"), client.query("SHOW port"), client.bind(), client.SYNC)
    assert client.kinds(heard) == "Z1TDCZEZ"
