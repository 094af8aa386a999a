"""The history: what each worker asked and was told, written so that a SIGKILL loses none of it.

Owns the records and their files. A record is one `os.write` of a newline and a JSON object to a file opened
with O_APPEND that is this process's own and never reopened: what was written before a SIGKILL is in the page
cache and survives it, a line that the kill tore is cut off by its missing end, and no two processes ever
mix their lines. Nothing is buffered and nothing is flushed: a history outlives processes, not the machine.

    {"t": ns, "pid": p, "ev": "invoke", "op": id, "worker": w, "kind": "transfer", ...values}
    {"t": ns, "pid": p, "ev": "ok", "op": id, "worker": w, "kind": "transfer"}    and "read", if it tells what it read
    {"t": ns, "pid": p, "ev": "fail", ..., "sqlstate": "40001"}       certainly not committed
    {"t": ns, "pid": p, "ev": "unknown", ..., "sqlstate": "57P01"}    answered, and the answer settles nothing

`invoke` is written before the first statement, so a database that holds an operation which was never invoked
invented it. An invoke without an answer is unknown as well: no answer came.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from workloads.workload import Operation, Outcome, Request

_ENVELOPE: Final = frozenset({"t", "pid", "ev", "op", "worker", "kind", "sqlstate", "lsn", "read"})
_ANSWERS: Final = {"ok": Outcome.OK, "fail": Outcome.FAIL, "unknown": Outcome.UNKNOWN}

Record = dict[str, Any]


class HistoryWriter:
    """The history file of one process: `<directory>/<pid>-<start ns>.jsonl`.

    Raises OSError when the file exists already or cannot be written; a short write (a full disk) is an
    OSError too, for a worker must not go on with an operation that its history does not hold.
    """

    __slots__ = ("_descriptor", "_encode", "_now_ns", "_pid", "path")

    def __init__(self, directory: str, pid: int, now_ns: Callable[[], int]) -> None:
        self.path = f"{directory}/{pid}-{now_ns()}.jsonl"
        self._pid = pid
        self._now_ns = now_ns
        self._encode = msgspec.json.Encoder().encode
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o644)

    def invoke(self, request: Request) -> None:
        """The request is about to be made."""
        operation, worker, kind, values = request
        self._write(
            {
                "t": self._now_ns(),
                "pid": self._pid,
                "ev": "invoke",
                "op": operation,
                "worker": worker,
                "kind": kind,
                **values,
            }
        )

    def ok(self, request: Request, read: Any = None) -> None:
        """The request was acknowledged, having read this."""
        self._answer(request, "ok", {} if read is None else {"read": read})

    def fail(self, request: Request, sqlstate: str) -> None:
        """The request was refused in a way that proves it did not commit."""
        self._answer(request, "fail", {"sqlstate": sqlstate})

    def unknown(self, request: Request, sqlstate: str | None) -> None:
        """The request ended in a way that proves nothing."""
        self._answer(request, "unknown", {} if sqlstate is None else {"sqlstate": sqlstate})

    def close(self) -> None:
        """Close the file; it is not opened again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _answer(self, request: Request, answer: str, more: Mapping[str, Any]) -> None:
        self._write(
            {
                "t": self._now_ns(),
                "pid": self._pid,
                "ev": answer,
                "op": request.operation,
                "worker": request.worker,
                "kind": request.kind,
                **more,
            }
        )

    def _write(self, record: Record) -> None:
        data = b"\n" + self._encode(record)
        written = os.write(self._descriptor, data)
        if written != len(data):
            raise OSError(f'wrote {written} of {len(data)} bytes to "{self.path}"')


def parse_records(data: bytes) -> tuple[list[Record], int]:
    """The records of a history file's bytes, and how many lines were no record (torn by a kill)."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    records: list[Record] = []
    torn = 0
    for line in data.split(b"\n"):
        if not line or line.isspace():
            continue
        try:
            records.append(decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            torn += 1
    return records, torn


@dataclass(frozen=True, slots=True)
class History:
    """All operations of a run by id, and what contradicts itself in their records.

    A contradiction (an answer without its invoke, two invokes or two answers of one operation) is an error
    of the harness and not of the database: what it touches proves nothing, so its cycle is not conclusive.
    """

    operations: Mapping[int, Operation]
    contradictions: tuple[str, ...] = ()
    contradicted: frozenset[int] = frozenset()

    def between(self, after: int, last: int) -> Iterator[Operation]:
        """The operations with ids greater than `after` and up to `last`."""
        return (operation for id_, operation in self.operations.items() if after < id_ <= last)


def read_history(files: Iterable[Iterable[Record]]) -> History:
    """Fold the records of every process's file into operations.

    Each file's records are in order; an operation's invoke and answer are in the same file.
    """
    operations: dict[int, Operation] = {}
    contradictions: list[str] = []
    contradicted: set[int] = set()

    def contradict(id_: int, text: str) -> None:
        contradictions.append(f"operation {id_}: {text}")
        contradicted.add(id_)

    for records in files:
        invoked: set[int] = set()
        for record in records:
            id_ = record["op"]
            if record["ev"] == "invoke":
                if id_ in operations:
                    contradict(id_, "invoked twice")
                    continue
                invoked.add(id_)
                operations[id_] = _invoked(record)
            elif id_ not in invoked:
                contradict(id_, f"answered {record['ev']} by process {record['pid']}, which did not invoke it")
            elif operations[id_].answered_ns is not None:
                contradict(id_, f"answered {operations[id_].outcome.value} and then {record['ev']}")
            else:
                operations[id_] = _answered(operations[id_], record)
    return History(operations, tuple(contradictions), frozenset(contradicted))


def _invoked(record: Mapping[str, Any]) -> Operation:
    return Operation(
        operation=record["op"],
        worker=record["worker"],
        kind=record["kind"],
        values={name: value for name, value in record.items() if name not in _ENVELOPE},
        outcome=Outcome.UNKNOWN,
        pid=record["pid"],
        invoked_ns=record["t"],
    )


def _answered(operation: Operation, record: Mapping[str, Any]) -> Operation:
    return Operation(
        operation=operation.operation,
        worker=operation.worker,
        kind=operation.kind,
        values=operation.values,
        outcome=_ANSWERS[record["ev"]],
        pid=operation.pid,
        invoked_ns=operation.invoked_ns,
        answered_ns=record["t"],
        sqlstate=record.get("sqlstate"),
        lsn=record.get("lsn"),
        read=record.get("read"),
    )
