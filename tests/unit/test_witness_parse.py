"""The witness reads text that a kernel wrote for people. If it reads it wrongly it bears false witness.

The lines are those of a real kernel (6.18), trimmed. What could go wrong: a process ended by SIGTERM shows a
delivery of 9; a thread's end looks like a process' end; a name may hold spaces, dashes and brackets; a piece of
the pipe may end in the middle of a line; an exit code may be printed in hexadecimal; events may be lost.
"""

from __future__ import annotations

import pytest

from chaos.witness.account import Account
from chaos.witness.parse import TraceParser
from chaos.witness.proc_maps import MappedMemory, mapped_memories, parse_maps
from chaos.witness.records import (
    Closed,
    Exit,
    Exiting,
    Fork,
    KernelRecord,
    Loss,
    Name,
    Opened,
    Session,
    Signal,
    Thread,
    Wait,
    WaitId,
    decode_lines,
    encode,
)
from chaos.witness.tracefs import instance_name, owner_lives


def parsed(text: str) -> list[KernelRecord]:
    parser = TraceParser()
    records = parser.feed(text.encode())
    assert parser.unparsed == 0, parser.unparsed_sample
    return records


ORDERLY = """\
          python-10184   [001] .....  1250.597834: sched_process_fork: comm=python pid=10184 child_comm=python child_pid=10186
              sh-10186   [001] .....  1250.598267: task_rename: pid=10186 oldcomm=python newcomm=sh oom_score_adj=0
              sh-10186   [001] .N...  1250.598300: sys_setsid -> 0x27ca
              sh-10186   [001] .....  1250.599063: sys_exit_group(error_code: 0x4d)
              sh-10186   [001] .....  1250.599067: sched_process_exit: comm=sh pid=10186 prio=120 group_dead=true
              sh-10186   [001] dN.2.  1250.599139: signal_generate: sig=17 errno=0 code=1 comm=python pid=10184 grp=1 res=1
          python-10184   [000] .....  1250.599166: sys_wait4 -> 0x27ca
"""


def test_an_orderly_life() -> None:
    assert parsed(ORDERLY) == [
        Fork(1250597834000, 1, 10184, 10186, "python"),
        Name(1250598267000, 1, 10186, "sh"),
        Session(1250598300000, 1, 10186),
        Exiting(1250599063000, 1, 10186, 77),
        Exit(1250599067000, 1, 10186, 77, None, True),
        Signal(1250599139000, 1, 17, 10184, 10186, 1, 1),
        Wait(1250599166000, 0, 10184, 10186),
    ]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_pieces_may_end_anywhere(size: int) -> None:
    parser = TraceParser()
    data = ORDERLY.encode()
    records = [r for start in range(0, len(data), size) for r in parser.feed(data[start : start + size])]
    assert records == parsed(ORDERLY)


def test_sigterm_is_delivered_as_9_and_is_still_sigterm() -> None:
    """The kernel marks a whole process as ended by sending 9 to its threads; the later SIGKILL is dropped."""
    records = parsed("""\
  python-10184   [000] d..1.  1250.600446: signal_generate: sig=15 errno=0 code=0 comm=sleep pid=10189 grp=1 res=0
  python-10184   [000] d..1.  1250.600450: signal_generate: sig=9 errno=0 code=0 comm=sleep pid=10189 grp=1 res=1
   sleep-10189   [001] d..1.  1250.600475: signal_deliver: sig=9 errno=0 code=0 sa_handler=0 sa_flags=0
   sleep-10189   [001] .....  1250.600478: sched_process_exit: comm=sleep pid=10189 prio=120 group_dead=true
""")
    assert records[-1] == Exit(1250600478000, 1, 10189, None, 15, True)


def test_a_kill_by_a_process_that_is_not_followed_leaves_only_its_delivery() -> None:
    records = parsed("""\
   sleep-10189   [001] d..1.  1250.600475: signal_deliver: sig=9 errno=0 code=0 sa_handler=0 sa_flags=0
   sleep-10189   [001] .....  1250.600478: sched_process_exit: comm=sleep pid=10189 prio=120 group_dead=true
""")
    assert records[-1] == Exit(1250600478000, 1, 10189, None, 9, True)


def test_a_blocked_signal_is_not_what_the_later_kill_was() -> None:
    records = parsed("""\
  python-1   [000] d..1.  1.000001: signal_generate: sig=3 errno=0 code=0 comm=sleep pid=2 grp=1 res=0
  python-1   [000] d..1.  1.000002: signal_generate: sig=9 errno=0 code=0 comm=sleep pid=2 grp=1 res=0
   sleep-2   [001] d..1.  1.000003: signal_deliver: sig=9 errno=0 code=0 sa_handler=0 sa_flags=0
   sleep-2   [001] .....  1.000004: sched_process_exit: comm=sleep pid=2 prio=120 group_dead=true
""")
    assert records[-1] == Exit(1000004000, 1, 2, None, 9, True)


def test_a_handled_signal_ends_nobody() -> None:
    records = parsed("""\
  python-1   [000] d..1.  1.000001: signal_generate: sig=3 errno=0 code=0 comm=sleep pid=2 grp=1 res=0
   sleep-2   [001] d..1.  1.000003: signal_deliver: sig=3 errno=0 code=0 sa_handler=55f4ba013dc0 sa_flags=4000000
   sleep-2   [001] .....  1.000004: sys_exit_group(error_code: 2)
   sleep-2   [001] .....  1.000005: sched_process_exit: comm=sleep pid=2 prio=120 group_dead=true
""")
    assert records[-1] == Exit(1000005000, 1, 2, 2, None, True)


def test_threads_are_told_apart_from_processes() -> None:
    """A thread calls exit_group: its own end is not the process', whose status is still the thread's wish; and
    what a thread does is done by its process."""
    records = parsed("""\
 python-50   [000] .....  1.000001: task_newtask: pid=51 comm=python clone_flags=3d0f00 oom_score_adj=0
 python-50   [000] .....  1.000002: sched_process_fork: comm=python pid=50 child_comm=python child_pid=51
 python-51   [000] .....  1.000003: sched_process_fork: comm=python pid=51 child_comm=python child_pid=52
 python-51   [000] d..1.  1.000004: signal_generate: sig=9 errno=0 code=0 comm=x pid=52 grp=1 res=0
 python-51   [000] .....  1.000005: sys_wait4 -> 0x34
 python-51   [000] .....  1.000006: sys_exit_group(error_code: 9)
 python-51   [000] .....  1.000007: sched_process_exit: comm=python pid=51 prio=120 group_dead=false
 python-50   [001] d..1.  1.000008: signal_deliver: sig=9 errno=0 code=0 sa_handler=0 sa_flags=0
 python-50   [001] .....  1.000009: sched_process_exit: comm=python pid=50 prio=120 group_dead=true
""")
    assert Thread(1000002000, 0, 50, 51) in records
    assert Fork(1000003000, 0, 50, 52, "python") in records
    assert Signal(1000004000, 0, 9, 52, 50, 0, 0) in records
    assert Wait(1000005000, 0, 50, 52) in records
    assert Exit(1000007000, 0, 51, None, None, False) in records
    assert records[-1] == Exit(1000009000, 1, 50, 9, None, True)


def test_names_may_be_odd() -> None:
    records = parsed("""\
    a-1 [000] -7   [001] .....  1.000001: task_rename: pid=7 oldcomm=a b newcomm=cb:x pid=9 oom_score_adj=-17
           <...>-7   [001] .....  1.000002: task_rename: pid=7 oldcomm=x newcomm= oom_score_adj=0
""")
    assert records == [Name(1000001000, 1, 7, "cb:x pid=9"), Name(1000002000, 1, 7, "")]


def test_what_is_not_understood_is_counted() -> None:
    parser = TraceParser()
    parser.feed(b"nonsense\n   sh-1   [000] .....  1.000001: sched_process_fork: comm=sh child=2\n")
    assert parser.unparsed == 2
    parser.feed(b"CPU:1 [LOST 17 EVENTS]\n\n")
    assert (parser.lost, parser.unparsed) == (17, 2)


def test_only_what_says_something_of_waiting_is_kept() -> None:
    records = parsed("""\
 sh-1   [000] .....  1.000001: sys_wait4 -> 0xfffffffffffffff6
 sh-1   [000] .....  1.000002: sys_wait4 -> 0x0
 sh-1   [000] .....  1.000003: sys_waitid -> 0x0
 sh-1   [000] .....  1.000004: sys_waitid -> 0xfffffffffffffff6
 sh-1   [000] .....  1.000005: sys_setsid -> 0xffffffffffffffff
""")
    assert records == [WaitId(1000003000, 0, 1)]


def test_a_marker_tells_its_writer_and_its_time() -> None:
    parser = TraceParser()
    assert parser.feed(b"python-10184   [001] ...1.  1251.014342: tracing_mark_write: hello: you\n") == []
    assert parser.take_markers() == [(1251014342000, 10184, "hello: you")]
    assert parser.take_markers() == []


def test_records_survive_the_file() -> None:
    records = parsed(ORDERLY)
    assert list(decode_lines(encode(records).split(b"\n"))) == records


def test_a_torn_record_is_a_gap_in_the_account() -> None:
    opened = Opened(0, "tracefs", "passed", 1)
    wait, closed = Wait(5_000_000, 0, 1, 2), Closed(9_000_000)
    lines = [*encode([opened]).split(b"\n"), b'{"ev":"exit","t":30', *encode([wait, closed]).split(b"\n")]
    records = list(decode_lines(lines))
    assert records[1] == Loss(t=5_000_000, since=0, dropped=0, overrun=0, commit_overrun=0, unparsed=1)
    account = Account(records)
    assert not account.whole(4_000_000, 4_000_000)
    assert account.whole(6_000_000, 9_000_000)
    assert not account.whole(6_000_000, 9_500_000)


def test_records_of_a_newer_version_are_a_gap_too() -> None:
    records = list(decode_lines([b'{"ev":"teleport","t":5}', encode([Closed(7)])]))
    assert [type(record) for record in records] == [Loss, Closed]


def test_an_instance_is_named_by_its_owner() -> None:
    import os

    name = instance_name(os.getpid())
    assert owner_lives(name)
    assert owner_lives(name + ".2")
    assert not owner_lives(f"crashbed-{os.getpid()}-1"), "another process had this pid"
    assert owner_lives("crashbed-of-somebody-else"), "a name of another form is let alone"


def test_the_memory_of_a_process_is_read_from_its_maps() -> None:
    maps = b"""\
7f10-7f20 rw-s 00000000 00:01 1042                       /memfd:crashbed:20250101T000000Z-7:gen3 (deleted)
7f20-7f30 rw-s 00001000 00:01 1042                       /memfd:crashbed:20250101T000000Z-7:gen3 (deleted)
7f30-7f40 rw-s 00000000 00:01 1043                       /memfd:other (deleted)
7f40-7f50 r-xp 00000000 08:01 77                         /usr/lib/crashbed:gen9
"""
    assert parse_maps(maps) == {MappedMemory(1042, "crashbed:20250101T000000Z-7:gen3")}
    assert next(iter(parse_maps(maps))).generation == 3


def test_a_mapping_of_our_own_is_seen_and_gone_again() -> None:
    import mmap
    import os

    descriptor = os.memfd_create("crashbed:unit:gen4")
    try:
        os.ftruncate(descriptor, 4096)
        inode = os.fstat(descriptor).st_ino
        with mmap.mmap(descriptor, 4096):
            assert MappedMemory(inode, "crashbed:unit:gen4") in (mapped_memories(os.getpid()) or ())
        assert MappedMemory(inode, "crashbed:unit:gen4") not in (mapped_memories(os.getpid()) or ())
    finally:
        os.close(descriptor)
    assert mapped_memories(2**22 + 1) is None
