"""The records of events/kernel.jsonl: one Struct per kind, told apart by the field `ev`.

Owns their names, fields and encoding; the one place where the witness that writes them and the account that
reads them meet. `t` is CLOCK_MONOTONIC in nanoseconds, with the microsecond resolution of the kernel's text.
`cpu` is the processor that an event was recorded on: of two events of one processor the order is known, of
two processors within one microsecond it is not. Pids are process ids (thread ids are translated where the
witness saw the thread being made). Fields may be added; readers ignore what they do not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec


class Fork(msgspec.Struct, tag_field="ev", tag="fork", gc=False):
    """`pid` made the process `child`, which still has its parent's name `comm`."""

    t: int
    cpu: int
    pid: int
    child: int
    comm: str = ""


class Thread(msgspec.Struct, tag_field="ev", tag="thread", gc=False):
    """The process `pid` made a thread of its own with the id `child`."""

    t: int
    cpu: int
    pid: int
    child: int


class Exiting(msgspec.Struct, tag_field="ev", tag="exiting", gc=False):
    """`pid` asked to end with exit code `code` (0-255): the entry of exit_group(2)."""

    t: int
    cpu: int
    pid: int
    code: int


class Exit(msgspec.Struct, tag_field="ev", tag="exit", gc=False):
    """A task is gone. With `group_dead` the process `pid` ended, else only a thread of that id.

    `code` or `signal` says how, as far as the events before it tell; both are null when they do not (the
    process was killed by one that the instance does not follow leaves 9, which is what such a kill is).
    """

    t: int
    cpu: int
    pid: int
    code: int | None
    signal: int | None
    group_dead: bool


class Signal(msgspec.Struct, tag_field="ev", tag="signal", gc=False):
    """Signal `sig` was generated for `pid` by `by`; recorded in the sender's context.

    `code` is si_code: 0 for kill(2), and for SIGCHLD 1 exited, 2 killed, 3 dumped. `result` is 0 when it was
    queued, 1 when it was ignored or its target already dying, 2 when it was pending already (trace/signal.h).
    """

    t: int
    cpu: int
    sig: int
    pid: int
    by: int
    code: int
    result: int


class Deliver(msgspec.Struct, tag_field="ev", tag="deliver", gc=False):
    """`pid` took signal `sig`; `default` when no handler stood. A process in the middle of being ended by
    another fatal signal shows 9 here, whatever that signal was."""

    t: int
    cpu: int
    pid: int
    sig: int
    default: bool


class Wait(msgspec.Struct, tag_field="ev", tag="wait", gc=False):
    """wait4(2) gave `child` to `pid`."""

    t: int
    cpu: int
    pid: int
    child: int


class WaitId(msgspec.Struct, tag_field="ev", tag="waitid", gc=False):
    """waitid(2) of `pid` succeeded; the kernel's event does not say for which child."""

    t: int
    cpu: int
    pid: int


class Name(msgspec.Struct, tag_field="ev", tag="name", gc=False):
    """`pid` took a new name, by prctl(PR_SET_NAME) or by exec."""

    t: int
    cpu: int
    pid: int
    name: str


class Session(msgspec.Struct, tag_field="ev", tag="setsid", gc=False):
    """`pid` became the leader of a session and process group of its own."""

    t: int
    cpu: int
    pid: int


class Opened(msgspec.Struct, tag_field="ev", tag="witness", gc=False):
    """The first record: the account begins, and the self-test before it went well."""

    t: int
    kind: str
    selftest: str
    pid: int
    run: str = ""
    instance: str = ""
    buffer_kb: int = 0
    sessions: bool = True


class Followed(msgspec.Struct, tag_field="ev", tag="follow", gc=False):
    """The harness told the witness to follow `pid`; `role` is what the harness knows it as."""

    t: int
    pid: int
    role: str


class Drained(msgspec.Struct, tag_field="ev", tag="drained", gc=False):
    """Everything that happened before `t` is in the file by now."""

    t: int


class Loss(msgspec.Struct, tag_field="ev", tag="loss", gc=False):
    """Between `since` and `t` events were lost, or lines came that could not be read: counts of this span.

    `stopped` means that the trace no longer records: nothing after `since` is known.
    """

    t: int
    since: int
    dropped: int
    overrun: int
    commit_overrun: int
    unparsed: int
    stopped: bool = False


class Closed(msgspec.Struct, tag_field="ev", tag="closed", gc=False):
    """The last record: the account ends at `t`, in order."""

    t: int


class Unwitnessed(msgspec.Struct, tag_field="ev", tag="unavailable", gc=False):
    """There is no account of this run, why, and what would help."""

    t: int
    reason: str
    remedy: str


KernelRecord: TypeAlias = (
    Fork
    | Thread
    | Exiting
    | Exit
    | Signal
    | Deliver
    | Wait
    | WaitId
    | Name
    | Session
    | Opened
    | Followed
    | Drained
    | Loss
    | Closed
    | Unwitnessed
)

_ENCODER = msgspec.json.Encoder()


def encode(records: Iterable[KernelRecord]) -> bytes:
    """The records as events/kernel.jsonl holds them: each a newline, then one JSON object."""
    encode_one = _ENCODER.encode
    return b"".join([b"\n" + encode_one(record) for record in records])


def decode_lines(lines: Iterable[bytes]) -> Iterator[KernelRecord]:
    """Records from the lines of events/kernel.jsonl. A line that is torn, or of a kind that is not known,
    becomes a Loss: evidence that cannot be read is missing and must not be passed over in silence."""
    decode = msgspec.json.Decoder(KernelRecord).decode
    last = 0
    torn = 0
    for line in lines:
        if line.isspace() or not line:
            continue
        try:
            record: KernelRecord = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            torn += 1
            continue
        if torn:
            yield Loss(t=record.t, since=last, dropped=0, overrun=0, commit_overrun=0, unparsed=torn)
            torn = 0
        last = max(last, record.t)
        yield record
    if torn:
        yield Loss(t=last, since=last, dropped=0, overrun=0, commit_overrun=0, unparsed=torn)


def read(path: Path) -> Iterator[KernelRecord]:
    """The records of a file; none when it does not exist."""
    if path.exists():
        with path.open("rb") as file:
            yield from decode_lines(file)
